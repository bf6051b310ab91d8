"""Recall of objects: counts of made pictures, and cells whose numbers can be told by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.classes import ClassSet, load_class_map, load_class_set
from kd_perception.evaluation.comparison import FrameRow
from kd_perception.evaluation.metrics.frame_detail import FrameDetail
from kd_perception.evaluation.metrics.objects import (
    distance_names,
    KINDS,
    object_recall,
    ObjectCounter,
    paired_objects,
    visible_names,
)
from kd_perception.evaluation.statistics.shares import measured
from kd_perception.frames import InstanceTable
from kd_perception.simulation.source import SimulatorSource

CARLA, DRIVING = load_class_set('carla'), load_class_set('driving')
PEDESTRIAN, SIGN, CAR, BUILDING = (CARLA.names.index(n) for n in
                                   ('pedestrians', 'traffic_signs', 'car', 'buildings'))
PERSON, VEHICLE = DRIVING.names.index('person'), DRIVING.names.index('vehicle')


@pytest.fixture
def counter() -> ObjectCounter:
    return ObjectCounter(CARLA, load_class_map(CARLA, DRIVING))


def table(*rows: tuple[int, int, float, float]) -> InstanceTable:
    ids, classes, distance, visible = zip(*rows)
    positions = np.zeros((len(rows), 3))
    positions[:, 2] = distance
    return InstanceTable(np.array(ids, np.uint16), np.array(classes, np.uint8),
                         np.array(visible), positions, np.zeros((len(rows), 4)),
                         ('',) * len(rows))


def test_counts_the_right_pixels_of_each_instance(counter):
    instances = np.zeros((10, 10), np.uint16)
    instances[:2, :5] = 7         # a pedestrian of 10 pixels
    instances[4:8, :5] = 900      # a car of 20
    instances[9] = 33             # a statue on a building: no object
    mask = np.full((10, 10), DRIVING.names.index('road'), np.uint8)
    mask[0] = PERSON
    mask[4:7] = VEHICLE
    out = counter.count(table((7, PEDESTRIAN, 12.3456, 0.5), (33, BUILDING, 5., 1.),
                              (900, CAR, 81., 0.249), (901, CAR, 30., 1.)), instances, mask)
    assert out.tolist() == [[7, 0, 12346, 500, 10, 5], [900, 4, 81000, 249, 20, 15]]


def test_a_perfect_mask_finds_all_and_an_open_one_nothing(counter):
    instances = np.arange(100, dtype=np.uint16).reshape(10, 10) // 25
    rows = table((1, PEDESTRIAN, 5., 1.), (2, CAR, 5., 1.), (3, SIGN, 5., 1.))
    truth = np.array([255, PERSON, VEHICLE, DRIVING.names.index('traffic_sign')],
                     np.uint8)[instances]
    right = counter.count(rows, instances, truth)
    np.testing.assert_array_equal(right[:, 4], right[:, 5])
    assert right[:, 1].tolist() == [0, 4, 2]
    assert not counter.count(rows, instances, np.full_like(truth, 255))[:, 5].any()


def test_cyclists_of_the_street_are_counted_as_riders_on_vehicles(counter):
    pytest.importorskip('moderngl')
    source = SimulatorSource('cyclists', seed=12, frames=3, rate_hz=.1, start_s=6., width=320,
                             height=180)
    frames = []
    for index in range(3):
        truth, mask = source.known_truth(index), source[index].labels
        assert truth is not None
        mask = load_class_map(CARLA, DRIVING).table[mask]
        frames.append(counter.count(truth.table, truth.instances, mask))
    source.close()
    recall = object_recall('a', frames, resamples=50)
    riders = recall.cell('rider')
    assert riders.things > 3
    assert riders.found.estimate == riders.pixel_recall.estimate == 1.
    assert recall.cell('rider', '0-10 m') or recall.cell('rider', '10-20 m')


def test_classes_that_the_map_leaves_out_are_not_asked_for():
    two = ClassSet.from_names('two', ['person', 'stuff'])
    assert ObjectCounter(two, load_class_map(two, two)).useful
    plain = ClassSet.from_names('plain', ['grass', 'stuff'])
    assert not ObjectCounter(plain, load_class_map(plain, plain)).useful


def row(ident: int, kind: int, metres: float, visible: float, pixels: int,
        right: int) -> list[int]:
    return [ident, kind, round(1000 * metres), round(1000 * visible), pixels, right]


def test_bands_begin_where_the_last_one_ends():
    frame = np.array([row(1, 0, 9.999, 0.249, 4, 4), row(2, 0, 10., 0.25, 4, 1),
                      row(3, 0, 80., 0.75, 4, 2), row(4, 0, 500., 1.0, 4, 0)], np.int32)
    found = object_recall('a', [frame] * 12, resamples=50)
    assert {d: c.n for d in distance_names() if (c := found.cell('pedestrian', d))} == {
        '0-10 m': 12, '10-20 m': 12, '80+ m': 24}
    assert {v: c.n for v in visible_names() if (c := found.cell('pedestrian', visible=v))} == {
        '0-0.25': 12, '0.25-0.5': 12, '0.75-1': 24}
    assert distance_names() == ('0-10 m', '10-20 m', '20-40 m', '40-80 m', '80+ m')


def test_found_counts_instances_and_pixel_recall_counts_pixels():
    frames = [np.array([row(1, 0, 5, 1, 100, 50), row(2, 4, 5, 1, 900, 0)], np.int32),
              np.array([row(1, 0, 5, 1, 100, 49)], np.int32),
              np.zeros((0, 6), np.int32)] * 8
    found = object_recall('a', frames, resamples=200)
    people = found.cell('pedestrian')
    assert (people.n, people.things, found.n) == (16, 1, 24)
    assert people.found.estimate == pytest.approx(0.5)
    assert people.pixel_recall.estimate == pytest.approx(0.495)
    assert found.cell().found.estimate == pytest.approx(8 / 24)
    assert found.cell().pixel_recall.estimate == pytest.approx(99 / 1100)
    assert people.found.low < 0.5 < people.found.high
    assert found.cell('rider') is None
    assert [r['kind'] for r in found.rows() if r['distance'] == r['visible'] == 'all'] == [
        'pedestrian', 'vehicle', 'all']
    assert object_recall('a', [np.zeros((0, 6), np.int32)]) is None


def test_a_thing_that_few_frames_show_has_no_narrow_interval():
    frames = [np.array([row(1, 0, 5, 1, 10, 10)] + ([row(2, 1, 5, 1, 10, 10)] if i == 3 else []),
                       np.int32) for i in range(60)]
    rider = object_recall('a', frames, resamples=200).cell('rider')
    assert (rider.n, rider.found.estimate) == (1, 1.0)
    assert (rider.found.low, rider.found.high) == (0.0, 1.0)


def test_one_thing_in_many_frames_is_still_one_thing():
    frame = np.array([row(1, 2, 15, 1, 100, 90)], np.int32)
    sign = object_recall('a', [frame] * 100, resamples=100).cell('traffic sign')
    assert (sign.n, sign.things, sign.found.estimate) == (100, 1, 1.0)
    assert sign.found.low == pytest.approx(0.2065, abs=1e-4)
    assert sign.found.high == pytest.approx(1.0)


def test_two_arms_are_compared_on_the_frames_of_both():
    rng = np.random.default_rng(0)

    def frame(index: int, chance: float) -> np.ndarray:
        return np.array([row(5 * index + i, 0, 5, 1, 10, 10 * (rng.random() < chance))
                         for i in range(5)], np.int32)

    def rows(arm: str, chance: float) -> list[FrameRow]:
        return [FrameRow(arm, i, 'c', i, 0, 1, detail=FrameDetail(objects=frame(i, chance)))
                for i in range(60)]

    both = rows('a', 0.9) + rows('b', 0.5)
    found = paired_objects(both, 'a', 'b', resamples=500)
    alone = {arm: object_recall(arm, measured(both, arm, 'objects'), resamples=10)
             .cell().found.estimate for arm in 'ab'}
    assert found.difference.estimate == pytest.approx(alone['b'] - alone['a'])
    assert found.difference.low < -0.4 < found.difference.high < -0.2
    assert paired_objects(both[:63], 'a', 'b') is None
    assert paired_objects(both, 'a', 'b', 'rider') is None
    assert len(KINDS) == 5


def seen(things: int, found_a: int, found_b: int, frames: int = 40) -> list[FrameRow]:
    """Return rows of both arms that see the same signs in every frame, and find the first ones."""
    def objects(found: int) -> np.ndarray:
        return np.array([[i + 1, 2, 15_000, 900, 40, 40 if i < found else 0]
                         for i in range(things)], np.int32)
    return [FrameRow(arm, i, 'c', i, i * 10**9, i * 10**9 + 10**6,
                     detail=FrameDetail(objects=objects(found)))
            for i in range(frames) for arm, found in (('a', found_a), ('b', found_b))]


def test_a_difference_is_no_surer_than_its_things_allow():
    """Forty frames of the same signs are not forty times as many signs."""
    widths = []
    for things in (1, 4, 100):
        equal = paired_objects(seen(things, things, things), 'a', 'b').difference
        assert equal.estimate == 0.0
        assert equal.low < 0.0 < equal.high
        widths.append(equal.high - equal.low)
    assert widths[0] > widths[1] > widths[2]
    assert widths[2] < 0.1
    one_of_four = paired_objects(seen(4, 4, 3), 'a', 'b').difference
    assert one_of_four.estimate == -0.25
    assert one_of_four.low < -0.4
    assert one_of_four.high > 0.0
    # Of many things the loss is shown.
    assert paired_objects(seen(100, 100, 75), 'a', 'b').difference.high < -0.1


def test_the_floor_of_a_difference_covers():
    """Of things that are found independently, the interval holds the truth often enough."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        a, b = (rng.random((2, 60)) < np.array([[0.8], [0.7]])).astype(int)
        rows = [FrameRow(arm, i, 'c', i, i * 10**9, i * 10**9 + 10**6, detail=FrameDetail(
            objects=np.array([[k + 1, 2, 9_000, 900, 40, 40 * found[k]] for k in range(60)],
                             np.int32)))
                for i in range(12) for arm, found in (('a', a), ('b', b))]
        change = paired_objects(rows, 'a', 'b', resamples=20).difference
        held += change.low <= -0.1 <= change.high
    assert held >= 184
