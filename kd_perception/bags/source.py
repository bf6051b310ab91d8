"""Recordings as frames: one door for rosbags, image folders and videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
import logging
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.bags import messages as msgs
from kd_perception.bags.collection import find_recordings, JoinedSource
from kd_perception.bags.drives import bag_drives, Drive
from kd_perception.bags.files import (
    FolderSource,
    has_images,
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    VideoSource,
)
from kd_perception.bags.known import RecordedTruth
from kd_perception.bags.labels import (
    choose_classes,
    has_carla_labels,
    LabelCheck,
    pair_labels,
    recorded_classes,
)
from kd_perception.bags.layout import BAG_SUFFIXES, is_bag_folder, METADATA
from kd_perception.bags.motion import thumbnail, thumbnail_of_jpeg
from kd_perception.bags.pictures import TopicPictures
from kd_perception.bags.reader import BagReader
from kd_perception.bags.sampling import Sampling
from kd_perception.bags.selection import load_selection
from kd_perception.bags.sequence import FrameSequence
from kd_perception.bags.topics import header_times, TopicInfo
from kd_perception.bags.unfinished import how_to_recover, is_unfinished
from kd_perception.errors import BagError, ConfigError, ImageError
from kd_perception.frames import Frame, FrameKey, FrameSource, KnownTruth, Progress
from kd_perception.imaging import decode_label_image

_log = logging.getLogger(__name__)


def open_source(path: Path | str | Sequence[Path | str], *,
                image_topic: str | Sequence[str] = '', label_topic: str = '',
                label_dir: str | Path = '', classes: str = '', rate_hz: float = 0.0,
                motion: float = 0.0, count: int = 0, limit: int = 0,
                order: str = 'log', selection: str | Path = '', labels: bool = True,
                progress: Progress | None = None) -> FrameSource:
    """
    Open recordings of any kind as one source.

    :param path: a rosbag (folder or file), a folder of JPEG or PNG images, a video; a folder or
        a pattern (``drives/*.mcap``) of several; or a sequence of those.
    :param image_topic: of a bag, may be left out where it has one camera; several, or ``*`` for
        all cameras, are merged by time.
    :param label_topic: of a bag; may be left out where it has one label topic or none.
    :param label_dir: of an image folder: label PNGs of the same names; ``<folder>_labels`` is
        found by itself.
    :param classes: class set of the labels; may be left out where a bag names its classes.
    :param rate_hz: keep about so many frames per second; this and the next five act on each
        topic of each recording, see ``Sampling``.
    :param selection: file of a selection.
    :param labels: false reads recordings without the labels that they have.
    :param progress: called with (done, total, note) while frames are looked at for motion.
    :raises BagError: when one cannot be read, or the camera cannot be chosen.
    :raises ConfigError: when the recordings' labels mean different things.
    """
    sampling = Sampling(rate_hz, motion, count, limit, order,
                        load_selection(selection) if selection else None)
    recordings = find_recordings(path, image_topic)
    opened: list[FrameSource] = []
    try:
        for one in recordings:
            opened.append(open_one(one.path, image_topic=one.topic, label_topic=label_topic,
                                   label_dir=label_dir, classes=classes, sampling=sampling,
                                   labels=labels, progress=progress))
        return opened[0] if len(opened) == 1 else JoinedSource(opened, recordings)
    except BaseException:
        for source in opened:
            source.close()
        raise


def open_one(path: Path, *, image_topic: str = '', label_topic: str = '',
             label_dir: str | Path = '', classes: str = '',
             sampling: Sampling | None = None, labels: bool = True,
             progress: Progress | None = None) -> FrameSource:
    """Open one recording; the arguments are those of ``open_source``."""
    if not path.exists():
        raise BagError(f'{path}: no such file or folder')
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        _refuse(path, 'a video', image_topic, label_topic, str(label_dir))
        return VideoSource(path, sampling=sampling, progress=progress)
    if path.is_dir() and not is_bag_folder(path):
        if not has_images(path):
            raise BagError(f'{path}: holds neither a rosbag nor images '
                           f'({", ".join(IMAGE_SUFFIXES)})')
        _refuse(path, 'an image folder', image_topic, label_topic)
        return FolderSource(path, label_dir=label_dir, classes=classes, sampling=sampling,
                            labels=labels, progress=progress)
    if path.is_file() and path.suffix.lower() not in BAG_SUFFIXES:
        raise BagError(f'{path}: is neither a rosbag ({", ".join(BAG_SUFFIXES)}, or a folder '
                       f'with {METADATA}), an image folder nor a video '
                       f'({", ".join(VIDEO_SUFFIXES)})')
    if is_unfinished(path):
        raise BagError(f'{path}: is an unfinished recording; {how_to_recover(path)}')
    _refuse(path, 'a rosbag', str(label_dir))
    return BagSource(path, image_topic=image_topic, label_topic=label_topic, classes=classes,
                     sampling=sampling, labels=labels, progress=progress)


class BagSource(FrameSequence):
    """
    The pictures of one topic of a rosbag, with labels where it has some; a ``FrameSource``.

    Parameters as in ``open_source``.
    """

    def __init__(self, path: Path | str, *, image_topic: str = '', label_topic: str = '',
                 classes: str = '', sampling: Sampling | None = None, labels: bool = True,
                 progress: Progress | None = None) -> None:
        self.name = Path(path).name
        self._arguments: dict[str, Any] = {'image_topic': image_topic, 'label_topic': label_topic,
                                           'classes': classes, 'labels': labels}
        self._reader = BagReader(path)
        try:
            self.topic = choose_camera(self._reader, image_topic)
            self._images = self._reader.index(self.topic)
            self._pictures = TopicPictures(self._images)
            self._known: RecordedTruth | None = None  # stamps are read when first asked for
            self.fingerprint = self._reader.fingerprint
            times = self._images.log_ns
            if sampling is not None and sampling.order == 'header':
                times = header_times(self._images, f'{self._reader.path}: {self.topic}')
            self._choose(times, sampling, progress)
            self.label_topic = _choose_labels(self._reader, label_topic, self.topic) \
                if labels else ''
            self._load_labels(classes, asked=bool(label_topic or classes))
        except BaseException:
            self._reader.close()
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process opens the bag itself.
        return self._reopened(partial(BagSource, self._reader.path, **self._arguments))

    @property
    def labelled(self) -> np.ndarray:
        """Return bool ``[n]``: which of the chosen frames have a label image."""
        if not self.has_labels:
            return np.zeros(len(self), bool)
        return self._partner[self._positions] >= 0

    @property
    def stamps_ns(self) -> np.ndarray:
        """Return int64 ``[n]``: the header stamps of the chosen frames."""
        return self._images.header_stamps(self._positions)

    def drives(self) -> Sequence[Drive]:
        """Return the drive of each chosen frame: a stretch without a long pause."""
        return bag_drives(self.name, self.fingerprint, self._reader.timeline().log_ns,
                          self._images.log_ns[self._positions])

    def close(self) -> None:
        """Release the bag."""
        self._pictures.close()
        self._reader.close()

    def _load_labels(self, classes: str, *, asked: bool) -> None:
        self.has_labels = bool(self.label_topic)
        self.label_classes = None
        if not self.has_labels:
            return
        self._labels = self._reader.index(self.label_topic)
        # In CARLA each sensor has a frame id of its own.
        self._partner, ambiguous = pair_labels(
            self._images, self._labels,
            any_frame_id=has_carla_labels(self._reader, self.label_topic))
        if not (self._partner >= 0).any():
            problem = (f'{self._reader.path}: no image of {self.topic} has the stamp of a label '
                       f'image of {self.label_topic}')
            if asked:
                raise BagError(problem)
            _log.warning('%s; read without labels', problem)
            self.has_labels = False
            return
        if ambiguous:
            _log.warning('%s: %d images share their stamp with others and get no labels',
                         self._reader.path, ambiguous)
        self.label_classes = choose_classes(
            recorded_classes(self._reader, self.label_topic), classes)
        self._check = LabelCheck(self.label_classes)

    def _frame(self, position: int) -> Frame:
        try:
            message = self._images.message(position)
            image = self._pictures.decode(position, message)
            labels = self._labels_of(position)
        except (BagError, ImageError) as error:
            problem = _without(str(error), self._reader.path)
            raise ImageError(f'{self._where(position)}: {problem}') from None
        stamp_ns = msgs.stamp_of(message)
        if labels is not None:
            self._check(labels, image, f'{self._where(position)} (stamp {stamp_ns} ns)')
        return Frame(image=image, stamp_ns=stamp_ns,
                     log_ns=int(self._images.log_ns[position]),
                     key=FrameKey(self.fingerprint, self.topic, position),
                     frame_id=msgs.frame_id_of(message), labels=labels)

    def known_truth(self, index: int) -> KnownTruth | None:
        """Return what is known of a chosen frame beside its labels; None for nothing."""
        if self._known is None:
            self._known = RecordedTruth(self._reader, self.topic)
        return self._known.of(self.position(index))

    def _where(self, position: int) -> str:
        return f'{self._reader.path}: {self.topic}[{position}]'

    def _thumbnails(self, positions: np.ndarray) -> Iterator[np.ndarray | None]:
        for position in positions:
            yield self._thumbnail(int(position))

    def _thumbnail(self, position: int) -> np.ndarray | None:
        try:
            message = self._images.message(position)
            compressed = self._images.channel(position).type == msgs.COMPRESSED_IMAGE
            small = thumbnail_of_jpeg(message.data) if compressed else None
            if small is None:
                return thumbnail(self._pictures.decode(position, message))
            return small
        except (BagError, ImageError):
            return None

    def _labels_of(self, position: int) -> np.ndarray | None:
        if not self.has_labels or self._partner[position] < 0:
            return None
        return decode_label_image(self._labels.message(int(self._partner[position])))


def choose_camera(reader: BagReader, image_topic: str = '') -> str:
    """
    Return the name of the topic to take pictures from.

    :param image_topic: the wanted one; empty for the only one there is.
    :raises BagError: when there is none, when several could be meant, or the wanted one is no
        image topic.
    """
    if image_topic:
        name = reader.resolve(image_topic)
        info = next(t for t in reader.topics if t.name == name)
        if info.type not in msgs.CAMERA_TYPES:
            raise BagError(f'{reader.path}: topic {name} holds {info.type}, no images')
        if not info.count:
            raise BagError(f'{reader.path}: topic {name} holds no message')
        return name
    cameras = reader.camera_topics
    if not cameras:
        raise BagError(f'{reader.path}: has no camera topic '
                       f'({", ".join(msgs.CAMERA_TYPES)} with messages)')
    if len(cameras) > 1:
        raise BagError(f'{reader.path}: has several camera topics, choose one: '
                       f'{", ".join(t.name for t in cameras)}')
    return cameras[0].name


def _choose_labels(reader: BagReader, label_topic: str, camera: str) -> str:
    """Return the label topic, or an empty string where there is none."""
    if label_topic:
        name = reader.resolve(label_topic)
        info = next(t for t in reader.topics if t.name == name)
        if info.type not in msgs.IMAGE_TYPES or not info.count:
            raise BagError(f'{reader.path}: topic {name} holds no label images')
        return name
    found = [t for t in reader.label_topics if t.name != camera]
    if len(found) > 1 or len(reader.camera_topics) > 1:
        # Another camera's labels would fit by stamp.
        found = [t for t in found if _near(t, camera)]
    if len(found) > 1:
        raise BagError(f'{reader.path}: has several label topics, choose one: '
                       f'{", ".join(t.name for t in found)}')
    return found[0].name if found else ''


def _near(topic: TopicInfo, camera: str) -> bool:
    """Return whether a topic lies in the camera's namespace."""
    parent = camera.removesuffix('/compressed').rpartition('/')[0]
    return topic.name.removesuffix('/compressed').rpartition('/')[0] == parent


def _refuse(path: Path, kind: str, *options: str) -> None:
    if any(options):
        raise ConfigError(f'{path}: is {kind}; {", ".join(o for o in options if o)!r} has no '
                          'meaning for it')


def _without(text: str, path: Path) -> str:
    """Return a message without the path that the one around it names already."""
    return text.removeprefix(f'{path}: ')
