"""Accuracy of one frame: specks do not decide over it."""

import pytest

from kd_perception.evaluation.metrics.frame_accuracy import frame_miou, frame_pixel_accuracy

ROAD, CAR, SPECK = (9000, 9500, 9200), (400, 480, 700), (0, 9, 0)


def test_classes_below_the_share_are_left_out():
    road, car = 9000 / 9700, 400 / 780
    assert frame_miou([ROAD, CAR, SPECK]) == pytest.approx((road + car) / 2)
    assert frame_miou([ROAD, CAR, SPECK], 0.0) == pytest.approx((road + car + 0) / 3)
    # A class that is not in the truth has no say, however much of it was predicted.
    assert frame_miou([ROAD, (0, 0, 300)]) == pytest.approx(road)


def test_without_labelled_pixels_nothing_is_known():
    for counts in ((), [(0, 0, 0)], [(0, 0, 5)]):
        assert frame_miou(counts) is None
        assert frame_pixel_accuracy(counts) is None
    assert frame_pixel_accuracy([ROAD, CAR]) == pytest.approx(9400 / 9980)
