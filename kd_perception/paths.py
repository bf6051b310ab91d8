"""
Where things lie: shipped files, models, caches and the user's outputs.

All functions are free of ROS: the share directory is found by walking up from this file, which
holds for a checkout, a pip installation and a colcon workspace alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import hashlib
import os
from pathlib import Path
import shutil
import sys
import tempfile

from kd_perception.errors import ConfigError

PACKAGE = 'kd_perception'
# An empty entry stands for the current directory, which may be a folder of foreign files. Python
# 3.11 can leave it out itself (PYTHONSAFEPATH); 3.10 cannot.
_SAFE_PATH = 'import sys; sys.path[:] = filter(None, sys.path)'
_AS_MAIN = 'import runpy; runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)'


def module_command(module: str, *arguments: str) -> list[str]:
    """
    Return the command that runs a module as ``python -m`` does.

    Not from the current directory; to be run with ``child_environment``.
    """
    return [sys.executable, '-c', f'{_SAFE_PATH}; {_AS_MAIN}', module, *arguments]


def code_command(code: str) -> list[str]:
    """Return the command that runs Python code; like ``module_command``."""
    return [sys.executable, '-c', f'{_SAFE_PATH}; {code}']


def child_environment() -> dict[str, str]:
    """
    Return the variables for a Python child that imports this package from where we did.

    What it starts itself does not import from the current directory either, in Python 3.11 and
    later.
    """
    root = Path(__file__).resolve().parents[1]
    given = [os.path.abspath(p) for p in os.environ.get('PYTHONPATH', '').split(os.pathsep) if p]
    # Installed packages are found anyway, and must not come before the standard library.
    if root.name not in ('site-packages', 'dist-packages'):
        given = [str(root), *(p for p in given if p != str(root))]
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(given), 'PYTHONSAFEPATH': '1'}


def share_directory() -> Path:
    """
    Return the directory that holds ``config/``, ``launch/`` and ``models/`` of this package.

    :raises ConfigError: when the package was installed without its share files.
    """
    here = Path(__file__).resolve()
    checkout = here.parents[1]
    if (checkout / 'package.xml').is_file():
        return checkout
    for parent in here.parents:
        candidate = parent / 'share' / PACKAGE
        if (candidate / 'package.xml').is_file():
            return candidate
    raise ConfigError(
        f'the shared files of {PACKAGE} (config/, launch/) are missing above {here}; '
        'reinstall the package with pip or colcon')


def config_file(kind: str, name: str) -> Path:
    """
    Return the path of ``config/<kind>/<name>.yaml``, or of ``name`` where it is a path itself.

    :raises ConfigError: when there is no such file; the message lists those that exist.
    """
    given = Path(name).expanduser()
    if given.suffix in ('.yaml', '.yml') or given.parent != Path('.'):
        if not given.is_file():
            raise ConfigError(f'{given}: no such file')
        return given
    folder = share_directory() / 'config' / kind
    path = folder / f'{name}.yaml'
    if not path.is_file():
        known = ', '.join(sorted(p.stem for p in folder.glob('*.yaml'))) or 'none'
        raise ConfigError(f'no {kind} named {name!r}; known: {known}; or give the path of a YAML')
    return path


def models_directory() -> Path:
    """Return the default directory of model bundles (``$XDG_DATA_HOME/kd_perception/models``)."""
    base = os.environ.get('XDG_DATA_HOME') or '~/.local/share'
    return Path(base).expanduser() / PACKAGE / 'models'


def cache_directory() -> Path:
    """Return the directory of built engine artefacts (``$XDG_CACHE_HOME/kd_perception``)."""
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(base).expanduser() / PACKAGE


@contextmanager
def atomic_file(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """
    Yield a temporary path beside ``path`` that is renamed to it when the block succeeds.

    Nothing is left behind when the block fails, and after a power cut ``path`` is the old file or
    the whole new one.

    :raises FileExistsError: when ``path`` exists and ``overwrite`` is false.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f'{path} exists')
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.', suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def is_left_over(path: Path, name: str) -> bool:
    """Return whether ``path`` is what a kill has left of writing ``name`` beside it."""
    return path.name.startswith(f'.{name}.')


@contextmanager
def atomic_directory(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """
    Yield a temporary directory beside ``path`` that is renamed to it when the block succeeds.

    With ``overwrite`` an existing directory is moved aside first and removed last, so that a
    complete directory is at ``path`` or beside it at every instant.

    :raises FileExistsError: when ``path`` exists and ``overwrite`` is false.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f'{path} exists')
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f'.{path.name}.'))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        move_directory(temporary, path, overwrite=path.exists())
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move_directory(source: Path, path: Path, *, overwrite: bool) -> None:
    """
    Bring a directory to the disk and rename it to ``path``.

    :param overwrite: move what is there aside first and remove it last, so that a complete
        directory is at ``path`` or beside it at every instant.
    :raises OSError: when something is there and ``overwrite`` is false.
    """
    for entry in (*source.rglob('*'), source):
        _sync(entry)
    if overwrite and path.exists():
        old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f'.{path.name}.old.'))
        os.replace(path, old / path.name)
        os.replace(source, path)
        shutil.rmtree(old)
    else:
        os.replace(source, path)
    _sync(path.parent)


def file_hash(*paths: Path) -> str:
    """
    Return the SHA-256 of a file in hex, or of several one behind the other.

    Read in pieces that leave other threads their turn.
    """
    digest = hashlib.sha256()
    for path in paths:
        with path.open('rb') as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Bring a file or directory to the disk: a rename may otherwise outlive the content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """Return the process umask, which POSIX lets one read only by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
