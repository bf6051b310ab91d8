"""Interrupts are tested in processes of their own: it is the exit code that counts."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from kd_perception.interrupts import deferred, Interrupt, interruptible, raise_swallowed

# What a dataclass does while its module is imported, interrupted in the middle.
FROM_A_STRING = r"exec('import signal\nsignal.raise_signal(2)\nfor _ in range(9): pass')"
VERB = '''
import sys, types
from kd_perception.cli.main import main
from kd_perception.cli.progress import progress
verb = types.ModuleType('kd_perception.cli.classes')
verb.add_arguments = lambda parser: None
sys.modules['kd_perception.cli.classes'] = verb

def run(args):
    {body}
    return 0

verb.run = run
sys.exit(main(['classes']))
'''


@pytest.fixture
def ended(tmp_path):
    """Return a function that runs a program as a module and returns how it ended."""
    def run(code: str) -> int:
        (tmp_path / 'program.py').write_text(code)
        # With -c, or as a file, Python ends as asked in any case.
        return subprocess.run([sys.executable, '-m', 'program'], cwd=tmp_path,
                              capture_output=True).returncode
    return run


def test_an_interrupt_within_compiled_text_ends_with_the_exit_code_of_the_verb(ended):
    assert ended(VERB.format(body=FROM_A_STRING)) == 130


def test_python_ends_otherwise_than_asked_where_nobody_says_that_it_was_answered(ended):
    code = ('import sys; from kd_perception.interrupts import answered\n'
            f'try:\n    {FROM_A_STRING}\nexcept KeyboardInterrupt:\n    {{}}\nsys.exit(3)')
    assert ended(code.format('pass')) == -signal.SIGINT
    assert ended(code.format('answered()')) == 3


def test_a_swallowed_interrupt_comes_back_where_new_work_begins(ended):
    swallow = f'''
    try:
        {FROM_A_STRING}
    except BaseException:
        pass
    {{then}}'''
    assert ended(VERB.format(body=swallow.format(then=''))) == 0  # nothing was left to do
    assert ended(VERB.format(body=swallow.format(then="progress('on').__enter__()"))) == 130


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_both_signals_are_interrupts_within_the_block_alone(number):
    before = signal.getsignal(number)
    with interruptible():
        assert isinstance(signal.getsignal(number), Interrupt)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before
    raise_swallowed()  # what was before the block is nobody's business


def test_a_ctrl_c_that_is_ignored_stays_ignored(ended):
    code = ('import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n'
            'from kd_perception.interrupts import interruptible\n'
            'with interruptible(): signal.raise_signal(signal.SIGINT)\n')
    assert ended(code) == 0


def test_a_node_interrupted_while_it_imports_ends_with_0(ended):
    pytest.importorskip('rclpy')
    code = ('import sys; from kd_perception.nodes.process import run_node\n'
            f'def make():\n    {FROM_A_STRING}\n'
            'sys.exit(run_node(make))')
    assert ended(code) == 0


def test_a_signal_waits_for_what_must_not_be_left_half_made():
    done = []

    def work():
        with interruptible():
            with deferred():
                signal.raise_signal(signal.SIGTERM)
                done.append('whole')
            done.append('never')

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ['whole']
    with deferred():
        done.append('quiet')
    assert done == ['whole', 'quiet']
