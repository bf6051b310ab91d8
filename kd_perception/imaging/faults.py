"""
Faults of a camera that its pictures show without any model: black, saturated, covered, frozen.

Comes in: the decoded pictures of one camera, one after the other. Goes out: which faults last, and
for how long. A picture is looked at through 160x90 of its pixels, taken and not averaged, so that
the cost is the same for every size and the noise of the sensor, which tells a standing car from a
frozen camera, stays in it.

What the thresholds were measured on is in ``docs/nodes.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

BLACK, SATURATED, COVERED, FROZEN = 'black', 'saturated', 'covered', 'frozen'

# Columns and rows of the pixels that are looked at.
_SAMPLE = (160, 90)
# Cells of 5x5 of these pixels: their means hold little noise, so what differs is the scene.
_CELLS = (32, 18)
_TILES, _TILE = (4, 6), (4, 5)  # rows and columns, of tiles and of the cells in each

# Black: all pixels but one in a hundred are below this of 255. Video leaves black at 16, and a cap
# leaves noise; a street at night has lamps, windows and what its own headlights show.
BLACK_BELOW = 28
# Saturated: most of the picture is at the upper end. The sun in the picture and a sky that is
# blown out leave the road and what stands on it.
SATURATED_FROM, SATURATED_SHARE = 250, 0.75
# Covered: in nearly all tiles no cell stands out from those beside it by more than so much of 255.
COVERED_BELOW, COVERED_SHARE = 3.0, 0.9
# Frozen: not more than this share of the pixels changed; a clock drawn into the picture may.
FROZEN_SHARE = 0.001


@dataclass(frozen=True)
class Fault:
    """
    A fault that lasts.

    :param name: ``black``, ``saturated``, ``covered`` or ``frozen``.
    :param seconds: for how long.
    """

    name: str
    seconds: float

    def __str__(self) -> str:
        return f'{self.name} for {self.seconds:.1f} s'


class Persistence:
    """
    Whether a condition lasts: hysteresis in time.

    It is raised when every look of ``raise_s`` (and at least ``looks``) found the condition, and
    cleared when no look of ``clear_s`` did.
    """

    def __init__(self, raise_s: float, clear_s: float = 0.5, looks: int = 3) -> None:
        self._raise_ns, self._clear_ns = int(raise_s * 1e9), int(clear_s * 1e9)
        self._looks = looks
        self._since: int | None = None
        self._count = 0
        self._seen = 0
        self._raised = False

    def look(self, holds: bool, now_ns: int) -> float | None:
        """
        Note whether the condition holds now.

        :returns: seconds since it began, when it is raised; else None.
        """
        if holds:
            if self._since is None:
                self._since, self._count = now_ns, 0
            self._count += 1
            self._seen = now_ns
            if self._count >= self._looks and now_ns - self._since >= self._raise_ns:
                self._raised = True
        elif self._since is not None and (
                not self._raised or now_ns - self._seen >= self._clear_ns):
            self._since, self._raised = None, False
        if not self._raised or self._since is None:
            return None
        return (now_ns - self._since) / 1e9


class CameraWatch:
    """Looks at the pictures of one camera in order; use it from one thread at a time."""

    def __init__(self) -> None:
        # What is covered may be a wall, or fog for a moment: it is given more time.
        self._lasting = {BLACK: Persistence(1.0), SATURATED: Persistence(1.0),
                         COVERED: Persistence(3.0), FROZEN: Persistence(1.0, clear_s=0.0)}
        self._before: np.ndarray | None = None
        self._stamp_ns = 0

    def look(self, image: np.ndarray, stamp_ns: int, now_ns: int) -> tuple[Fault, ...]:
        """
        Return the faults that last.

        :param image: uint8 ``[H, W, 3]``.
        :param stamp_ns: of its header. One that repeats means that the same picture was sent
            again (a simulator that pauses), which says nothing of freezing; 0 is no stamp.
        :param now_ns: steady clock when the picture came.
        """
        sample = cv2.resize(image, _SAMPLE, interpolation=cv2.INTER_NEAREST)
        shown = appearance(sample)
        lasting = {name: self._lasting[name].look(name == shown, now_ns)
                   for name in (BLACK, SATURATED, COVERED)}
        again = stamp_ns != 0 and stamp_ns == self._stamp_ns
        if self._before is not None and not again:
            changed = int(np.count_nonzero(sample != self._before))
            lasting[FROZEN] = self._lasting[FROZEN].look(
                changed <= FROZEN_SHARE * sample.size, now_ns)
        self._before, self._stamp_ns = sample, stamp_ns
        return tuple(Fault(name, seconds) for name, seconds in lasting.items()
                     if seconds is not None)


def appearance(image: np.ndarray) -> str:
    """
    Return what one picture looks like: ``black``, ``saturated``, ``covered``, or an empty string.

    :param image: uint8 ``[H, W, 3]``, of any size: its pixels are counted, so a sample will do.
    """
    # Which channel is which hardly matters: faults are grey.
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    if np.count_nonzero(grey >= BLACK_BELOW) <= grey.size / 100:
        return BLACK
    if np.count_nonzero(grey >= SATURATED_FROM) >= SATURATED_SHARE * grey.size:
        return SATURATED
    cells = cv2.resize(grey, _CELLS, interpolation=cv2.INTER_AREA).astype(np.float32)
    # Without the outermost, which have no neighbours on one side: light falls off to the borders.
    apart = np.abs(cells - cv2.blur(cells, (3, 3)))[1:-1, 1:-1]
    tiles = apart.reshape(_TILES[0], _TILE[0], _TILES[1], _TILE[1]).max((1, 3))
    return COVERED if (tiles < COVERED_BELOW).mean() >= COVERED_SHARE else ''
