"""
Decoded frames of all recordings, ready for random access by several threads.

Frames are decoded once, brought to the network's input size and kept as bytes while they fit into
the memory limit; beyond it they are decoded again at every access.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
import hashlib
import logging
import threading
from typing import Any

import numpy as np

from kd_perception.bags.drives import Drive, drives_of
from kd_perception.bags.sampling import BadFrames, LabelError
from kd_perception.bags.source import open_source
from kd_perception.classes import ClassMap, ClassSet, load_class_map
from kd_perception.distillation.frame_names import frame_name
from kd_perception.distillation.recipe import SourceRecipe
from kd_perception.errors import ImageError, TrainingError
from kd_perception.frames import FrameKey, FrameSource, Progress
from kd_perception.imaging import resize_image, resize_labels

log = logging.getLogger(__name__)
# A bundle names the drives that it was trained on, where a list of them is of use.
_MOST_DRIVES = 1000


@dataclass(frozen=True)
class Sample:
    """
    One frame at input size.

    :param image: uint8 ``[H, W, 3]``, RGB.
    :param labels: uint8 ``[H, W]`` in the recipe's classes, or None.
    :param name: for people.
    """

    key: FrameKey
    image: np.ndarray
    labels: np.ndarray | None
    name: str = ''


@dataclass(frozen=True)
class LabelledSource:
    """
    A recording with the map from its label ids to the recipe's classes (None: no labels).

    :param drive: name of the drive that all of it belongs to, where the recipe gives one.
    :param selected: whether a selection says which frames are taken.
    """

    source: FrameSource
    class_map: ClassMap | None
    drive: str = ''
    selected: bool = False

    @property
    def identity(self) -> str:
        """What must agree on resuming, besides the recipe: whose selection may change."""
        chosen = f'/{self.source.chosen}' if self.selected else ''
        return f'{self.source.fingerprint}{chosen}'

    @property
    def keys(self) -> list[FrameKey]:
        """Return the keys of its frames, none of which is decoded for that."""
        where = getattr(self.source, 'position', int)
        return [FrameKey(self.source.fingerprint, self.source.topic, where(i))
                for i in range(len(self.source))]


def open_sources(entries: Sequence[SourceRecipe], classes: ClassSet,
                 progress: Progress | None = None) -> list[LabelledSource]:
    """
    Open the recordings of a recipe.

    :param progress: called while frames are looked at for motion.

    :raises KdPerceptionError: when one cannot be opened or its classes cannot be mapped.
    """
    opened = []
    for entry in entries:
        source = open_source(entry.path, image_topic=entry.image_topic,
                             label_topic=entry.label_topic, label_dir=entry.label_dir,
                             classes=entry.classes, rate_hz=entry.rate_hz, motion=entry.motion,
                             count=entry.count, limit=entry.limit, order=entry.order,
                             selection=entry.selection, labels=entry.labels, progress=progress)
        opened.append(replace(labelled(source, classes, entry.class_map), drive=entry.drive,
                              selected=bool(entry.selection)))
    return opened


def labelled(source: FrameSource, classes: ClassSet, class_map: str = '') -> LabelledSource:
    """Return ``source`` with the map from its classes to ``classes``."""
    if not source.has_labels or source.label_classes is None:
        return LabelledSource(source, None)
    return LabelledSource(source, load_class_map(source.label_classes, classes, class_map))


def require_known(entry: LabelledSource, labels: np.ndarray, index: int) -> None:
    """
    Check that label ids of a frame mean something.

    :raises TrainingError: naming those that do not.
    """
    classes = entry.source.label_classes
    if classes is None:
        return
    unknown = classes.unknown_ids(labels)
    if unknown:
        raise TrainingError(
            f'{entry.source.name}: frame {index} has label ids {unknown[:8]} that class set '
            f'{classes.name!r} does not know; choose the right classes for this recording')


class FrameStore:
    """
    Random access to frames of several recordings, by position.

    :param sources: recordings; the store does not close them.
    :param size: height and width that frames are brought to.
    :param memory_gb: limit of the bytes kept.
    :param digests: keep a digest of each picture at input size.
    :raises TrainingError: when no frame can be read.
    """

    def __init__(self, sources: Sequence[LabelledSource], size: tuple[int, int], *,
                 memory_gb: float = 4.0, labels_only: bool = False, digests: bool = False,
                 progress: Progress | None = None) -> None:
        self._sources = list(sources)
        self._size = size
        self._lock = threading.Lock()
        self._where: list[tuple[int, int]] = []
        self._kept: list[Sample | None] = []
        self.keys: list[FrameKey] = []
        self.has_labels: list[bool] = []
        self.drives: list[Drive] = []
        self.digests: list[bytes] | None = [] if digests else None
        self._pixels: np.ndarray | None = None
        self._read_all(memory_gb * 1e9, labels_only, progress)
        if not self._where:
            names = ', '.join(s.source.name for s in self._sources) or 'no recordings'
            kind = 'labelled frame' if labels_only else 'frame'
            raise TrainingError(f'no {kind} in {names}')

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, position: int) -> Sample:
        kept = self._kept[position]
        if kept is not None:
            return kept
        which, index = self._where[position]
        # Readers hold a file position, so they serve one thread at a time.
        with self._lock:
            return self._read(which, index)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Fingerprints of the recordings, in order."""
        return tuple(s.source.fingerprint for s in self._sources)

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Return, for each frame, which recording it is of and its position there."""
        return tuple(self._where)

    def class_pixels(self, num_classes: int) -> np.ndarray:
        """Return int64 ``[K]``: labelled pixels per class over all frames."""
        if self._pixels is None:
            self._pixels = np.zeros(256, np.int64)
            for position in np.flatnonzero(self.has_labels):  # the others are not read for it
                labels = self[int(position)].labels
                if labels is not None:
                    self._pixels += np.bincount(labels.ravel(), minlength=256)
        return self._pixels[:num_classes].copy()

    def statistics(self, classes: ClassSet) -> dict[str, Any]:
        """Return what a bundle says of its training data: counts, colours, class shares."""
        step = max(1, len(self) // 200)
        pictures = [self[i].image[::4, ::4].reshape(-1, 3) for i in range(0, len(self), step)]
        pixels = np.concatenate(pictures) / 255.0
        counts = self.class_pixels(len(classes))
        out: dict[str, Any] = {
            'frames': len(self), 'labelled_frames': int(sum(self.has_labels)),
            'image_mean': [round(float(v), 4) for v in pixels.mean(0)],
            'image_std': [round(float(v), 4) for v in pixels.std(0)]}
        drives = list(dict.fromkeys(self.drives))
        if len(drives) <= _MOST_DRIVES:
            out['drives'] = [d.to_dict() for d in drives]
        if counts.sum():
            out['class_shares'] = {n: round(float(c), 6) for n, c in
                                   zip(classes.names, counts / counts.sum(), strict=True)}
        return out

    def subset(self, positions: Sequence[int]) -> FrameStore:
        """Return a store of some of the frames, sharing their memory."""
        other = object.__new__(FrameStore)
        other._sources, other._size, other._lock = self._sources, self._size, self._lock
        other._where = [self._where[p] for p in positions]
        other._kept = [self._kept[p] for p in positions]
        other.keys = [self.keys[p] for p in positions]
        other.has_labels = [self.has_labels[p] for p in positions]
        other.drives = [self.drives[p] for p in positions]
        other._pixels = None
        other.digests = None if self.digests is None else [self.digests[p] for p in positions]
        return other

    def split_tail(self, share: float, *,
                   labelled_only: bool = True) -> tuple[FrameStore, FrameStore]:
        """
        Hold out the last ``share`` of the frames (or labelled frames) of each recording.

        Frames between those that are held out are in neither part: they look alike.

        :raises TrainingError: when nothing would be left on either side.
        """
        keep: list[int] = []
        held: list[int] = []
        for which in range(len(self._sources)):
            own = [p for p in range(len(self)) if self._where[p][0] == which]
            usable = [p for p in own if self.has_labels[p] or not labelled_only]
            tail = usable[len(usable) - round(len(usable) * share):]
            held += tail
            keep += [p for p in own if not tail or p < tail[0]]
        if not held or not keep:
            raise TrainingError(f'{len(self)} frames are too few to hold out {share:.0%} of them: '
                                'give data.validation or set data.validation_share')
        return self.subset(keep), self.subset(held)

    def _read_all(self, limit: float, labels_only: bool, progress: Progress | None) -> None:
        total = sum(len(s.source) for s in self._sources)
        used, done, bad = 0, 0, 0
        for which, entry in enumerate(self._sources):
            if labels_only and entry.class_map is None:
                done += len(entry.source)
                continue
            failed = BadFrames(log, entry.source.name, len(entry.source))
            drives = drives_of(entry.source, entry.drive)
            for index in range(len(entry.source)):
                done += 1
                try:
                    sample = self._read(which, index)
                except LabelError:
                    raise  # wrong labels spoil a training silently, a bad picture does not
                except ImageError as error:
                    failed.add(index, error)
                    continue
                if labels_only and sample.labels is None:
                    continue
                size = sample.image.nbytes + (0 if sample.labels is None else sample.labels.nbytes)
                keep = used + size <= limit
                used += size if keep else 0
                self._where.append((which, index))
                self._kept.append(sample if keep else None)
                self.keys.append(sample.key)
                self.has_labels.append(sample.labels is not None)
                self.drives.append(drives[index])
                if self.digests is not None:
                    self.digests.append(hashlib.blake2b(sample.image.data,
                                                        digest_size=16).digest())
                if progress is not None:
                    progress(done, total, 'reading frames')
            failed.sum_up()
            bad += failed.count
        log.info('%d frames (%d bad), %.2f GB in memory', len(self._where), bad, used / 1e9)

    def _read(self, which: int, index: int) -> Sample:
        entry = self._sources[which]
        frame = entry.source[index]
        image = resize_image(frame.image, *self._size)
        if image is frame.image or not image.flags.c_contiguous:
            image = np.array(image)  # a view would keep the whole message alive
        labels = None
        if frame.labels is not None and entry.class_map is not None:
            require_known(entry, frame.labels, index)
            labels = entry.class_map(resize_labels(frame.labels, *self._size))
        return Sample(frame.key, image, labels, frame_name(entry.source, frame))
