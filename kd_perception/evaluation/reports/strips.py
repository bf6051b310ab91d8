"""
An interval drawn on a line, small enough for a card of the report: inline SVG.

In: an interval and what it is held against; out: HTML. A reader sees at once whether the interval
is clear of zero and of the margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
import math

from kd_perception.evaluation.statistics.bootstrap import Interval

_WIDTH, _HEIGHT = 150, 41
_LINE_Y = 15


@dataclass(frozen=True)
class Mark:
    """A line across the strip, with a word below it."""

    at: float
    word: str


def strip(interval: Interval, marks: Sequence[Mark], color: str, *, good_from: float,
          log: bool = False) -> str:
    """
    Return the drawing, or nothing where the interval has no ends.

    :param marks: what the interval is held against; at least one.
    :param good_from: from here to the right the strip is tinted: there the other arm should be.
    :param log: draw on a logarithmic scale.
    """
    values = [interval.low, interval.estimate, interval.high, good_from, *(m.at for m in marks)]
    if not all(map(math.isfinite, values)) or (log and min(values) <= 0):
        return ''
    scale = math.log if log else float
    low, high = min(map(scale, values)), max(map(scale, values))
    pad = 0.12 * (high - low) or 1.0
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return round(_WIDTH * (scale(value) - low) / (high - low), 1)

    lines = ''.join(
        f'<line x1="{x(m.at)}" x2="{x(m.at)}" y1="2" y2="28" class="mark"/>'
        f'<text x="{_inside(x(m.at), m.word)}" y="38" text-anchor="middle">{escape(m.word)}</text>'
        for m in marks)
    told = ', '.join(f'{m.word} at {m.at:g}' for m in marks)
    name = (f'{interval.estimate:.2f}, interval {interval.low:.2f} to {interval.high:.2f}; '
            f'{told}')
    return (
        f'<svg class="strip" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(name)}">'
        f'<rect x="{x(good_from)}" y="2" width="{_WIDTH - x(good_from):.1f}" height="26" '
        f'class="tint"/><line x1="0" x2="{_WIDTH}" y1="{_LINE_Y}" y2="{_LINE_Y}" class="axis"/>'
        f'{lines}<rect x="{x(interval.low)}" y="{_LINE_Y - 4}" rx="2" height="8" '
        f'width="{max(2.0, x(interval.high) - x(interval.low)):.1f}" fill="{color}" '
        f'fill-opacity="0.45"/><circle cx="{x(interval.estimate)}" cy="{_LINE_Y}" r="4.5" '
        f'fill="{color}"/></svg>')


def _inside(position: float, word: str) -> float:
    """Return a position at which a centred word does not leave the strip."""
    half = 3.2 * len(word)
    return round(min(max(position, half), _WIDTH - half), 1)
