"""The worst frames are found while they go by, spread over the run, and shown with their masks."""

import numpy as np
import pytest

from kd_perception.evaluation.comparison import class_counts, confusion_matrix, SamplePicture
from kd_perception.nodes.monitor.worst_frames import badness, FinishedFrame, WorstFrames
from kd_perception.nodes.monitor.worst_pictures import parse_show_request, show_request

TRUTH = np.repeat(np.arange(2, dtype=np.uint8), 50).reshape(10, 10)


def wrong(share):
    """Return a mask of which that share of all pixels is wrong."""
    mask = TRUTH.copy().ravel()
    n = round(share * mask.size)
    mask[:n] = 1 - mask[:n]
    return mask.reshape(TRUTH.shape)


def frame(index, b, a=0.0, *, truth=True):
    masks = {'a': wrong(a), 'b': wrong(b)}
    return FinishedFrame(
        index, (index * 10, 'c'), TRUTH if truth else None, masks,
        {arm: class_counts(confusion_matrix(TRUTH, m, 2)) for arm, m in masks.items()}
        if truth else {})


def test_badness_is_of_the_judged_arms_not_of_the_reference():
    assert badness(frame(0, 0.0, a=0.4), 'ab') == pytest.approx(0.0)
    # Twenty pixels of the first class called the second: IoU 30/50 and 50/70.
    assert badness(frame(0, 0.2), 'ab') == pytest.approx(1 - (0.6 + 50 / 70) / 2)
    assert badness(frame(0, 0.2, a=0.1, truth=False), 'ab') == pytest.approx(0.1)
    # A frame that only the reference has answered says nothing of the others.
    both = frame(0, 0.0, a=0.4)
    only = FinishedFrame(0, (0, 'c'), TRUTH, {'a': both.masks['a']}, {'a': both.counts['a']})
    assert badness(only, 'ab') is None
    assert badness(only, 'a') > 0.3
    assert badness(FinishedFrame(0, (0, 'c'), None, {'a': TRUTH}, {}), 'ab') is None


def test_the_worst_are_kept_and_neighbours_are_one():
    worst = WorstFrames('ab', total=300, count=3)  # a gap of 66 frames
    for index in range(300):
        worst.offer(frame(index, {50: 0.3, 51: 0.4, 52: 0.35, 200: 0.2, 120: 0.1,
                                  280: 0.05}.get(index, 0.01)))
    assert [i for i, _ in worst.wanted()] == [51, 200, 120]
    worst.add_image((510, 'c'), np.zeros((10, 10, 3), np.uint8))
    assert [i for i, _ in worst.wanted()] == [200, 120]
    known = SamplePicture(200, 2000, np.ones((10, 10, 3), np.uint8), None, {})
    shown = worst.pictures([known])
    assert [(p.index, p.stamp_ns, p.worst) for p in shown] == [
        (51, 510, True), (200, 2000, True), (120, 1200, True)]
    assert shown[0].image.max() == 0
    assert shown[1].image.max() == 1
    assert shown[2].image is None
    np.testing.assert_array_equal(shown[0].masks['b'], wrong(0.4))
    np.testing.assert_array_equal(shown[0].truth, TRUTH)


def test_a_run_of_unknown_length_is_thinned_at_its_end():
    worst = WorstFrames('ab', total=0, count=3)
    for index in range(300):
        worst.offer(frame(index, 0.5 if index < 5 else 0.2 if index in (150, 151, 290) else 0.0))
    assert [i for i, _ in worst.wanted()] == [0, 150, 290]


def test_a_run_without_errors_has_no_worst_frames():
    worst = WorstFrames('ab', total=10)
    for index in range(10):
        worst.offer(frame(index, 0.0))
    assert worst.pictures() == []


def test_requests_travel_and_garbage_is_refused():
    message = show_request(7, (70, 'front'))
    assert parse_show_request(message) == (7, (70, 'front'))
    for bad in ('', '[]', '{"index": 1}', '{"index": -1, "stamp_ns": 0, "frame_id": ""}'):
        message.data = bad
        with pytest.raises(ValueError):
            parse_show_request(message)
