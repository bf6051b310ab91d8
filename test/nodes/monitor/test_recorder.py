import numpy as np
import pytest

from kd_perception.classes import ClassMap, ClassSet
from kd_perception.evaluation.comparison import ArmInfo, ArmSpec, ComparisonSpec
from kd_perception.evaluation.joining import Published
from kd_perception.nodes.monitor.recorder import Recorder
from kd_perception.nodes.schedule import servings

CLASSES = ClassSet.from_names('three', ['x', 'y', 'z'])
IDENTITY = ClassMap('three', 'three', CLASSES.lookup())


def make(arms=('a', 'b'), class_map=IDENTITY, warmup=1, placement='turns', **more):
    spec = ComparisonSpec(tuple(ArmSpec(n, 'm', 'onnxruntime') for n in arms), warmup=warmup,
                          placement=placement)
    infos = [ArmInfo(n, 'm', 'hash', 'onnxruntime', 'cpu', 'fp32') for n in arms]
    return Recorder(spec, infos, CLASSES, class_map, **more)


def key(index):
    return index * 10, 'c'


def finish(recorder):
    return recorder.run(patience_ms=1000., resources={}, counters={}, started='',
                        interrupted=False)


def publish(recorder, index, arm):
    recorder.on_published(Published(arm, *key(index), index, 1_000_000 * index))


def mask(value):
    return np.full((4, 6), value, np.uint8)


EVENTS = ('published', 'labels', 'mask', 'stages')


def send(recorder, event, index, arm):
    if event == 'published':
        publish(recorder, index, arm)
    elif event == 'labels':
        recorder.on_labels(key(index), mask(1))
    elif event == 'mask':
        recorder.on_result(arm, key(index), 1_000_000 * index + 500, mask(index % 3))
    else:
        recorder.on_stages(arm, key(index), {'inference': 2.0 + index})


@pytest.mark.parametrize('order', [(0, 1, 2, 3), (3, 2, 1, 0), (1, 2, 3, 0), (2, 0, 3, 1)])
def test_events_may_come_in_any_order(order):
    recorder = make(arms=('a',))
    for index in range(4):
        for step in order:
            assert not recorder.complete('a', key(index), labelled=True)
            send(recorder, EVENTS[step], index, 'a')
        assert recorder.complete('a', key(index), labelled=True)
    run = finish(recorder)
    assert [r.status for r in run.rows] == ['ok'] * 4
    assert [r.stages['inference'] for r in run.rows] == [2.0, 3.0, 4.0, 5.0]
    assert all(r.received_ns - r.published_ns == 500 for r in run.rows)
    # Frame 0 is warm-up; 1 is right, 2 and 3 take y for z and x; 24 pixels each.
    assert run.confusion['a'].tolist() == [[0, 0, 0, 0], [24, 24, 24, 0], [0, 0, 0, 0]]
    assert run.rows[1].counts[1] == (24, 24, 24)
    assert (run.spec.width, run.spec.height) == (6, 4)


def test_arms_are_held_against_each_other():
    recorder = make(class_map=None)
    for index in range(3):
        for arm, value in (('a', 0), ('b', index)):
            publish(recorder, index, arm)
            recorder.on_result(arm, key(index), 1, mask(value))
    run = finish(recorder)
    assert run.confusion == {}
    assert run.agreement['b'].tolist() == [[0, 24, 24, 0], [0] * 4, [0] * 4]


def test_masks_are_brought_to_the_size_of_the_truth():
    recorder = make(arms=('a',), warmup=0)
    truth = np.repeat(np.repeat(np.array([[0, 1], [2, 255]], np.uint8), 4, 0), 6, 1)
    small = np.array([[0, 1], [2, 0]], np.uint8)
    publish(recorder, 0, 'a')
    recorder.on_labels(key(0), truth)
    recorder.on_result('a', key(0), 1, small)
    assert np.array_equal(finish(recorder).confusion['a'][:, :3], np.eye(3) * 24)


def test_lost_duplicate_and_unknown_results_are_told_apart():
    recorder = make(arms=('a',), warmup=0, class_map=None)
    publish(recorder, 0, 'a')
    publish(recorder, 1, 'a')
    for _ in range(2):
        recorder.on_result('a', key(0), 5, mask(0))
    recorder.on_result('a', (77, 'elsewhere'), 6, mask(0))
    run = finish(recorder)
    assert [(r.index, r.status) for r in run.rows] == [
        (0, 'ok'), (0, 'duplicate'), (1, 'lost'), (-1, 'unknown')]


def test_pictures_keep_truth_and_all_masks():
    recorder = make()
    for index in range(3):
        recorder.on_labels(key(index), mask(1))
        if index == 2:
            recorder.on_sample(key(index), np.full((4, 6, 3), 9, np.uint8))
        for arm in ('a', 'b'):
            publish(recorder, index, arm)
            recorder.on_result(arm, key(index), 1, mask(2))
    picture, = finish(recorder).pictures
    assert picture.index == 2
    assert set(picture.masks) == {'a', 'b'}
    assert (picture.truth == 1).all()


def test_frames_that_one_arm_never_answers_are_forgotten():
    recorder = make(kept_frames=4)
    for index in range(50):
        publish(recorder, index, 'a')
        publish(recorder, index, 'b')
        recorder.on_labels(key(index), mask(1))
        recorder.on_result('a', key(index), 10**12, mask(1))
    assert len(recorder._frames) <= 4
    run = finish(recorder)
    assert run.confusion['a'][1, 1] == 49 * 24
    assert sum(r.status == 'lost' for r in run.rows) == 50


@pytest.mark.parametrize('labelled', [True, False])
def test_arms_that_are_served_long_after_each_other_are_compared_on_all_frames(labelled):
    frames = 60
    recorder = make(class_map=IDENTITY if labelled else None, warmup=0)
    recorder.kept_frames = frames + 16
    for serving in servings(frames, ('a', 'b'), 'isolated', 0):
        (arm,), index = serving.arms, serving.index
        publish(recorder, index, arm)
        if labelled:
            recorder.on_labels(key(index), mask(1))
        if index % 20 == 0:
            recorder.on_sample(key(index), np.full((4, 6, 3), index, np.uint8))
        if (arm, index) != ('b', 7):  # lost
            recorder.on_result(arm, key(index), 1, mask(index % 3))
            recorder.on_stages(arm, key(index), {'total': 1.0})
    run = finish(recorder)
    assert np.trace(run.agreement['b']) == run.agreement['b'].sum() == (frames - 1) * 24
    assert [p.index for p in run.pictures] == [0, 20, 40]
    assert all((p.truth is not None) == labelled and set(p.masks) == {'a', 'b'}
               and (p.masks['a'] == p.index % 3).all() for p in run.pictures)
    if labelled:
        assert run.confusion['a'].sum() == frames * 24
        assert run.confusion['b'].sum() == (frames - 1) * 24


def test_an_arm_that_lags_is_held_against_truth_and_first_arm():
    """A teacher of a second is 30 frames of its camera behind a student."""
    lag = 40
    recorder = make(warmup=0, kept_frames=100)
    for index in range(100 + lag):
        if index < 100:
            publish(recorder, index, 'a')
            publish(recorder, index, 'b')
            recorder.on_labels(key(index), mask(1))
            recorder.on_result('b', key(index), 1, mask(index % 3))
        if index >= lag and index % lag == 0:
            recorder.on_result('a', key(index - lag), 1, mask(1))
    run = finish(recorder)
    assert run.confusion['a'].sum() == 3 * 24  # frames 0, 40 and 80, of which the rest is lost
    assert run.confusion['b'].sum() == 100 * 24
    assert run.agreement['b'].sum() == 3 * 24
    assert not run.notes


def test_the_last_of_isolated_arms_may_lag_too():
    recorder = make(warmup=0, kept_frames=200, placement='isolated')
    for arm, lag in (('a', 0), ('b', 20)):
        for index in range(100 + lag):
            if index < 100:
                recorder.on_labels(key(index), mask(1))
                publish(recorder, index, arm)
            if index >= lag:
                recorder.on_result(arm, key(index - lag), 10**9, mask(1))
    run = finish(recorder)
    assert run.confusion['a'].sum() == run.confusion['b'].sum() == 100 * 24
    assert not run.notes


def test_answers_after_the_end_are_no_late_ones():
    """A camera goes on after the run was stopped; these frames are not on record."""
    recorder = make(arms=('a',), warmup=0)
    for index in range(6):
        if index < 3:
            publish(recorder, index, 'a')
        recorder.on_labels(key(index), mask(1))
        recorder.on_result('a', key(index), 10**9, mask(1))
    assert not finish(recorder).notes


def test_answers_that_come_after_the_truth_has_gone_are_noted():
    recorder = make(warmup=0)
    for index in range(60):
        publish(recorder, index, 'a')
        publish(recorder, index, 'b')
        recorder.on_labels(key(index), mask(1))
        recorder.on_result('b', key(index), 1, mask(1))
    for index in (3, 59):
        recorder.on_result('a', key(index), 1, mask(1))
    note, = finish(recorder).notes
    assert note.startswith('1 of 2 answers of arm a to labelled frames came so late')


@pytest.mark.parametrize('placement', ['concurrent', 'isolated'])
def test_frames_that_wait_are_packed(placement):
    recorder = make(kept_frames=1000, placement=placement)
    for arm in 'ab':
        for index in range(100):
            recorder.on_labels(key(index), mask(1))
            publish(recorder, index, arm)
            if arm == 'a':
                recorder.on_result(arm, key(index), 1, mask(1))
        unpacked = [f for f in recorder._frames.values() if f.masks or f.truth is not None]
        assert len(recorder._frames) == 100
        assert len(unpacked) <= 16
    assert finish(recorder).confusion['a'][1, 1] == 99 * 24


def test_masks_that_nobody_looked_at_count_for_latency_alone():
    recorder = make()
    for index in range(3):
        for arm in 'ab':
            publish(recorder, index, arm)
            recorder.on_result(arm, key(index), 1_000_000 * index + 500,
                               None if (arm, index) == ('b', 2) else mask(1))
        recorder.on_labels(key(index), mask(1))
    run = finish(recorder)
    assert {r.status for r in run.rows} == {'ok'}
    assert [r.counts is None for r in run.arm_rows('b')] == [False, True]
    assert run.agreement['b'].sum() == mask(0).size
    assert [n for n in run.notes if '1 of 6 masks' in n]


def test_masks_that_were_published_and_never_came_are_noted():
    recorder = make(arms=('a',), class_map=None, warmup=0)
    for index in range(3):
        publish(recorder, index, 'a')
        recorder.on_stages('a', key(index), {'total': 1.0})
    recorder.on_stages('a', key(99), {'total': 1.0})  # of nobody's frame
    recorder.on_result('a', key(1), 2_000_000, mask(0))
    run = finish(recorder)
    assert [r.status for r in run.rows] == ['lost', 'ok', 'lost']
    assert [n[:28] for n in run.notes] == ['2 masks of arm a were publis']


def test_skipped_frames_are_noted():
    recorder = make(arms=('a',), warmup=0)
    publish(recorder, 0, 'a')
    for index in (1, 1, 2):
        recorder.on_skipped(index)
    assert finish(recorder).notes == (
        '2 of 3 frames of the source could not be decoded and were skipped.',)


def test_strange_labels_are_noted_once():
    recorder = make(arms=('a',), source=CLASSES)
    for index in range(3):
        recorder.on_labels(key(index), mask(77))
    run = finish(recorder)
    assert run.notes == (
        'labels hold ids [77] that the class set three does not have; they were left out',)


def test_measured_means_beyond_the_warmup():
    recorder = make(arms=('a',), warmup=1)
    send(recorder, 'published', 0, 'a')
    send(recorder, 'mask', 0, 'a')
    assert not recorder.measured()
    send(recorder, 'mask', 1, 'a')
    assert not recorder.measured()
    send(recorder, 'published', 1, 'a')
    assert recorder.measured()
