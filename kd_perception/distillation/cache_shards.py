"""
The files of a soft-label cache, as they are written.

A directory with one ``manifest.json`` (which teacher, which preprocessing, which codec), shards
``shard-<recording>-<number>.safetensors`` and beside each a ``.json`` that says which frames are
in it. Shard i of a recording holds its frames [i*n, (i+1)*n), whoever wrote it. A shard counts
once its sidecar is there, and the sidecar is written last. The sidecar holds the shard's SHA-256,
which is compared once, when the shard is opened. What a kill leaves of a file half written is
hidden, and goes with the next labelling that is alone in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from kd_perception.bundle import ModelBundle
from kd_perception.distillation.strict import first_difference, to_plain
from kd_perception.distillation.views import ViewPlan
from kd_perception.errors import TrainingError
from kd_perception.frames import FrameKey
from kd_perception.paths import atomic_file, file_hash, is_left_over
from kd_perception.tasks.soft_labels import SoftLabelCodec

MANIFEST = 'manifest.json'
_SCHEMA = 1
IMPORTED = 'imported'
# A file of such a name: the shards of a recording are being replaced, or that was cut off.
BETWEEN = 'importing-*'
# A file of such a name is being written, or a kill has cut that off (``atomic_file``).
_HALF_WRITTEN = '.shard-*'


@dataclass(frozen=True)
class LabelledFrame:
    """
    What a shard holds of one frame.

    :param stamp_ns: header stamp; kept because it may be zero or repeated and is not the key.
    :param record: what the codec made of the logits.
    :param view: which numbered view of the frame it is of; None: the whole frame.
    """

    key: FrameKey
    stamp_ns: int
    log_ns: int
    frame_id: str
    record: Mapping[str, np.ndarray]
    view: int | None = None


def provenance(teacher: ModelBundle, codec: SoftLabelCodec, precision: str,
               views: ViewPlan | None = None) -> dict[str, Any]:
    """
    Return the manifest of a cache made by ``teacher``.

    :param precision: what really ran.
    :param views: which views of the frames are labelled; None: whole frames.
    """
    preprocessing = to_plain(teacher.spec.input)
    return {
        'schema_version': _SCHEMA, 'task': teacher.spec.task,
        'teacher': {'name': teacher.spec.name, 'hash': teacher.hash},
        'preprocessing': {'hash': digest_of(preprocessing), **preprocessing},
        'classes': list(teacher.spec.classes.names), 'codec': codec.to_dict(),
        'precision': precision,
        **({} if views is None else {'views': {'count': views.count, **views.to_dict()}})}


def imported_provenance(name: str, classes: Sequence[str], codec: SoftLabelCodec,
                        how: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the manifest of a cache of labels that somebody else made.

    :param name: where they come from, for people.
    :param how: what was done to them, e.g. kind and smoothing.
    """
    made = {'classes': list(classes), **how}
    return {
        'schema_version': _SCHEMA, 'task': 'segmentation', 'origin': IMPORTED,
        'teacher': {'name': name, 'hash': digest_of(made)}, 'import': dict(how),
        'classes': list(classes), 'codec': codec.to_dict(), 'precision': IMPORTED}


def read_manifest(path: Path) -> dict[str, Any] | None:
    """
    Return the manifest of a cache directory; None where there is none.

    :raises TrainingError: when it is not readable or of another schema.
    """
    file = path / MANIFEST
    if not file.is_file():
        return None
    try:
        data = json.loads(file.read_text())
        schema = data['schema_version']
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f'{file}: not readable ({error})') from None
    if schema != _SCHEMA:
        raise TrainingError(f'{file}: schema_version {schema!r} is unknown to this release, which '
                            f'reads {_SCHEMA}')
    return data


def open_for_writing(path: Path, manifest: Mapping[str, Any]) -> None:
    """
    Create a cache directory, or check that the one there is of the same making.

    :raises TrainingError: when it is of another teacher, preprocessing or codec, or no cache.
    """
    old = read_manifest(path)
    if old is None and path.exists() and (not path.is_dir() or any(
            not is_left_over(p, MANIFEST) for p in path.iterdir())):
        old = read_manifest(path)  # another process may have written it just now
        if old is None:
            raise TrainingError(f'{path}: is not empty and no soft-label cache; choose another '
                                '--out')
    if old is None:
        with atomic_file(path / MANIFEST) as temporary:
            temporary.write_text(json.dumps(manifest, indent=2) + '\n')
        return
    difference = first_difference(old, json.loads(json.dumps(manifest)))
    if difference:
        raise TrainingError(f'{path}: holds soft labels of another making ({difference}); choose '
                            'another --out')


@contextmanager
def held(path: Path) -> Iterator[None]:
    """
    Hold a cache while shards are written into it; who comes first removes what kills have left.

    All who write have a lock on the directory in common. Who gets it alone for a moment knows
    that half-written files are nobody's. Where a file system has no such locks nothing is removed.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for file in path.glob(_HALF_WRITTEN):
                file.unlink()
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)  # waits for one who is removing
        yield
    finally:
        os.close(handle)  # and the lock with it, as a kill does


def shard_path(cache: Path, recording: str, number: int) -> Path:
    """Return the path of a shard; ``recording`` is ``recording_id``."""
    return cache / f'shard-{recording}-{number:05d}.safetensors'


def recording_id(ends: Sequence[FrameKey], frames: int, chosen: str = '') -> str:
    """
    Return a short name of a recording as it was sampled: a limit or a rate changes it.

    :param ends: keys of its first and last frame.
    :param chosen: digest of which frames lie between, where ends and number do not tell.
    """
    return digest_of([*map(str, ends), frames, *([chosen] if chosen else [])])[:12]


def write_shard(path: Path, frames: Sequence[LabelledFrame], bad: Sequence[int] = ()) -> None:
    """
    Write a shard and then its sidecar, each whole or not at all.

    :param bad: positions in the recording that could not be decoded.
    """
    tensors = {f'{position:05d}.{name}': np.ascontiguousarray(array)
               for position, frame in enumerate(frames)
               for name, array in frame.record.items()}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary)
        digest = file_hash(temporary)
    side = {'frames': [{**asdict(f.key), 'stamp_ns': f.stamp_ns, 'log_ns': f.log_ns,
                        'frame_id': f.frame_id,
                        **({} if f.view is None else {'view': f.view})} for f in frames],
            'bad': list(bad), 'bytes': path.stat().st_size, 'sha256': digest}
    with atomic_file(path.with_suffix('.json')) as temporary:
        temporary.write_text(json.dumps(side) + '\n')


def read_sidecar(path: Path) -> dict[str, Any]:
    """
    Return what a sidecar says, having compared the size of its shard.

    :raises TrainingError: when either is damaged or missing.
    """
    shard = path.with_suffix('.safetensors')
    try:
        side = json.loads(path.read_text())
        size, frames = side['bytes'], side['frames']
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f'{path}: not readable ({error}); delete it, label again') from None
    if not shard.is_file() or (frames and shard.stat().st_size != size):
        raise TrainingError(f'{shard}: is missing or truncated; delete {path.name} and '
                            'label again')
    return side


def digest_of(data: Any) -> str:
    """Return the SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
