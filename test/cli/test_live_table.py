"""The live view of a comparison: a table on a terminal, lines elsewhere."""

import io

import pytest
from rich.console import Console

from kd_perception.cli import live_table
from kd_perception.cli import progress as progress_module
from kd_perception.cli.live_table import arm_names, ArmsCallback, comparison_progress, live_view
from kd_perception.cli.progress import bar
from kd_perception.evaluation.comparison import ArmSpec
from kd_perception.nodes.monitor.live_figures import LiveArm

ARMS = (LiveArm('a', 20, 18, 1, 41.26, 60.0, 9.5, 0.763), LiveArm('b', 20, 0, 0, None, None, 0.0,
                                                               None))


def test_table_shows_what_is_known():
    console = Console(file=io.StringIO(), width=100)
    drawn = bar(console)
    drawn.add_task('comparing', total=40, completed=10, note='measuring')
    arms = ArmsCallback(['a: teacher', 'b: student'])
    console.print(live_view(drawn, arms))
    assert 'teacher' not in console.file.getvalue()
    arms(ARMS)
    console.print(live_view(drawn, arms))
    lines = {line.split()[1]: line.split()[2:] for line in console.file.getvalue().splitlines()
             if line.strip().startswith(('a:', 'b:'))}
    assert lines == {'teacher': ['18', '1', '41.3', '60.0', '76.3', '9.5'],
                     'student': ['0', '0', '–', '–', '–', '–']}


def test_a_log_gets_lines_with_the_figures(capsys, monkeypatch):
    monkeypatch.setattr(progress_module, '_LINE_EVERY_S', 0.0)
    with comparison_progress('comparing', ['a: teacher', 'b: student']) as view:
        view.arms(ARMS)
        view.update(10, 40, 'measuring')
    told = capsys.readouterr().err.splitlines()
    assert 'comparing: 10/40' in told[0]
    assert 'a: teacher 18 frames, p50 41.3 ms, mIoU 76.3, 1 lost' in told[0]
    assert 'student' not in told[0]  # nothing is known of it yet


@pytest.mark.parametrize('fails', [False, True])
def test_a_terminal_is_left_as_it_was(monkeypatch, fails):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(live_table.sys, 'stderr', stream)
    try:
        with comparison_progress('comparing', ['a: teacher']) as view:
            view.arms(ARMS[:1])
            view.update(3, 40, 'measuring')
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    written = stream.getvalue()
    assert 'teacher' in written
    assert written.rindex('\x1b[?25h') > written.rindex('\x1b[?25l')  # the cursor is back


def test_names_say_which_model():
    models = ('runs/day/bundle', 'student', 'bundle')
    arms = [ArmSpec(n, m, 'torch') for n, m in zip('abc', models, strict=True)]
    assert arm_names(arms) == ['a: day', 'b: student', 'c: bundle']
