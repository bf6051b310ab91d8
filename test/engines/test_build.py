"""Building beside: kills, two at once, and what is said of failures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
import signal
import subprocess
import time

import numpy as np
import psutil
import pytest

from kd_perception.bundle import DEPLOY, ModelBundle, write_bundle
from kd_perception.engines.artefacts import ArtefactCache
from kd_perception.engines.build import is_prepared, main, SideBuild
from kd_perception.engines.choice import load_fastest
from kd_perception.engines.loader import is_built, load_engine
from kd_perception.errors import BuildError
from kd_perception.paths import child_environment, code_command, module_command

openvino = pytest.importorskip('openvino')


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtefactCache:
    """Return an empty cache, also for child processes."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return ArtefactCache()


def arguments(bundle: ModelBundle) -> list[str]:
    return [str(bundle.path), '--engine', 'openvino', '--precision', 'fp32']


def wait_for(what: Callable[[], object], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, 'nothing happened'
        time.sleep(0.01)


def blobs(cache: ArtefactCache) -> list[Path]:
    return [p for p in cache.directory.glob('*.blob') if not p.name.startswith('.')]


# Where a child stops and waits to be killed: with half a file written, before it is renamed, and
# after that, before the directory is on the disk.
MOMENTS = {
    'half': 'import kd_perception.engines.artefacts as m\n'
            'class Half:\n'
            '    def __init__(self, *a): pass\n'
            '    def digest(self): stop()\n'
            'm.hashlib = type("h", (), {"sha256": lambda self, *a: '
            'real.sha256(*a) if not writing() else Half()})()\n',
    'written': 'import os, kd_perception.paths as m\n'
               'm.os = type("o", (), {"__getattr__": lambda s, n: getattr(os, n),'
               ' "replace": lambda s, *a: stop()})()\n',
    'renamed': 'import os, kd_perception.paths as m\n'
               'def replace(s, a, b):\n'
               '    os.replace(a, b); stop()\n'
               'm.os = type("o", (), {"__getattr__": lambda s, n: getattr(os, n),'
               ' "replace": replace})()\n'}


@pytest.mark.parametrize('moment', MOMENTS)
def test_a_kill_leaves_no_broken_artefact(small: ModelBundle, cache: ArtefactCache,
                                          tmp_path: Path, moment: str) -> None:
    marker = tmp_path / 'reached'
    code = (
        'import hashlib as real, pathlib, sys, time, traceback\n'
        f'marker = pathlib.Path({str(marker)!r})\n'
        'def stop():\n'
        '    marker.touch()\n'
        '    time.sleep(600)\n'
        'def writing():\n'
        '    return any(f.name == "write" for f in traceback.extract_stack())\n'
        + MOMENTS[moment] +
        f'from kd_perception.engines.build import main\n'
        f'sys.exit(main({arguments(small)!r}))\n')
    with subprocess.Popen(code_command(code), env=child_environment()) as child:
        wait_for(lambda: marker.exists() or child.poll() is not None)
        assert child.poll() is None, 'it ended before the moment came'
        child.send_signal(signal.SIGKILL)
    left = list(cache.directory.iterdir())
    assert left, 'the kill came before anything was written'
    for path in blobs(cache):
        assert cache.read(path) is not None
    assert is_built(small, 'openvino', precision='fp32') == (moment == 'renamed')
    run = load_engine(small, 'openvino', precision='fp32')
    assert run.infer(np.zeros((1, 45, 80, 3), np.uint8))['mask'].shape == (1, 45, 80)
    run.close()
    path, = blobs(cache)
    assert cache.read(path)


# A builder that waits for its parent's end before it begins, or that never ends by itself.
BUILDERS = {
    'before it asks': 'while os.getppid() == int(sys.argv[-1]):\n'
                      '    time.sleep(0.01)\n',
    'while it builds': 'def load(*_):\n'
                       '    print("builds", file=sys.stderr, flush=True)\n'
                       '    time.sleep(600)\n'
                       'b._load = load\n'}


@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='needs Linux')
@pytest.mark.parametrize('moment', BUILDERS)
def test_the_builder_ends_with_who_is_killed(small: ModelBundle, cache: ArtefactCache,
                                             moment: str) -> None:
    builder = ('import os, sys, time\n'
               'import kd_perception.engines.build as b\n'
               + BUILDERS[moment] + 'b.main(sys.argv[2:])\n')
    parent = ('import kd_perception.engines.build as b\n'
              'from kd_perception.bundle import load_bundle\n'
              'from kd_perception.paths import code_command\n'
              f'b.module_command = lambda *words: code_command({builder!r}) + list(words)\n'
              f'side = b.SideBuild(load_bundle({str(small.path)!r}), "openvino",\n'
              '                   precision="fp32")\n'
              'print(side._process.pid, flush=True)\n'
              + ('' if moment == 'before it asks' else
                 'side._process.stderr.readline()\n') +
              'print("ready", flush=True)\n'
              'side.wait()\n')
    with subprocess.Popen(code_command(parent), env=child_environment(), text=True,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        assert process.stdout.readline() == 'ready\n'
        process.kill()
    try:
        wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 30)
    finally:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    assert not is_built(small, 'openvino', precision='fp32')


def test_two_at_once_end_with_one_good_file(small: ModelBundle, cache: ArtefactCache) -> None:
    command = module_command('kd_perception.engines.build', *arguments(small))
    children = [subprocess.Popen(command, env=child_environment()) for _ in range(2)]
    assert [child.wait(timeout=170) for child in children] == [0, 0]
    path, = cache.directory.iterdir()
    assert cache.read(path)
    assert is_built(small, 'openvino', precision='fp32')


def test_why_it_failed(small: ModelBundle, cache: ArtefactCache, tmp_path: Path,
                       capfd: pytest.CaptureFixture[str]) -> None:
    bundle = write_bundle(tmp_path / 'b', small.spec, {DEPLOY: b'no graph'})
    assert main(arguments(bundle)) == 2
    assert 'refuses the graph' in capfd.readouterr().err
    side = SideBuild(bundle, 'openvino', precision='fp32')
    with pytest.raises(BuildError, match='refuses the graph') as caught:
        side.wait()
    assert '\n' not in str(caught.value)


def test_a_build_that_is_stopped_says_so(small: ModelBundle, cache: ArtefactCache) -> None:
    side = SideBuild(small, 'openvino')
    side.stop()
    with pytest.raises(BuildError, match='openvino on cpu was killed by SIGKILL'):
        side.wait()
    side.stop()
    assert not is_prepared(small, 'openvino')


def test_every_number_of_pictures_is_built(small: ModelBundle, cache: ArtefactCache) -> None:
    assert main([*arguments(small), '--batch', '3']) == 0
    assert len(blobs(cache)) == 3
    assert is_prepared(small, 'openvino', precision='fp32', batch=3)
    assert not is_prepared(small, 'openvino', precision='fp32', batch=4)
    assert is_prepared(small, 'onnxruntime', batch=4)


def test_measured_beside(small: ModelBundle, cache: ArtefactCache) -> None:
    assert not is_prepared(small, 'auto')
    assert is_prepared(small, 'onnxruntime')
    SideBuild(small, 'auto').wait()
    assert is_prepared(small, 'auto')
    assert is_prepared(small, 'openvino')
    engine, choice = load_fastest(small)
    engine.close()
    assert 'measured' in choice.reason
