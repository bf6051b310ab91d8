"""Compare through real nodes, and refuse what cannot be compared before anything starts."""

from __future__ import annotations

import argparse
from contextlib import contextmanager
import csv
from dataclasses import replace
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import psutil
import pytest

from kd_perception.bundle import write_bundle
from kd_perception.classes import ClassSet
from kd_perception.cli import compare, comparison
from kd_perception.cli.checks import installed
from kd_perception.cli.comparison import ComparisonRequest, plan
from kd_perception.cli.main import main
from kd_perception.errors import GraphError
from kd_perception.evaluation.comparison import ArmSpec
from kd_perception.nodes.monitor.pending import read_progress

needs_ros = pytest.mark.skipif(not installed('vision_msgs'), reason='no ROS in this environment')


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Return a folder of eight camera pictures without labels."""
    folder = tmp_path / 'clip'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        cv2.imwrite(str(folder / f'{i:03d}.png'), rng.integers(0, 255, (48, 80, 3), np.uint8))
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run ``compare``, expect exit code 2, and return its one line."""
    assert main(['compare', *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ''
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp('cwd')
    monkeypatch.chdir(folder)
    yield
    # Refused before anything was written.
    if 'refuse' in os.environ.get('PYTEST_CURRENT_TEST', ''):
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize(('arguments', 'word'), [
    (['nowhere', 'nowhere'], 'no model named'),
    (['{m}', '{m}', '--engine', 'warp'], 'no engine named'),
    (['{m}', '{m}', '--engine', 'a,b,c'], 'one for each of the 2'),
    (['{m}', '{m}', '--precision', 'fp12'], 'fp12'),
    (['{m}', '{m}', '--precision', 'int8'], 'this release cannot make one'),
    (['{m}', '{m}', '--threads', '-1'], '--threads'),
    (['{m}', '{m}', '--scenario', 'hail'], 'no scenarios named'),
    (['{m}', '{m}', '--source', 'bag'], 'needs --bag'),
    (['{m}', '{m}', '--bag', 'gone.mcap'], 'no such file'),
    (['{m}', '{m}', '--source', 'sim', '--bag', 'x.mcap'], '--source bag'),
    (['{m}', '{m}', '--frames', '0'], 'number of frames'),
    (['{m}', '{m}', '--frames', '-3'], 'negative'),
    (['{m}', '{m}', '--rate', '0'], 'rate_hz'),
    (['{m}', '{m}', '--placement', 'isolated', '--pacing', 'max'], 'choose lockstep or realtime'),
    (['{m}', '{m}', '--rate', '2x'], 'are for recordings'),
    (['{m}', '{m}', '--loop'], 'are for recordings'),
    (['{m}', '{m}', '--duration', 'nan'], 'duration_s must be'),
    (['{m}', '{m}', '--duration', '-1'], 'duration_s must be'),
    (['{m}', '{m}', '--source', 'topic'], 'name of an image topic'),
    (['{m}', '{m}', '--source', 'sim', '--topic', '/image'], '--topic needs --source topic'),
    (['{m}', '{m}', '--topic', '/image', '--placement', 'turns'], 'choose concurrent, realtime'),
    (['{m}', '{m}', '--topic', '/image', '--pacing', 'lockstep'], 'choose concurrent, realtime'),
    (['{m}', '{m}', '--topic', '/image', '--frames', '0'], 'frames or a duration'),
    (['{m}', '{m}', '--topic', '/image', '--require-truth'], 'the topic of its labels'),
    (['{m}', '--device', 'cuda,gpu'], 'all of the devices cuda, gpu'),
    (['{m}', '--engine', 'onnxruntime,torch', '--threads', '1,2,3'], 'one for each of the 3'),
    (['{m}', '{m}', '--rate', 'nan'], 'rate_hz must be above zero'),
    (['{m}', '{m}', '--rate', 'inf'], 'rate_hz: inf'),
    (['{m}', '{m}', '--timeout', 'nan'], 'timeout_s: is not a number'),
    (['{m}', '{m}', '--timeout', '-1'], 'timeout_s: -1'),
    (['{m}', '{m}', '--margin-miou', 'nan'], 'margin_miou: is not a number'),
    (['{m}', '{m}', '--device', 'banana'], "no device 'banana'"),
    (['{m}', '{m}', '--device', 'cpu,cuda:x', '--engine', 'torch'], "no device 'cuda:x'"),
    (['{m}', '{m}', '--out', '/dev/null'], 'is a file'),
    (['{m}', '{m}', '--bag', 'x.mcap', '--scenario', 'all'], '--scenario is of no use'),
    (['{m}', '{m}', '--bag', 'x.mcap', '--width', '320'], '--width is of no use'),
    (['{m}', '{m}', '--label-topic', '/labels'], '--label-topic is of no use'),
    (['{m}', '{m}', '--topic', '/image', '--rate', '5'], '--rate is of no use'),
    (['{m}', '{m}', '--peak-rate', '--baseline', 'old'], '--baseline has no part'),
    (['{m}', '{m}', '--peak-rate', '--frames', '50'], '--frames has no part'),
    (['{m}', '{m}', '--max-loss', '3'], '--max-loss needs --peak-rate'),
    (['{m}', '{m}', '--max-miou-regression', '3'], 'needs --baseline'),
    (['{m}', '{m}', '--strict'], '--strict needs --baseline'),
    (['{m}', '--threads', '1,2', '--placement', 'alternate', '--frames', '50'], '20 are 3'),
    (['{m}', '{m}', '--width', '0'], 'must be above zero'),
    (['{m}', '{m}', '--width', '8'], 'width: 8 is below 16'),
    (['{m}', '{m}', '--swap-every', '5'], '--swap-every needs --placement alternate'),
    (['{m}', '{m}', '--swap-every', '0', '--placement', 'alternate'], '2 frames or more'),
    (['{m}', '{m}', '--measures', 'flicker', '--placement', 'alternate'], 'cannot be had'),
    (['{m}'] * 27, 'too many')])
def test_refuses_bad_requests_in_one_line(bundle, capsys, arguments, word):
    line = refused(capsys, *(str(a).replace('{m}', str(bundle.path)) for a in arguments))
    assert word in line


def test_refuses_a_changed_bundle(bundle, tmp_path, capsys):
    copy = write_bundle(tmp_path / 'copy', bundle.spec,
                        {n: bundle.path / n for n in bundle.files})
    graph = copy.path / 'deploy.onnx'
    data = bytearray(graph.read_bytes())
    data[100] ^= 1
    graph.write_bytes(data)
    assert 'deploy.onnx' in refused(capsys, bundle.path, copy.path)


def test_refuses_a_bundle_without_graph_before_anything_starts(bundle, tmp_path, capsys):
    bare = write_bundle(tmp_path / 'bare', bundle.spec, {
        n: bundle.path / n for n in bundle.files if not n.endswith('.onnx')})
    assert 'kd_perception export' in refused(capsys, bundle.path, bare.path)


def test_refuses_models_of_other_classes_or_tasks(bundle, tmp_path, capsys):
    files = {n: bundle.path / n for n in bundle.files}
    other = write_bundle(tmp_path / 'other', replace(
        bundle.spec, classes=ClassSet.from_names('dozen', 'abcdefghijkl')), files)
    assert 'different classes' in refused(capsys, bundle.path, other.path)
    boxes = write_bundle(tmp_path / 'boxes', replace(bundle.spec, task='detection'), files)
    assert 'detection' in refused(capsys, bundle.path, boxes.path)


def test_refuses_recordings_that_do_not_fit(bundle, clip, capsys):
    arguments = (bundle.path, bundle.path, '--bag', clip)
    assert 'lower --warmup' in refused(capsys, *arguments)
    assert 'no labels' in refused(capsys, *arguments, '--warmup', 1, '--class-map', 'x')
    assert 'ground truth is required' in refused(capsys, *arguments, '--warmup', 1,
                                                 '--require-truth')
    assert 'has no end' in refused(capsys, *arguments, '--loop')
    assert 'realtime and placement concurrent only' in refused(
        capsys, *arguments, '--warmup', 1, '--rate', '1x')
    labels = clip.with_name('clip_labels')
    labels.mkdir()
    for picture in clip.iterdir():
        cv2.imwrite(str(labels / picture.name), np.zeros((48, 80), np.uint8))
    assert 'camvid_to_driving' in refused(capsys, *arguments, '--warmup', 1, '--classes',
                                          'camvid')


def test_refuses_labels_that_do_not_fit_their_pictures(bundle, clip, capsys):
    labels = clip.with_name('clip_labels')
    labels.mkdir()
    arguments = (bundle.path, bundle.path, '--bag', clip, '--warmup', 1, '--classes', 'driving')
    for wrong, reason in ((np.full((48, 80), 77, np.uint8), 'labels hold ids'),
                          (np.zeros((24, 40), np.uint8), 'the size of their image')):
        for picture in clip.iterdir():
            cv2.imwrite(str(labels / picture.name), wrong)
        assert reason in refused(capsys, *arguments)


def test_refuses_to_run_where_something_foreign_lies(bundle, tmp_path, capsys):
    mine = tmp_path / 'recording' / 'drive.mcap'
    mine.parent.mkdir()
    mine.write_text('mine')
    assert 'is no recorded comparison' in refused(capsys, bundle.path, '--overwrite', '--out',
                                                  tmp_path)
    assert mine.read_text() == 'mine'
    assert list(tmp_path.iterdir()) == [mine.parent]


def test_missing_engine_is_named(bundle, monkeypatch, capsys):
    monkeypatch.setattr(comparison, 'available_engines', lambda: {'openvino': 'missing: pip x'})
    assert 'missing: pip x' in refused(capsys, bundle.path, '--engine', 'openvino')
    assert 'no runtime' in refused(capsys, bundle.path)


def test_plan_names_engines_and_sizes(bundle, clip):
    arms = tuple(ArmSpec(name, str(bundle.path), engine) for name, engine in
                 (('a', 'auto'), ('b', 'torch')))
    graph = plan(ComparisonRequest(arms, frames=30, width=320, height=180), Path('out'))
    nodes = {n.title: n.parameters for n in graph.nodes}
    assert nodes['a/perception']['engine'] in ('openvino', 'onnxruntime', 'torch')
    assert nodes['b/perception']['engine'] == 'torch'
    assert (nodes['camera']['width'], nodes['camera']['frames']) == (320, 40)
    assert nodes['monitor']['out'] == str(Path('out').resolve())
    graph = plan(ComparisonRequest(arms, source='bag', bag=str(clip), frames=100, warmup=3),
                 Path('out'))
    nodes = {n.title: n.parameters for n in graph.nodes}
    assert nodes['monitor']['frames'] == 5
    assert nodes['camera']['bag'] == str(clip.resolve())


def test_one_model_in_several_ways_is_several_arms(bundle):
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    request = compare._request(parser.parse_args(
        [str(bundle.path), '--engine', 'onnxruntime,openvino,torch', '--threads', '2',
         '--rate', '0.5x']))
    assert [(a.name, a.engine, a.threads) for a in request.arms] == [
        ('a', 'onnxruntime', 2), ('b', 'openvino', 2), ('c', 'torch', 2)]
    assert {a.model for a in request.arms} == {str(bundle.path)}
    assert request.speed == 0.5


def test_auto_is_an_engine_that_has_the_device(bundle):
    def engine(device):
        arms = (ArmSpec('a', str(bundle.path), 'auto', device),)
        nodes = {n.title: n.parameters for n in plan(ComparisonRequest(arms), Path('x')).nodes}
        return nodes['a/perception']['engine']

    assert engine('cpu') == 'openvino'
    assert engine('cuda') == 'onnxruntime'


def test_a_recording_in_a_loop_and_in_its_own_time(bundle, clip):
    arms = (ArmSpec('a', str(bundle.path), 'onnxruntime'),)
    graph = plan(ComparisonRequest(arms, source='bag', bag=str(clip), frames=100, loop=True,
                                   speed=2.0, pacing='realtime', placement='concurrent',
                                   duration_s=7.0), Path('out'))
    nodes = {n.title: n.parameters for n in graph.nodes}
    assert nodes['camera']['loop'] is True
    assert nodes['camera']['speed'] == 2.0
    assert nodes['camera']['frames'] == 110
    # Pictures of a folder are 1/15 s apart.
    assert nodes['monitor']['rate_hz'] == pytest.approx(30.0)
    assert nodes['monitor']['duration_s'] == 7.0


@needs_ros
def test_street_through_real_nodes(bundle, tmp_path, capsys):
    out = tmp_path / 'out'
    code = main(['compare', str(bundle.path), str(bundle.path), '--engine',
                 'onnxruntime,openvino', '--precision', 'fp32', '--threads', '1',
                 '--width', '160', '--height', '96', '--frames', '12', '--warmup', '2',
                 '--out', str(out)])
    page = capsys.readouterr().out
    assert code == 0
    data = json.loads((out / 'report.json').read_text())
    for arm, engine in (('a', 'onnxruntime'), ('b', 'openvino')):
        assert data['arms'][arm]['info']['engine'] == engine
        assert data['arms'][arm]['info']['precision'] == 'fp32'
        assert data['arms'][arm]['statistics']['status'] == {
            'ok': 12, 'late': 0, 'lost': 0, 'ambiguous': 0, 'duplicate': 0, 'unknown': 0}
        counters = data['arms'][arm]['counters']
        assert counters['received'] == counters['published'] == 14
        assert data['arms'][arm]['accuracy']['n'] == 12
    # The same weights in fp32 on two runtimes see the same street.
    assert data['comparisons'][0]['agreement'] > 0.99
    assert data['comparisons'][0]['latency']['n'] == 12
    with (out / 'frames.csv').open(newline='') as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 28
    turns = {(r['index'], r['turn']): r['arm'] for r in rows}
    assert {turns[str(i), '0'] for i in range(14)} == {'a', 'b'}
    assert all(float(r['latency_ms']) > float(r['inference_ms']) > 0 for r in rows)
    assert 'different engines' in page
    assert str(out / 'report.html') in page
    assert '<img' in (out / 'report.html').read_text()


@pytest.mark.parametrize(('arguments', 'word'), [
    (['--carla', 'x', '--source', 'sim'], '--carla needs --source carla'),
    (['--carla', 'x', '--bag', 'y'], '--carla needs --source carla'),
    (['--source', 'carla', '--bag', 'y'], '--bag needs --source bag'),
    (['--carla-map', 'Town03'], '--carla-map needs --source carla'),
    (['--carla', 'x:y'], 'host:port'),
    (['--carla', 'x', '--frames', '0'], 'source carla has no end'),
    (['--carla', 'x', '--placement', 'isolated'], 'go by once'),
    (['--carla', 'x', '--carla-walkers', '-1'], 'carla_walkers: -1 is below'),
    (['--carla', 'x', '--scenario', 'hail'], 'or a preset of CARLA'),
    (['--carla', 'x', '--carla-map', 'Town99'], "no map 'Town99'"),
    (['--source', 'carla'], 'localhost:2000 is in synchronous mode already')])
def test_refuses_what_carla_cannot_do(bundle, carla_server, capsys, arguments, word):
    carla_server.settings.synchronous_mode = arguments == ['--source', 'carla']
    assert word in refused(capsys, bundle.path, *arguments)
    assert 'set_weather' not in carla_server.calls


def test_refuses_carla_without_its_client(bundle, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'carla', None)
    assert 'kd_perception[carla]' in refused(capsys, bundle.path, '--carla', 'localhost')


@needs_ros
def test_carla_through_real_nodes(bundle, carla_server, fake_carla, tmp_path, monkeypatch, capsys):
    variables, log = fake_carla.install(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / 'out'
    assert main(['compare', str(bundle.path), str(bundle.path), '--carla', 'localhost:2000',
                 '--engine', 'onnxruntime', '--threads', '1', '--width', '160', '--height', '96',
                 '--frames', '12', '--warmup', '2', '--carla-vehicles', '2', '--carla-walkers',
                 '20', '--scenario', 'ClearNoon', '--out', str(out)]) == 0
    capsys.readouterr()
    data = json.loads((out / 'report.json').read_text())
    for arm in 'ab':
        assert data['arms'][arm]['statistics']['status']['ok'] == 12
        assert data['arms'][arm]['accuracy']['n'] == 12
    assert data['comparisons'][0]['agreement'] == 1.0
    assert data['spec']['source'] == 'carla'
    assert log.read_text().split()[-3:] == [
        'apply_settings', 'traffic_manager.set_synchronous_mode', 'set_weather']


@needs_ros
def test_recording_through_real_nodes(bundle, clip, tmp_path, capsys):
    out = tmp_path / 'out'
    assert main(['compare', str(bundle.path), '--bag', str(clip), '--warmup', '2', '--out',
                 str(out), '--engine', 'onnxruntime', '--threads', '1']) == 0
    data = json.loads((out / 'report.json').read_text())
    assert data['arms']['a']['statistics']['published'] == 6
    assert data['arms']['a']['accuracy'] is None
    assert data['comparisons'] == []
    assert 'small' in capsys.readouterr().out


@contextmanager
def endless(bundle, out, tmp_path):
    """Give a comparison that measures, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'kd_perception.cli.main', 'compare', str(bundle.path),
         '--engine', 'onnxruntime', '--threads', '1', '--width', '160', '--height', '96',
         '--frames', '100000', '--warmup', '1', '--out', str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'TMPDIR': str(tmp_path)})
    try:
        deadline = time.monotonic() + 90
        while not any((read_progress(p) or (0,))[0] > 4 for p in tmp_path.glob('*/progress.json')):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process
    finally:
        process.kill()


@needs_ros
@pytest.mark.parametrize('trouble', ['ctrl-c', 'a dead node'])
def test_what_was_measured_is_reported_and_no_child_left(bundle, tmp_path, trouble):
    out = tmp_path / 'out'
    with endless(bundle, out, tmp_path) as process:
        if trouble == 'ctrl-c':
            process.send_signal(signal.SIGINT)
        else:
            next(p for p in psutil.Process(process.pid).children()
                 if 'nodes.perception' in ' '.join(p.cmdline())).kill()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if trouble == 'ctrl-c' else 2)
    assert ('node a/perception ended with -9' in errors) == (trouble != 'ctrl-c')
    assert 'what was measured so far' in errors
    assert 'Traceback' not in errors
    data = json.loads((out / 'report.json').read_text())
    assert data['interrupted'] is True
    assert data['arms']['a']['statistics']['published'] > 0
    left = subprocess.run(['pgrep', '-f', str(tmp_path)], capture_output=True, text=True,
                          check=False).stdout
    assert left == ''


@needs_ros
@pytest.mark.parametrize(('number', 'written'), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_signal_before_and_after_the_frames(bundle, clip, tmp_path, number, written):
    """In set-up nothing is left but logs; while the recording is written it is finished."""
    out = tmp_path / 'out'
    process = subprocess.Popen(
        [sys.executable, '-m', 'kd_perception.cli.main', 'compare', str(bundle.path),
         '--engine', 'onnxruntime', '--threads', '1', '--bag', str(clip), '--warmup', '1',
         '--out', str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'TMPDIR': str(tmp_path)})
    try:
        deadline = time.monotonic() + 90
        while not (any((read_progress(p) or (0, 0, ''))[2] == 'writing the recording'
                       for p in tmp_path.glob('*/progress.json')) if written
                   else (out / 'logs' / 'monitor.log').exists()):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert 'Traceback' not in errors
    assert (out / 'report.html').is_file() == written
    if written:
        assert json.loads((out / 'report.json').read_text())['arms']['a']
        assert 'Traceback' not in (out / 'logs' / 'monitor.log').read_text()
        assert 'what was measured' in errors
    left = subprocess.run(['pgrep', '-f', str(tmp_path)], capture_output=True, text=True,
                          check=False).stdout
    assert left == ''


@needs_ros
def test_a_node_that_dies_is_one_line(bundle, tmp_path, monkeypatch, capsys):
    def die(*args: object, **kwargs: object) -> None:
        raise GraphError('node a/perception ended with 2: out of memory (log: x)')

    monkeypatch.setattr('kd_perception.nodes.bringup.runner.run_graph', die)
    assert main(['compare', str(bundle.path), '--out', str(tmp_path / 'out')]) == 2
    assert 'out of memory' in capsys.readouterr().err


@needs_ros
def test_a_run_without_recording_is_said(bundle, tmp_path, monkeypatch, capsys):
    """An older report in the same directory must not pass for the new one."""
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'report.html').write_text('old')
    monkeypatch.setattr('kd_perception.nodes.bringup.runner.run_graph', lambda *a, **k: None)
    assert main(['compare', str(bundle.path), '--out', str(out), '--overwrite']) == 2
    assert 'without a recording' in capsys.readouterr().err


def test_an_older_page_is_not_what_an_interrupted_run_has_measured(bundle, tmp_path, monkeypatch,
                                                                   capsys):
    def run_graph(*_arguments, **_more):
        raise KeyboardInterrupt

    out = tmp_path / 'out'
    out.mkdir()
    (out / 'report.html').write_text('old')
    monkeypatch.setattr('kd_perception.nodes.bringup.runner.run_graph', run_graph)
    assert main(['compare', str(bundle.path), '--out', str(out), '--overwrite']) == 130
    assert 'what was measured' not in capsys.readouterr().err


@pytest.mark.parametrize('there', ['report.html', 'recording/run.json'])
def test_refuses_to_replace_a_comparison_unasked(bundle, tmp_path, capsys, there):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text('old')
    assert 'pass --overwrite' in refused(capsys, bundle.path, '--out', tmp_path)
    assert (tmp_path / there).read_text() == 'old'
