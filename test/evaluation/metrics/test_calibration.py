"""Calibration against a second computation that knows nothing of histograms."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.evaluation.metrics.calibration import Calibration, reliabilities

BINS = 15


def guo(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the ECE as the paper writes it, bin by bin over single pixels."""
    total, error = confidence.size, 0.0
    for m in range(1, BINS + 1):
        inside = (confidence > (m - 1) / BINS + 1e-12) & (confidence <= m / BINS + 1e-12)
        if m == 1:
            inside |= confidence == 0
        if inside.any():
            error += inside.sum() / total * abs(right[inside].mean()
                                                - confidence[inside].mean())
    return error


def frames(rng: np.random.Generator, count: int) -> list[tuple[np.ndarray, ...]]:
    out = []
    for _ in range(count):
        truth = rng.integers(0, 5, (40, 60)).astype(np.uint8)
        mask = np.where(rng.random(truth.shape) < 0.7, truth, 0).astype(np.uint8)
        confidence = rng.integers(0, 256, truth.shape).astype(np.uint8)
        confidence[::7] = 17 * rng.integers(0, 16, confidence[::7].shape)  # borders of bins
        truth[:3] = 255
        mask[10] = 255
        out.append((truth, mask, confidence))
    return out


def test_it_is_what_the_paper_says_over_all_frames_together() -> None:
    found, said, right = Calibration(), [], []
    for truth, mask, confidence in frames(np.random.default_rng(0), 7):
        found.update(truth, mask, confidence)
        valid = (truth != 255) & (mask != 255)
        said.append(confidence[valid] / 255)
        right.append((truth == mask)[valid])
    confidence, correct = np.concatenate(said), np.concatenate(right)
    assert found.ece() == pytest.approx(guo(confidence, correct), abs=1e-12)
    assert found.confidence == pytest.approx(confidence.mean())
    assert found.accuracy == pytest.approx(correct.mean())
    assert found.ece() > 0.1
    data = found.to_dict()
    assert sum(data['bins']['pixels']) == data['pixels'] == confidence.size


def test_a_network_that_is_as_sure_as_right_has_no_error_and_one_that_boasts_has_all() -> None:
    truth = np.zeros(1000, np.uint8)
    found = Calibration()
    for level in (51, 102, 204):  # 0.2, 0.4, 0.8
        mask = (np.arange(1000) >= 1000 * level // 255).astype(np.uint8)
        found.update(truth, mask, np.full(1000, level, np.uint8))
    assert found.ece() == pytest.approx(0, abs=1e-12)
    boast = Calibration()
    boast.update(truth, np.ones(1000, np.uint8), np.full(1000, 255, np.uint8))
    assert boast.ece() == 1


def test_a_border_belongs_to_the_bin_below() -> None:
    found = Calibration()
    levels = np.array([0, 17, 18, 34, 255], np.uint8)
    found.update(np.zeros(5, np.uint8), np.zeros(5, np.uint8), levels)
    pixels, _, _ = found.bins(BINS)
    assert pixels.tolist() == [2, 2] + [0] * 12 + [1]


def test_nothing_is_no_error_but_nan() -> None:
    found = Calibration()
    found.update(np.full(4, 255, np.uint8), np.zeros(4, np.uint8), np.zeros(4, np.uint8))
    assert np.isnan(found.ece())
    assert np.isnan(found.accuracy)


def test_counts_of_a_comparison_give_the_same_figures():
    rng = np.random.default_rng(5)
    truth, mask = (rng.integers(0, 3, (20, 20), dtype=np.uint8) for _ in range(2))
    made = Calibration()
    made.update(truth, mask, rng.integers(0, 256, (20, 20), dtype=np.uint8))
    found = reliabilities({'a': made.counts, 'b': np.zeros((2, 256), np.int64)})
    assert list(found) == ['a']
    assert found['a'].ece == pytest.approx(made.ece())
    assert found['a'].accuracy == pytest.approx(made.accuracy)
    assert found['a'].pixels == sum(r['pixels'] for r in found['a'].rows()) == 400
    assert Calibration.from_counts(made.counts).counts.tolist() == made.counts.tolist()
