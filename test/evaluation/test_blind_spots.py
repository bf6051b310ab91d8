"""A class that is lost is named, also where the mean over classes hides it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kd_perception.evaluation.analysis import analyse
from kd_perception.evaluation.blind_spots import blind_spots, seen_classes
from kd_perception.evaluation.statistics.bootstrap import Interval


def loss(low: float, estimate: float, high: float) -> Interval:
    return Interval(estimate / 100, low / 100, high / 100)


def test_only_what_is_lost_for_certain_is_named_worst_first():
    classes = {'road': loss(-1.0, -0.5, 0.0), 'person': loss(-15.0, -12.3, -9.1),
               'pole': loss(-4.0, -3.0, -2.1), 'sky': loss(-9.0, -5.0, -1.9),
               'lane': Interval(float('nan'), -1.0, 1.0)}
    (said,) = blind_spots('S', 2.0, classes, {})
    assert said == ('S loses more IoU than the margin of 2 points in person −12.3 [−15.0, −9.1], '
                    'pole −3.0 [−4.0, −2.1].')
    (said,) = blind_spots('S', 2.0, classes, {}, inside=True)
    assert said.endswith('though the mIoU as a whole stays within it.')
    assert not blind_spots('S', 10.0, classes, {})


def test_few_are_named_and_the_others_counted():
    classes = {f'c{i}': loss(-i - 1.0, -i, -i + 0.5) for i in range(3, 10)}
    (said,) = blind_spots('S', 2.0, classes, {})
    assert 'c9 −9.0 ' in said
    assert 'c6 −6.0 ' in said
    assert 'c5 ' not in said
    assert ', 3 more.' in said


def test_objects_have_a_sentence_of_their_own():
    said = blind_spots('S', 2.0, {}, {'pedestrian': loss(-20.0, -10.0, -3.0),
                                      'vehicle': loss(-3.0, -1.0, 1.0)})
    assert said == ['S finds fewer objects, by more than the margin of 2 points: pedestrian −10.0 '
                    '[−20.0, −3.0].']


def blind(run, place, share):
    """Return ``run`` in which arm b is as good as arm a but for a share of one class."""
    twins = {r.key: r for r in run.rows if r.arm == 'a'}

    def of_b(row):
        counts = [list(c) for c in twins[row.key].counts]
        correct, truth, predicted = counts[place]
        missed = round(share * correct)
        counts[place] = [correct - missed, truth, predicted - missed]
        return replace(row, counts=tuple(tuple(c) for c in counts))

    return replace(run, rows=tuple(of_b(r) if r.arm == 'b' else r for r in run.rows))


def test_a_class_is_named_though_the_mean_is_within_the_margin(make_run):
    run = make_run(frames=60, pictures=0)
    place = run.classes.names.index('vehicle')
    run = replace(blind(run, place, 0.1), spec=replace(run.spec, margin_miou=4.0))
    found = analyse(run)
    assert found.comparisons[0].verdict.accuracy == 'within margin'
    (said,) = [c for c in found.cautions if 'loses more IoU' in c]
    assert 'the margin of 4 points in vehicle −' in said
    assert 'as a whole stays within it' in said
    assert not analyse(blind(run, place, 0.0)).cautions


def test_kinds_of_objects_are_compared_one_by_one(make_run):
    run = make_run(frames=60, pictures=0, detailed=True)
    people = np.array([[10 + i, 0, 15_000, 900, 40, 40] for i in range(30)], np.int32)
    missed = people.copy()
    missed[:, 5] = 0

    def add(row):
        more = missed if row.arm == 'b' else people
        return replace(row, detail=replace(row.detail, objects=np.vstack(
            [row.detail.objects, more])))

    found = analyse(replace(run, rows=tuple(add(r) for r in run.rows)))
    kinds = found.comparisons[0].objects_by_kind
    assert set(kinds) == {'pedestrian', 'vehicle'}
    assert kinds['pedestrian'].difference.estimate == -1.0
    assert kinds['vehicle'].difference.estimate == 0.0
    (said,) = [c for c in found.cautions if 'finds fewer objects' in c]
    assert 'pedestrian −100.0' in said
    assert 'vehicle' not in said


def test_frames_that_one_arm_lost_do_not_make_a_class_sure(make_run):
    """Vehicles are in 33 frames of the one arm, and in 3 that both answered."""
    run = make_run(frames=60, warmup=0, pictures=0)
    vehicle = run.classes.names.index('vehicle')
    rows = []
    for row in run.rows:
        counts = list(row.counts)
        if 3 <= row.index < 30:
            counts[vehicle] = (0, 0, 0)
        elif row.arm == 'b':
            counts[vehicle] = (0, counts[vehicle][1], 0)
        row = replace(row, counts=tuple(counts))
        rows.append(replace(row, status='lost', received_ns=None, counts=None)
                    if row.arm == 'b' and row.index >= 30 else row)
    assert any('vehicle' in c for c in analyse(run).cautions)
    assert not any('vehicle' in c for c in analyse(replace(run, rows=tuple(rows))).cautions)


def test_a_class_of_a_few_frames_is_not_sure_enough(make_run):
    run = make_run(frames=20, warmup=0, pictures=0)
    rows = [r for r in run.rows if r.arm == 'a']
    seen = seen_classes(rows, run.classes.names)
    assert 'vehicle' in seen
    assert 'person' not in seen
    assert 'vehicle' not in seen_classes(rows[:7], run.classes.names)
