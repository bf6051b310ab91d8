"""Numbers per frame to places, against second computations."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import pytest

from kd_perception.bags.motion import thumbnail
from kd_perception.distillation import choice


def test_at_equal_steps() -> None:
    way = np.array([0, 0, 0, 1, 2, 3, 3, 3, 4.0])
    assert choice.at_equal_steps(way, 5).tolist() == [0, 3, 4, 5, 8]
    # Nothing moves: the number is kept all the same.
    assert len(choice.at_equal_steps(np.zeros(9), 4)) == 4
    for count in range(1, 10):
        places = choice.at_equal_steps(way, count)
        assert len(set(places.tolist())) == count


def test_a_standing_car_goes_nowhere() -> None:
    rng = np.random.default_rng(0)
    scene = cv2.resize(rng.integers(0, 255, (8, 25, 3)).astype(np.uint8), (200, 64))

    def shown(shift: int) -> np.ndarray:
        noise = rng.normal(0, 1, (64, 128, 3))
        return thumbnail(np.clip(scene[:, shift:shift + 128] + noise, 0, 255).astype(np.uint8))

    standing, moving = [shown(0) for _ in range(6)], [shown(8 * n) for n in range(1, 6)]
    way = choice.travelled([*standing, None, *moving])
    assert way[6] == 0
    assert (np.diff(way[6:]) > 5).all()


def test_the_highest_apart_in_time_and_recording() -> None:
    scores = np.array([5, 4, np.nan, 1, 3, 2.0])
    times = np.array([0, 1, 2, 3, 0, 1]) * 10 ** 9
    recordings = np.array([0, 0, 0, 0, 1, 1])
    assert choice.highest(scores, 3).tolist() == [0, 1, 4]
    apart = {'times_ns': times, 'recordings': recordings, 'apart_s': 2.0}
    assert choice.highest(scores, 2, **apart).tolist() == [0, 4]
    assert choice.highest(scores, 3, **apart).tolist() == [0, 3, 4]
    # Nothing else is left: the near ones after all, by score.
    assert choice.highest(scores, 4, **apart).tolist() == [0, 1, 3, 4]
    assert choice.highest(scores, 5, **apart).tolist() == [0, 1, 3, 4, 5]


def test_k_center_is_the_greedy_one_and_within_twice_the_best() -> None:
    rng = np.random.default_rng(3)
    points = rng.normal(size=(14, 3)).astype(np.float32)
    points[5] = np.nan
    found, reached = choice.k_center(points, 4, seed=7)
    usable = [i for i in range(14) if i != 5]
    exact = points.astype(np.float64)

    # A second computation: distance matrix, farthest first, in plain Python.
    def distance(a: int, b: int) -> float:
        return float(np.sqrt(((exact[a] - exact[b]) ** 2).sum()))

    centres = [usable[int(np.random.default_rng(7).integers(13))]]
    radii = {centres[0]: 0.0}
    while len(centres) < 4:
        far = max(usable, key=lambda i: min(distance(i, c) for c in centres))
        radii[far] = min(distance(far, c) for c in centres)
        centres.append(far)
    assert found.tolist() == sorted(centres)
    assert reached == pytest.approx([radii[i] for i in sorted(centres)], abs=1e-5)

    def radius(of: tuple[int, ...]) -> float:
        return max(min(distance(i, c) for c in of) for i in usable)

    best = min(radius(some) for some in combinations(usable, 4))
    assert radius(tuple(found.tolist())) <= 2 * best
    again, _ = choice.k_center(points, 4, seed=7)
    assert again.tolist() == found.tolist()
    same, _ = choice.k_center(np.ones((5, 2), np.float32), 3, seed=0)
    assert len(set(same.tolist())) == 3


def test_entropy_margin_agreement_and_divergence_by_hand() -> None:
    p = np.array([[0.5, 0.7, 0.1], [0.25, 0.2, 0.8], [0.25, 0.1, 0.1]])
    q = np.array([[0.2, 0.6, 0.5], [0.6, 0.2, 0.3], [0.2, 0.2, 0.2]])
    teacher, student = (np.log(x)[:, None].astype(np.float32) + 3 for x in (p, q))
    assert choice.mean_entropy(teacher) == pytest.approx(
        np.mean([-sum(v * np.log(v) for v in column) for column in p.T]), abs=1e-6)
    assert choice.mean_doubt(teacher) == pytest.approx(1 - np.mean([0.25, 0.5, 0.7]), abs=1e-6)
    assert choice.disagreement(teacher, student) == pytest.approx(2 / 3)
    assert choice.divergence(teacher, student) == pytest.approx(
        np.mean([sum(a * np.log(a / b) for a, b in zip(x, y)) for x, y in zip(p.T, q.T)]),
        abs=1e-6)
    # Where nothing is known nothing counts; of a frame of which nothing is known nothing is said.
    teacher[:, 0, 1] = np.nan
    assert choice.disagreement(teacher, student) == 1
    assert choice.mean_doubt(teacher) == pytest.approx(1 - np.mean([0.25, 0.7]), abs=1e-6)
    teacher[:] = np.nan
    assert np.isnan([choice.mean_entropy(teacher), choice.divergence(teacher, student)]).all()


def test_pooled_soft_labels_are_means_over_cells() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, 8, 12)).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(0)
    cells = p.reshape(3, 4, 2, 6, 2).mean((2, 4))
    assert choice.pooled(logits) == pytest.approx(cells.ravel(), abs=1e-6)
