"""
Statistics of an A/B comparison: by arm, and between arms on the frames that both answered.

In: ``FrameRow`` s; out: frozen values that ``report`` writes. Frames are paired by (stamp,
frame id) and by nothing else: a lost frame shortens both sides of a pair, a duplicate is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kd_perception.evaluation.comparison import (
    ANSWERED,
    FrameRow,
    FRAMES,
    STAGES,
    STATUSES,
)
from kd_perception.evaluation.joining import reordered_rows
from kd_perception.evaluation.statistics.bootstrap import (
    block_length,
    bootstrap,
    CONFIDENCE,
    Interval,
    RESAMPLES,
)

FEWEST_PAIRS = 8  # below this no interval is honest


@dataclass(frozen=True)
class Summary:
    """Distribution of one duration in milliseconds; NaN throughout when ``n`` is 0."""

    n: int
    mean: float
    std: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True)
class ArmStatistics:
    """
    One arm over its measured frames.

    :param published: frames that the camera gave it.
    :param status: rows by status; ``ok + late + lost + ambiguous == published``.
    :param latency: publish call in the camera → result in the monitor; late results included,
        since leaving out the slow ones would flatter.
    :param jitter_ms: mean absolute difference of the latencies of consecutive frames.
    :param fps: (N - 1) / T over N answers whose first and last lie T apart; see ``answer_rate``.
    :param stages: what the node says of itself.
    :param by_turn: median latency by place in the serving order.
    :param reordered: of the answered frames, those overtaken by the result of a later one.
    """

    arm: str
    published: int
    status: Mapping[str, int]
    latency: Summary
    jitter_ms: float
    fps: float
    stages: Mapping[str, Summary]
    by_turn: Mapping[int, float]
    reordered: int = 0


@dataclass(frozen=True)
class PairedLatency:
    """
    Two arms on the frames that both answered.

    Differences are reference minus other (positive: the other is faster), in milliseconds;
    ratios are reference over other ("times faster").

    :param unpaired: frames given to either that not both have answered.
    :param ambiguous: keys that more than one published frame bears; never paired.
    :param block: frames drawn together for the median of the differences.
    :param basis: what was compared where it was not the same frames (placement ``alternate``).
    """

    reference: str
    other: str
    n: int
    unpaired: int
    ambiguous: int
    block: int
    mean_difference: Interval
    median_difference: Interval
    mean_ratio: Interval
    median_ratio: Interval
    basis: str = ''


def summarize(values: Sequence[float] | np.ndarray) -> Summary:
    """Return the distribution of ``values``; percentiles interpolate linearly."""
    x = np.asarray(values, float)
    if x.size == 0:
        return Summary(0, *[float('nan')] * 8)
    p50, p90, p95, p99 = (float(v) for v in np.percentile(x, (50, 90, 95, 99)))
    return Summary(n=int(x.size), mean=float(x.mean()), std=float(x.std(ddof=min(1, x.size - 1))),
                   min=float(x.min()), p50=p50, p90=p90, p95=p95, p99=p99, max=float(x.max()))


def arm_statistics(arm: str, rows: Iterable[FrameRow]) -> ArmStatistics:
    """Return the statistics of one arm; ``rows`` are its measured rows, warm-up left out."""
    rows = [r for r in rows if r.arm == arm]
    status = Counter(r.status for r in rows)
    answered = _answered(rows)
    turns: dict[int, list[float]] = {}
    for row in answered:
        turns.setdefault(row.turn, []).append(_latency(row))
    return ArmStatistics(
        arm=arm, published=sum(status[name] for name in FRAMES),
        status={name: status[name] for name in STATUSES},
        latency=summarize([_latency(r) for r in answered]),
        jitter_ms=_jitter(answered), fps=answer_rate(answered),
        stages={stage: summarize([r.stages[stage] for r in answered if stage in r.stages])
                for stage in _stages(answered)},
        by_turn={turn: float(np.median(turns[turn])) for turn in sorted(turns) if turn >= 0},
        reordered=len(reordered_rows(rows)))


def rate(times_ns: Sequence[int | None]) -> float:
    """
    Return events per second: N events span N - 1 intervals.

    :returns: 0 for fewer than two events.
    """
    times = [t for t in times_ns if t is not None]
    if len(times) < 2 or max(times) == min(times):
        return 0.0
    return (len(times) - 1) / ((max(times) - min(times)) / 1e9)


def answer_rate(answered: Iterable[FrameRow]) -> float:
    """Return answers per second, 0 for fewer than two; the pauses of an arm do not count."""
    gaps = answer_gaps_s(answered)
    return gaps.size / float(gaps.sum()) if gaps.sum() > 0 else 0.0


def answer_gaps_s(answered: Iterable[FrameRow]) -> np.ndarray:
    """
    Return the seconds from each answer to the next, without those in which others were served.

    Where arms are served one at a time (``isolated``, ``alternate``), answers of different blocks
    have the blocks of other arms between them.
    """
    ordered = sorted((r for r in answered if r.received_ns is not None),
                     key=lambda r: r.received_ns or 0)
    return np.array([((b.received_ns or 0) - (a.received_ns or 0)) / 1e9
                     for a, b in zip(ordered, ordered[1:]) if a.block == b.block])


def with_stretches(rows: Iterable[FrameRow]) -> list[FrameRow]:
    """
    Return rows of placement ``isolated`` that bear in ``block`` which stretch they belong to.

    An arm is served over a stretch of frames before another one is.
    """
    out: list[FrameRow] = []
    stretch, serving = 0, ''
    for row in sorted(rows, key=lambda r: (r.published_ns or 0, r.arm)):
        if row.published_ns is not None:
            stretch += serving not in ('', row.arm)
            serving = row.arm
        out.append(replace(row, block=stretch))
    return out


def pair_rows(rows: Iterable[FrameRow], first: str,
              second: str) -> tuple[list[tuple[FrameRow, FrameRow]], int, int]:
    """
    Join two arms by (stamp, frame id).

    :returns: (pairs in order of index, frames that could not be paired, ambiguous keys).
    """
    tables: dict[str, dict[tuple[int, str], FrameRow]] = {first: {}, second: {}}
    seen: dict[str, Counter[tuple[int, str]]] = {first: Counter(), second: Counter()}
    for row in rows:
        if row.arm in tables and row.status in FRAMES:
            seen[row.arm][row.key] += 1
            tables[row.arm][row.key] = row
    # A stamp that two published frames bear names neither of them.
    ambiguous = {k for counts in seen.values() for k, times in counts.items() if times > 1}
    keys = (set(seen[first]) | set(seen[second])) - ambiguous
    pairs = []
    for key in keys:
        a, b = tables[first].get(key), tables[second].get(key)
        if a and b and a.latency_ms is not None and b.latency_ms is not None:
            pairs.append((a, b))
    pairs.sort(key=lambda pair: (pair[0].index, pair[0].key))
    return pairs, len(keys) - len(pairs), len(ambiguous)


def paired_latency(rows: Iterable[FrameRow], reference: str, other: str, *,
                   resamples: int = RESAMPLES, seed: int = 0,
                   confidence: float = CONFIDENCE) -> PairedLatency | None:
    """
    Compare two arms frame by frame.

    :param confidence: of each interval alone.

    :returns: None when fewer than ``FEWEST_PAIRS`` frames were answered by both.
    """
    pairs, unpaired, ambiguous = pair_rows(rows, reference, other)
    if len(pairs) < FEWEST_PAIRS:
        return None
    a = np.array([_latency(row) for row, _ in pairs])
    b = np.array([_latency(row) for _, row in pairs])
    saved = a - b

    def interval(statistic: Callable[[np.ndarray], np.ndarray], influence: np.ndarray) -> Interval:
        return bootstrap(statistic, a.size, block_length(influence), resamples=resamples,
                         seed=seed, confidence=confidence)

    # What slows both arms alike has no part in a difference: only the memory of what each
    # statistic is made of decides how many frames are drawn together.
    return PairedLatency(
        reference=reference, other=other, n=len(pairs), unpaired=unpaired, ambiguous=ambiguous,
        block=block_length(_side(saved)),
        mean_difference=interval(lambda i: saved[i].mean(axis=1), saved),
        # The median of the differences, not the difference of medians: it is the paired one.
        median_difference=interval(lambda i: np.median(saved[i], axis=1), _side(saved)),
        mean_ratio=interval(lambda i: a[i].mean(axis=1) / b[i].mean(axis=1),
                            a / a.mean() - b / b.mean()),
        median_ratio=interval(lambda i: np.median(a[i], axis=1) / np.median(b[i], axis=1),
                              _side(a) - _side(b)))


def _side(values: np.ndarray) -> np.ndarray:
    """Return on which side of the median each value lies: -1, 0 or 1."""
    return np.sign(values - np.median(values))


def _answered(rows: Iterable[FrameRow]) -> list[FrameRow]:
    """Return the rows with a result, in the order of the frames."""
    return sorted((r for r in rows if r.status in ANSWERED and r.latency_ms is not None),
                  key=lambda r: (r.index, r.key))


def _latency(row: FrameRow) -> float:
    latency = row.latency_ms
    assert latency is not None  # callers filter
    return latency


def _jitter(answered: Sequence[FrameRow]) -> float:
    """Return the mean absolute change of latency between frames that truly follow each other."""
    steps = [abs(_latency(b) - _latency(a)) for a, b in zip(answered, answered[1:])
             if b.index == a.index + 1]
    return float(np.mean(steps)) if steps else 0.0


def _stages(answered: Iterable[FrameRow]) -> list[str]:
    """Return the stages that occur: the known ones in their order, then any others."""
    present = {stage for row in answered for stage in row.stages}
    return [s for s in STAGES if s in present] + sorted(present - set(STAGES))
