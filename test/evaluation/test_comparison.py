"""Comparisons survive the way to disk and back, and refuse what they cannot mean."""

from __future__ import annotations

from dataclasses import replace
import json

import numpy as np
import pytest

from kd_perception.classes import ClassSet
from kd_perception.errors import ConfigError, ImageError
from kd_perception.evaluation import comparison as c
from kd_perception.evaluation.comparison_files import load_run, run_to_dict, save_run
from kd_perception.evaluation.metrics.frame_detail import FrameDetail


@pytest.fixture
def run() -> c.ComparisonRun:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    mask = rng.integers(0, 3, (12, 16), dtype=np.uint8)
    truth = mask.copy()
    truth[0] = 255
    matrix = c.confusion_matrix(truth, mask, 3)
    rows = (
        c.FrameRow('a', 100, 'camera', 0, 1_000_000, 3_500_000, turn=1,
                   stages={'inference': 1.5}, counts=c.class_counts(matrix)),
        c.FrameRow('b', 100, 'camera', 0, 1_000_000, None, status='lost', turn=0))
    return c.ComparisonRun(
        spec=c.ComparisonSpec(arms=(c.ArmSpec('a', 'teacher', 'onnxruntime'),
                                    c.ArmSpec('b', 'student', 'onnxruntime')), warmup=0),
        arms=(c.ArmInfo('a', 'teacher', 'ff' * 32, 'onnxruntime', 'cpu', 'fp32',
                        class_names=('x', 'y', 'z')),),
        rows=rows, classes=ClassSet.from_names('toy', ('x', 'y', 'z')),
        confusion={'a': matrix}, agreement={'b': matrix},
        resources={'a': c.ResourceUsage(80.5, 123.0)}, counters={'a': {'received': 1}},
        host={'cpu': 'a cpu'}, versions={'numpy': np.__version__},
        pictures=(c.SamplePicture(0, 100, image, truth, {'a': mask}),
                  c.SamplePicture(7, 800, image, None, {'a': mask, 'b': mask})),
        notes=('a note',), started='2020-01-01T00:00:00+00:00')


def test_disk_round_trip_keeps_everything(run, tmp_path):
    save_run(run, tmp_path / 'run')
    back = load_run(tmp_path / 'run')
    assert run_to_dict(back) == run_to_dict(run)
    assert back.rows == run.rows
    assert back.spec == run.spec
    assert back.arms == run.arms
    np.testing.assert_array_equal(back.confusion['a'], run.confusion['a'])
    for old, new in zip(run.pictures, back.pictures, strict=True):
        np.testing.assert_array_equal(new.image, old.image)
        np.testing.assert_array_equal(new.masks['a'], old.masks['a'])
    np.testing.assert_array_equal(back.pictures[0].truth, run.pictures[0].truth)
    assert back.pictures[1].truth is None


def test_what_is_counted_beside_the_matrix_comes_back(run, tmp_path):
    detail = FrameDetail(boundary=np.arange(12).reshape(3, 4), objects=np.zeros((0, 6), int),
                         flicker=np.array([3, 90]))
    full = replace(run, rows=(replace(run.rows[0], detail=detail), run.rows[1]),
                   confidences={'a': np.arange(512).reshape(2, 256)}, flicker_method='same pixel')
    save_run(full, tmp_path / 'run')
    back = load_run(tmp_path / 'run')
    found = back.rows[0].detail
    assert found.boundary.tolist() == detail.boundary.tolist()
    assert found.objects.shape == (0, 6)
    assert found.flicker.tolist() == [3, 90]
    assert back.rows[1].detail is None
    assert back.confidences['a'].tolist() == full.confidences['a'].tolist()
    assert back.flicker_method == 'same pixel'


def test_recordings_of_before_these_were_counted_load(run, tmp_path):
    save_run(run, tmp_path / 'run')
    path = tmp_path / 'run' / 'run.json'
    data = json.loads(path.read_text())
    for key in ('confidences', 'flicker_method'):
        del data[key]
    for key in ('fingerprint', 'image_topic', 'scenario_sha256'):
        del data['spec'][key]
    assert not any('detail' in row for row in data['rows'])
    path.write_text(json.dumps(data))
    assert load_run(tmp_path / 'run').confidences == {}


@pytest.mark.parametrize('detail', [{'boundary': [1, 2, 3]}, {'flicker': 'x'}, [1]])
def test_a_damaged_detail_is_one_line(run, tmp_path, detail):
    save_run(run, tmp_path / 'run')
    path = tmp_path / 'run' / 'run.json'
    data = json.loads(path.read_text())
    data['rows'][0]['detail'] = detail
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=r'run\.json: bad or missing entry'):
        load_run(tmp_path / 'run')


def test_saving_again_replaces_and_leaves_nothing_beside(run, tmp_path):
    save_run(run, tmp_path / 'run')
    save_run(replace(run, pictures=()), tmp_path / 'run')
    assert [p.name for p in tmp_path.iterdir()] == ['run']
    assert list((tmp_path / 'run' / 'pictures').iterdir()) == []


def test_what_is_no_comparison_is_not_overwritten(run, tmp_path):
    (tmp_path / 'recording').mkdir()
    (tmp_path / 'recording' / 'drive.mcap').write_bytes(b'precious')
    with pytest.raises(ConfigError, match='is no recorded comparison'):
        save_run(run, tmp_path / 'recording')
    assert (tmp_path / 'recording' / 'drive.mcap').read_bytes() == b'precious'


@pytest.mark.parametrize('damage', [
    lambda d: d.update(schema_version=99),
    lambda d: d.pop('rows'),
    lambda d: d['spec'].update(surprise=1),
    lambda d: d['rows'][0].update(status='fine'),
    lambda d: d['arms'].append(3),
])
def test_damaged_file_is_one_line(run, tmp_path, damage):
    folder = save_run(run, tmp_path / 'run')
    data = json.loads((folder / 'run.json').read_text())
    damage(data)
    (folder / 'run.json').write_text(json.dumps(data))
    with pytest.raises(ConfigError) as caught:
        load_run(folder)
    assert 'run.json' in str(caught.value) or 'status' in str(caught.value)
    assert '\n' not in str(caught.value)


def test_missing_file_and_missing_picture_are_named(run, tmp_path):
    with pytest.raises(ConfigError, match=r'run\.json is missing'):
        load_run(tmp_path)
    folder = save_run(run, tmp_path / 'run')
    (folder / 'pictures' / '000007_arm_b.png').unlink()
    with pytest.raises(ConfigError, match='000007_arm_b'):
        load_run(folder)


@pytest.mark.parametrize(('change', 'word'), [
    ({'source': 'radio'}, 'radio'), ({'pacing': 'slow'}, 'slow'),
    ({'placement': 'everywhere'}, 'everywhere'), ({'frames': -1}, 'negative'),
    ({'arms': ()}, 'names'), ({'rate_hz': 0.0}, 'rate_hz'),
    ({'arms': (c.ArmSpec('a', 'x', 'torch'), c.ArmSpec('a', 'y', 'torch'))}, 'names')])
def test_spec_refuses_nonsense(run, change, word):
    with pytest.raises(ConfigError, match=word):
        replace(run.spec, **change)


def test_confusion_matrix_against_a_loop():
    rng = np.random.default_rng(0)
    truth = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (20, 30))
    prediction = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (20, 30))
    expected = np.zeros((4, 5), np.int64)
    for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist()):
        if t != 255:
            expected[t, min(p, 4)] += 1
    got = c.confusion_matrix(truth, prediction, 4)
    np.testing.assert_array_equal(got, expected)
    counts = np.array(c.class_counts(got))
    np.testing.assert_array_equal(counts[:, 0], np.diagonal(expected))
    np.testing.assert_array_equal(counts[:, 1], expected.sum(axis=1))
    np.testing.assert_array_equal(counts[:, 2], expected[:, :4].sum(axis=0))


def test_confusion_matrix_with_many_classes_does_not_wrap():
    # 200 classes: pair numbers go beyond 16 bits if they are computed carelessly.
    ids = np.arange(200, dtype=np.uint8).reshape(1, -1)
    np.testing.assert_array_equal(c.confusion_matrix(ids, ids, 200)[:, :200], np.eye(200))


def test_ids_that_are_no_class_count_as_unlabelled():
    truth = np.array([[0, 1, 7, 254]], np.uint8)
    prediction = np.array([[0, 9, 1, 1]], np.uint8)
    np.testing.assert_array_equal(c.confusion_matrix(truth, prediction, 2),
                                  [[1, 0, 0], [0, 0, 1]])


def test_confusion_matrix_refuses_other_shape():
    with pytest.raises(ImageError, match='truth has shape'):
        c.confusion_matrix(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 3)


def test_warmup_rows_are_left_out(run):
    run = replace(run, spec=replace(run.spec, warmup=1))
    assert run.arm_rows('a') == ()
    assert len(run.arm_rows('a', warmup=True)) == 1
