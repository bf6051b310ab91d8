"""Building beside: kills, two at once, and a fallback that serves meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from kd_perception.bundle import DEPLOY, ModelBundle, write_bundle
from kd_perception.engines import build
from kd_perception.engines.artefacts import ArtefactCache
from kd_perception.engines.build import load_or_build, main, SideBuild
from kd_perception.engines.loader import is_built, load_engine
from kd_perception.errors import EngineError
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


def test_two_at_once_end_with_one_good_file(small: ModelBundle, cache: ArtefactCache) -> None:
    command = module_command('kd_perception.engines.build', *arguments(small))
    children = [subprocess.Popen(command, env=child_environment()) for _ in range(2)]
    assert [child.wait(timeout=170) for child in children] == [0, 0]
    path, = cache.directory.iterdir()
    assert cache.read(path)
    assert is_built(small, 'openvino', precision='fp32')


def test_a_fallback_serves_while_it_is_built(small: ModelBundle, cache: ArtefactCache) -> None:
    done: list[str] = []
    loaded = load_or_build(small, 'openvino', precision='fp32', on_done=done.append)
    assert loaded.engine.name == 'onnxruntime'
    assert loaded.build is not None
    images = np.random.default_rng(0).integers(0, 256, (1, 45, 80, 3), np.uint8)
    served = loaded.engine.infer(images)
    wait_for(lambda: done)
    assert done == ['']
    loaded.build.close()
    ready = load_or_build(small, 'openvino', precision='fp32', on_done=done.append)
    assert ready.build is None
    assert ready.engine.name == 'openvino'
    assert (ready.engine.infer(images)['mask'] == served['mask']).mean() > 0.99
    ready.engine.close()
    loaded.engine.close()


def test_why_it_failed(small: ModelBundle, cache: ArtefactCache, tmp_path: Path,
                       capfd: pytest.CaptureFixture[str]) -> None:
    bundle = write_bundle(tmp_path / 'b', small.spec, {DEPLOY: b'no graph'})
    assert main(arguments(bundle)) == 2
    assert 'refuses the graph' in capfd.readouterr().err
    reasons: list[str] = []
    side = SideBuild(bundle, 'openvino', precision='fp32', on_done=reasons.append)
    wait_for(lambda: reasons)
    assert 'refuses the graph' in reasons[0]
    assert '\n' not in reasons[0]
    side.close()


def test_closing_kills_and_keeps_silent(small: ModelBundle, cache: ArtefactCache) -> None:
    reasons: list[str] = []
    side = SideBuild(small, 'openvino', on_done=reasons.append)
    side.close()
    side.close()
    assert not side.running
    assert reasons == []
    assert not any(t.name == 'engine build' for t in threading.enumerate())
    killed = SideBuild(small, 'openvino', on_done=reasons.append)
    killed._process.kill()
    wait_for(lambda: reasons)
    assert reasons == ['building was killed by SIGKILL']
    killed.close()


def test_without_a_fallback_it_is_built_here(small: ModelBundle, cache: ArtefactCache,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, 'available_engines', lambda: {'openvino': '1'})
    loaded = load_or_build(small, 'openvino', precision='fp32', on_done=lambda reason: None)
    assert (loaded.engine.name, loaded.build) == ('openvino', None)
    loaded.engine.close()
    with pytest.raises(EngineError, match='missing'):
        load_or_build(small, 'tensorrt', device='cuda', on_done=lambda reason: None)
    assert sys.modules.get('tensorrt') is None
