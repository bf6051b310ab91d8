"""
One slot per camera that holds the freshest message, and counters that add up at every instant.

The ROS thread offers messages, the inference thread takes them. Everything happens under one
lock, so that ``received = published + overwritten + stale + failed + inactive + in_flight`` holds
whenever a snapshot is taken, of each camera and of all together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import threading
import time
from typing import Any, Literal

Outcome = Literal['published', 'stale', 'failed', 'inactive']
# A camera from which nothing came for so long is not waited for.
_ALIVE_NS = 1_000_000_000
COUNTERS = ('received', 'published', 'overwritten', 'stale', 'failed', 'inactive', 'in_flight')


@dataclass(frozen=True)
class Arrival:
    """
    A message as it came in, not decoded.

    :param camera: name of the camera; empty for the only one.
    :param message: ``sensor_msgs/Image`` or ``CompressedImage``.
    :param received_ns: steady clock in the subscription callback.
    :param transport_ns: received minus source timestamp of the middleware; None when unknown.
    :param stamp_age_ns: age by the header stamp, in the callback; 0 when that is another clock's.
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
        self._counts = {camera: dict.fromkeys(COUNTERS, 0) for camera in self._slots}
        self._last_ns: dict[str, int] = {}
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
                    self._settle(camera, 'inactive')
            self._lock.notify_all()

    def offer(self, arrival: Arrival) -> None:
        """Put a message into its camera's slot, in place of an older one."""
        with self._lock:
            counts = self._counts[arrival.camera]
            counts['received'] += 1
            if not self._open:
                counts['inactive'] += 1
                return
            counts['in_flight' if self._slots[arrival.camera] is None else 'overwritten'] += 1
            self._slots[arrival.camera] = arrival
            self._last_ns[arrival.camera] = arrival.received_ns
            self._lock.notify()

    def take(self, timeout_s: float, limit: int = 1, wait_s: float = 0.0) -> list[Arrival]:
        """
        Wait for messages and take them, of each camera one; the caller must ``finish`` each.

        :param limit: how many at most.
        :param wait_s: how long the first that came may wait for those of the other cameras. Only
            cameras from which something came within a second are waited for.
        :returns: nothing after the timeout, when closed, or when ``wake`` was called.
        """
        with self._lock:
            if self._open and not any(self._slots.values()):
                self._lock.wait(timeout_s)
            if limit > 1 and wait_s > 0:
                self._gather(limit, wait_s)
            ready = [(c, waiting) for c, waiting in self._slots.items() if waiting is not None]
            taken = ready[:limit]
            for camera, _ in taken:
                # To the end of the line: a fast camera must not starve the others.
                del self._slots[camera]
                self._slots[camera] = None
            return [waiting for _, waiting in taken]

    def _gather(self, limit: int, wait_s: float) -> None:
        """Wait until the cameras that are alive have a frame each, or the first one is due."""
        first = min((w.received_ns for w in self._slots.values() if w is not None), default=0)
        while self._open:
            waiting = sum(w is not None for w in self._slots.values())
            now = time.monotonic_ns()
            alive = sum(now - last < _ALIVE_NS for last in self._last_ns.values())
            left_s = wait_s - (now - first) / 1e9
            if not waiting or waiting >= min(limit, alive) or left_s <= 0:
                return
            self._lock.wait(left_s)

    def wake(self) -> None:
        """Let ``take`` return at once."""
        with self._lock:
            self._lock.notify_all()

    def finish(self, arrival: Arrival, outcome: Outcome) -> None:
        """Count what became of a taken message."""
        with self._lock:
            self._settle(arrival.camera, outcome)

    def snapshot(self, camera: str | None = None) -> dict[str, int]:
        """Return the counters of one camera, or of all together; consistent with each other."""
        with self._lock:
            if camera is not None:
                return dict(self._counts[camera])
            return {name: sum(c[name] for c in self._counts.values()) for name in COUNTERS}

    def _settle(self, camera: str, outcome: Outcome) -> None:
        self._counts[camera]['in_flight'] -= 1
        self._counts[camera][outcome] += 1
