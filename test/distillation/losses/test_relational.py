from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
import torch

from kd_perception.distillation.losses import build_losses, require_batch
from kd_perception.distillation.losses.loss import Signals
from kd_perception.distillation.losses.relational import angle_loss, distance_loss, embeddings
from kd_perception.errors import ConfigError


def huber(difference: float) -> float:
    size = abs(difference)
    return 0.5 * size ** 2 if size <= 1 else size - 0.5


def distances(points: np.ndarray) -> dict[tuple[int, int], float]:
    found = {(i, j): float(np.linalg.norm(points[i] - points[j]))
             for i, j in permutations(range(len(points)), 2)}
    mean = sum(found.values()) / len(found)
    return {pair: value / mean for pair, value in found.items()}


def independent_distance(student: np.ndarray, teacher: np.ndarray) -> float:
    own, other = distances(student), distances(teacher)
    return sum(huber(own[p] - other[p]) for p in own) / len(own)


def cosine(points: np.ndarray, i: int, j: int, k: int) -> float:
    one, two = points[i] - points[j], points[k] - points[j]
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))


def independent_angle(student: np.ndarray, teacher: np.ndarray) -> float:
    triplets = list(permutations(range(len(student)), 3))
    return sum(huber(cosine(student, *t) - cosine(teacher, *t)) for t in triplets) / len(triplets)


def test_golden_values_by_hand() -> None:
    # The teacher's points are on a line at 0, 1 and 3, the student's make an equal triangle.
    teacher = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    student = torch.tensor([[0, 0], [1, 0], [0.5, np.sqrt(0.75)]], dtype=torch.float64)
    # Distances over their mean: 0.5, 1, 1.5 against 1, 1, 1.
    assert float(distance_loss(student, teacher)) == pytest.approx((0.125 + 0 + 0.125) / 3)
    # Cosines 1, -1, 1 against a half: l(0.5) = 0.125, l(1.5) = 1.
    assert float(angle_loss(student, teacher)) == pytest.approx((0.125 + 1 + 0.125) / 3)


@pytest.mark.parametrize(('loss', 'independent'), [
    (distance_loss, independent_distance), (angle_loss, independent_angle)])
def test_value_and_gradient_agree_with_an_independent_computation(
        loss: Callable[..., torch.Tensor], independent: Callable[..., float]) -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 3, (6, 4)) + 50, rng.normal(0, 1, (6, 9))
    tensor = torch.tensor(student, requires_grad=True)
    value = loss(tensor, torch.tensor(teacher))
    value.backward()
    assert float(value) == pytest.approx(independent(student, teacher), rel=1e-9)
    for place in ((0, 0), (5, 3), (2, 1)):
        step = np.zeros_like(student)
        step[place] = 1e-5
        slope = (independent(student + step, teacher)
                 - independent(student - step, teacher)) / 2e-5
        assert float(tensor.grad[place]) == pytest.approx(slope, rel=1e-5, abs=1e-10)


def test_scale_shift_and_turn_do_not_matter() -> None:
    points = torch.randn(5, 3, dtype=torch.float64)
    turned, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    moved = 7 * points @ turned + 100
    assert float(distance_loss(moved, points)) == pytest.approx(0, abs=1e-12)
    assert float(angle_loss(moved, points)) == pytest.approx(0, abs=1e-12)


def test_equal_embeddings_have_a_finite_gradient() -> None:
    points = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    other = torch.randn(4, 2, dtype=torch.float64)
    (distance_loss(points, other) + angle_loss(points, other)).backward()
    assert torch.isfinite(points.grad).all()


def test_embeddings_are_means_of_regions() -> None:
    maps = torch.randn(2, 3, 4, 6)
    np.testing.assert_allclose(embeddings(maps.repeat(2, 1, 1, 1))[1], maps[1].mean((1, 2)),
                               rtol=1e-5)
    four = embeddings(maps, 2)
    assert four.shape == (8, 3)
    np.testing.assert_allclose(four[3], maps[0, :, 2:, 3:].mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize(('views', 'regions', 'possible'), [
    (2, 1, False), (3, 1, True), (1, 2, True), (8, 4, True), (8, 5, False), (129, 1, False)])
def test_too_few_and_too_many_embeddings_are_told_by_setting(views: int, regions: int,
                                                             possible: bool) -> None:
    losses = build_losses({'kl': {}, 'relational': {'layers': {'a': 'b'}, 'regions': regions}})
    if possible:
        require_batch(losses, views)
        return
    with pytest.raises(ConfigError, match=r'^distillation\.losses\.relational\.regions: .* '
                       'embeddings, not 3 to 128; change it or optimization.batch_size'):
        require_batch(losses, views)


def test_it_is_as_exact_under_autocast_and_settings_reach_it() -> None:
    own, other = torch.randn(4, 3, 4, 4), torch.randn(4, 5, 2, 2)
    nothing = torch.empty(0)
    signals = Signals(nothing, nothing, nothing, student_features={'a': own},
                      teacher_features={'b': other})
    one, two = embeddings(own, 2), embeddings(other, 2)
    expected = 3 * distance_loss(one, two) + 0.5 * angle_loss(one, two)
    loss = build_losses({'relational': {'layers': {'a': 'b'}, 'regions': 2, 'distance': 3,
                                        'angle': 0.5}})['relational']
    with torch.autocast('cpu', torch.bfloat16):
        got = loss(signals)
    assert float(got) == pytest.approx(float(expected), rel=1e-6)
    only = build_losses({'relational': {'layers': {'a': 'b'}, 'angle': 0, 'regions': 2}})
    assert float(only['relational'](signals)) == pytest.approx(float(distance_loss(one, two)))
    with pytest.raises(ConfigError, match='distance: leaves nothing to compare'):
        build_losses({'relational': {'layers': {'a': 'b'}, 'angle': 0, 'distance': 0}})
