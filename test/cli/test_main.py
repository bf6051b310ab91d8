from __future__ import annotations

import argparse
import os
from pathlib import Path
import signal
import subprocess
import sys
import types

import pytest

from kd_perception.cli import main as command
from kd_perception.cli.progress import progress
from kd_perception.errors import BagError


@pytest.fixture
def verb(monkeypatch):
    """Return a function that makes ``classes`` run a body of the test's own."""
    def use(body):
        module = types.ModuleType('kd_perception.cli.classes')
        module.add_arguments = lambda parser: parser.add_argument('--size', type=int)
        module.run = body
        monkeypatch.setitem(sys.modules, 'kd_perception.cli.classes', module)
    return use


def test_every_verb_has_a_module_that_explains_itself():
    for name in command.VERBS:
        done = subprocess.run([sys.executable, '-m', 'kd_perception.cli.main', name, '--help'],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f'kd_perception {name}' in done.stdout


def test_a_class_map_of_an_evaluation_may_go_either_way(capsys):
    with pytest.raises(SystemExit):
        command.main(['evaluate', '--help'])
    shown = ' '.join(capsys.readouterr().out.split())
    assert 'from the classes of the labels to those of the model, or from the model' in shown


def test_without_a_verb_it_shows_the_verbs(capsys):
    assert command.main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in command.VERBS)


def test_an_error_of_the_user_is_one_line_and_exit_code_2(verb, capsys):
    def body(args: argparse.Namespace) -> int:
        raise BagError('drive.mcap: no such file')
    verb(body)
    assert command.main(['classes']) == 2
    assert capsys.readouterr().err == 'kd_perception classes: drive.mcap: no such file\n'


def test_an_error_of_the_system_is_one_line_too(verb, capsys):
    verb(lambda args: len(Path('/nowhere/at/all').read_text()))
    assert command.main(['classes']) == 2
    assert capsys.readouterr().err == (
        'kd_perception classes: /nowhere/at/all: No such file or directory\n')


def test_debug_shows_the_traceback(verb):
    def body(args: argparse.Namespace) -> int:
        raise BagError('why')
    verb(body)
    with pytest.raises(BagError):
        command.main(['--debug', 'classes'])


def test_a_wrong_argument_is_one_line(verb, capsys):
    verb(lambda args: 0)
    with pytest.raises(SystemExit) as stop:
        command.main(['classes', '--size', 'big'])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count('\n') == 1


def test_an_interrupt_ends_with_130(verb, capsys):
    def body(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt
    verb(body)
    assert command.main(['classes']) == 130
    assert 'interrupted' in capsys.readouterr().err


def test_an_interrupt_while_the_verb_is_imported_is_one_too(monkeypatch, capsys):
    def importing(name: str) -> None:
        raise KeyboardInterrupt
    monkeypatch.setattr(command.importlib, 'import_module', importing)
    assert command.main(['classes']) == 130
    assert capsys.readouterr().err == '\nkd_perception classes: interrupted\n'


def test_sigterm_unwinds_like_an_interrupt(verb):
    unwound = []

    def body(args: argparse.Namespace) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            unwound.append(True)
        return 0
    verb(body)
    assert command.main(['classes']) == 130
    assert unwound


def test_a_verb_does_not_wait_for_torch_or_rclpy():
    code = ('import sys; from kd_perception.cli.main import main; main(["classes", "list"]); '
            'sys.exit(any(m in sys.modules for m in ("torch", "rclpy", "matplotlib")))')
    assert subprocess.run([sys.executable, '-c', code], capture_output=True).returncode == 0


def test_progress_ends_with_a_line_in_a_log(capsys):
    with progress('counting') as update:
        for i in range(3):
            update(i + 1, 3, 'all is well')
    assert 'counting: 3/3' in capsys.readouterr().err


def test_one_of_several_processes_tells_progress_and_nobody_of_nothing(capsys, monkeypatch):
    with progress('done at once'):
        pass
    monkeypatch.setenv('WORLD_SIZE', '2')
    for rank in '01':
        monkeypatch.setenv('RANK', rank)
        with progress(f'counting in {rank}') as update:
            update(3, 3)
    told = capsys.readouterr().err
    assert 'counting in 0: 3/3' in told
    assert 'counting in 1' not in told
    assert 'at once' not in told
