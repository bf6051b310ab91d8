"""
What the header stamps of one camera tell: its rate, frames that never came, time set back.

Stamps are another clock than ours and may do anything: stand still, repeat, jump when a recording
starts again or a simulator is reset.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

# Stamps further back than this were set back; less is disorder of the network.
SET_BACK_NS = 1_000_000_000
# So many rising stamps behind the newest are another time, not late frames.
_REBASE_AFTER = 5
# A stamp up to this old is late: no camera that shares our clock lags longer, and to take a late
# frame for one of another clock would let it pass as fresh.
_TRUSTED_AGE_NS = 3_600_000_000_000
# A longer gap than so many frames is a pause of the source: who loses frames loses some.
_PAUSE_FRAMES = 30


class StampHistory:
    """The last hundred stamps of one camera, since its time was last set back."""

    def __init__(self) -> None:
        self._stamps: deque[int] = deque(maxlen=100)

    def add(self, stamp_ns: int) -> None:
        """Take the stamp of the next image."""
        if self._stamps and stamp_ns < self._stamps[-1] - SET_BACK_NS:
            self._stamps.clear()
        self._stamps.append(stamp_ns)

    def clear(self) -> None:
        """Forget all."""
        self._stamps.clear()

    def missing_share(self) -> float:
        """Return the share of frames that were sent, by their stamps, but never came."""
        return missing_share(list(self._stamps))


class StampAge:
    """
    How old the frames of one camera are by their header stamps.

    A stamp of another clock than the node's says nothing. Where time is set back (a recording
    starts again, a camera's clock is corrected) all later stamps look old: after five rising
    stamps behind the newest, ages count from the lag of that moment, so that a limit of age
    cannot starve the node for good.
    """

    def __init__(self) -> None:
        self._newest: int | None = None
        self._behind: list[int] = []
        self._lag_ns = 0

    def age_ns(self, stamp_ns: int, now_ns: int) -> int | None:
        """
        Return the age of the next frame; None when its stamp is of another clock.

        :param now_ns: the node's clock.
        """
        raw = now_ns - stamp_ns
        if self._set_back(stamp_ns):
            self._lag_ns = raw
        # Never more than the least lag since.
        self._lag_ns = max(0, min(self._lag_ns, raw))
        return raw - self._lag_ns if 0 <= raw < _TRUSTED_AGE_NS else None

    def _set_back(self, stamp_ns: int) -> bool:
        if self._newest is None or stamp_ns >= self._newest - SET_BACK_NS:
            self._newest = stamp_ns if self._newest is None else max(self._newest, stamp_ns)
            self._behind = []
            return False
        if self._behind and stamp_ns <= self._behind[-1]:
            self._behind = []
        self._behind.append(stamp_ns)
        if len(self._behind) < _REBASE_AFTER:
            return False
        self._newest, self._behind = stamp_ns, []
        return True


def missing_share(stamps_ns: Sequence[int]) -> float:
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
    gaps = gaps[gaps < _PAUSE_FRAMES * period]
    missing = np.maximum(np.rint(gaps / period) - 1, 0).sum()
    return float(missing / (missing + gaps.size))


def stamp_rate_hz(stamps_ns: Sequence[int]) -> float:
    """Return the rate of stamps since they last went back; 0 where that cannot be told."""
    first = len(stamps_ns) - 1
    while first > 0 and stamps_ns[first - 1] <= stamps_ns[first]:
        first -= 1
    count = len(stamps_ns) - 1 - first
    if count < 1 or stamps_ns[-1] == stamps_ns[first]:
        return 0.0
    return count / ((stamps_ns[-1] - stamps_ns[first]) / 1e9)
