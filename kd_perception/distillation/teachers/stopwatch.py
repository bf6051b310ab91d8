"""What a teacher in the loop costs: the seconds that its device computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import time

import torch


class Stopwatch:
    """
    Adds up the seconds of what is done while it is running.

    A GPU computes later than it is told: there the time is taken in its own stream.

    :param device: which computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._waiting: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what is done within."""
        if self._device.type != 'cuda':
            begun = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - begun
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = torch.cuda.current_stream(self._device)
        first.record(stream)
        yield
        last.record(stream)
        self._waiting.append((first, last))

    def seconds(self) -> float:
        """Return the seconds so far; waits until the device is done."""
        for first, last in self._waiting:
            last.synchronize()
            self._seconds += first.elapsed_time(last) / 1000
        self._waiting.clear()
        return self._seconds
