"""
Decoded frames of all recordings, ready for random access by several threads.

As many frames as fit into the memory limit are decoded beforehand, brought to the network's input
size and kept as bytes. Beyond it they are decoded at every access, and nothing is known of them
before but their names, drives and whether they have labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
import copy
from dataclasses import dataclass, replace
from functools import partial
import hashlib
from itertools import chain
import logging
import threading
from typing import Any, NamedTuple

import numpy as np

from kd_perception.bags.drives import Drive, drives_of
from kd_perception.bags.sampling import BadFrames, LabelError
from kd_perception.bags.source import open_source
from kd_perception.classes import ClassMap, ClassSet, load_class_map
from kd_perception.distillation.frame_names import frame_name
from kd_perception.distillation.processes import Processes
from kd_perception.distillation.recipe import SourceRecipe
from kd_perception.errors import ConfigError, ImageError, TrainingError
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

    @property
    def labelled(self) -> np.ndarray | None:
        """Return bool ``[n]``: which frames have labels that count; None: only reading tells."""
        known = getattr(self.source, 'labelled', None)
        return known if known is None else known & (self.class_map is not None)


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
    try:
        return LabelledSource(source, load_class_map(source.label_classes, classes, class_map))
    except ConfigError as error:
        raise ConfigError(f'{source.name}: {error} (class_map of its entry, or '
                          'data.defaults.class_map)') from None


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

    Of those that are read beforehand, frames that cannot be decoded are left out. Where a later
    one turns out to be such, the next one that is alike (labelled or not) stands in for it: a
    matter of the frames alone, so that all processes and resumed runs see the same.

    :param sources: recordings; the store does not close them.
    :param size: height and width that frames are brought to.
    :param memory_gb: frames of so many bytes are read beforehand.
    :param sharers: stores like this one on this machine, each of which keeps a part of these.
    :param whole: read all frames beforehand.
    :param decodable: of which frames it is known that they can be decoded; the others are read
        beforehand. None: of all, until one turns out not to be.
    :param digests: keep a digest of each picture at input size that is read beforehand.
    :raises TrainingError: when no frame can be read.
    """

    def __init__(self, sources: Sequence[LabelledSource], size: tuple[int, int], *,
                 memory_gb: float = 4.0, sharers: int = 1, labels_only: bool = False,
                 whole: bool = False, decodable: Callable[[FrameKey], bool] | None = None,
                 digests: bool = False, progress: Progress | None = None) -> None:
        self._sources = list(sources)
        self._size = size
        # Readers hold a file position, so each serves one thread at a time.
        self._locks = [threading.Lock() for _ in self._sources]
        self._failed = [BadFrames(log, s.source.name, len(s.source)) for s in self._sources]
        self._bad: set[tuple[int, int]] = set()  # of those that were not read beforehand
        self._avoided: frozenset[bytes] = frozenset()
        self._where: list[tuple[int, int]] = []
        self._kept: list[Sample | None] = []
        self.keys: list[FrameKey] = []
        self.has_labels: list[bool] = []
        self.drives: list[Drive] = []
        self.digests: list[bytes | None] | None = [] if digests else None
        self.pixels: np.ndarray | None = None  # int64 [256], once they are counted
        self._memory = memory_gb * 1e9 / sharers
        plan = partial(_plan, self._sources, size, memory_gb * 1e9, labels_only=labels_only,
                       whole=whole, decodable=decodable)
        self._read_all(plan, self._memory, labels_only, progress)
        if not self._where:
            names = ', '.join(s.source.name for s in self._sources) or 'no recordings'
            kind = 'labelled frame' if labels_only else 'frame'
            raise TrainingError(f'no {kind} in {names}')

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, position: int) -> Sample:
        """
        Return a frame, or the one that stands in for it.

        :raises TrainingError: when not one can be decoded.
        """
        for at in chain(range(position, len(self)), range(position)):
            if self.has_labels[at] == self.has_labels[position]:
                sample = self.own(at)
                if sample is not None:
                    return sample
        raise TrainingError(f'none of {len(self)} frames can be decoded')

    def own(self, position: int) -> Sample | None:
        """Return a frame itself; None where it cannot be decoded, or is not to be shown."""
        kept = self._kept[position]
        if kept is not None or self._where[position] in self._bad:
            return kept
        which, index = self._where[position]
        sample = self._decodable(which, index)
        if sample is not None and self._avoided and _digest(sample) in self._avoided:
            log.warning('%s: frame %d is the same picture as a validation frame, and is not '
                        'learned from', self._sources[which].source.name, index)
            sample = None
        if sample is None:
            self._bad.add((which, index))
        return sample

    def avoid(self, pictures: Iterable[bytes]) -> None:
        """
        Let other frames stand in for pictures that are not to be shown.

        :param pictures: digests; of frames that were read beforehand nobody asks any more.
        """
        self._avoided = frozenset(pictures)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Fingerprints of the recordings, in order."""
        return tuple(s.source.fingerprint for s in self._sources)

    @property
    def recordings(self) -> tuple[str, ...]:
        """Return, for each frame, the name of its recording (two may have the same)."""
        return tuple(self._sources[which].source.name for which, _ in self._where)

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Return, for each frame, which recording it is of and its position there."""
        return tuple(self._where)

    @property
    def spare(self) -> float:
        """Return how many bytes of the memory that it may take its frames do not need."""
        return self._memory - sum(_bytes(self._size, has) for sample, has in zip(
            self._kept, self.has_labels, strict=True) if sample is not None)

    def class_pixels(self, num_classes: int, processes: Processes | None = None) -> np.ndarray:
        """
        Return int64 ``[K]``: labelled pixels per class over all frames, which are counted once.

        :param processes: divide the frames; each of them must ask.
        """
        if self.pixels is None:
            self.pixels = self._counted(processes or Processes())
        return self.pixels[:num_classes].copy()

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
        other = copy.copy(self)
        other._where = [self._where[p] for p in positions]
        other._kept = [self._kept[p] for p in positions]
        other.keys = [self.keys[p] for p in positions]
        other.has_labels = [self.has_labels[p] for p in positions]
        other.drives = [self.drives[p] for p in positions]
        other.pixels = None
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

    def _read_all(self, plan: Callable[[], Iterator[_Row]], memory: float, labels_only: bool,
                  progress: Progress | None) -> None:
        total, done, used = sum(row.now for row in plan()), 0, 0
        of: Sequence[Drive] = ()
        at = -1
        for row in plan():
            if row.which != at:
                at, entry = row.which, self._sources[row.which]
                of = drives_of(entry.source, entry.drive)
            sample, key, has_labels = None, row.key, row.labelled
            if row.now:
                done += 1
                sample = self._decodable(row.which, row.place)
                if progress is not None:
                    progress(done, total, 'reading frames')
                if sample is None:
                    continue
                key, has_labels = sample.key, sample.labels is not None
                if labels_only and not has_labels:
                    continue
            if self.digests is not None:
                self.digests.append(None if sample is None else _digest(sample))
            if sample is not None:
                size = _bytes(self._size, has_labels)
                sample, used = (sample, used + size) if used + size <= memory else (None, used)
            self._where.append((row.which, row.place))
            self._kept.append(sample)
            self.keys.append(key)
            self.has_labels.append(has_labels)
            self.drives.append(of[row.place])
        for failed in self._failed:
            failed.sum_up()
        log.info('%d frames (%d of %d that were read are bad), %.2f GB in memory',
                 len(self._where), sum(f.count for f in self._failed), total, used / 1e9)

    def _counted(self, processes: Processes) -> np.ndarray:
        """Return int64 ``[256]``: labelled pixels by id."""
        pixels = np.zeros(256, np.int64)
        labelled = np.flatnonzero(self.has_labels)  # the others are not read for it
        for place in processes.own(len(labelled)):
            sample = self.own(int(labelled[place]))
            if sample is not None and sample.labels is not None:
                pixels += np.bincount(sample.labels.ravel(), minlength=256)
        return processes.added_up(pixels)

    def _decodable(self, which: int, index: int) -> Sample | None:
        """Return a frame, or None where the picture is damaged, which is told."""
        try:
            return self._read(which, index)
        except LabelError:
            raise  # wrong labels spoil a training silently, a bad picture does not
        except ImageError as error:
            self._failed[which].add(index, error)
            return None

    def _read(self, which: int, index: int) -> Sample:
        entry = self._sources[which]
        with self._locks[which]:
            frame = entry.source[index]
        image = resize_image(frame.image, *self._size)
        if image is frame.image or not image.flags.c_contiguous:
            image = np.array(image)  # a view would keep the whole message alive
        labels = None
        if frame.labels is not None and entry.class_map is not None:
            require_known(entry, frame.labels, index)
            labels = entry.class_map(resize_labels(frame.labels, *self._size))
        return Sample(frame.key, image, labels, frame_name(entry.source, frame))


class _Row(NamedTuple):
    """A frame that is taken: of which recording, where, and whether it is read beforehand."""

    which: int
    place: int
    key: FrameKey
    labelled: bool
    now: bool


def _plan(sources: Sequence[LabelledSource], size: tuple[int, int], room: float, *,
          labels_only: bool, whole: bool,
          decodable: Callable[[FrameKey], bool] | None) -> Iterator[_Row]:
    """
    Yield the frames that are taken, as far as that is known without reading.

    :param room: bytes of frames that are read beforehand; the other parameters are the store's.
    """
    taken = 0
    for which, entry in enumerate(sources):
        if labels_only and entry.class_map is None:
            continue
        known = entry.labelled
        for index, key in enumerate(entry.keys):
            labelled = known is None or bool(known[index])
            if labels_only and not labelled:
                continue
            fits = taken + _bytes(size, labelled) <= room
            taken += _bytes(size, labelled) if fits else 0
            yield _Row(which, index, key, labelled, fits or whole or known is None or (
                decodable is not None and not decodable(key)))


def _bytes(size: tuple[int, int], labelled: bool) -> int:
    return size[0] * size[1] * (4 if labelled else 3)


def _digest(sample: Sample) -> bytes:
    return hashlib.blake2b(sample.image.data, digest_size=16).digest()
