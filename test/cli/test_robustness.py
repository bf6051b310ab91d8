"""Many scenarios: which, where, what is not run again; most runs are stood in for."""

from __future__ import annotations

from dataclasses import replace
import json
import os
import time

import numpy as np
import pytest
import torch

from kd_perception.bundle import BundleSpec, InputSpec, NetworkSpec
from kd_perception.classes import ClassSet, load_class_set
from kd_perception.cli import robustness as cli
from kd_perception.cli.checks import installed
from kd_perception.cli.comparison import ComparisonRequest, ComparisonResult
from kd_perception.cli.main import main
from kd_perception.cli.robustness import folder_of, run_robustness, scenarios_of
from kd_perception.errors import ConfigError
from kd_perception.evaluation.analysis import analyse
from kd_perception.evaluation.comparison import (
    ArmInfo,
    ArmSpec,
    ComparisonRun,
    ComparisonSpec,
    FrameRow,
)
from kd_perception.evaluation.comparison_files import RECORDING, save_run
from kd_perception.networks.deploy import save_bundle
from kd_perception.networks.registry import build

ARMS = tuple(ArmSpec(n, 'm', 'onnxruntime') for n in 'ab')
REQUEST = ComparisonRequest(arms=ARMS, frames=12, warmup=0)


def test_scenarios_by_name():
    assert scenarios_of('night') == ('night',)
    assert scenarios_of('clear, dense_fog,night') == ('clear', 'dense_fog', 'night')
    assert scenarios_of('clear,night,fog=0.01,camera.fov_deg=60,rain') == (
        'clear', 'night,fog=0.01,camera.fov_deg=60', 'rain')
    everything = scenarios_of('all')
    assert everything[0] == 'clear'
    assert len(everything) == 11
    with pytest.raises(ConfigError, match='twice'):
        scenarios_of('night,night')


def test_directories_are_plain_names():
    assert folder_of('night,world=highway,camera.fov_deg=60') == \
        'night_world=highway_camera.fov_deg=60'
    assert folder_of('/home/me/my fog.yaml') == 'my_fog'


def make_run(scenario: str, *, interrupted: bool = False) -> ComparisonRun:
    rng = np.random.default_rng(len(scenario))
    rows = tuple(
        FrameRow(arm, i, 'c', i, 0, 1_000_000 * (1 + (arm == 'a')),
                 counts=((int(rng.integers(50, 90)), 100, 100),))
        for i in range(12) for arm in 'ab')
    return ComparisonRun(
        spec=ComparisonSpec(arms=ARMS, scenario=scenario, frames=12, warmup=0),
        arms=tuple(ArmInfo(n, f'model {n}', 'ab' * 32, 'onnxruntime', 'cpu', 'fp32')
                   for n in 'ab'),
        rows=rows, classes=ClassSet.from_names('one', ('x',)), interrupted=interrupted)


@pytest.fixture
def ran(monkeypatch):
    """Stand in for real runs; return the scenarios that were run."""
    done = []

    def run_comparison(request, out, progress):
        progress(5, 10, 'measuring')
        done.append(request.scenario)
        stopped = request.scenario == 'stop'
        run = make_run(request.scenario, interrupted=stopped)
        save_run(run, out / RECORDING)
        if stopped:
            raise KeyboardInterrupt
        return ComparisonResult(analyse(run), out / 'report.html')

    monkeypatch.setattr(cli, 'run_comparison', run_comparison)
    monkeypatch.setattr(cli, 'plan', lambda request, out: None)
    monkeypatch.setattr(cli, 'find_bundle', lambda name, folder: type('B', (), {'hash': name}))
    return done


def test_every_scenario_once_and_a_table_over_all(ran, tmp_path):
    told = []
    result = run_robustness(REQUEST, ('clear', 'night'), tmp_path / 'r',
                            progress=lambda *a: told.append(a))
    assert ran == ['clear', 'night']
    assert result.table.scenarios == ('clear', 'night')
    assert result.html.is_file()
    assert told == [(6, 24, 'clear: measuring'), (18, 24, 'night: measuring')]
    again = run_robustness(REQUEST, ('clear', 'night', 'rain'), tmp_path / 'r')
    assert ran == ['clear', 'night', 'rain']
    assert again.table.scenarios == ('clear', 'night', 'rain')


def test_what_was_interrupted_is_told_and_run_again(ran, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_robustness(REQUEST, ('clear', 'stop', 'night'), tmp_path / 'r')
    data = json.loads((tmp_path / 'r' / 'robustness.json').read_text())
    assert (data['missing'], data['interrupted'], data['complete']) == (
        ['night'], ['stop'], False)
    run_robustness(REQUEST, ('clear', 'night'), tmp_path / 'r')
    with pytest.raises(KeyboardInterrupt):
        run_robustness(REQUEST, ('clear', 'stop', 'night'), tmp_path / 'r')
    assert ran == ['clear', 'stop', 'night', 'stop']


def test_other_settings_are_not_mixed(ran, tmp_path):
    run_robustness(REQUEST, ('clear', 'night'), tmp_path / 'r')
    other = replace(REQUEST, seed=3)
    with pytest.raises(ConfigError, match='other settings'):
        run_robustness(other, ('clear', 'night'), tmp_path / 'r')
    run_robustness(other, ('clear', 'night'), tmp_path / 'r', overwrite=True)
    assert len(ran) == 4


def test_older_settings_are_not_taken_for_finished_after_an_interrupt(ran, tmp_path):
    run_robustness(REQUEST, ('clear', 'night'), tmp_path / 'r')
    other = replace(REQUEST, seed=3)
    with pytest.raises(KeyboardInterrupt):
        run_robustness(other, ('stop', 'night'), tmp_path / 'r', overwrite=True)
    table = json.loads((tmp_path / 'r' / 'robustness.json').read_text())
    assert {r['scenario'] for r in table['rows']} == {'stop'}
    del ran[:]
    run_robustness(other, ('clear', 'night'), tmp_path / 'r')
    assert ran == ['clear', 'night']


def test_a_scenario_whose_file_has_changed_is_run_again(ran, tmp_path):
    own = tmp_path / 'own.yaml'
    own.write_text('fog: 0.01')
    run_robustness(REQUEST, ('clear', str(own)), tmp_path / 'r')
    later = time.time() + 10
    os.utime(own, (later, later))
    run_robustness(REQUEST, ('clear', str(own)), tmp_path / 'r')
    assert ran == ['clear', str(own), str(own)]


def test_what_is_foreign_is_left_alone(ran, tmp_path):
    (tmp_path / 'thesis.txt').write_text('precious')
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match='something else'):
            run_robustness(REQUEST, ('clear', 'night'), tmp_path, overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.txt']
    assert not ran


def test_what_cannot_be_driven_again_is_refused(ran, tmp_path):
    with pytest.raises(ConfigError, match='--source sim'):
        run_robustness(replace(REQUEST, source='bag'), ('clear', 'night'), tmp_path)
    with pytest.raises(ConfigError, match='share a directory'):
        run_robustness(REQUEST, ('a/x.yaml', 'b/x.yaml'), tmp_path)


@pytest.mark.skipif(not installed('vision_msgs'), reason='no ROS in this environment')
def test_two_weathers_through_real_nodes_and_on_again(tmp_path, capsys):
    torch.manual_seed(0)
    spec = BundleSpec(name='small', task='segmentation', role='student',
                      classes=load_class_set('driving'), input=InputSpec(48, 80),
                      network=NetworkSpec('compact', {'width': 8}))
    bundle = save_bundle(tmp_path / 'small', build(spec.network, 12).eval(), spec)
    out = tmp_path / 'out'
    command = ['compare', str(bundle.path), str(bundle.path), '--engine', 'onnxruntime',
               '--precision', 'fp32', '--threads', '1', '--width', '96', '--height', '64',
               '--frames', '9', '--warmup', '1', '--out', str(out), '--scenario']
    assert main([*command, 'clear,dense_fog']) == 0
    page = capsys.readouterr().out
    assert 'mIoU under every condition' in page
    assert str(out / 'robustness.html') in page
    data = json.loads((out / 'robustness.json').read_text())
    fog = [r for r in data['rows'] if r['scenario'] == 'dense_fog']
    # Equal truth is what makes the change a paired one; equal arms differ in nothing.
    assert all(r['change'] is not None and r['n'] == 9 for r in fog)
    assert fog[1]['difference']['estimate'] == 0
    assert all(r['boundary'] and r['found'] and r['flicker'] for r in fog)
    before = {p: p.stat().st_mtime_ns for p in out.glob('*/report.html')}
    assert len(before) == 2
    assert main([*command, 'clear,dense_fog']) == 0
    assert {p: p.stat().st_mtime_ns for p in out.glob('*/report.html')} == before
    assert main([*command, 'clear,dense_fog', '--seed', '1']) == 2
    assert 'other settings' in capsys.readouterr().err
