"""The rehearsal of the demo is the whole path on real parts, small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from kd_perception.bundle import find_bundle
from kd_perception.cli.demo import drives, FULL
from kd_perception.cli.main import main
from kd_perception.paths import share_directory

COMMAND = [sys.executable, '-m', 'kd_perception.cli.main', 'demo', '--quick', '--out']

needs_teacher = pytest.mark.skipif(
    not (share_directory() / 'models' / 'street_teacher').is_dir(),
    reason='models/street_teacher is not shipped yet: python -m tools.street_teacher')


@needs_teacher
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_path_interrupted_resumed_and_repeated(tmp_path):
    pytest.importorskip('rclpy')
    out = tmp_path / 'demo'
    started = subprocess.Popen([*COMMAND, str(out)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (out / 'models' / 'teacher').exists() and time.monotonic() < deadline:
        assert started.poll() is None, started.stderr.read()
        time.sleep(0.2)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=120)
    assert started.returncode == 130
    assert 'goes on where it stopped' in said
    kept = (out / 'bags' / 'drive_00' / 'metadata.yaml').stat().st_mtime_ns

    done = subprocess.run([*COMMAND, str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (out / 'bags' / 'drive_00' / 'metadata.yaml').stat().st_mtime_ns == kept
    report = json.loads((out / 'comparison' / 'report.json').read_text())
    assert report['interrupted'] is False
    for arm in report['arms'].values():
        assert arm['info']['precision'] == 'fp32'
        assert arm['statistics']['status']['ok'] == 8
    page = (out / 'comparison' / 'report.html').read_text()
    assert 'data:image/png;base64' in page
    assert (out / 'comparison' / 'frames.csv').is_file()
    assert find_bundle('student', out / 'models').spec.role == 'student'

    before = time.monotonic()
    again = subprocess.run([*COMMAND, str(out)], capture_output=True, text=True)
    assert again.returncode == 0
    # Nothing is made twice: bags, labels, student and the run of the nodes are kept.
    assert (out / 'comparison' / 'report.html').read_text() == page
    assert time.monotonic() - before < 60


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    done = subprocess.run([*COMMAND, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert os.listdir(tmp_path) == ['thesis.tex']


def test_a_damaged_mark_is_one_line(tmp_path, capsys):
    (tmp_path / 'demo.json').write_text('{')
    assert main(['demo', '--quick', '--out', str(tmp_path)]) == 2
    assert capsys.readouterr().err.count('\n') == 1


def test_no_street_is_driven_twice():
    unlabelled, held_out = drives(FULL)
    seeds = [d.seed for d in [*unlabelled, *held_out]]
    assert len(set(seeds)) == len(seeds)
    assert not any(d.labels for d in unlabelled)
    assert all(d.labels for d in held_out)
