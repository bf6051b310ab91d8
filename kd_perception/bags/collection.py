"""Several recordings, and several cameras of each, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import glob
import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.bags.drives import Drive, drives_of
from kd_perception.bags.files import has_images
from kd_perception.bags.layout import BAG_SUFFIXES, is_bag_folder
from kd_perception.bags.reader import BagReader
from kd_perception.bags.sequence import FrameSequence
from kd_perception.bags.unfinished import is_unfinished
from kd_perception.errors import BagError, ConfigError
from kd_perception.frames import Frame, FrameSource, KnowingSource, KnownTruth

_log = logging.getLogger(__name__)
_ALL = '*'


@dataclass(frozen=True)
class Recording:
    """
    One camera of one recording.

    :param path: of the rosbag, image folder or video.
    :param topic: image topic; empty for the only one.
    """

    path: Path
    topic: str = ''


def find_recordings(path: Path | str | Sequence[Path | str],
                    image_topic: str | Sequence[str] = '') -> list[Recording]:
    """
    Return the single recordings that paths, patterns and folders of bags stand for.

    Unfinished recordings in a folder, or that a pattern finds, are left out with a warning.

    :param image_topic: one or several topics; ``*`` stands for all cameras of each bag.
    :raises BagError: when a pattern finds nothing.
    """
    given = [path] if isinstance(path, (str, Path)) else list(path)
    topics = [image_topic] if isinstance(image_topic, str) else list(image_topic)
    paths = [found for one in given for found in _expanded(Path(one).expanduser())]
    if not paths:
        raise BagError('no recording is given')
    out = []
    for found in dict.fromkeys(paths):
        for topic in topics or ['']:
            names = _cameras(found) if topic == _ALL else [topic]
            out += [Recording(found, name) for name in names]
    return out


class JoinedSource(FrameSequence):
    """
    Several sources as one; a ``FrameSource``.

    Recordings follow each other in the order given; cameras of one recording are merged by time.
    Keys are those of the single sources, so they stay unique and the same in every combination.

    :param sources: closed with the joined one.
    :param recordings: what each source is of.
    :raises ConfigError: when labels of two sources have different classes.
    """

    def __init__(self, sources: Sequence[FrameSource], recordings: Sequence[Recording]) -> None:
        self.sources = tuple(sources)
        self.recordings = tuple(recordings)
        paths = list(dict.fromkeys(r.path for r in recordings))
        self.name = f'{paths[0].name} and {len(paths) - 1} more' if len(paths) > 1 \
            else paths[0].name
        self.has_labels = any(s.has_labels for s in sources)
        self.label_classes = None
        for source, one in zip(sources, recordings, strict=True):
            if not source.has_labels or source.label_classes is None:
                continue
            if self.label_classes is not None \
                    and self.label_classes.names != source.label_classes.names:
                raise ConfigError(
                    f'{one.path}: its labels are of {source.label_classes.name!r}, those before '
                    f'it of {self.label_classes.name!r}; read them one by one')
            self.label_classes = source.label_classes
        self.fingerprint = hashlib.sha256('\n'.join(
            f'{s.fingerprint} {r.topic}' for s, r in zip(sources, recordings)).encode()
            ).hexdigest()[:32]
        self.chosen = hashlib.sha256('\n'.join(
            [self.fingerprint, *(s.chosen for s in sources)]).encode()
            ).hexdigest()[:16]
        self._which, self._index, self._times_ns = self._merged()
        self._positions = np.arange(len(self._which))

    @property
    def stamps_ns(self) -> np.ndarray:
        """Return int64 ``[n]``: the stamps of the frames of all recordings."""
        stamps = [s.stamps_ns for s in self.sources]  # type: ignore[attr-defined]
        starts = np.cumsum([0, *(len(s) for s in stamps)])[:-1]
        return np.concatenate(stamps)[starts[self._which] + self._index]

    def close(self) -> None:
        """Release all recordings."""
        for source in self.sources:
            source.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return JoinedSource, (self.sources, self.recordings)

    def drives(self) -> Sequence[Drive]:
        """Return the drive of each frame."""
        each = [drives_of(s) for s in self.sources]
        return [each[self._which[p]][int(self._index[p])] for p in self._positions]

    def known_truth(self, index: int) -> KnownTruth | None:
        """Return what is known of a frame beside its labels; None for nothing."""
        position = self.position(index)
        source = self.sources[self._which[position]]
        return source.known_truth(int(self._index[position])) \
            if isinstance(source, KnowingSource) else None

    def _frame(self, position: int) -> Frame:
        return self.sources[self._which[position]][int(self._index[position])]

    def _merged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return source, index there and time of each frame, in the order of the joined source."""
        times = [s.times_ns for s in self.sources]  # type: ignore[attr-defined]
        which = np.repeat(np.arange(len(times)), [len(t) for t in times])
        index = np.concatenate([np.arange(len(t)) for t in times])
        when = np.concatenate(times)
        paths = [r.path for r in self.recordings]
        drive = np.array([paths.index(p) for p in paths])[which]
        order = np.lexsort((which, when, drive))
        return which[order], index[order], when[order]


def _expanded(path: Path) -> list[Path]:
    """Return the recordings that one path, pattern or folder of bags stands for."""
    if path.exists():
        if not path.is_dir() or is_bag_folder(path) or has_images(path):
            return [path]
        return _finished(sorted(p for p in path.iterdir() if _is_bag(p))) or [path]
    if not glob.has_magic(str(path)):
        return [path]
    found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
    found = _finished([p for p in found if p.is_file() or not p.name.startswith('.')])
    if not found:
        raise BagError(f'{path}: no recording has such a name')
    return [one for p in found for one in _expanded(p)]


def _is_bag(path: Path) -> bool:
    if path.name.startswith('.'):
        return False
    return is_bag_folder(path) if path.is_dir() else path.suffix.lower() in BAG_SUFFIXES


def _finished(paths: list[Path]) -> list[Path]:
    for path in paths:
        if is_unfinished(path):
            _log.warning('%s: is an unfinished recording and left out', path)
    return [p for p in paths if not is_unfinished(p)]


def _cameras(path: Path) -> list[str]:
    if not _is_bag(path):
        return ['']
    with BagReader(path) as reader:
        return [t.name for t in reader.camera_topics] or ['']
