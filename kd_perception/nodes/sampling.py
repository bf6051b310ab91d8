"""Which frames of a run are shown in its report."""

from __future__ import annotations

# Of a run whose length nobody knows every frame is shown whose number is a power of two from here.
_FIRST = 16


class SampleIndices:
    """
    Indices of frames: evenly spread, the middle of each part, or ever rarer without an end.

    :param count: how many; 0 for none.
    :param total: frames of the run; 0 where that is not known.
    """

    def __init__(self, count: int, total: int) -> None:
        self._endless = bool(count) and not total
        self._chosen = frozenset(int((i + 0.5) * total / count) for i in range(min(count, total)))

    def __contains__(self, index: int) -> bool:
        """Return whether the frame is shown."""
        if self._endless:
            return index >= _FIRST and index & (index - 1) == 0
        return index in self._chosen
