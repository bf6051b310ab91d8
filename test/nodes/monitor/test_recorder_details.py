"""What the monitor counts beside confusion matrices."""

import itertools

import numpy as np
import pytest

from kd_perception.classes import ClassMap, ClassSet
from kd_perception.errors import ConfigError
from kd_perception.evaluation.comparison import ArmInfo, ArmSpec, ComparisonSpec
from kd_perception.evaluation.joining import Published
from kd_perception.evaluation.metrics.detail_counter import (
    chosen_measures,
    MEASURES,
    OBJECTS,
    VIEW,
)
from kd_perception.evaluation.metrics.flicker import REPROJECTED, SAME_PIXEL
from kd_perception.frames import CameraPlace, InstanceTable
from kd_perception.nodes.monitor.recorder import Recorder
from kd_perception.nodes.schedule import servings

CLASSES = ClassSet.from_names('three', ['road', 'person', 'sign'])
IDENTITY = ClassMap('three', 'three', CLASSES.lookup())
SHAPE = (24, 32)
LATER = 10**9  # nanoseconds; after every frame was published
TRUTH = np.zeros(SHAPE, np.uint8)
TRUTH[4:12, 4:12] = 2
INSTANCES = (TRUTH // 2).astype(np.uint16) * 7
TABLE = InstanceTable(np.array([7]), np.array([2]), np.array([1.]), np.array([[0., 9., 12.]]),
                      np.zeros((1, 4)), ('',))


def make(measures=MEASURES, arms=('a', 'b'), **more):
    spec = ComparisonSpec(tuple(ArmSpec(n, 'm', 'onnxruntime') for n in arms), warmup=0)
    infos = [ArmInfo(n, 'm', 'hash', 'onnxruntime', 'cpu', 'fp32') for n in arms]
    recorder = Recorder(spec, infos, CLASSES, IDENTITY, source=CLASSES, measures=measures, **more)
    recorder.on_lens((20., 20., 16., 12.))
    return recorder


def key(index):
    return index * 10, 'c'


def finish(recorder):
    return recorder.run(patience_ms=1000., resources={}, counters={}, started='',
                        interrupted=False)


def truth_events(recorder, index):
    """Return the parts of the truth as calls."""
    at = key(index)
    return [lambda: recorder.on_labels(at, TRUTH), lambda: recorder.on_table(at, TABLE),
            lambda: recorder.on_instances(at, INSTANCES),
            lambda: recorder.on_depth(at, np.full(SHAPE, 10., np.float32)),
            lambda: recorder.on_place(at, CameraPlace(np.eye(3), np.zeros(3)))]


def publish(recorder, arm, index, parts=(OBJECTS, VIEW)):
    recorder.on_published(Published(arm, *key(index), index, 1_000_000 * index, truth=parts))


@pytest.mark.parametrize('order', [(0, 1, 2, 3, 4, 5, 6), (6, 5, 4, 3, 2, 1, 0),
                                   (5, 0, 6, 2, 4, 1, 3)])
def test_parts_of_the_truth_may_come_in_any_order(order):
    recorder = make(arms=('a',))
    half = TRUTH.copy()
    half[8:] = 0
    for index in range(3):
        mask = half if index == 2 else TRUTH
        events = [*truth_events(recorder, index), lambda i=index: publish(recorder, 'a', i),
                  lambda i=index, m=mask: recorder.on_result('a', key(i), LATER, m)]
        for step in order:
            events[step]()
        recorder.on_confidence('a', key(index), np.full(SHAPE, 255, np.uint8))
    run = finish(recorder)
    details = [r.detail for r in run.rows]
    assert [d.objects.tolist() for d in details[:2]] == [[[7, 2, 15000, 1000, 64, 64]]] * 2
    assert details[2].objects.tolist() == [[7, 2, 15000, 1000, 64, 32]]
    assert details[0].boundary[2].tolist() == [28] * 4
    assert details[0].flicker is None
    assert details[1].flicker.tolist() == [0, 192]
    assert details[2].flicker.tolist() == [8, 192]  # every second pixel of every second row
    assert run.flicker_method == REPROJECTED


def test_both_arms_share_the_truth_and_differ_in_masks():
    recorder = make()
    for index, arm in itertools.product(range(2), 'ab'):
        publish(recorder, arm, index)
        if arm == 'a':
            for event in truth_events(recorder, index):
                event()
        recorder.on_result(arm, key(index), LATER, TRUTH if arm == 'a' else TRUTH * 0)
    assert not recorder._frames
    rows = {(r.arm, r.index): r.detail for r in finish(recorder).rows}
    assert rows['a', 1].objects[0, 5] == 64
    assert rows['b', 1].objects[0, 5] == 0
    assert rows['b', 1].flicker.tolist() == [0, 192]


def test_arms_that_are_served_long_after_each_other():
    recorder = make(kept_frames=100)
    for serving in servings(40, ('a', 'b'), 'isolated', 0):
        (arm,), index = serving.arms, serving.index
        publish(recorder, arm, index)
        for event in truth_events(recorder, index):
            event()
        recorder.on_result(arm, key(index), LATER, TRUTH)
    rows = finish(recorder).rows
    assert all(r.detail.objects[0, 5] == 64 for r in rows)
    # The second half begins anew in arm a, after b's.
    flicker = {arm: sum(r.detail.flicker is not None for r in rows if r.arm == arm)
               for arm in 'ab'}
    assert flicker == {'a': 39, 'b': 39}


def test_a_part_that_is_lost_costs_itself_alone():
    recorder = make(arms=('a',))
    publish(recorder, 'a', 0)
    recorder.on_labels(key(0), TRUTH)
    recorder.on_result('a', key(0), LATER, TRUTH)
    assert not recorder.complete('a', key(0), labelled=True)
    run = finish(recorder)
    assert run.confusion['a'].sum() == TRUTH.size
    assert run.rows[0].detail.objects is None
    assert run.rows[0].detail.boundary is not None


def test_without_depth_the_same_pixel_is_compared_and_named_so():
    recorder = make(arms=('a',))
    for index in range(3):
        publish(recorder, 'a', index, ())
        recorder.on_labels(key(index), TRUTH)
        recorder.on_result('a', key(index), LATER, TRUTH if index else TRUTH * 0)
    run = finish(recorder)
    assert run.flicker_method == SAME_PIXEL
    assert [d.tolist() for r in run.rows if (d := r.detail.flicker) is not None] == [
        [16, 192], [0, 192]]


def test_a_lost_frame_is_no_flicker():
    recorder = make(arms=('a',))
    for index in (0, 2):
        publish(recorder, 'a', index, ())
        recorder.on_labels(key(index), TRUTH)
        recorder.on_result('a', key(index), LATER, TRUTH * (index // 2))
    assert all(r.detail.flicker is None for r in finish(recorder).rows)


@pytest.mark.parametrize('late', [False, True])
def test_confidences_are_counted_once_for_each_pixel(late):
    recorder = make(measures=('calibration',), arms=('a',))
    for index in range(4):
        publish(recorder, 'a', index, ())
        first = [lambda i=index: recorder.on_labels(key(i), TRUTH),
                 lambda i=index: recorder.on_result('a', key(i), LATER, TRUTH)]
        sure = [lambda i=index: recorder.on_confidence('a', key(i),
                                                       np.full(SHAPE, 200, np.uint8))]
        for event in first + sure if late else first[1:] + sure + first[:1]:
            event()
    run = finish(recorder)
    # That an arm says how sure it is, is known from its first confidence on.
    counted = 4 - late
    assert run.confidences['a'][0, 200] == run.confidences['a'].sum() / 2 == counted * TRUTH.size


def test_nothing_is_counted_that_was_not_asked_for():
    recorder = make(measures=(), arms=('a',))
    publish(recorder, 'a', 0, (OBJECTS, VIEW))
    recorder.on_labels(key(0), TRUTH)
    recorder.on_result('a', key(0), LATER, TRUTH)
    run = finish(recorder)
    assert run.rows[0].detail is None
    assert run.rows[0].counts is not None
    assert run.confidences == {}


def test_measures_by_name():
    assert chosen_measures(('auto',), 'lockstep') == set(MEASURES)
    assert chosen_measures(('auto',), 'realtime') == set()
    assert chosen_measures(('none',), 'lockstep') == set()
    assert chosen_measures(('flicker', 'objects'), 'max') == {'flicker', 'objects'}
    with pytest.raises(ConfigError, match="'speed' is none of boundary, objects"):
        chosen_measures(('speed',), 'lockstep')
