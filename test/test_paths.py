"""Where things lie, and writing that is whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
import subprocess
import sys

import pytest

from kd_perception.errors import ConfigError
from kd_perception.paths import (
    atomic_directory,
    atomic_file,
    cache_directory,
    child_environment,
    code_command,
    config_file,
    file_hash,
    models_directory,
    module_command,
    share_directory,
)


def test_share_directory_of_the_checkout():
    assert (share_directory() / 'config' / 'classes' / 'camvid.yaml').is_file()


def test_share_directory_of_an_installation(tmp_path):
    """Lay files out as pip and colcon do, and ask the installed copy."""
    import kd_perception
    site = tmp_path / 'lib' / 'python3' / 'site-packages'
    package = site / 'kd_perception'
    package.mkdir(parents=True)
    source = Path(kd_perception.__file__).parent
    for name in ('__init__.py', 'paths.py', 'errors.py'):
        (package / name).write_bytes((source / name).read_bytes())
    code = 'from kd_perception.paths import share_directory; print(share_directory())'

    def ask():
        return subprocess.run([sys.executable, '-c', code], cwd=tmp_path, text=True,
                              capture_output=True, env={**os.environ, 'PYTHONPATH': str(site)})

    assert 'reinstall the package' in ask().stderr
    share = tmp_path / 'share' / 'kd_perception'
    share.mkdir(parents=True)
    (share / 'package.xml').write_text('<package/>')
    assert ask().stdout.strip() == str(share)


def test_config_files(tmp_path):
    assert config_file('classes', 'camvid').name == 'camvid.yaml'
    own = tmp_path / 'own.yaml'
    own.write_text('')
    assert config_file('classes', str(own)) == own
    with pytest.raises(ConfigError, match="no classes named 'camvit'; known: camvid, carla"):
        config_file('classes', 'camvit')
    with pytest.raises(ConfigError, match='no such file'):
        config_file('classes', str(tmp_path / 'other.yaml'))


def test_user_directories(monkeypatch):
    monkeypatch.setenv('XDG_DATA_HOME', '/data')
    monkeypatch.setenv('XDG_CACHE_HOME', '/cache')
    assert models_directory() == Path('/data/kd_perception/models')
    assert cache_directory() == Path('/cache/kd_perception')
    monkeypatch.setenv('XDG_DATA_HOME', '')
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', '/home/someone')
    assert models_directory() == Path('/home/someone/.local/share/kd_perception/models')
    assert cache_directory() == Path('/home/someone/.cache/kd_perception')


def test_atomic_file(tmp_path):
    path = tmp_path / 'deep' / 'result.json'
    with atomic_file(path) as temporary:
        assert temporary.suffix == '.json'
        temporary.write_text('first')
        assert not path.exists()
    assert path.read_text() == 'first'
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    assert os.listdir(path.parent) == ['result.json']


@pytest.mark.parametrize('problem', [ValueError, KeyboardInterrupt])
def test_failed_file_leaves_the_old_one(problem, tmp_path):
    path = tmp_path / 'result.json'
    path.write_text('old')

    def fail():
        with atomic_file(path) as temporary:
            temporary.write_text('half')
            raise problem

    with pytest.raises(problem):
        fail()
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['result.json']


def test_file_that_must_not_be_replaced(tmp_path):
    path = tmp_path / 'result.json'
    path.write_text('old')
    with pytest.raises(FileExistsError), atomic_file(path, overwrite=False):
        pass
    assert path.read_text() == 'old'


def test_atomic_directory(tmp_path):
    path = tmp_path / 'deep' / 'run'
    with atomic_directory(path) as temporary:
        (temporary / 'a').write_text('1')
        assert not path.exists()
    assert os.listdir(path) == ['a']
    assert path.stat().st_mode & 0o777 == 0o777 & ~umask()
    with pytest.raises(FileExistsError), atomic_directory(path):
        pass
    with atomic_directory(path, overwrite=True) as temporary:
        (temporary / 'b').write_text('2')
        assert os.listdir(path) == ['a']
    assert os.listdir(path) == ['b']
    assert os.listdir(path.parent) == ['run']


@pytest.mark.parametrize('problem', [ValueError, KeyboardInterrupt])
def test_failed_directory_leaves_the_old_one(problem, tmp_path):
    path = tmp_path / 'run'

    def fail():
        with atomic_directory(path, overwrite=True) as temporary:
            (temporary / 'half').write_text('')
            raise problem

    with pytest.raises(problem):
        fail()
    assert os.listdir(tmp_path) == []
    path.mkdir()
    (path / 'a').write_text('1')
    with pytest.raises(problem):
        fail()
    assert os.listdir(tmp_path) == ['run']
    assert os.listdir(path) == ['a']


def test_killed_writer_leaves_the_old_directory(tmp_path):
    """Without any chance to clean up, what is under the name is whole all the same."""
    path = tmp_path / 'run'
    path.mkdir()
    (path / 'a').write_text('1')
    code = ('import os, sys\nfrom pathlib import Path\n'
            'from kd_perception.paths import atomic_directory\n'
            'with atomic_directory(Path(sys.argv[1]), overwrite=True) as folder:\n'
            '    (folder / "half").write_text("")\n'
            '    os.kill(os.getpid(), 9)\n')
    assert subprocess.run([sys.executable, '-c', code, str(path)]).returncode == -9
    assert os.listdir(path) == ['a']


def umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@pytest.fixture
def foreign_folder(tmp_path, monkeypatch):
    """Work in a folder whose modules must not be run, but for those in ``relative``."""
    for name in ('yaml', 'runpy'):
        (tmp_path / f'{name}.py').write_text('raise SystemExit(7)')
    (tmp_path / 'relative').mkdir()
    (tmp_path / 'relative' / 'beside.py').write_text(
        'import sys, yaml, kd_perception.paths as p; print(p.__file__, __name__, *sys.argv[1:])')
    monkeypatch.chdir(tmp_path)


def said_by(command):
    """Run a child as under Python 3.10, which knows no ``PYTHONSAFEPATH``; return its words."""
    environment = child_environment()
    del environment['PYTHONSAFEPATH']
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0, done.stderr
    package = str(Path(__file__).parents[1] / 'kd_perception')
    assert done.stdout.startswith(package) or 'site-packages' in done.stdout
    return done.stdout.split()[1:]


@pytest.mark.parametrize('given', ['', 'relative', '/somewhere:'])
def test_children_import_this_package_and_nothing_from_the_current_directory(
        given, foreign_folder, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', given)
    code = 'import yaml, kd_perception.paths as p; print(p.__file__)'
    if given == 'relative':
        code += '; import beside'
    said_by(code_command(code))


def test_a_module_is_run_as_main_with_its_arguments(foreign_folder, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', 'relative')
    assert said_by(module_command('beside', '--ros-args', 'a b')) \
        == ['__main__', '--ros-args', 'a', 'b']


def test_the_hash_of_several_files_is_that_of_their_bytes_in_order(tmp_path):
    for name, content in (('a', b'one'), ('b', b'two')):
        (tmp_path / name).write_bytes(content)
    assert file_hash(tmp_path / 'a') == hashlib.sha256(b'one').hexdigest()
    assert file_hash(tmp_path / 'b', tmp_path / 'a') == hashlib.sha256(b'twoone').hexdigest()


def test_tests_have_a_cache_of_their_own(own_cache):
    assert cache_directory().parent == own_cache
