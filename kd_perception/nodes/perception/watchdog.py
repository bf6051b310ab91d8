"""
Whether the inference thread gets on: what it does at the moment, and since when.

A runtime that hangs (a driver that waits for ever, a lost device that does not say so) cannot be
ended from within its process: its thread neither returns nor can be killed. It can only be told,
so that somebody starts the process anew.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import time

import numpy as np

# A runtime that takes so many times its usual time is not slow, it stands.
_TIMES_USUAL = 50.0
_LEAST_S = 5.0
# Nothing was measured yet: the first call of a runtime may compile.
_UNKNOWN_S = 60.0
_KEPT = 100


@dataclass(frozen=True)
class _Here:
    stage: str
    model: str
    since_ns: int
    usual: bool


@dataclass(frozen=True)
class Stuck:
    """
    What does not return.

    :param stage: ``inference``, ``publishing``, …
    :param model: what serves, for a line of text.
    :param seconds: since it began.
    """

    stage: str
    model: str
    seconds: float

    def __str__(self) -> str:
        return (f'{self.stage} of {self.model} has not returned for {self.seconds:.0f} s; it '
                'cannot be ended from within: end this process (SIGKILL) and start it again')


class Watchdog:
    """
    Fed by the inference thread, asked by the ROS thread.

    :param limit_s: how long one stage may take; 0 for 50 times the 95th percentile of what the
        last hundred frames took, and 5 s at least; 60 s before the first frame.
    """

    def __init__(self, limit_s: float = 0.0) -> None:
        self.limit_s = limit_s
        self._here: _Here | None = None  # replaced as a whole
        self._took_s: deque[float] = deque(maxlen=_KEPT)

    def at(self, stage: str, model: str, *, usual: bool = True) -> None:
        """
        Note that a stage begins.

        :param usual: whether what the last frames took says anything of it.
        """
        self._here = _Here(stage, model, time.monotonic_ns(), usual)

    def rest(self, took_s: float | None = None) -> None:
        """
        Note that nothing is done now.

        :param took_s: what the last frame took.
        """
        self._here = None
        if took_s is not None:
            self._took_s.append(took_s)

    def forget(self) -> None:
        """Forget what frames took: another model serves."""
        self._took_s = deque(maxlen=_KEPT)

    def stuck(self) -> Stuck | None:
        """Return what has not returned for too long."""
        here = self._here
        if here is None:
            return None
        seconds = (time.monotonic_ns() - here.since_ns) / 1e9
        if seconds <= (self.limit_s or _LEAST_S) or seconds <= self._patience_s(here.usual):
            return None
        return Stuck(here.stage, here.model, seconds)

    def _patience_s(self, usual: bool) -> float:
        if self.limit_s > 0:
            return self.limit_s
        took = list(self._took_s) if usual else []
        if not took:
            return _UNKNOWN_S
        return max(_LEAST_S, _TIMES_USUAL * float(np.percentile(took, 95)))
