"""
How often a shadow teacher may run: within its budget, and less often when it is in the way.

Comes in: what comparisons cost, what the student says of its latency and of frames that it lost,
the load of the machine. Goes out: when the next comparison is due, and why it is later than it
could be. Trouble doubles the interval at once, calm shortens it step by step. No ROS here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import threading

import numpy as np

_MOST_SLOWDOWN = 64.0
_RECOVERY = 1.25
# Seconds without trouble before the interval gets shorter, each time.
_CALM_S = 5.0
# Latencies that are looked at, and how many tell anything.
_RECENT, _IDLE, _FEWEST = 100, 200, 20
# Lost frames above the usual share that are trouble.
_MORE_LOST = 0.05
_USUAL_LOST = 60


@dataclass(frozen=True)
class PaceOptions:
    """
    Limits of a shadow teacher.

    :param max_rate_hz: comparisons per second at most.
    :param cpu_budget: share of one core that comparisons may take, by CPU time or, where that is
        longer, by the clock.
    :param student_slowdown: p95 of the student's latency may be so many times what it is while
        the teacher rests.
    :param load_limit: share of the machine that others may use before it is left to them.
    """

    max_rate_hz: float = 1.0
    cpu_budget: float = 0.25
    student_slowdown: float = 1.2
    load_limit: float = 0.9


class Pace:
    """Decides when a comparison is due; for several threads."""

    def __init__(self, options: PaceOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._began_s: float | None = None
        self._running = False
        self._cost_s = 0.0
        self._more_s = 0.0
        self._slowdown = 1.0
        self._calm_since: float | None = None
        self._trouble = ''
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        self._idle: deque[float] = deque(maxlen=_IDLE)
        self._lost: deque[float] = deque(maxlen=_USUAL_LOST)
        self._counts: tuple[int, int] | None = None

    @property
    def slowdown(self) -> float:
        """Return by how much the interval is longer than the budget asks for; 1 for not at all."""
        return self._slowdown

    @property
    def trouble(self) -> str:
        """Return why the teacher was last slowed down; empty while it is not."""
        return self._trouble if self._slowdown > 1 else ''

    @property
    def interval_s(self) -> float:
        """Return the time from the begin of one comparison to that of the next."""
        options = self._options
        least = max(1 / options.max_rate_hz, (self._cost_s + self._more_s) / options.cpu_budget)
        return least * self._slowdown

    def due_in(self, now_s: float) -> float:
        """Return the seconds until the next comparison may begin; 0 for now."""
        with self._lock:
            if self._began_s is None:
                return 0.0
            return max(0.0, self._began_s + self.interval_s - now_s)

    def begin(self, now_s: float) -> None:
        """Note that a comparison begins."""
        with self._lock:
            self._began_s, self._running, self._more_s = now_s, True, 0.0

    def end(self, now_s: float, cpu_s: float) -> None:
        """Note that it has ended, and the CPU time that it took."""
        with self._lock:
            self._running = False
            if self._began_s is not None:
                self._cost_s = max(cpu_s, now_s - self._began_s)

    def begin_more(self) -> None:
        """Note that other work begins, which counts as part of the last comparison."""
        with self._lock:
            self._running = True

    def end_more(self, wall_s: float, cpu_s: float) -> None:
        """Note that it has ended, and what it took."""
        with self._lock:
            self._running = False
            if self._began_s is not None:
                self._more_s += max(wall_s, cpu_s)

    def student_answered(self, now_s: float, total_ms: float) -> None:
        """Take the latency that the student told of one frame."""
        with self._lock:
            self._recent.append((now_s, total_ms))
            began = self._began_s
            # The frame was at work while the teacher was, if its time reaches into ours.
            beside = self._running or (
                began is not None
                and began + self._cost_s + self._more_s > now_s - total_ms / 1e3)
            if not beside:
                self._idle.append(total_ms)

    def student_counted(self, received: int, lost: int) -> None:
        """Take the student's counters of frames: all, and those overwritten or stale."""
        with self._lock:
            before, self._counts = self._counts, (received, lost)
            if before is None or received <= before[0] or lost < before[1]:
                return  # the first, a standstill, or a new start
            share = (lost - before[1]) / (received - before[0])
            usual = float(np.median(self._lost)) if len(self._lost) >= 3 else share
            self._lost.append(share)
            if share > usual + _MORE_LOST:
                self._slow(f'the student loses {share:.0%} of its frames, usually {usual:.0%}')

    def look(self, now_s: float, load: float) -> None:
        """
        Weigh what is known; to be called about once a second.

        :param load: share of the machine's cores that others than this process use.
        """
        with self._lock:
            told = self._too_slow(now_s)
            if not told and load > self._options.load_limit:
                told = f'others use {load:.0%} of the machine'
            if told:
                self._slow(told)
            if self._calm_since is None:
                self._calm_since = now_s
            elif now_s - self._calm_since >= _CALM_S:
                self._calm_since = now_s
                self._slowdown = max(1.0, self._slowdown / _RECOVERY)

    def _too_slow(self, now_s: float) -> str:
        recent = [ms for at, ms in self._recent if now_s - at <= 10]
        if len(recent) < _FEWEST or len(self._idle) < _FEWEST:
            return ''
        now, usual = np.percentile(recent, 95), np.percentile(self._idle, 95)
        if now <= self._options.student_slowdown * usual:
            return ''
        self._recent.clear()  # the next verdict is of frames that came after this one
        return f'the student takes {now:.0f} ms (p95), {usual:.0f} ms while the teacher rests'

    def _slow(self, reason: str) -> None:
        self._slowdown = min(_MOST_SLOWDOWN, 2 * self._slowdown)
        self._calm_since, self._trouble = None, reason
