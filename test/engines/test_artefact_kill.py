"""kill -9 while an artefact is built: the next process finds a whole one, or builds it."""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest

from kd_perception.bundle import DEPLOY, ModelBundle
from kd_perception.engines.artefacts import ArtefactCache
from kd_perception.engines.openvino_engine import OpenVinoEngine

# Each stops where it is to be killed, and says so.
STOP = '''
import os, sys, time
from kd_perception import paths
from kd_perception.bundle import DEPLOY, load_bundle
from kd_perception.engines import artefacts
from kd_perception.engines.openvino_engine import OpenVinoEngine

def stop(*_):
    print('here', flush=True)
    time.sleep(600)

def half(cache, path, blob):
    with paths.atomic_file(path) as temporary:
        temporary.write_bytes(blob[:len(blob) // 2])
        stop()

moment = sys.argv[2]
if moment == 'compiled':
    artefacts.ArtefactCache.write = stop
elif moment == 'half written':
    artefacts.ArtefactCache.write = half
elif moment == 'before the rename':
    os.replace = stop
OpenVinoEngine(load_bundle(sys.argv[1]), DEPLOY, precision='fp32')
stop()
'''
MOMENTS = {'compiled': 0, 'half written': 0, 'before the rename': 0, 'done': 1}


def blobs(folder: Path) -> list[Path]:
    """Return what a process may find in a cache."""
    return [p for p in folder.glob('kd_perception/engines/*') if not p.name.startswith('.')]


def test_killed_at_any_moment(small: ModelBundle, tmp_path: Path,
                              images: Callable[[int], np.ndarray],
                              caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip('openvino')
    expected = OpenVinoEngine(small, DEPLOY, precision='fp32').infer(images(1))
    processes = {}
    for moment in MOMENTS:
        (tmp_path / moment).mkdir()
        processes[moment] = subprocess.Popen(
            [sys.executable, '-c', STOP, str(small.path), moment], stdout=subprocess.PIPE,
            env={**os.environ, 'XDG_CACHE_HOME': str(tmp_path / moment)})
    for moment, process in processes.items():
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b'here\n'
        finally:
            process.kill()
            process.wait()
        assert len(blobs(tmp_path / moment)) == MOMENTS[moment]
        cache = ArtefactCache(tmp_path / moment / 'kd_perception' / 'engines')
        for _ in range(2):  # built, then found
            engine = OpenVinoEngine(small, DEPLOY, precision='fp32', cache=cache)
            for name, array in engine.infer(images(1)).items():
                np.testing.assert_array_equal(array, expected[name])
            engine.close()
        whole, = blobs(tmp_path / moment)
        assert cache.read(whole)
    assert 'damaged' not in caplog.text
