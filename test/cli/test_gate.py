"""The gate through the command: exit codes, one line for what is wrong, files written."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from kd_perception.classes import load_class_set
from kd_perception.cli.gate import add_gate_arguments, limits_of
from kd_perception.cli.main import main
from kd_perception.cli.parser import Parser
from kd_perception.errors import ConfigError
from kd_perception.evaluation.comparison import (
    ArmInfo,
    ArmSpec,
    ComparisonRun,
    ComparisonSpec,
    FrameRow,
)
from kd_perception.evaluation.comparison_files import RECORDING, save_run
from kd_perception.evaluation.reports.report import write_report


def made(folder, latency_ms):
    """Write a comparison of one arm that takes about so long."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(100):
        published = i * 100_000_000
        rows.append(FrameRow('a', i, 'c', i, published, published + round(
            1e6 * latency_ms * rng.lognormal(0, 0.02))))
    run = ComparisonRun(
        spec=ComparisonSpec((ArmSpec('a', 'student', 'onnxruntime'),), frames=100, warmup=0),
        arms=(ArmInfo('a', 'student', 'ab', 'onnxruntime', 'cpu', 'fp32'),), rows=tuple(rows),
        classes=load_class_set('driving'), host={'cpu': 'one'})
    folder.mkdir()
    save_run(run, folder / RECORDING)
    write_report(run, folder)
    return folder


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp('gate')
    return made(base / 'old', 20.0), made(base / 'new', 23.0)


def test_exit_code_tells_a_regression_from_an_error(folders, capsys):
    old, new = folders
    assert main(['report', str(new), '--baseline', str(old)]) == 3
    told = capsys.readouterr().out
    assert 'latency, median' in told
    assert '1 regression' in told or 'regressions' in told
    page = (new / 'report.html').read_text()
    assert 'Against the baseline' in page
    assert json.loads((new / 'report.json').read_text())['baseline']['failed']
    assert main(['report', str(new), '--baseline', str(new / 'nothing')]) == 2
    assert capsys.readouterr().err.count('\n') == 1
    assert main(['report', str(new), '--strict']) == 2
    assert '--strict needs --baseline' in capsys.readouterr().err
    # Without a baseline the report is made anew, and says nothing of one.
    assert main(['report', str(new)]) == 0
    assert 'Against the baseline' not in (new / 'report.html').read_text()


def test_two_bare_reports_are_judged_and_nothing_is_written(folders, tmp_path, capsys):
    files = [shutil.copy(f / 'report.json', tmp_path / f'{f.name}.json') for f in folders]
    before = sorted(p.name for p in tmp_path.iterdir())
    assert main(['report', str(files[1]), '--baseline', str(files[0])]) == 3
    assert 'not the model' in capsys.readouterr().out.replace('\n', ' ')
    assert main(['report', str(files[1]), '--baseline', str(files[0]),
                 '--max-latency-regression', '30%']) == 0
    assert main(['report', str(files[0]), '--baseline', str(files[1])]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_baseline_that_cannot_be_used_ends_compare_before_anything_starts(tmp_path, capsys):
    out = tmp_path / 'out'
    assert main(['compare', 'x', 'y', '--out', str(out), '--baseline', str(tmp_path)]) == 2
    assert 'no such report' in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(('text', 'share'), [('5%', 0.05), ('5', 0.05), (' 2.5 % ', 0.025),
                                             ('0', 0.0)])
def test_limits_are_read(text, share):
    parser = Parser()
    add_gate_arguments(parser, 'older')
    limits = limits_of(parser.parse_args(['--baseline', 'old', '--max-latency-regression', text,
                                          '--max-miou-regression', '1']))
    assert (limits.latency, limits.miou) == pytest.approx((share, 0.01))


@pytest.mark.parametrize('text', ['', 'x', '-1', 'nan', '5 ms', 'inf'])
def test_limits_that_are_none_are_refused(text):
    parser = Parser()
    add_gate_arguments(parser, 'older')
    args = parser.parse_args(['--baseline', 'old'])
    args.max_memory_regression = text
    with pytest.raises(ConfigError, match='--max-memory-regression'):
        limits_of(args)


def test_a_baseline_is_for_one_scenario(folders, tmp_path, capsys):
    assert main(['compare', 'x', 'y', '--out', str(tmp_path / 'out'), '--scenario', 'clear,night',
                 '--baseline', str(folders[0])]) == 2
    assert 'for one scenario' in capsys.readouterr().err
