"""``compare --peak-rate`` by real nodes, what it says, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from kd_perception.bundle import ModelBundle
from kd_perception.classes import load_class_set
from kd_perception.cli import peak_rate
from kd_perception.cli.checks import installed
from kd_perception.cli.main import main
from kd_perception.evaluation.comparison import (
    ArmInfo,
    ArmSpec,
    ComparisonRun,
    ComparisonSpec,
    FrameRow,
)
from kd_perception.evaluation.statistics.peak_rate import PeakRate, Probe

needs_ros = pytest.mark.skipif(not installed('vision_msgs'), reason='no ROS in this environment')
MS = 1_000_000


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Return a folder of four pictures."""
    folder = tmp_path / 'clip'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        cv2.imwrite(str(folder / f'{i:03d}.png'), rng.integers(0, 255, (48, 80, 3), np.uint8))
    return folder


def test_a_probe_is_what_was_published_and_what_came_back():
    """Of 12 frames at 20 Hz two are warm-up, one is lost, and one result comes twice."""
    rows = [FrameRow('a', i, 'camera', i, i * 50 * MS, None if i == 7 else (i * 50 + 10 + i) * MS,
                     'lost' if i == 7 else 'ok') for i in range(12)]
    rows.append(FrameRow('a', 5, 'camera', 5, 250 * MS, 900 * MS, 'duplicate'))
    info = ArmInfo('a', 'small', 'ab' * 32, 'onnxruntime', 'cpu', 'fp32')
    spec = ComparisonSpec(arms=(ArmSpec('a', 'small', 'onnxruntime'),), warmup=2)
    run = ComparisonRun(spec, (info,), tuple(rows), load_class_set('driving'))
    found = peak_rate.probe_of(20.5, run, 'a')
    assert (found.asked_hz, found.frames, found.loss) == (20.5, 10, 0.1)
    assert found.offered_hz == pytest.approx(20.0)
    assert 20 < found.age_p95_ms <= 21


@pytest.mark.parametrize(('found', 'words'), [
    (PeakRate(27.5, 28.9, 'arm', 0.01, 96.0, ()),
     'x sustains 27.5 Hz and not 28.9 Hz (at most 1 % lost, p95 at most 96 ms).'),
    (PeakRate(412.0, math.inf, 'source', 0.01, 5.0, ()),
     'x sustains at least 412.0 Hz: the camera could not send faster'),
    (PeakRate(0.5, 0.52, 'arm', 0.01, 0.0, ()), 'x sustains 0.50 Hz and not 0.52 Hz'),
    (PeakRate(0.0, 0.2, 'none held', 0.0, 0.0, (Probe(0.2, 0.2, 1.0, math.nan),)),
     'x sustains no rate that was tried, down to 0.2 Hz (at most 0 % lost).')])
def test_words(found, words):
    assert words in peak_rate.sentence('x', found)


@pytest.mark.parametrize(('arguments', 'reason'), [
    (['--probe-s', '0'], '--probe-s 0'),
    (['--start-hz', '-1'], '--start-hz -1'),
    (['--start-hz', 'nan'], '--start-hz nan'),
    (['--max-loss', '100'], '--max-loss 100'),
    (['--max-age-ms', '-5'], '--max-age-ms -5'),
    (['--bag', 'nowhere'], 'nowhere')])
def test_what_cannot_work_is_one_line(bundle, tmp_path, capsys, arguments, reason):
    out = tmp_path / 'out'
    code = main(['compare', str(bundle.path), '--peak-rate', '--out', str(out), *arguments])
    captured = capsys.readouterr()
    assert code == 2
    assert reason in captured.err
    assert captured.err.count('\n') == 1
    assert not out.exists()


def test_an_older_result_is_not_replaced(bundle, tmp_path, capsys):
    (tmp_path / peak_rate.JSON_FILE).write_text('{}')
    assert main(['compare', str(bundle.path), '--peak-rate', '--out', str(tmp_path)]) == 2
    assert 'pass --overwrite' in capsys.readouterr().err


def search_of(result):
    """Return a search of a single probe: the real one is tested without nodes."""
    def search(probe, **options):
        assert options['max_loss'] == 0.05
        return result(probe, options['tell'])
    return search


def compare(bundle: ModelBundle, clip: Path, out: Path) -> int:
    return main(['compare', str(bundle.path), '--peak-rate', '--bag', str(clip), '--out', str(out),
                 '--engine', 'onnxruntime', '--threads', '1', '--max-loss', '5',
                 '--probe-s', '0.5'])


@needs_ros
def test_one_probe_by_real_nodes(bundle, clip, tmp_path, capsys, monkeypatch):
    def result(probe, tell):
        done = probe(100.0)
        tell(done)
        return PeakRate(done.offered_hz, math.inf, 'arm', 0.05, 100.0, (done,))

    monkeypatch.setattr(peak_rate, 'peak_rate', search_of(result))
    assert compare(bundle, clip, tmp_path / 'out') == 0
    data = json.loads((tmp_path / 'out' / peak_rate.JSON_FILE).read_text())
    assert data['interrupted'] is False
    assert data['unfinished'] == {}
    (one,) = data['arms']['a']['probes']
    assert one['frames'] == 100
    assert one['offered_hz'] > 20
    assert one['loss'] < 1
    printed = capsys.readouterr().out
    assert 'of 100 frames lost' in printed
    assert 'small sustains' in printed


@needs_ros
def test_what_was_tried_before_an_interrupt_is_kept(bundle, clip, tmp_path, capsys, monkeypatch):
    def result(probe, tell):
        tell(Probe(10.0, 10.0, 0.0, 5.0, 100, held=True))
        raise KeyboardInterrupt

    monkeypatch.setattr(peak_rate, 'peak_rate', search_of(result))
    assert compare(bundle, clip, tmp_path / 'out') == 130
    data = json.loads((tmp_path / 'out' / peak_rate.JSON_FILE).read_text())
    assert data['interrupted'] is True
    assert data['arms'] == {}
    assert data['unfinished']['a'][0]['offered_hz'] == 10.0
    assert 'holds' in capsys.readouterr().out
