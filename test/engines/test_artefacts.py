"""The artefact cache."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from kd_perception.bundle import DEPLOY, ModelBundle
from kd_perception.engines.artefacts import ArtefactCache, is_whole
from kd_perception.engines.openvino_engine import OpenVinoEngine

KEY = {'content': 'c', 'runtime': 'r', 'version': '1', 'device': 'CPU', 'precision': 'fp32',
       'shape': (1, 2, 3)}


def test_there_and_back(tmp_path: Path) -> None:
    cache = ArtefactCache(tmp_path)
    path = cache.path(**KEY)
    assert cache.read(path) is None
    cache.write(path, b'blob')
    assert cache.read(path) == b'blob'
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(('key', 'value'), [
    ('content', 'd'), ('version', '2'), ('device', 'GPU'), ('precision', 'bf16'),
    ('shape', (2, 2, 3)), ('extra', {'processor': 'other'})])
def test_everything_it_depends_on_is_in_the_name(tmp_path: Path, key: str,
                                                 value: object) -> None:
    cache = ArtefactCache(tmp_path)
    assert cache.path(**KEY) == cache.path(**KEY)
    assert cache.path(**{**KEY, key: value}) != cache.path(**KEY)


def test_damage_is_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = ArtefactCache(tmp_path)
    path = cache.path(**KEY)
    cache.write(path, b'blob' * 100)
    path.write_bytes(path.read_bytes()[:-3])
    assert cache.read(path) is None
    assert 'built again' in caplog.text


def test_left_overs_of_kills_are_swept(tmp_path: Path) -> None:
    cache = ArtefactCache(tmp_path)
    old, fresh = tmp_path / '.r-1.blob.abc.blob', tmp_path / '.r-1.blob.def.blob'
    for path in (old, fresh):
        path.write_bytes(b'half')
    folder = tmp_path / '.r-1.abc'
    folder.mkdir()
    (folder / 'graph.engine').write_bytes(b'half')
    for path in (old, folder):
        os.utime(path, (0, 0))
    cache.write(cache.path(**KEY), b'blob')
    assert not old.exists()
    assert not folder.exists()
    assert fresh.exists(), 'another process may be writing it'


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    cache, folder = ArtefactCache(tmp_path), tmp_path / 'r-1'

    def fail(temporary: Path) -> None:
        (temporary / 'engine').write_text('half')
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            cache.build_folder(folder, fail)
        assert not list(tmp_path.iterdir())
    assert not is_whole(folder)
    for content in ('one', 'two'):  # the newer takes the place of the older
        assert cache.build_folder(folder, lambda t, c=content: (t / 'engine').write_text(c))
        assert is_whole(folder)
        assert (folder / 'engine').read_text() == content
    with pytest.raises(KeyboardInterrupt):
        cache.build_folder(folder, fail)
    assert (folder / 'engine').read_text() == 'two'


def test_an_unwritable_cache_costs_time_only(tmp_path: Path, small: ModelBundle,
                                             caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / 'file').write_text('in the way')
    cache = ArtefactCache(tmp_path / 'file' / 'cache')
    run = OpenVinoEngine(small, DEPLOY, precision='fp32', cache=cache)
    assert run.infer(np.zeros((1, 45, 80, 3), np.uint8))['mask'].shape == (1, 45, 80)
    assert 'cannot keep built engines' in caplog.text


def test_a_blob_the_runtime_refuses_is_built_anew(tmp_path: Path, small: ModelBundle) -> None:
    cache = ArtefactCache(tmp_path)
    OpenVinoEngine(small, DEPLOY, precision='fp32', cache=cache)
    blob, = tmp_path.iterdir()
    cache.write(blob, b'from another world')
    run = OpenVinoEngine(small, DEPLOY, precision='fp32', cache=cache)
    assert run.infer(np.zeros((1, 45, 80, 3), np.uint8))['mask'].shape == (1, 45, 80)
    assert len(cache.read(blob) or b'') > 1000


def test_the_cached_model_is_the_built_one(tmp_path: Path, small: ModelBundle) -> None:
    cache = ArtefactCache(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (1, 45, 80, 3), np.uint8)
    first = OpenVinoEngine(small, DEPLOY, precision='fp32', cache=cache).infer(images)
    blobs = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert blobs
    second = OpenVinoEngine(small, DEPLOY, precision='fp32', cache=cache)
    assert second.precision == 'fp32'
    for name, value in second.infer(images).items():
        assert (value == first[name]).all()
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == blobs
