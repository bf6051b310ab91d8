"""
Classes and kinds of objects on which an arm is worse by more than the margin.

A mean over classes hides one: an arm may lose half of the pedestrians and stay within the margin
of the mIoU. In: paired differences with intervals; out: sentences for whoever signs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kd_perception.evaluation.comparison import FrameRow
from kd_perception.evaluation.statistics.bootstrap import Interval
from kd_perception.evaluation.statistics.paired import FEWEST_PAIRS
from kd_perception.evaluation.words import points

NAMED = 4  # more names are counted, not listed


def blind_spots(label: str, margin: float, classes: Mapping[str, Interval],
                objects: Mapping[str, Interval], *, inside: bool = False) -> list[str]:
    """
    Return a sentence for classes and one for objects that are lost beyond the margin, worst first.

    :param label: how to call the arm.
    :param margin: points of 100 that may be lost, those of the mIoU.
    :param classes: difference of IoU by class, other minus reference, -1 … 1.
    :param objects: difference of the share of objects found, by kind.
    :param inside: the mIoU as a whole was shown to be within the margin.
    """
    but = ', though the mIoU as a whole stays within it' if inside else ''
    out = []
    if lost := _beyond(classes, margin):
        out.append(f'{label} loses more IoU than the margin of {margin:g} points in '
                   f'{_named(lost)}{but}.')
    if lost := _beyond(objects, margin):
        out.append(f'{label} finds fewer objects, by more than the margin of {margin:g} points: '
                   f'{_named(lost)}{but}.')
    return out


def seen_classes(rows: Iterable[FrameRow], names: Sequence[str]) -> set[str]:
    """Return the classes that the truth of so many frames has that an interval is honest."""
    counts = [0] * len(names)
    for row in rows:
        for place, (_, truth, _) in enumerate(row.counts or ()):
            counts[place] += truth > 0
    return {name for name, n in zip(names, counts, strict=True) if n >= FEWEST_PAIRS}


def _beyond(found: Mapping[str, Interval], margin: float) -> list[tuple[str, Interval]]:
    """Return what is lost for certain, in points of 100, worst first."""
    lost = [(name, points(value)) for name, value in found.items() if 100 * value.high < -margin]
    return sorted(lost, key=lambda item: item[1].estimate)


def _named(lost: Sequence[tuple[str, Interval]]) -> str:
    told = [f'{name} {v.estimate:+.1f} [{v.low:+.1f}, {v.high:+.1f}]'.replace('-', '−')
            for name, v in lost[:NAMED]]
    more = [f'{len(lost) - NAMED} more'] if len(lost) > NAMED else []
    return ', '.join(told + more)
