"""
The soft-label cache: what a teacher said of every frame, on disk, by frame key.

Its files are those of ``cache_shards.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import logging
from pathlib import Path
import threading
from typing import Any

import numpy as np
from safetensors import safe_open, SafetensorError

from kd_perception.bundle import ModelBundle
from kd_perception.distillation.cache_shards import (
    BETWEEN,
    digest_of,
    IMPORTED,
    MANIFEST,
    read_manifest,
    read_sidecar,
)
from kd_perception.distillation.frame_store import FrameStore
from kd_perception.distillation.strict import to_plain
from kd_perception.distillation.views import ViewPlan
from kd_perception.errors import TrainingError
from kd_perception.frames import FrameKey
from kd_perception.paths import file_hash
from kd_perception.tasks.soft_labels import SoftLabelCodec

log = logging.getLogger(__name__)

_MOST_OPEN = 1024


class SoftLabelCache:
    """
    Random access to a cache by frame key; safe for several threads.

    :param path: the cache's directory.
    :raises TrainingError: when it is no cache or is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        if self.manifest is None:
            raise TrainingError(f'{self.path}: is no soft-label cache ({MANIFEST} is missing); '
                                'make one with: kd_perception label --teacher BUNDLE BAG --out '
                                'DIR')
        self.codec = SoftLabelCodec.from_dict(self.manifest['codec'])
        self._places: dict[tuple[FrameKey, int], tuple[Path, int]] = {}
        self._keys: dict[FrameKey, None] = {}
        self._bad = 0
        self._files: dict[Path, Any] = {}
        self._hashes: dict[Path, str] = {}
        self._intact: set[Path] = set()
        self._lock = threading.Lock()
        self._room = 0.0
        self._kept: dict[tuple[FrameKey, int], tuple[np.ndarray, np.ndarray | None]] = {}
        if any(self.path.glob(BETWEEN)):
            raise TrainingError(f'{self.path}: an import was cut off while it replaced labels; '
                                'import the labels of that recording again')
        for sidecar in sorted(self.path.glob('shard-*.json')):
            shard = sidecar.with_suffix('.safetensors')
            side = read_sidecar(sidecar)
            self._hashes[shard] = side.get('sha256', '')
            self._bad += len(side.get('bad', ()))
            for position, frame in enumerate(side['frames']):
                key, place = _key(frame), (_key(frame), int(frame.get('view', 0)))
                if self.imported and place in self._places:
                    raise TrainingError(
                        f'{self.path}: frame {key} has two labels, in '
                        f'{self._places[place][0].name} and {shard.name}; import the labels of '
                        'this recording again')
                self._places[place] = (shard, position)
                self._keys[key] = None

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __getitem__(self, key: FrameKey) -> np.ndarray:
        """Return the logits of a frame, float32 ``[K, h, w]``."""
        return self.codec.decode(self.record(key))

    def lesson(self, key: FrameKey, view: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
        """
        Return logits as ``[key]`` does, and the full-size decision uint8 ``[H, W]`` if kept.

        :param view: which of the frame's numbered views, where the cache is of these.
        """
        kept = self._kept.get((key, view))
        if kept is not None:
            return kept
        record = self.record(key, view)
        logits, winners = self.codec.decode(record), self.codec.winner(record)
        size = logits.nbytes + (0 if winners is None else winners.nbytes)
        with self._lock:
            if size <= self._room and (key, view) not in self._kept:
                for array in (logits, winners):
                    if array is not None:
                        array.flags.writeable = False  # who comes next gets the same
                self._kept[key, view] = logits, winners
                self._room -= size
        return logits, winners

    def keep(self, size: float) -> None:
        """Keep what ``lesson`` decodes from now on, up to so many bytes."""
        self._room = size

    @property
    def keys(self) -> tuple[FrameKey, ...]:
        """Return the frames that are labelled."""
        return tuple(self._keys)

    @property
    def views(self) -> dict[str, Any] | None:
        """Return which views are labelled (``ViewPlan.to_dict``, ``count``); None: frames."""
        return (self.manifest or {}).get('views')

    def record(self, key: FrameKey, view: int = 0) -> dict[str, np.ndarray]:
        """
        Return what the codec wrote of a frame, or of one of its views.

        :raises TrainingError: when the frame is not labelled or the shard is damaged.
        """
        if (key, view) not in self._places:
            how = 'label --import' if self.imported else 'label'
            raise TrainingError(f'{self.path}: has no soft labels of frame {key}; label this '
                                f'recording with: kd_perception {how}')
        path, position = self._places[key, view]
        file, names = self._open(path)
        try:
            return {name.split('.', 1)[1]: file.get_tensor(name) for name in names[position]}
        except SafetensorError as error:
            raise _damaged(path, str(error)) from None

    @property
    def made_with(self) -> dict[str, Any]:
        """Return what two labellings by one teacher may differ in; of an import, its content."""
        assert self.manifest is not None
        content = {'content': digest_of(sorted(self._hashes.values()))} if self.imported else {}
        views = {} if self.views is None else {'views': self.views['count']}
        return {**{name: self.manifest[name] for name in ('codec', 'precision')}, **views,
                **content}

    @property
    def imported(self) -> bool:
        """Return whether the labels were imported, so that no teacher of ours made them."""
        return (self.manifest or {}).get('origin') == IMPORTED

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes by id."""
        return tuple((self.manifest or {})['classes'])

    @property
    def teacher_hash(self) -> str:
        """Return the hash of the teacher; of imported labels, of how they were made."""
        return str((self.manifest or {})['teacher']['hash'])

    def labelled_part(self, frames: FrameStore) -> FrameStore:
        """
        Return the frames that are labelled here.

        :raises TrainingError: when a camera of a recording has none of them.
        """
        chosen = [i for i, key in enumerate(frames.keys) if key in self]
        cameras: dict[tuple[str, str], list[FrameKey]] = {}
        for key, name in zip(frames.keys, frames.recordings, strict=True):
            cameras.setdefault((name, f'{key.fingerprint} {key.topic}'), []).append(key)
        for (name, _), keys in cameras.items():
            self.require_some(name, keys)
        if len(chosen) < len(frames):
            log.warning('%s: %d of %d frames have no soft labels and teach nothing', self.path,
                        len(frames) - len(chosen), len(frames))
        return frames.subset(chosen)

    def require_some(self, name: str, keys: Sequence[FrameKey]) -> None:
        """
        Check that a camera was not forgotten.

        :param name: of its recording.
        :raises TrainingError: when none of its frames is labelled here.
        """
        if not any(key in self for key in keys):
            topic = f', topic {keys[0].topic}' if keys and keys[0].topic else ''
            raise TrainingError(
                f'{self.path}: has soft labels of none of the {len(keys)} frames of '
                f'{name}{topic}; add them with: kd_perception label --import, or take it out of '
                'data.train')

    def require(self, teacher: ModelBundle | None) -> None:
        """
        Check that the cache is of this teacher.

        :param teacher: None for imported labels.
        :raises TrainingError: one line that says what differs.
        """
        assert self.manifest is not None
        made = self.manifest
        if self.imported != (teacher is None):
            raise TrainingError(f'{self.path}: holds imported labels; leave --teacher out'
                                if self.imported else
                                f'{self.path}: was labelled by {made["teacher"]["name"]!r}; name '
                                'it with --teacher')
        if teacher is None:
            return
        if made['teacher']['hash'] != teacher.hash:
            raise TrainingError(
                f'{self.path}: was labelled by {made["teacher"]["name"]!r} '
                f'({made["teacher"]["hash"][:12]}), not by {teacher.spec.name!r} '
                f'({teacher.hash[:12]}); label again into another directory')
        if made['preprocessing']['hash'] != digest_of(to_plain(teacher.spec.input)):
            raise TrainingError(f'{self.path}: was labelled with another preprocessing of '
                                'pictures; label again into another directory')

    def require_views(self, plan: ViewPlan | None) -> None:
        """
        Check that the cache is of the views that a recipe draws, or of whole frames.

        :param plan: None: whole frames.
        :raises TrainingError: one line that names the first key that differs.
        """
        if plan is None:
            if self.views is not None:
                raise TrainingError(f'{self.path}: holds soft labels of numbered views; set '
                                    '--distillation.view views, or label whole frames')
            return
        if self.views is None:
            raise TrainingError(f'{self.path}: holds soft labels of whole frames; set '
                                '--distillation.view warp, or label views: kd_perception label '
                                '--views K --recipe RECIPE')
        difference = plan.difference(self.views)
        if difference:
            raise TrainingError(f'{self.path}: its views were drawn differently ({difference}); '
                                'set the recipe to the same, or label again with --recipe')
        if plan.count > self.views['count']:
            raise TrainingError(f'{self.path}: holds {self.views["count"]} views of a frame, '
                                f'distillation.views asks for {plan.count}')

    def require_service(self, loss: str, looks_at: str, temperature: float) -> None:
        """
        Check that the codec serves a loss, or what else needs the teacher's word.

        :param loss: its name, for people.
        :param looks_at: what it sees of the teacher (``SoftLabelCodec.serves``).
        :raises TrainingError: when it does not.
        """
        if not self.codec.serves(looks_at, temperature):
            raise TrainingError(
                f'{self.path}: its codec {self.codec.name!r} cannot serve {loss}, which '
                f'looks at {looks_at}, at temperature {temperature:g}; '
                f'{self.codec.advice(looks_at, temperature)}')

    def require_frames(self, keys: Iterable[FrameKey], *, undecoded: bool = False) -> None:
        """
        Check that all frames are labelled.

        :param undecoded: nobody has looked yet which of them can be decoded: as many may be
            missing as could not when they were labelled.
        :raises TrainingError: naming how many are missing and the first of them.
        """
        wanted = list(keys)
        missing = [k for k in wanted if k not in self._keys]
        if len(missing) > (self._bad if undecoded else 0):
            raise TrainingError(
                f'{self.path}: {len(missing)} of {len(wanted)} frames have no soft labels, the '
                f'first is {missing[0]}; run kd_perception label on this recording (it goes on '
                'where it stopped), or learn from the frames that were labelled: set rate_hz, '
                'motion, count, limit or selection in data.defaults as it was then')

    def _open(self, path: Path) -> tuple[Any, list[list[str]]]:
        with self._lock:
            if path not in self._files:
                try:
                    intact = path in self._intact or self._hashes[path] == file_hash(path)
                    file = safe_open(path, 'numpy')
                    names = sorted(file.keys())
                except (SafetensorError, OSError) as error:
                    raise _damaged(path, str(error)) from None
                if not intact:
                    raise _damaged(path, 'its content is not what was written')
                self._intact.add(path)
                groups: dict[int, list[str]] = {}
                for name in names:
                    groups.setdefault(int(name.split('.', 1)[0]), []).append(name)
                if len(self._files) >= _MOST_OPEN:
                    # Mappings of a process are limited: the one opened first makes room.
                    del self._files[next(iter(self._files))]
                self._files[path] = (file, [groups[i] for i in sorted(groups)])
            return self._files[path]


def _damaged(path: Path, reason: str) -> TrainingError:
    return TrainingError(f'{path}: is damaged ({reason}); delete it and its .json, then run '
                         'kd_perception label again')


def _key(frame: Mapping[str, Any]) -> FrameKey:
    return FrameKey(frame['fingerprint'], frame['topic'], int(frame['index']))
