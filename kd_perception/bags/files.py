"""Image folders and videos as frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
import hashlib
import logging
import os
from pathlib import Path
import threading
from typing import Any

import cv2
import numpy as np

from kd_perception.bags.drives import Drive, file_drive
from kd_perception.bags.labels import choose_classes, LabelCheck
from kd_perception.bags.motion import thumbnail, thumbnail_of_jpeg
from kd_perception.bags.sampling import Sampling
from kd_perception.bags.sequence import FrameSequence
from kd_perception.bags.storage import content_fingerprint
from kd_perception.classes import ClassSet
from kd_perception.errors import BagError, ImageError
from kd_perception.frames import Frame, FrameKey, Progress
from kd_perception.imaging import decode_compressed, decode_label_image
from kd_perception.imaging.video import coded_frames, video_codec

_log = logging.getLogger(__name__)

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png')
VIDEO_SUFFIXES = ('.mp4', '.avi', '.mkv', '.mov', '.webm', '.m4v', '.mpg', '.mpeg')
FOLDER_RATE_HZ = 15.0
# Stamps of files without time begin here: zero would mean "unset" to ROS.
FIRST_STAMP_NS = 1_000_000_000

_HASHED_FILES = 256
_LOOKED_AT_PACKETS = 64  # some encoders choose fields picture by picture


def has_images(path: Path) -> bool:
    """Return whether a folder holds image files."""
    return any(f.suffix.lower() in IMAGE_SUFFIXES for f in path.iterdir())


class FolderSource(FrameSequence):
    """
    The images of a folder in the order of their names; a ``FrameSource``.

    :param path: folder of JPEG or PNG images.
    :param label_dir: folder of label PNGs named like the images; by default ``<path>_labels``
        where it exists.
    :param classes: name of the labels' class set.
    :param sampling: which frames are taken, by ``recorded_hz``; all by default.
    :param labels: false leaves labels unused.
    :param recorded_hz: rate by which stamps are made, since files have none.
    :param progress: called with (done, total, note) while frames are looked at for motion.
    :raises BagError: when there are no images, or no label fits any of them.
    """

    def __init__(self, path: Path | str, *, label_dir: str | Path = '', classes: str = '',
                 sampling: Sampling | None = None, labels: bool = True,
                 recorded_hz: float = FOLDER_RATE_HZ,
                 progress: Progress | None = None) -> None:
        self.path = Path(path).expanduser()
        self.name = self.path.name
        self._arguments: dict[str, Any] = {
            'label_dir': label_dir, 'classes': classes, 'labels': labels,
            'recorded_hz': recorded_hz}
        try:
            self._files = _files(self.path, IMAGE_SUFFIXES)
        except OSError as error:
            raise BagError(f'{self.path}: cannot be read: {error.strerror}') from None
        if not self._files:
            raise BagError(f'{self.path}: holds no images ({", ".join(IMAGE_SUFFIXES)})')
        self.fingerprint = _folder_fingerprint(self._files)
        self._labels = self._find_labels(label_dir) if labels else {}
        self.has_labels = bool(self._labels)
        self.label_classes = choose_classes(None, classes) if self.has_labels else None
        self._check = LabelCheck(self.label_classes)
        self._choose(_made_up_stamps(len(self._files), recorded_hz), sampling, progress)

    def file(self, position: int) -> Path:
        """Return the image file of a frame, by the index in its key."""
        return self._files[position]

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reopened(partial(FolderSource, self.path, **self._arguments))

    @property
    def labelled(self) -> np.ndarray:
        """Return bool ``[n]``: which of the chosen images have a label file."""
        return np.array([self._files[p].stem in self._labels for p in self._positions], bool)

    def drives(self) -> Sequence[Drive]:
        """Return the drive of each chosen image, by the names of the files."""
        return [file_drive(self._files[p].stem, self.name, self.fingerprint)
                for p in self._positions]

    def close(self) -> None:
        """Do nothing; files are open only while they are read."""

    def _frame(self, position: int) -> Frame:
        file = self._files[position]
        image = _decoded(file)
        labels = None
        label_file = self._labels.get(file.stem)
        if label_file is not None:
            labels = _decoded_labels(label_file)
            self._check(labels, image, str(label_file))
        stamp = int(self._times_ns[position])
        return Frame(image=image, stamp_ns=stamp, log_ns=stamp, frame_id='camera', labels=labels,
                     key=FrameKey(self.fingerprint, '', position))

    def _thumbnails(self, positions: np.ndarray) -> Iterator[np.ndarray | None]:
        for position in positions:
            try:
                data = self._files[position].read_bytes()
                small = thumbnail_of_jpeg(data)
                yield thumbnail(decode_compressed(data)) if small is None else small
            except (ImageError, OSError):
                yield None

    def _find_labels(self, label_dir: str | Path) -> dict[str, Path]:
        folder = Path(label_dir).expanduser() if label_dir else \
            self.path.resolve().with_name(f'{self.path.resolve().name}_labels')
        if not folder.is_dir():
            if label_dir:
                raise BagError(f'{folder}: no such folder of labels')
            return {}
        found = {f.stem: f for f in _files(folder, ('.png',))}
        labels = {f.stem: found[f.stem] for f in self._files if f.stem in found}
        if not labels:
            raise BagError(f'{folder}: no label PNG has the name of an image in {self.path}')
        if len(labels) < len(self._files):
            _log.warning('%s: %d of %d images have no labels', folder,
                         len(self._files) - len(labels), len(self._files))
        return labels


class VideoSource(FrameSequence):
    """
    The frames of a video; a ``FrameSource``.

    :param path: a file that OpenCV can decode.
    :param sampling: which frames are taken; all by default.
    :param progress: as of ``FolderSource``.
    :raises BagError: when it cannot be decoded.
    """

    label_classes: ClassSet | None = None
    has_labels: bool = False

    def __init__(self, path: Path | str, *, sampling: Sampling | None = None,
                 progress: Progress | None = None) -> None:
        self.path = Path(path).expanduser()
        self.name = self.path.name
        self._local = threading.local()
        capture = self._open()
        self._refuse_fields()
        self.rate_hz = float(capture.get(cv2.CAP_PROP_FPS)) or 25.0
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        if count <= 0:
            raise BagError(f'{self.path}: holds no video frames')
        self.fingerprint = content_fingerprint([self.path])
        self._choose(_made_up_stamps(count, self.rate_hz), sampling, progress)

    def _frame(self, position: int) -> Frame:
        if getattr(self._local, 'process', 0) != os.getpid():
            self._local.process = os.getpid()
            self._local.capture, self._local.next = self._open(), 0
        capture = self._local.capture
        if position < self._local.next:
            capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            self._local.next = 0
        # Going forward by decoding is exact; seeking is not, with many encoders.
        while self._local.next < position and capture.grab():
            self._local.next += 1
        done, image = capture.read()
        if not done or self._local.next != position:
            del self._local.process
            raise ImageError(f'{self.path}: frame {position} cannot be decoded')
        self._local.next += 1
        return self._shown(position, image)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reopened(partial(VideoSource, self.path))

    @property
    def labelled(self) -> np.ndarray:
        """Return bool ``[n]``: none of them."""
        return np.zeros(len(self), bool)

    def __iter__(self) -> Iterator[Frame]:
        self.bad_frames = 0
        for done, (position, image) in enumerate(self._pictures(self._positions)):
            if image is None:
                # The container promised more frames than there are.
                self.bad_frames = len(self) - done
                _log.warning('%s: ends before frame %d, %d frames are missing', self.path,
                             position, self.bad_frames)
                return
            yield self._shown(position, image)

    def close(self) -> None:
        """Release the decoder."""
        self._local = threading.local()

    def _refuse_fields(self) -> None:
        """Look at the first packets of H.264 or H.265; OpenCV gives nothing for fields."""
        # Packets as they are; where OpenCV has no FFmpeg this does not open, and has no codec.
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
        fourcc = (int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF).to_bytes(4, 'little')
        codec = video_codec(fourcc.decode('latin-1'))
        if codec in ('h264', 'h265'):
            found = (capture.read() for _ in range(_LOOKED_AT_PACKETS))
            try:
                deque(coded_frames((p.tobytes() for done, p in found if done), codec), maxlen=0)
            except ImageError as error:
                raise BagError(f'{self.path}: {error}') from None
        capture.release()

    def _open(self) -> cv2.VideoCapture:
        # FFmpeg would print its own view of a damaged file; ours is one line.
        os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
        if not os.access(self.path, os.R_OK):
            raise BagError(f'{self.path}: cannot be read: permission denied')
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise BagError(f'{self.path}: is no video that OpenCV can decode')
        return capture

    def _pictures(self, positions: np.ndarray) -> Iterator[tuple[int, np.ndarray | None]]:
        """Yield (position, BGR picture) in order; None where the video has ended."""
        capture, at = self._open(), 0
        try:
            for position in positions:
                while at < position and capture.grab():
                    at += 1
                done, image = capture.read() if at == position else (False, None)
                at += 1
                yield int(position), image if done else None
        finally:
            capture.release()

    def _thumbnails(self, positions: np.ndarray) -> Iterator[np.ndarray | None]:
        for _, image in self._pictures(positions):
            yield None if image is None else thumbnail(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))

    def _shown(self, position: int, image_bgr: np.ndarray) -> Frame:
        stamp = int(self._times_ns[position])
        return Frame(image=cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB), stamp_ns=stamp,
                     log_ns=stamp, frame_id='camera',
                     key=FrameKey(self.fingerprint, '', position))


class _LabelFile:
    """A label PNG in the form that the codec takes for a compressed message."""

    format = 'png'

    def __init__(self, data: bytes) -> None:
        self.data = data


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """
    Return the files of a folder with one of the suffixes, by name.

    :raises BagError: when one is no regular file: a pipe would be waited for.
    """
    found = sorted(f for f in folder.iterdir() if f.suffix.lower() in suffixes)
    for file in found:
        if not file.is_file():
            raise BagError(f'{file}: is no regular file; move it out of the folder')
    return found


def _made_up_stamps(count: int, rate_hz: float) -> np.ndarray:
    """Return int64 ``[count]``: stamps of frames without time."""
    return FIRST_STAMP_NS + (np.arange(count) * 1e9 / rate_hz).round().astype(np.int64)


def _decoded(file: Path) -> np.ndarray:
    try:
        return decode_compressed(file.read_bytes())
    except (ImageError, OSError) as error:
        raise ImageError(f'{file}: {error}') from None


def _decoded_labels(file: Path) -> np.ndarray:
    try:
        return decode_label_image(_LabelFile(file.read_bytes()))
    except (ImageError, OSError) as error:
        raise ImageError(f'{file}: {error}') from None


def _folder_fingerprint(files: list[Path]) -> str:
    """Hash sizes of all files and the content of some: names do not count, order does."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.stat().st_size.to_bytes(8, 'little'))
    chosen = np.unique(np.linspace(0, len(files) - 1, min(len(files), _HASHED_FILES)).round())
    for position in chosen.astype(int):
        digest.update(hashlib.sha256(files[position].read_bytes()[:1 << 16]).digest())
    return digest.hexdigest()[:32]
