"""
Where the camera node takes its pictures from: the embedded street, a recording, or CARLA.

The first two give any picture by index, so that an order of serving may come back to a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from kd_perception.bags.source import open_source
from kd_perception.classes import ClassSet
from kd_perception.errors import ConfigError
from kd_perception.frames import KnowingSource, KnownTruth
from kd_perception.nodes.camera.times import playing_times, round_ns

_ENDLESS_S = 86_400.0


@dataclass(frozen=True)
class Picture:
    """
    One frame to publish.

    :param image: uint8 ``[H, W, 3]`` RGB.
    :param labels: uint8 ``[H, W]`` ids of the source's class set, or None.
    :param instances: uint16 ``[H, W]``, or None.
    :param known: makes what is known beside labels, which takes its time; or None.
    """

    image: np.ndarray
    stamp_ns: int
    frame_id: str
    labels: np.ndarray | None = None
    instances: np.ndarray | None = None
    known: Callable[[], KnownTruth | None] | None = None


@dataclass(frozen=True)
class Intrinsics:
    """A camera without distortion, in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float


class PictureSource(Protocol):
    """
    Pictures by index.

    :param frames: how many there are; 0 for as many as wanted.
    :param round_ns: how much later a frame is when the source is played once more.
    :param schedule_s: float ``[n + 1]``: when each frame is due in the recording's own time, and
        at last when the next round begins; empty where the source has no time of its own.
    :param notes: what a reader of a report must know of the source.
    :param identity: what tells it from others of its name: fields of ``ComparisonSpec``.
    """

    name: str
    frames: int
    round_ns: int
    schedule_s: np.ndarray
    classes: ClassSet | None
    intrinsics: Intrinsics | None
    notes: tuple[str, ...]
    identity: Mapping[str, str]

    def picture(self, index: int) -> Picture:
        """
        Return one picture.

        :raises ImageError: when it cannot be decoded.
        """
        ...

    def close(self) -> None:
        """Release what is open."""
        ...


class StreetPictures:
    """Pictures of the embedded street; must be used from one thread."""

    def __init__(self, scenario: str, *, seed: int, rate_hz: float, width: int, height: int,
                 frame_id: str) -> None:
        # moderngl is an extra of the package; a camera that plays bags does without.
        from kd_perception.simulation.scenario import scenario_sha256
        from kd_perception.simulation.source import SimulatorSource

        self._source = SimulatorSource(scenario, seed=seed, frames=int(_ENDLESS_S * rate_hz),
                                       rate_hz=rate_hz, width=width, height=height)
        self._frame_id = frame_id
        self.name = self._source.name
        self.identity: Mapping[str, str] = {'fingerprint': self._source.fingerprint,
                                            'scenario_sha256': scenario_sha256(scenario)}
        self.frames = self.round_ns = 0
        self.schedule_s = np.zeros(0)
        model = self._source.camera
        self.classes = self._source.label_classes
        self.intrinsics: Intrinsics | None = Intrinsics(model.fx, model.fy, model.cx, model.cy)
        self.notes: tuple[str, ...] = ()
        self.depth = False  # whether pictures shall have it

    def picture(self, index: int) -> Picture:
        """Return the street at ``index / rate_hz`` seconds."""
        shot = self._source.simulated(index, depth=self.depth)
        return Picture(shot.image, shot.stamp_ns, self._frame_id, shot.labels, shot.instances,
                       shot.known_truth)

    def close(self) -> None:
        """Free the renderer."""
        self._source.close()


class RecordedPictures:
    """
    Pictures of a bag, a video or an image folder, each with a stamp that no other has.

    Results find their frame by stamp, and recorded header stamps may be zero or repeated: then
    all frames bear the time at which they were recorded instead.
    """

    def __init__(self, path: str, *, frame_id: str, **options: Any) -> None:
        if not path:
            raise ConfigError('source bag needs the parameter "bag": a rosbag, video or image '
                              'folder')
        self._source = open_source(path, **options)
        times, stamps = _times(self._source)
        self._frame_id = frame_id
        self.name = self._source.name
        self.identity: Mapping[str, str] = {'fingerprint': self._source.fingerprint,
                                            'image_topic': self._source.topic}
        self.frames = len(self._source)
        self.classes = self._source.label_classes if self._source.has_labels else None
        known = self._known(0)
        self.intrinsics = None if known is None or known.lens is None else Intrinsics(*known.lens)
        self._by_log = _zero_or_repeated(self._source)
        self.round_ns = round_ns(times if self._by_log else stamps)
        self.schedule_s = playing_times(times)
        self.notes: tuple[str, ...] = ()
        if self._by_log:
            self.notes = ('Header stamps of the recording are zero or repeat: its frames were '
                          'published under the time at which they were recorded.',)
        self._owners: dict[int, int] = {}

    def picture(self, index: int) -> Picture:
        """Return frame ``index`` of the recording."""
        frame = self._source[index]
        stamp = frame.log_ns if self._by_log else frame.stamp_ns
        # Recording times can repeat too, and so can those of several recordings.
        while self._owners.setdefault(stamp, index) != index:
            stamp += 1
        return Picture(frame.image, stamp, frame.frame_id or self._frame_id, frame.labels,
                       known=partial(self._known, index))

    def _known(self, index: int) -> KnownTruth | None:
        source = self._source
        return source.known_truth(index) if isinstance(source, KnowingSource) and len(source) \
            else None

    def close(self) -> None:
        """Close the files."""
        self._source.close()


def _times(source: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return int64 ``[n]`` twice: when frames were recorded, and their header stamps."""
    return source.times_ns, source.stamps_ns


def _zero_or_repeated(source: Any) -> bool:
    """Return whether header stamps are; a frame that cannot be read is met again, and skipped."""
    stamps = source.stamps_ns
    stamps = stamps[stamps >= 0]
    return bool((stamps == 0).any()) or len(np.unique(stamps)) < len(stamps)


def open_pictures(values: Mapping[str, Any]) -> PictureSource:
    """
    Open the source that the camera's parameters name.

    :raises KdPerceptionError: when it cannot be opened.
    """
    if values['source'] == 'sim':
        return StreetPictures(values['scenario'], seed=values['seed'], rate_hz=values['rate_hz'],
                              width=values['width'], height=values['height'],
                              frame_id=values['frame_id'])
    if values['source'] == 'carla':
        from kd_perception.nodes.camera.carla_pictures import open_carla

        return open_carla(values)
    return RecordedPictures(values['bag'], frame_id=values['frame_id'],
                            image_topic=values['image_topic'],
                            label_topic=values['label_topic'], label_dir=values['label_dir'],
                            classes=values['classes'])
