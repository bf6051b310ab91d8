"""The last changes of the model that serves: when, from what to what, and how it went."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timezone
import threading

KEPT = 5


@dataclass(frozen=True)
class Swap:
    """
    One change, or one that was not taken.

    :param at_s: wall clock when it was decided.
    :param before: what served till then, e.g. ``student by openvino``.
    :param after: what was loaded.
    :param load_ms: hashing, loading and warming.
    :param outcome: ``serves``, or why not.
    """

    at_s: float
    before: str
    after: str
    load_ms: float
    outcome: str

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.at_s, timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ')
        return f'{when} {self.before} -> {self.after}, {self.load_ms:.0f} ms: {self.outcome}'


class SwapHistory:
    """The last five changes; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._swaps: deque[Swap] = deque(maxlen=KEPT)
        self._count = 0

    def add(self, swap: Swap) -> None:
        """Remember one more."""
        with self._lock:
            self._swaps.append(swap)
            self._count += 1

    def values(self) -> dict[str, str]:
        """Return them for diagnostics: their number, and ``swap_1`` (the last) to ``swap_5``."""
        with self._lock:
            last = [str(swap) for swap in reversed(self._swaps)]
            return {'swaps': str(self._count),
                    **{f'swap_{n}': text for n, text in enumerate(last, 1)}}
