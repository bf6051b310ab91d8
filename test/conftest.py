"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
import importlib.util
import os
from pathlib import Path
import signal
import sqlite3
import sys
from typing import Any

from hypothesis import settings
import pytest

# Before torch is imported, here and in child processes: its threads spin while they wait for each
# other, so that on busy cores a test of two seconds was seen to take fifty.
os.environ.setdefault('OMP_NUM_THREADS', '1')

# A runner may start the tests with Ctrl-C ignored, as shells do with background jobs; children
# would inherit that, and many tests interrupt them.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples on every machine, and no clock: these tests run beside others on busy cores.
settings.register_profile('package', deadline=None, derandomize=True, database=None)
settings.load_profile('package')


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    """Remove what processes that tests killed have half written of their coverage."""
    result = yield
    for path in session.config.rootpath.glob('.coverage.*'):
        try:
            with closing(sqlite3.connect(path)) as data:
                whole = data.execute('PRAGMA quick_check').fetchone() == ('ok',)
        except sqlite3.DatabaseError:
            whole = False
        if not whole:
            path.unlink()  # coverage would end all of the run with it
    return result


@pytest.fixture(scope='session', autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """
    Keep what tests build and measure out of the user's cache, and his out of the tests.

    One folder for all tests of a run, so that each engine is built once.
    """
    with pytest.MonkeyPatch.context() as patch:
        # Not its own: to list the fonts of a machine takes seconds.
        if 'MPLCONFIGDIR' not in os.environ:
            users = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
            patch.setenv('MPLCONFIGDIR', str(users / 'matplotlib'))
        folder = tmp_path_factory.mktemp('cache')
        patch.setenv('XDG_CACHE_HOME', str(folder))
        yield folder


@pytest.fixture(scope='session')
def test_data() -> Path:
    """Return the folder of real driving data, or skip where there is none."""
    given = os.environ.get('KD_PERCEPTION_TEST_DATA')
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / 'shared' / 'data'
    if not (folder / 'camvid').is_dir():
        pytest.skip(f'no test data in {folder}; set KD_PERCEPTION_TEST_DATA to the folder')
    return folder


@pytest.fixture
def fake_carla() -> Any:
    """Return the module of the fake CARLA server."""
    path = Path(__file__).with_name('fake_carla.py')
    spec = importlib.util.spec_from_file_location('fake_carla', path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def carla_server(fake_carla: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a fake CARLA server that the module ``carla`` talks to while the test runs."""
    server = fake_carla.FakeServer()
    monkeypatch.setitem(sys.modules, 'carla', server.module())
    return server
