"""
What the perception node says of itself once a second: rate, latency, counters, and why not.

Fed by the inference thread, read by the diagnostics timer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
import threading
import time

import numpy as np

_WINDOW_NS = 10_000_000_000


@dataclass(frozen=True)
class Summary:
    """
    Recent performance.

    :param rate_hz: results per second over the last ten seconds.
    :param p50_ms: median of total_ms; NaN without results.
    :param p95_ms: 95th percentile.
    :param silence_s: time since the last image came; infinite when none ever did.
    :param missing_share: share of frames that the stamps say were sent but never came.
    """

    rate_hz: float
    p50_ms: float
    p95_ms: float
    silence_s: float
    missing_share: float


class Health:
    """Sliding windows over results and arrivals; safe to use from two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._results: deque[tuple[int, float]] = deque(maxlen=10_000)
        self._stamps: dict[str, deque[int]] = {}
        self._last_arrival: int | None = None
        self._error = ''
        self._error_ns = 0

    def arrived(self, camera: str, stamp_ns: int) -> None:
        """Note that an image with that header stamp came in."""
        with self._lock:
            self._last_arrival = time.monotonic_ns()
            self._stamps.setdefault(camera, deque(maxlen=100)).append(stamp_ns)

    def answered(self, total_ms: float) -> None:
        """Note that a result went out, ``total_ms`` after its image came in."""
        with self._lock:
            self._results.append((time.monotonic_ns(), total_ms))

    def failed(self, reason: str) -> None:
        """Note why a frame failed."""
        with self._lock:
            self._error, self._error_ns = reason, time.monotonic_ns()

    def recent_error(self, seconds: float = 5.0) -> str:
        """Return the last failure of the given time, or an empty string."""
        with self._lock:
            fresh = self._error and time.monotonic_ns() - self._error_ns < seconds * 1e9
            return self._error if fresh else ''

    def summary(self) -> Summary:
        """Return the state of the windows now."""
        now = time.monotonic_ns()
        with self._lock:
            while self._results and now - self._results[0][0] > _WINDOW_NS:
                self._results.popleft()
            times = [t for t, _ in self._results]
            totals = [ms for _, ms in self._results]
            last = self._last_arrival
            shares = [missing_share(list(s)) for s in self._stamps.values()]
        span = (now - times[0]) / 1e9 if times else 0.0
        rate = (len(times) - 1) / ((times[-1] - times[0]) / 1e9) if (
            len(times) > 1 and times[-1] > times[0] and span > 0) else 0.0
        p50, p95 = np.percentile(totals, [50, 95]) if totals else (np.nan, np.nan)
        silence = (now - last) / 1e9 if last is not None else float('inf')
        return Summary(rate, float(p50), float(p95), silence, max(shares, default=0.0))


def missing_share(stamps_ns: list[int]) -> float:
    """
    Return the share of frames that are missing between stamps of a steady camera.

    The smallest usual distance (20th percentile) is taken for the camera's period, so that a
    half of lost frames is still seen.
    """
    if len(stamps_ns) < 10:
        return 0.0
    gaps = np.diff(np.asarray(stamps_ns, np.int64)).astype(np.float64)
    gaps = gaps[gaps > 0]
    if gaps.size < 9:
        return 0.0
    period = np.percentile(gaps, 20)
    missing = np.maximum(np.rint(gaps / period) - 1, 0).sum()
    return float(missing / (missing + gaps.size))


def verdict(state: str, *, model_error: str, frame_error: str, silence: str,
            counters: Mapping[str, int], previous: Mapping[str, int]) -> tuple[int, str]:
    """
    Sum up in a level (0 OK, 1 warning, 2 error) and one sentence.

    :param silence: reason why no image comes; empty while images come.
    """
    if model_error:
        return 2, model_error
    if state != 'active':
        return 0, f'{state}'
    if frame_error:
        return 1, f'frames fail: {frame_error}'
    if silence:
        return 1, silence
    fresh = counters['received'] - previous.get('received', 0)
    dropped = counters['overwritten'] - previous.get('overwritten', 0)
    if fresh > 5 and dropped > fresh / 2:
        return 1, f'too slow for the camera: {dropped} of the last {fresh} frames overwritten'
    return 0, 'active'
