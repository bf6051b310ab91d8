"""
From what the camera published and what the monitor received to rows, one per arm and frame.

In: events in any order; out: ``FrameRow`` s with their status. Joined by (arm, stamp, frame id)
alone: never by order of arrival, which a single lost frame would shift for good.

What is done with what goes wrong:

- **lost**, no result came: the frame has a row without latency and is not paired.
- **late**, the result came after the monitor had given up: it counts and is paired.
- **duplicate**, a further result of one frame: the first counts, the others get rows of their own.
- **reordered**, the result came after that of a later frame: it counts and is paired, see
  ``reordered_rows``.
- **ambiguous**, several frames of one arm bear this stamp: nobody can tell which was answered, so
  none of them is paired, whatever came.
- **unknown**, a result for no frame: its stamp was never published, or is ambiguous, or it came
  before its frame was published (a frame of an earlier pass or run bore the same stamp).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kd_perception.evaluation.comparison import ANSWERED, FrameRow
from kd_perception.evaluation.metrics.frame_detail import FrameDetail

_Key = tuple[str, int, str]


@dataclass(frozen=True)
class Published:
    """
    A frame that the camera gave to one arm, at ``published_ns`` of the steady clock.

    :param truth: parts of the ground truth that were published with it beside labels.
    :param block: placement ``alternate``: number of the block of frames; -1 outside of one.
    :param swapping: a model was being exchanged meanwhile.
    """

    arm: str
    stamp_ns: int
    frame_id: str
    index: int
    published_ns: int
    turn: int = -1
    truth: tuple[str, ...] = ()
    block: int = -1
    swapping: bool = False


@dataclass(frozen=True)
class Received:
    """A result that reached the monitor at ``received_ns`` of the steady clock."""

    arm: str
    stamp_ns: int
    frame_id: str
    received_ns: int
    stages: Mapping[str, float] = field(default_factory=dict)
    counts: tuple[tuple[int, int, int], ...] | None = None
    detail: FrameDetail | None = None


def join_events(published: Iterable[Published], received: Iterable[Received],
                patience_ms: float) -> list[FrameRow]:
    """
    Say what became of every frame and of every result; see the module for the policies.

    :param patience_ms: a result later than this after its frame was published is ``late``.
    :returns: rows ordered by index, then arm; ``unknown`` results last.
    """
    frames = list(published)
    times = Counter((f.arm, f.stamp_ns, f.frame_id) for f in frames)
    answers: dict[_Key, list[Received]] = {}
    for result in sorted(received, key=lambda r: r.received_ns):
        answers.setdefault((result.arm, result.stamp_ns, result.frame_id), []).append(result)
    rows: list[FrameRow] = []
    for frame in sorted(frames, key=lambda f: (f.index, f.arm)):
        key = (frame.arm, frame.stamp_ns, frame.frame_id)
        if times[key] > 1:
            rows.append(_row(frame, None, 'ambiguous'))
            continue
        results = answers.pop(key, [])
        mine = [r for r in results if r.received_ns >= frame.published_ns]
        if len(mine) < len(results):  # no answer comes before its question
            answers[key] = results[:len(results) - len(mine)]
        if not mine:
            rows.append(_row(frame, None, 'lost'))
            continue
        in_time = mine[0].received_ns - frame.published_ns <= patience_ms * 1e6
        rows.append(_row(frame, mine[0], 'ok' if in_time else 'late'))
        rows.extend(_row(frame, again, 'duplicate') for again in mine[1:])
    for (arm, stamp_ns, frame_id), results in answers.items():
        rows.extend(FrameRow(arm, stamp_ns, frame_id, -1, None, r.received_ns, 'unknown',
                             stages=r.stages) for r in results)
    return rows


def reordered_rows(rows: Iterable[FrameRow]) -> list[FrameRow]:
    """
    Return the answered rows whose result came after that of a frame that was published later.

    Within one arm, by the times of publishing and of the first result, as RFC 4737 (section 3)
    calls a packet reordered: what overtook it is in order, what was overtaken is not. Duplicates
    do not count.
    """
    by_arm: dict[str, list[FrameRow]] = {}
    for row in rows:
        if row.status in ANSWERED and row.latency_ms is not None:
            by_arm.setdefault(row.arm, []).append(row)
    out = []
    for own in by_arm.values():
        newest = -1
        for row in sorted(own, key=lambda r: (r.received_ns or 0, r.published_ns or 0)):
            published = row.published_ns or 0
            if published < newest:
                out.append(row)
            newest = max(newest, published)
    return out


def _row(frame: Published, result: Received | None, status: str) -> FrameRow:
    return FrameRow(
        arm=frame.arm, stamp_ns=frame.stamp_ns, frame_id=frame.frame_id, index=frame.index,
        published_ns=frame.published_ns,
        received_ns=result.received_ns if result else None, status=status, turn=frame.turn,
        stages=result.stages if result else {}, counts=result.counts if result else None,
        detail=result.detail if result else None, block=frame.block, swapping=frame.swapping)
