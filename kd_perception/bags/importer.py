"""Import of videos and image folders into rosbag2 recordings."""

from __future__ import annotations

from dataclasses import replace
import math
from pathlib import Path
from typing import Literal

from kd_perception.bags.files import FOLDER_RATE_HZ, FolderSource, VideoSource
from kd_perception.bags.layout import BAG_SUFFIXES, is_bag_folder
from kd_perception.bags.sampling import Sampling
from kd_perception.bags.source import open_source
from kd_perception.bags.writer import BagWriter
from kd_perception.errors import BagError, ConfigError
from kd_perception.frames import Frame, Progress

DEFAULT_TOPIC = 'camera/image'


def import_recording(source_path: Path | str, out_path: Path | str, *,
                     topic: str = DEFAULT_TOPIC, rate_hz: float = 0.0, labels: str = '',
                     classes: str = '', encoding: Literal['jpeg', 'png', 'rgb8'] = 'jpeg',
                     fov_deg: float = 80.0, motion: float = 0.0, count: int = 0, limit: int = 0,
                     overwrite: bool = False,
                     progress: Progress | None = None) -> Path:
    """
    Write a video or an image folder as a rosbag2 recording (MCAP).

    It gets ``<topic>`` (``<topic>/compressed`` for jpeg and png, as image_transport names it),
    and beside it ``camera_info`` and, with labels, ``labels`` and ``label_info``. Void ids become
    255. JPEG files are taken over byte by byte.

    :param topic: image topic.
    :param rate_hz: of a folder, how many images per second were taken (default 15); of a video,
        how many frames per second to keep (default all).
    :param labels: folder of label PNGs; ``<folder>_labels`` is found by itself.
    :param classes: class set of the labels.
    :param fov_deg: horizontal field of view, for the camera_info.
    :param motion: leave out frames that differ by less than so many percent from the last one
        taken over, see ``Sampling``; so for ``count`` and ``limit``.
    :param progress: called with (done, total, note).
    :returns: the recording's path.
    :raises BagError: when the source cannot be read or ``out_path`` exists.
    :raises ConfigError: when labels are there but nobody said what they mean, or a value makes
        no sense.
    """
    if not 1.0 <= fov_deg < 180.0:
        raise ConfigError(f'field of view {fov_deg} is not possible: 1 to 179 degrees')
    if rate_hz and not 1e-3 <= rate_hz <= 1e6:
        raise ConfigError(f'rate {rate_hz} Hz is not possible: 0.001 to 1000000')
    check_topic(topic)
    source = _open(Path(source_path).expanduser(), labels, classes, rate_hz,
                   Sampling(motion=motion, count=count, limit=limit), progress)
    writer = BagWriter(out_path, overwrite=overwrite)
    written = 0
    with writer:
        for frame in source:
            if not written and source.label_classes is not None:
                writer.write_label_info(beside(topic, 'label_info'), source.label_classes,
                                        frame.stamp_ns, frame.frame_id)
            _write(writer, source, frame, topic, encoding, fov_deg)
            written += 1
            if progress is not None:
                progress(written, len(source), '')
        if not written:
            raise BagError(f'{source_path}: none of its {len(source)} images can be decoded')
    return writer.path


def _open(path: Path, labels: str, classes: str, rate_hz: float,
          sampling: Sampling, progress: Progress | None) -> FolderSource | VideoSource:
    if path.suffix.lower() in BAG_SUFFIXES or (path.is_dir() and is_bag_folder(path)):
        raise BagError(f'{path}: is a rosbag already')
    source = open_source(path, label_dir=labels, classes=classes)
    if isinstance(source, VideoSource):
        if classes:
            raise ConfigError(f'{path}: is a video; {classes!r} has no meaning for it')
        return VideoSource(path, sampling=replace(sampling, rate_hz=rate_hz),
                           progress=progress)
    if not isinstance(source, FolderSource):
        raise BagError(f'{path}: is no single video or image folder')
    if source.has_labels and source.label_classes is None:
        raise ConfigError(f'{path}: has labels, but what do their ids mean? '
                          'Name their class set with --classes')
    return FolderSource(path, label_dir=labels, classes=classes, sampling=sampling,
                        recorded_hz=rate_hz or FOLDER_RATE_HZ, progress=progress)


def _write(writer: BagWriter, source: FolderSource | VideoSource, frame: Frame, topic: str,
           encoding: Literal['jpeg', 'png', 'rgb8'], fov_deg: float) -> None:
    stamp, frame_id = frame.stamp_ns, frame.frame_id
    name = topic if encoding == 'rgb8' else f'{topic.rstrip("/")}/compressed'
    file = source.file(frame.key.index) if isinstance(source, FolderSource) else None
    if encoding == 'jpeg' and file is not None and file.suffix.lower() in ('.jpg', '.jpeg'):
        writer.write_compressed(name, file.read_bytes(), 'jpeg', stamp, frame_id)
    else:
        writer.write_image(name, frame.image, stamp, frame_id, encoding)
    if frame.labels is not None and source.label_classes is not None:
        ids = source.label_classes.lookup()[frame.labels]
        writer.write_labels(beside(topic, 'labels'), ids, stamp, frame_id)
    height, width = frame.image.shape[:2]
    focal = width / (2.0 * math.tan(math.radians(fov_deg) / 2.0))
    writer.write_camera_info(beside(topic, 'camera_info'), width, height, focal, focal,
                             width / 2.0, height / 2.0, stamp, frame_id)


def check_topic(topic: str) -> None:
    """
    Refuse an image topic that is empty or named like what is recorded beside it.

    :raises ConfigError: in one line.
    """
    last = topic.strip('/').rpartition('/')[2]
    if last in ('', 'camera_info', 'labels', 'label_info'):
        raise ConfigError(f'image topic {topic!r}: camera_info, labels and label_info are '
                          'recorded beside the images; give them a name of their own, such as '
                          f'{DEFAULT_TOPIC}')


def beside(topic: str, name: str) -> str:
    """Return a topic in the namespace of the image topic, where ROS looks for it."""
    parent = topic.strip('/').rpartition('/')[0]
    return f'{parent}/{name}' if parent else name
