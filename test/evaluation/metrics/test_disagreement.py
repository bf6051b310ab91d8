import numpy as np
import pytest

from kd_perception.classes import ClassSet, load_class_set
from kd_perception.errors import ConfigError
from kd_perception.evaluation.metrics.disagreement import FrameComparison
from kd_perception.tasks.familiarity import picture_features, summarize

ROAD, PERSON = 0, 10
PICTURE = np.full((20, 50, 3), 90, np.uint8)


@pytest.fixture
def driving():
    return load_class_set('driving')


def test_shares_and_classes_by_hand(driving):
    teacher = np.zeros((20, 50), np.uint8)
    teacher[:5, :10] = PERSON                 # 50 of 1000 pixels
    student = np.zeros((20, 50), np.uint8)
    student[0, :10] = PERSON                  # sees 10 of them
    student[10, :20] = PERSON                 # and 20 on the road
    scores = FrameComparison(driving, driving).scores(PICTURE, teacher, student)
    assert scores.disagreement == pytest.approx(60 / 1000)
    assert scores.by_class[PERSON] == pytest.approx(0.8)
    assert scores.by_class[ROAD] == pytest.approx(20 / 950)
    assert scores.balanced == pytest.approx((0.8 + 20 / 950) / 2)
    assert np.isnan(scores.by_class[1])
    assert np.isnan([scores.low_confidence, scores.novelty]).all()
    told = scores.values(driving)
    assert told['class/person'] == pytest.approx(0.8)
    assert 'class/sky' not in told


def test_what_one_of_them_does_not_say_is_no_disagreement(driving):
    teacher, student = np.zeros((20, 50), np.uint8), np.ones((20, 50), np.uint8)
    teacher[:10], student[10:] = 255, 255
    comparison = FrameComparison(driving, driving)
    scores = comparison.scores(PICTURE, teacher, student)
    assert np.isnan([scores.disagreement, scores.balanced]).all()
    assert not comparison.differing(teacher, student).any()
    teacher[:] = 0
    assert comparison.scores(PICTURE, teacher, student).disagreement == 1
    assert comparison.differing(teacher, student).sum() == 500


def test_a_class_of_a_few_pixels_does_not_weigh_as_much_as_the_road(driving):
    teacher = np.zeros((100, 100), np.uint8)
    teacher[0, :9] = PERSON
    student = np.zeros((100, 100), np.uint8)
    assert FrameComparison(driving, driving).scores(PICTURE, teacher, student).balanced == 0
    teacher[0, :10] = PERSON
    assert FrameComparison(driving, driving).scores(PICTURE, teacher, student).balanced == 0.5


def test_a_small_mask_is_brought_to_the_teachers_size(driving):
    teacher = np.zeros((20, 50), np.uint8)
    teacher[:, 25:] = PERSON
    small = np.zeros((4, 10), np.uint8)
    small[:, 5:] = PERSON
    assert FrameComparison(driving, driving).scores(PICTURE, teacher, small).disagreement == 0


def test_low_confidence_counts_only_where_the_student_looked(driving):
    mask = np.zeros((20, 50), np.uint8)
    confidence = np.zeros((20, 50), np.uint8)
    confidence[:10] = 200
    confidence[0] = 127                       # below a half by a hair
    scores = FrameComparison(driving, driving).scores(PICTURE, mask, mask, confidence)
    assert scores.low_confidence == pytest.approx(0.1)


def test_other_classes_are_mapped_or_refused_in_one_line(driving):
    carla = load_class_set('carla')
    comparison = FrameComparison(carla, driving)
    assert comparison.classes.names == driving.names
    person = carla.names.index('pedestrian' if 'pedestrian' in carla.names else 'pedestrians')
    teacher = np.full((20, 50), person, np.uint8)
    student = np.full((20, 50), driving.names.index('person'), np.uint8)
    assert comparison.scores(PICTURE, teacher, student).disagreement == 0
    with pytest.raises(ConfigError, match='no class map'):
        FrameComparison(ClassSet.from_names('own', ['a', 'b']), driving)


def test_novelty_is_the_distance_over_the_limit(driving):
    draws = np.random.default_rng(0)
    usual = [draws.integers(80, 120, (36, 64, 3)).astype(np.uint8) for _ in range(60)]
    statistics = summarize(np.array([picture_features(p) for p in usual]), [0] * 60)
    comparison = FrameComparison(driving, driving, statistics=statistics)
    mask = np.zeros((36, 64), np.uint8)
    assert comparison.scores(usual[0], mask, mask).novelty < 1.5
    assert comparison.scores(np.full((36, 64, 3), 3, np.uint8), mask, mask).novelty > 5
