"""Every loss on outputs against its formula, pixel by pixel in float64, written a second time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from kd_perception.distillation.losses import build_losses
from kd_perception.distillation.losses.loss import Signals

Make = Callable[..., Signals]
Convert = Callable[[Signals], tuple[np.ndarray, np.ndarray, np.ndarray]]


def softmax(values: np.ndarray, axis: int = 0) -> np.ndarray:
    shifted = np.exp(values - values.max(axis, keepdims=True))
    return shifted / shifted.sum(axis, keepdims=True)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float(sum(a * np.log(a / b) for a, b in zip(p.ravel(), q.ravel(), strict=True)))


def pixels(valid: np.ndarray) -> list[tuple[int, int, int]]:
    return [tuple(place) for place in np.argwhere(valid)]


def value(signals: Signals, **losses: dict) -> float:
    (loss,) = build_losses(losses).values()
    return float(loss(signals).detach())


@pytest.fixture(params=[False, True], ids=['whole', 'masked'])
def signals(request: pytest.FixtureRequest, make_signals: Make) -> Signals:
    return make_signals(masked=request.param, labelled=True)


def test_mean_squared_error(signals: Signals, in_numpy: Convert) -> None:
    student, teacher, valid = in_numpy(signals)
    on_logits, on_probabilities = [], []
    for n, y, x in pixels(valid):
        s, t = student[n, :, y, x], teacher[n, :, y, x]
        on_logits.append(np.mean(((s - s.mean()) - (t - t.mean())) ** 2))
        on_probabilities.append(np.mean((softmax(s) - softmax(t)) ** 2))
    assert value(signals, mse={}) == pytest.approx(np.mean(on_logits), rel=1e-5)
    assert value(signals, mse={'of': 'probabilities'}) == pytest.approx(
        np.mean(on_probabilities), rel=1e-5)


@pytest.mark.parametrize('tau', [1.0, 3.0])
def test_soft_cross_entropy(signals: Signals, in_numpy: Convert, tau: float) -> None:
    student, teacher, valid = in_numpy(signals)
    terms = [-(softmax(teacher[n, :, y, x] / tau)
               * np.log(softmax(student[n, :, y, x] / tau))).sum() for n, y, x in pixels(valid)]
    assert value(signals, soft_cross_entropy={'temperature': tau}) == pytest.approx(
        tau ** 2 * np.mean(terms), rel=1e-5)


def test_decoupled(signals: Signals, in_numpy: Convert) -> None:
    student, teacher, valid = in_numpy(signals)
    tau, alpha, beta = 2.0, 1.5, 6.0
    terms = []
    for n, y, x in pixels(valid):
        truth = int(signals.labels[n, 2 * y, 2 * x])
        if truth == 255:
            truth = int(teacher[n, :, y, x].argmax())
        p, q = softmax(teacher[n, :, y, x] / tau), softmax(student[n, :, y, x] / tau)
        others = [k for k in range(4) if k != truth]
        sure = divergence(np.array([p[truth], 1 - p[truth]]), np.array([q[truth], 1 - q[truth]]))
        among = divergence(p[others] / p[others].sum(), q[others] / q[others].sum())
        terms.append(alpha * sure + beta * among)
    assert value(signals, dkd={'temperature': tau, 'alpha': alpha, 'beta': beta}) == \
        pytest.approx(tau ** 2 * np.mean(terms), rel=1e-4)


def test_decoupled_with_the_weights_of_plain_distillation_is_plain(make_signals: Make,
                                                                   in_numpy: Convert) -> None:
    # The paper's identity: KL = KL of the target + (1 - p_c) KL among the others.
    one = make_signals()
    student, teacher, _ = in_numpy(one)
    rest = 1 - softmax(teacher[0, :, 0, 0]).max()
    at = {'student': one.student[:1, :, :1, :1], 'teacher': one.teacher[:1, :, :1, :1],
          'weights': one.weights[:1, :1, :1], 'labels': one.labels[:1, :2, :2]}
    pixel = Signals(own=at['student'], **at)
    assert value(pixel, dkd={'temperature': 1, 'alpha': 1, 'beta': float(rest)}) == \
        pytest.approx(value(pixel, kl={'temperature': 1}), rel=1e-4)


def test_dist(signals: Signals, in_numpy: Convert) -> None:
    student, teacher, valid = in_numpy(signals)
    tau, beta, gamma = 1.5, 2.0, 3.0
    places = pixels(valid)
    q = np.array([softmax(student[n, :, y, x] / tau) for n, y, x in places])
    p = np.array([softmax(teacher[n, :, y, x] / tau) for n, y, x in places])
    between = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)])
    within = np.mean([np.corrcoef(q[:, k], p[:, k])[0, 1] for k in range(4)])
    assert value(signals, dist={'temperature': tau, 'beta': beta, 'gamma': gamma}) == \
        pytest.approx(beta * (1 - between) + gamma * (1 - within), rel=1e-4)


def test_channel_wise(signals: Signals, in_numpy: Convert) -> None:
    student, teacher, valid = in_numpy(signals)
    terms = [divergence(softmax(teacher[n, k][valid[n]] / 4), softmax(student[n, k][valid[n]] / 4))
             for n, k in product(range(3), range(4)) if valid[n].any()]
    assert value(signals, cwd={}) == pytest.approx(16 * np.mean(terms), rel=1e-4)


def cells(values: np.ndarray, valid: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cells ``[N, M, K]`` of unit length and the valid share of each, ``[N, M]``."""
    count, classes, rows, columns = values.shape
    centred = values - values.mean(1, keepdims=True)
    vectors, shares = [], []
    for n in range(count):
        for y, x in product(range(0, rows, side), range(0, columns, side)):
            inside = valid[n, y:y + side, x:x + side]
            patch = centred[n, :, y:y + side, x:x + side][:, inside]
            mean = patch.mean(1) if inside.any() else np.ones(classes)
            vectors.append(mean / np.linalg.norm(mean))
            shares.append(inside.sum() / side ** 2)
    return (np.array(vectors).reshape(count, -1, classes), np.array(shares).reshape(count, -1))


@pytest.mark.parametrize(('most', 'side'), [(24, 1), (8, 2), (5, 3)])
def test_pairwise(signals: Signals, in_numpy: Convert, most: int, side: int) -> None:
    student, teacher, valid = in_numpy(signals)
    s, share = cells(student, valid, side)
    t, _ = cells(teacher, valid, side)
    above = below = 0.0
    for n, i, j in product(range(3), range(s.shape[1]), range(s.shape[1])):
        counts = share[n, i] * share[n, j]
        above += counts * (s[n, i] @ s[n, j] - t[n, i] @ t[n, j]) ** 2
        below += counts
    assert value(signals, pairwise={'cells': most}) == pytest.approx(above / below, rel=1e-4)


@pytest.mark.parametrize(('most', 'side'), [(72, 1), (24, 2)])
def test_cross_image(signals: Signals, in_numpy: Convert, most: int, side: int) -> None:
    student, teacher, valid = in_numpy(signals)
    s, share = cells(student, valid, side)
    t, _ = cells(teacher, valid, side)
    tau, above, below = 0.5, 0.0, 0.0
    for n, m in product(range(3), range(3)):
        there = share[m] > 0
        if not there.any():
            continue
        for i in range(s.shape[1]):
            p, q = (softmax(z[m][there] @ z[n, i] / tau) for z in (t, s))
            above += share[n, i] * divergence(p, q)
            below += share[n, i]
    assert value(signals, cross_image={'cells': most, 'similarity_temperature': tau}) == \
        pytest.approx(above / below, rel=1e-3)
