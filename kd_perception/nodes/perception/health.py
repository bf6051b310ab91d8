"""
How the perception node did lately: rate, latency, silence and failures, per camera and together.

Fed by the ROS thread and the inference thread, read by the diagnostics timer. All windows are in
steady time, so that no clock that jumps can empty or freeze them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
import threading
import time

import numpy as np

from kd_perception.nodes.stamps import stamp_rate_hz, StampHistory

_WINDOW_NS = 10_000_000_000
_SILENCE_S = 2.0
# So many frames of a second without one answer are no accident.
_SEVERAL = 3


@dataclass(frozen=True)
class Summary:
    """
    Recent performance of one camera, or of all.

    :param rate_hz: results per second over the last ten seconds.
    :param stamp_rate_hz: the same by their header stamps; of all, the sum over cameras.
    :param p50_ms: median of total_ms; NaN without results.
    :param p95_ms: 95th percentile.
    :param delay_ms: node clock minus header stamp when the last result went out; of all, the
        largest; NaN where the stamp is of another clock.
    :param silence_s: time since the last image came; infinite when none ever did.
    :param silent: whether that is longer than this camera usually needs; of all, whether all are.
    :param missing_share: share of frames that the stamps say were sent but never came; of all,
        the largest.
    :param lost: images that the middleware says it lost; of all, the sum.
    """

    rate_hz: float
    stamp_rate_hz: float
    p50_ms: float
    p95_ms: float
    delay_ms: float
    silence_s: float
    silent: bool
    missing_share: float
    lost: int


@dataclass(frozen=True)
class _Result:
    at_ns: int
    stamp_ns: int
    total_ms: float
    delay_ms: float


@dataclass
class _Camera:
    results: deque[_Result] = field(default_factory=lambda: deque(maxlen=10_000))
    stamps: StampHistory = field(default_factory=StampHistory)
    arrivals: deque[int] = field(default_factory=lambda: deque(maxlen=10))
    lost: int = 0

    def summary(self, now: int) -> Summary:
        while self.results and now - self.results[0].at_ns > _WINDOW_NS:
            self.results.popleft()
        p50, p95 = _percentiles(self.results)
        silence = (now - self.arrivals[-1]) / 1e9 if self.arrivals else float('inf')
        gaps = np.diff(np.asarray(self.arrivals, np.int64)) / 1e9
        usual = float(np.median(gaps)) if gaps.size else 0.0
        return Summary(
            rate_hz=_rate_hz(self.results),
            stamp_rate_hz=stamp_rate_hz([r.stamp_ns for r in self.results]),
            p50_ms=p50, p95_ms=p95,
            delay_ms=self.results[-1].delay_ms if self.results else float('nan'),
            silence_s=silence, silent=silence > max(_SILENCE_S, 3 * usual),
            missing_share=self.stamps.missing_share(), lost=self.lost)


class Health:
    """
    Sliding windows over results and arrivals; safe to use from several threads.

    :param cameras: their names; empty for the only one.
    """

    def __init__(self, cameras: Iterable[str] = ('',)) -> None:
        self._lock = threading.Lock()
        self._cameras = {camera: _Camera() for camera in cameras}
        # The last of each camera, and under None the last of all.
        self._errors: dict[str | None, tuple[str, int]] = {}

    def arrived(self, camera: str, stamp_ns: int) -> None:
        """Note that an image with that header stamp came in."""
        with self._lock:
            self._cameras[camera].arrivals.append(time.monotonic_ns())
            self._cameras[camera].stamps.add(stamp_ns)

    def lost(self, camera: str, count: int) -> None:
        """Note that the middleware lost so many more images on the way."""
        with self._lock:
            self._cameras[camera].lost += count

    def answered(self, camera: str, stamp_ns: int, total_ms: float, delay_ms: float) -> None:
        """Note that a result went out, ``total_ms`` after its image came in."""
        with self._lock:
            self._cameras[camera].results.append(
                _Result(time.monotonic_ns(), stamp_ns, total_ms, delay_ms))

    def failed(self, reason: str, camera: str | None = None) -> None:
        """Note why a frame failed; without a camera, that something else did."""
        with self._lock:
            self._errors[camera] = (reason, time.monotonic_ns())
            if camera:
                reason = f'{camera}: {reason}'
            self._errors[None] = (reason, time.monotonic_ns())

    def resubscribed(self, camera: str) -> None:
        """Forget which stamps came: what an earlier subscription lost says nothing any more."""
        with self._lock:
            self._cameras[camera].stamps.clear()

    def recent_error(self, camera: str | None = None, *, seconds: float = 5.0) -> str:
        """Return the last failure of the given time, or an empty string."""
        with self._lock:
            error, error_ns = self._errors.get(camera, ('', 0))
        return error if error and time.monotonic_ns() - error_ns < seconds * 1e9 else ''

    def camera(self, camera: str) -> Summary:
        """Return the state of one camera's windows now."""
        with self._lock:
            return self._cameras[camera].summary(time.monotonic_ns())

    def summary(self) -> Summary:
        """Return the state of all windows now."""
        now = time.monotonic_ns()
        with self._lock:
            each = [camera.summary(now) for camera in self._cameras.values()]
            results = sorted((r for c in self._cameras.values() for r in c.results),
                             key=lambda r: r.at_ns)
        delays = [s.delay_ms for s in each if not np.isnan(s.delay_ms)]
        p50, p95 = _percentiles(results)
        return Summary(
            rate_hz=_rate_hz(results), stamp_rate_hz=sum(s.stamp_rate_hz for s in each),
            p50_ms=p50, p95_ms=p95, delay_ms=max(delays, default=float('nan')),
            silence_s=min(s.silence_s for s in each), silent=all(s.silent for s in each),
            missing_share=max(s.missing_share for s in each), lost=sum(s.lost for s in each))


def _rate_hz(results: Sequence[_Result]) -> float:
    if len(results) < 2 or results[-1].at_ns == results[0].at_ns:
        return 0.0
    return (len(results) - 1) / ((results[-1].at_ns - results[0].at_ns) / 1e9)


def _percentiles(results: Sequence[_Result]) -> tuple[float, float]:
    if not results:
        return float('nan'), float('nan')
    p50, p95 = np.percentile([r.total_ms for r in results], [50, 95])
    return float(p50), float(p95)


def verdict(state: str, *, model_error: str, frame_error: str, silence: str,
            counters: Mapping[str, int], previous: Mapping[str, int],
            fallback: str = '', refused: str = '', stuck: str = '') -> tuple[int, str]:
    """
    Sum up in a level (0 OK, 1 warning, 2 error) and one sentence.

    :param silence: reason why no image comes; empty while images come.
    :param fallback: why something else than the wanted engine serves.
    :param refused: which other model was not taken, while the old one serves on.
    :param stuck: what does not return in the inference thread.
    """
    if stuck or model_error:
        return 2, stuck or model_error
    if state != 'active':
        return 0, f'{state}'
    since = {name: count - previous.get(name, 0) for name, count in counters.items()}
    level, told = _frames_lately(since, frame_error)
    others = ('', '') if frame_error else (silence, fallback)
    told = '; '.join(filter(None, (*others, told, refused)))
    return max(level, int(bool(told))), told or 'active'


def _frames_lately(since: Mapping[str, int], frame_error: str) -> tuple[int, str]:
    """Return level and words for what became of the frames since the last look."""
    fresh, none_out = since['received'], not since['published']
    if frame_error:
        alone = none_out and since['failed'] >= _SEVERAL
        return 1 + alone, f'frames fail: {frame_error}{"; none is answered" if alone else ""}'
    if since['stale'] and since['stale'] >= fresh / 2:
        alone = none_out and since['stale'] >= _SEVERAL
        return 1 + alone, (f'{since["stale"]} of the last {fresh} frames were older than '
                           f'max_age_ms{"; none is answered" if alone else ""}')
    if fresh > 5 and since['overwritten'] > fresh / 2:
        return 1, (f'too slow for the camera: {since["overwritten"]} of the last {fresh} frames '
                   'overwritten')
    return 0, ''
