"""
The form in which camera frames move through the project.

A ``Frame`` comes from a bag, a folder, a video or the simulator and goes to a teacher, a trainer
or an evaluation. Its key names it for ever: caches and reports refer to frames by key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from kd_perception.classes import ClassSet

# How long work tells where it is: done, total (0: not known), a note. It may raise to stop it.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, order=True)
class FrameKey:
    """
    The name of one frame: which recording, which topic, which message.

    Stamps are no part of it, because header stamps may be zero or repeated.

    :param fingerprint: hex digest of the recording's content.
    :param topic: image topic; empty for an image folder.
    :param index: position of the message on its topic, from 0.
    """

    fingerprint: str
    topic: str
    index: int

    def __str__(self) -> str:
        return f'{self.fingerprint}:{self.topic}:{self.index}'


@dataclass(frozen=True)
class Frame:
    """
    One camera image with what is known of it.

    :param image: uint8 ``[H, W, 3]``, RGB.
    :param stamp_ns: header stamp in nanoseconds (may be zero or repeated).
    :param log_ns: time at which the recorder received it, in nanoseconds.
    :param key: name of the frame.
    :param frame_id: coordinate frame of the camera.
    :param labels: uint8 ``[H, W]`` ids in the source's ``label_classes``, or None.
    """

    image: np.ndarray
    stamp_ns: int
    log_ns: int
    key: FrameKey
    frame_id: str = ''
    labels: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class InstanceTable:
    """
    The N instances that a picture shows, as ground truth.

    :param ids: uint16 ``[N]``, as in the instance image.
    :param classes: uint8 ``[N]``, ids of the source's class set.
    :param visible: float ``[N]``, pixels that are seen over those that would be if nothing stood
        before the thing.
    :param positions: float ``[N, 3]`` metres right, down and ahead of the camera.
    :param boxes: ``[N, 4]`` left, top, right, bottom of the seen pixels, the last two exclusive.
    :param roles: what is special about each; empty for nothing.
    """

    ids: np.ndarray
    classes: np.ndarray
    visible: np.ndarray
    positions: np.ndarray
    boxes: np.ndarray
    roles: tuple[str, ...]

    @property
    def distance_m(self) -> np.ndarray:
        """Return ``[N]`` metres from the camera to the middle of the thing."""
        return np.linalg.norm(self.positions, axis=1)

    @property
    def names(self) -> list[str]:
        """Return each id with its role, as ``17`` or ``17 step_out``."""
        return [f'{i} {r}'.rstrip() for i, r in zip(self.ids, self.roles)]


@dataclass(frozen=True, eq=False)
class CameraPlace:
    """
    Where a camera is.

    :param rotation: float64 ``[3, 3]``, from the world to the optical frame (REP 103: right, down,
        ahead).
    :param eye: float64 ``[3]``, position in the world in metres.
    """

    rotation: np.ndarray
    eye: np.ndarray


@dataclass(frozen=True, eq=False)
class KnownTruth:
    """
    Ground truth of a picture beside its labels; None for what is not known.

    :param instances: uint16 ``[H, W]``, 0 for none; ``table``: what they are.
    :param depth: float32 ``[H, W]`` metres along the optical axis, not finite for the sky.
    :param lens: fx, fy, cx, cy in pixels.
    """

    instances: np.ndarray | None = None
    table: InstanceTable | None = None
    depth: np.ndarray | None = None
    place: CameraPlace | None = None
    lens: tuple[float, float, float, float] | None = None


@runtime_checkable
class KnowingSource(Protocol):
    """A source that knows more of its pictures than labels."""

    def known_truth(self, index: int) -> KnownTruth | None:
        """Return what is known of frame ``index``; None for nothing."""
        ...


@runtime_checkable
class FrameSource(Protocol):
    """
    A recording that can be read in time order and at random.

    A frame that cannot be decoded raises ``ImageError`` from ``__getitem__``; iteration skips it
    and counts it in ``bad_frames``. ``chosen`` is a digest of which frames were taken where their
    number and ends do not tell, ``topic`` that of the pictures; both are empty otherwise.
    """

    name: str
    fingerprint: str
    topic: str
    chosen: str
    label_classes: ClassSet | None
    has_labels: bool
    bad_frames: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Frame: ...

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None:
        """Release files; the source is of no use afterwards."""
        ...


def evenly(total: int, count: int) -> list[int]:
    """Return ``count`` places below ``total``, the first and the last among them; all if fewer."""
    return [round(p) for p in np.linspace(0, total - 1, min(count, total))]
