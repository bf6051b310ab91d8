"""
All shards of a recording are replaced together, or none is.

New shards are written into a hidden directory of the cache. Only when all are there do they come
among the others, and then the old ones go. While that happens a marker tells that the cache is
between two states; where the process was killed in that moment the marker stays, and the cache is
refused until the recording was imported again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
import hashlib
import os
from pathlib import Path
import shutil

from kd_perception.distillation.cache_shards import BETWEEN, read_sidecar
from kd_perception.frames import FrameKey


@contextmanager
def staged_shards(cache: Path, keys: Iterable[FrameKey]) -> Iterator[Path]:
    """
    Yield a directory for shards that will replace all shards of the recordings of ``keys``.

    The names of the new shards must not be those of old ones.

    :raises TrainingError: before anything happens, when an old shard is damaged.
    """
    recordings = {(k.fingerprint, k.topic) for k in keys}
    old = _shards_of(cache, recordings)
    name = hashlib.sha256(repr(sorted(recordings)).encode()).hexdigest()[:12]
    staged, marker = cache / f'.staged-{name}', cache / BETWEEN.replace('*', name)
    shutil.rmtree(staged, ignore_errors=True)  # of an import that was killed
    staged.mkdir()
    try:
        yield staged
        cut_off = marker.exists()
        marker.touch()
        # A shard counts once its sidecar is there.
        for file in sorted(staged.iterdir(), key=lambda f: (f.suffix == '.json', f.name)):
            os.replace(file, cache / file.name)
        for sidecar in old:
            sidecar.unlink()
            sidecar.with_suffix('.safetensors').unlink(missing_ok=True)
        if cut_off:
            for shard in cache.glob('shard-*.safetensors'):
                if not shard.with_suffix('.json').exists():
                    shard.unlink()
        marker.unlink()
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _shards_of(cache: Path, recordings: set[tuple[str, str]]) -> list[Path]:
    """Return the sidecars that name a frame of these recordings, however it was sampled."""
    return [sidecar for sidecar in sorted(cache.glob('shard-*.json'))
            if any((f['fingerprint'], f['topic']) in recordings
                   for f in read_sidecar(sidecar)['frames'])]
