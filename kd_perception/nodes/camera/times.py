"""When the frames of a recording are due when it is played, once or again and again."""

from __future__ import annotations

import numpy as np

_PERIOD_NS = 100_000_000  # of a recording of one frame
_PAUSE_S = 5.0


def playing_times(times_ns: np.ndarray) -> np.ndarray:
    """
    Return when frames are due after the first one, seconds, and when the next round begins.

    A pause of more than five seconds, such as between two recordings, lasts one period.

    :param times_ns: int64 ``[n]``, n > 0, when the frames were recorded.
    :returns: float ``[n + 1]``.
    """
    gaps = np.diff(times_ns) / 1e9
    usual = gaps[(gaps > 0) & (gaps <= _PAUSE_S)]
    period = float(np.median(usual)) if usual.size else _PERIOD_NS / 1e9
    gaps = np.where((gaps < 0) | (gaps > _PAUSE_S), period, gaps)
    return np.concatenate([[0.0], np.cumsum([*gaps, period])])


def round_ns(stamps_ns: np.ndarray) -> int:
    """Return the length of a recording with one period more: so much later it begins again."""
    stamps = np.unique(stamps_ns[stamps_ns >= 0])
    if len(stamps) < 2:
        return _PERIOD_NS
    return int(stamps[-1] - stamps[0]) + max(1, int(np.median(np.diff(stamps))))
