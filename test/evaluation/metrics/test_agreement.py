from __future__ import annotations

import numpy as np
import pytest

from kd_perception.evaluation.metrics.agreement import Agreement, OUTCOMES


def test_disagreement_is_the_mean_over_frames_that_have_the_class() -> None:
    found = Agreement(3)
    teacher, student = np.zeros((10, 20), np.uint8), np.zeros((10, 20), np.uint8)
    teacher[:, :10] = 1
    student[:, :5] = 1  # half of the teacher's class 1 is called 0
    assert found.update(teacher, student) == pytest.approx(0.25)
    small = np.zeros((10, 20), np.uint8)
    small[0, 0] = 1
    found.update(small, np.zeros_like(small))  # all of a class of one pixel
    by_class = found.by_class()
    assert by_class[0] == 0
    assert by_class[1] == pytest.approx((0.5 + 1.0) / 2)
    assert np.isnan(by_class[2])
    assert found.share == pytest.approx(1 - (50 + 1) / 400)


def test_the_picture_says_where_they_differ() -> None:
    found = Agreement(2)
    for index in range(4):
        teacher, student = np.zeros((90, 120), np.uint8), np.zeros((90, 120), np.uint8)
        student[60:, 80:] = index < 3
        found.update(teacher, student)
    where = found.where()
    assert where.shape == (45, 60)
    assert where[31:, 41:] == pytest.approx(0.75)
    assert not where[:29].any()
    assert not where[:, :39].any()


def test_pixels_without_the_teachers_word_count_nowhere() -> None:
    found = Agreement(2)
    teacher = np.full((4, 4), 255, np.uint8)
    teacher[0] = 0
    student = np.ones((4, 4), np.uint8)
    assert found.update(teacher, student, np.zeros((4, 4), np.uint8)) == 1
    assert found.outcomes.sum() == 4


def test_with_ground_truth_it_says_who_is_right() -> None:
    found = Agreement(3)
    truth = np.array([[0, 0, 0, 0, 0, 255]], np.uint8)
    teacher = np.array([[0, 0, 1, 1, 1, 0]], np.uint8)
    student = np.array([[0, 1, 0, 1, 2, 0]], np.uint8)
    found.update(teacher, student, truth)
    assert dict(zip(OUTCOMES, found.outcomes, strict=True)) == dict.fromkeys(OUTCOMES, 1)
