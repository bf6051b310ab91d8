"""
One slot per camera that holds the freshest message, and counters that add up at every instant.

The ROS thread offers messages, the inference thread takes them. Everything happens under one
lock, so that ``received = published + overwritten + stale + failed + inactive + in_flight`` holds
whenever a snapshot is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import threading
from typing import Any, Literal

Outcome = Literal['published', 'stale', 'failed', 'inactive']
COUNTERS = ('received', 'published', 'overwritten', 'stale', 'failed', 'inactive', 'in_flight')


@dataclass(frozen=True)
class Arrival:
    """
    A message as it came in, not decoded.

    :param camera: name of the camera; empty for the only one.
    :param message: ``sensor_msgs/Image`` or ``CompressedImage``.
    :param received_ns: steady clock in the subscription callback.
    :param transport_ns: received minus source timestamp of the middleware; None when unknown.
    :param stamp_age_ns: node clock minus header stamp, in the callback.
    """

    camera: str
    message: Any
    received_ns: int
    transport_ns: int | None = None
    stamp_age_ns: int = 0


class FrameSlots:
    """
    The meeting place of the ROS thread and the inference thread.

    Closed at first: offers count as inactive. ``take`` serves the cameras in turn.
    """

    def __init__(self, cameras: Iterable[str] = ('',)) -> None:
        self._lock = threading.Condition()
        self._slots: dict[str, Arrival | None] = dict.fromkeys(cameras)
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._open = False

    def open(self) -> None:
        """Accept frames from now on."""
        with self._lock:
            self._open = True

    def close(self) -> None:
        """Turn frames away from now on, and those that wait; wakes ``take``."""
        with self._lock:
            self._open = False
            for camera, waiting in self._slots.items():
                if waiting is not None:
                    self._slots[camera] = None
                    self._settle('inactive')
            self._lock.notify_all()

    def offer(self, arrival: Arrival) -> None:
        """Put a message into its camera's slot, in place of an older one."""
        with self._lock:
            self._counts['received'] += 1
            if not self._open:
                self._counts['inactive'] += 1
                return
            if self._slots[arrival.camera] is not None:
                self._counts['overwritten'] += 1
            else:
                self._counts['in_flight'] += 1
            self._slots[arrival.camera] = arrival
            self._lock.notify()

    def take(self, timeout_s: float) -> Arrival | None:
        """
        Wait for a message and take it; the caller must ``finish`` it.

        :returns: None after the timeout, when closed, or when ``wake`` was called.
        """
        with self._lock:
            if self._open and not any(self._slots.values()):
                self._lock.wait(timeout_s)
            for camera, waiting in self._slots.items():
                if waiting is not None:
                    # To the end of the line: a fast camera must not starve the others.
                    del self._slots[camera]
                    self._slots[camera] = None
                    return waiting
        return None

    def wake(self) -> None:
        """Let ``take`` return at once."""
        with self._lock:
            self._lock.notify_all()

    def finish(self, outcome: Outcome) -> None:
        """Count what became of a taken message."""
        with self._lock:
            self._settle(outcome)

    def snapshot(self) -> dict[str, int]:
        """Return all counters, consistent with each other."""
        with self._lock:
            return dict(self._counts)

    def _settle(self, outcome: Outcome) -> None:
        self._counts['in_flight'] -= 1
        self._counts[outcome] += 1
