"""The difference of IoU by class is paired: what is hard for both arms cancels."""

import math

import numpy as np
import pytest

from kd_perception.evaluation.comparison import FrameRow
from kd_perception.evaluation.statistics.arm_intervals import arm_intervals
from kd_perception.evaluation.statistics.class_difference import class_differences


def rows(arm, counts):
    return [FrameRow(arm, i, 'c', i, 0, 10**6, counts=c) for i, c in enumerate(counts)]


def test_a_loss_below_the_spread_of_frames_is_found():
    rng = np.random.default_rng(0)
    hard = rng.integers(300, 900, 60)  # right pixels of 1000: frames differ widely
    a = [((int(h), 1000, 1000), (1000, 1000, 1000), (0, 0, 0)) for h in hard]
    b = [((int(h) - 10, 1000, 1000), (1000, 1000, 1000), (0, 0, 0)) for h in hard]
    both = rows('a', a) + rows('b', b)
    found = class_differences(both, 'a', 'b', resamples=300)
    expected = [sum(c[0][0] for c in counts) / sum(2000 - c[0][0] for c in counts)
                for counts in (a, b)]
    assert found[0].estimate == pytest.approx(expected[1] - expected[0])
    assert found[0].high < 0
    alone = arm_intervals(rows('a', a), resamples=300).iou[0]
    assert found[0].high - found[0].low < 0.2 * (alone.high - alone.low)
    assert (found[1].estimate, found[1].low, found[1].high) == (0.0, 0.0, 0.0)
    assert math.isnan(found[2].estimate)


def test_without_truth_or_frames_there_is_none():
    few = [((1, 1, 1),)] * 3
    assert class_differences(rows('a', few) + rows('b', few), 'a', 'b') == ()
    assert class_differences(rows('a', [None] * 20) + rows('b', [None] * 20), 'a', 'b') == ()
