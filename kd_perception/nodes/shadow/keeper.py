"""
What a shadow node keeps: chosen frames with context, blurred where asked, into one recording.

Comes in: compared frames with their scores, in the teacher's thread. Goes out: a mined recording
(``bags/mined.py``). Whatever fails while keeping ends the keeping with a reason, and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
import threading
from typing import Any

import numpy as np

from kd_perception.bags.mined import MinedBag, MinedTopics, Redact
from kd_perception.bags.motion import thumbnail
from kd_perception.bags.ring import Excerpt, RawMessage, RingBuffer
from kd_perception.bags.unfinished import SUFFIX
from kd_perception.classes import ClassSet
from kd_perception.errors import ConfigError, ImageError, KdPerceptionError
from kd_perception.evaluation.metrics.disagreement import FrameScores
from kd_perception.evaluation.mining import Choice, Miner, MiningOptions
from kd_perception.evaluation.redaction import Redaction

# Intrinsics are small, and a slow teacher comes to their frame long after it.
_INFOS = 5000
_NAME = 'mined_'


@dataclass(frozen=True)
class KeeperOptions:
    """
    Where and how frames are kept.

    :param folder: where recordings are made; empty to keep nothing.
    :param ring_bytes: undecoded frames that wait for a choice.
    :param max_bytes: of all recordings of shadows in the folder, earlier ones included; 0 for no
        limit.
    :param file_bytes: of one of its files.
    :param masks: write the teacher's masks beside the frames.
    """

    folder: str
    ring_bytes: int
    max_bytes: int
    file_bytes: int
    masks: bool


class ShadowKeeper:
    """
    Keeps frames; ``arrived`` and ``camera_info`` are for the ROS thread, the rest for another.

    :param topics: returns what the recording is of, when the first frame is kept.
    :param ask: the teacher's mask, uint8 ``[H, W]``, of a serialised picture; for context.
    :param classes: of the teacher.
    :param tell: called with one line when keeping ends early.
    :raises ConfigError: when the folder cannot be used.

    ``ending`` may be set from any thread: ``flush`` then returns after the frame at hand.
    """

    def __init__(self, options: KeeperOptions, mining: MiningOptions, redaction: Redaction, *,
                 topics: Callable[[], MinedTopics], ask: Callable[[bytes], np.ndarray],
                 classes: ClassSet, about: Mapping[str, str],
                 tell: Callable[[str], None]) -> None:
        self._options, self._mining, self._redaction = options, mining, redaction
        self._topics, self._ask, self._tell = topics, ask, tell
        self._classes, self._about = classes, about
        self._ring = RingBuffer(options.ring_bytes)
        self._excerpt = Excerpt(self._ring, mining.context)
        self._miner = Miner(mining)
        self._bag: MinedBag | None = None
        self._lock = threading.Lock()
        self._infos: OrderedDict[int, bytes] = OrderedDict()
        self._told: dict[int, tuple[dict[str, Any], np.ndarray]] = {}
        self.ending = False
        self.received = 0
        self.failed = 0
        self.stopped = '' if options.folder else 'off'
        self._room = options.max_bytes
        if options.folder:
            _require_folder(Path(options.folder))
            used = _used(Path(options.folder))
            self._room = max(0, options.max_bytes - used)
            if options.max_bytes and not self._room:
                self._stop(f'stopped: earlier recordings in {options.folder} hold '
                           f'{used >> 20} MB, and the disk budget is {options.max_bytes >> 20} MB')

    @property
    def kept(self) -> int:
        """Return the number of frames that were written, context included."""
        return self._bag.frames if self._bag is not None else 0

    def values(self) -> dict[str, Any]:
        """Return key-value pairs for diagnostics."""
        bag = self._bag
        return {'kept': self.kept, 'chosen': self._miner.chosen,
                'kept_failed': self.failed, 'context_missing': self._excerpt.missing,
                'kept_bytes': bag.bytes if bag is not None else 0,
                'ring_bytes': self._ring.bytes,
                'bag': str(bag.path) if bag is not None and bag.frames else '',
                'keeping': self.stopped or 'on'}

    def arrived(self, message: RawMessage) -> None:
        """Remember a frame of the camera."""
        self.received += 1
        if not self.stopped:
            self._ring.append(message)

    def camera_info(self, stamp_ns: int, data: bytes) -> None:
        """Remember intrinsics, by the stamp of their frame."""
        with self._lock:
            self._infos[stamp_ns] = data
            self._infos.move_to_end(stamp_ns)
            while len(self._infos) > _INFOS:
                self._infos.popitem(last=False)

    def offer(self, message: RawMessage, scores: FrameScores, image_rgb: np.ndarray,
              mask: np.ndarray, values: dict[str, Any]) -> Choice:
        """Decide on a compared frame; what is wanted of it is written by ``flush``."""
        choice = self._miner.offer(
            scores, thumbnail(image_rgb), received=self.received,
            written=self._excerpt.promised, cost=self._excerpt.cost(message.number),
            gone=self._excerpt.has_gone(message.number))
        if choice.kept and self.stopped:
            return replace(choice, kept=False, refused=f'keeping is {self.stopped}')
        if choice.kept:
            self._told[message.number] = ({**values, **choice.values()}, mask)
            self._excerpt.choose(message)
        return choice

    def flush(self, *, context: bool = True) -> None:
        """
        Write what is wanted and has come.

        :param context: else chosen frames alone, which takes no more inference.
        """
        if self.stopped:
            return
        try:
            for message, chosen in self._excerpt.due():
                if context or message.number in self._told:
                    self._write(message, chosen)
                if self.stopped or (self.ending and context):
                    return
        except (KdPerceptionError, OSError) as error:
            self._stop(f'stopped: {error}')

    def close(self) -> None:
        """Write the chosen frames that are left, and complete the recording."""
        self.flush(context=False)
        bag, self._bag = self._bag, None
        if bag is not None:
            bag.close()

    def _write(self, message: RawMessage, chosen: int) -> None:
        told, mask = self._told.pop(message.number, (None, None))
        if told is None:
            told = {'reason': 'context', 'of_frame': chosen}
        told = {'frame': message.number, **told}
        if mask is None and (self._options.masks or self._redaction.by_mask):
            try:
                mask = self._ask(message.data)
            except KdPerceptionError:
                self.failed += 1  # it cannot be looked at: not stored
                return
        bag = self._opened()
        redact: Redact | None = self._redaction.of(mask)
        try:
            written = bag.write(message.data, message.log_ns, told, redact=redact,
                                mask=mask if self._options.masks else None,
                                camera_info=self._info_of(message.stamp_ns))
        except ImageError:
            self.failed += 1
            return
        if not written:
            self._stop('stopped: the disk budget is reached')
            bag.close()  # whole from now on, whatever ends the process

    def _opened(self) -> MinedBag:
        if self._bag is None:
            now = datetime.now(timezone.utc)
            folder = Path(self._options.folder).expanduser()
            name = f'{_NAME}{now:%Y%m%d_%H%M%S}'
            path = folder / name
            for number in count(1):
                # Another shadow may be writing it.
                if not path.exists() and not path.with_name(path.name + SUFFIX).exists():
                    break
                path = folder / f'{name}_{number}'
            self._bag = MinedBag(path, self._topics(), classes=self._classes, about=self._about,
                                 max_bytes=self._room,
                                 file_bytes=self._options.file_bytes)
        return self._bag

    def _info_of(self, stamp_ns: int) -> bytes | None:
        with self._lock:
            return self._infos.get(stamp_ns)

    def _stop(self, reason: str) -> None:
        self.stopped = reason
        self._told.clear()
        self._ring.clear()
        self._tell(f'keeping frames {reason}')


def _used(folder: Path) -> int:
    """Return the bytes of recordings of shadows in a folder, unfinished ones too."""
    total = 0
    for one in folder.expanduser().glob(f'{_NAME}*'):
        for file in one.rglob('*'):
            with suppress(OSError):  # another shadow gives its recording the final name just now
                total += file.stat().st_size if file.is_file() else 0
    return total


def _require_folder(folder: Path) -> None:
    """
    Make the folder and try to write in it.

    :raises ConfigError: when that fails: better now than when the first frame is worth keeping.
    """
    folder = folder.expanduser()
    probe = folder / '.kd_perception_probe'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f'out_dir {folder}: cannot be written: {error.strerror}; give a folder '
                          'of your own') from None
