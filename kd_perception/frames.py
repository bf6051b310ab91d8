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
