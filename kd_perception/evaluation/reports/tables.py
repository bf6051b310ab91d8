"""
The tables of a comparison as text cells, for the terminal and the report alike.

In: an ``Analysis``; out: ``Table`` s. Metrics run down, arms run across, so that a table stays
narrow however many metrics there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
import math

from kd_perception.evaluation.accuracy import MIN_SHARE
from kd_perception.evaluation.analysis import Analysis
from kd_perception.evaluation.statistics.bootstrap import Interval
from kd_perception.evaluation.statistics.paired import ArmStatistics
from kd_perception.evaluation.words import points

NONE = '–'
GOOD, BAD = '#2c7a4b', '#b3372f'


@dataclass(frozen=True)
class Bar:
    """A bar in a cell of the page, from ``start`` to ``end`` of its width (0 … 1)."""

    start: float
    end: float
    color: str


@dataclass(frozen=True)
class Table:
    """
    A table of text cells.

    :param header: one cell per column; the first names the rows.
    :param rows: cells by row.
    :param strong: positions of the rows that matter most.
    :param bars: by row and column, what the page draws below a number; or nothing at all.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: tuple[int, ...] = ()
    bars: tuple[tuple[Bar | None, ...], ...] = ()


def latency_table(analysis: Analysis) -> Table:
    """Return latency, frames and resources by arm."""
    arms = [arm.name for arm in analysis.run.arms]
    rows: list[tuple[str, ...]] = []

    def add(name: str, value: Callable[[ArmStatistics], str]) -> None:
        rows.append((name, *(value(analysis.statistics[arm]) for arm in arms)))

    add('latency, median', lambda s: known(analysis.intervals[s.arm].p50))
    add('mean', lambda s: known(analysis.intervals[s.arm].mean))
    add('p90', lambda s: ms(s.latency.p90))
    add('p95', lambda s: known(analysis.intervals[s.arm].p95))
    add('p99', lambda s: known(analysis.intervals[s.arm].p99))
    add('max', lambda s: ms(s.latency.max))
    add('jitter', lambda s: ms(s.jitter_ms))
    add(f'frames/s as served ({analysis.run.spec.pacing})', lambda s: number(s.fps, 1))
    add('frames/s one by one', lambda s: number(1000 / s.latency.mean, 1))
    add('frames answered', lambda s: f'{s.latency.n} of {s.published}')
    add('lost · late · stray', lambda s: f'{s.status["lost"]} · {s.status["late"]} · '
                                         f'{s.status["duplicate"] + s.status["unknown"]}')
    usage = analysis.run.resources
    if usage:
        found = [usage.get(arm) for arm in arms]
        rows.append(('CPU (100 % is one core)',
                     *(f'{u.cpu_percent:.0f} %' if u else NONE for u in found)))
        rows.append(('memory (RSS)', *(f'{u.rss_mb:.0f} MiB' if u else NONE for u in found)))
        if any(u and u.gpu_mb is not None for u in found):
            rows.append(('GPU memory', *(f'{u.gpu_mb:.0f} MiB' if u and u.gpu_mb is not None
                                         else NONE for u in found)))
    return Table('Latency: publish call in the camera → result in the monitor',
                 ('', *(analysis.labels[a] for a in arms)), tuple(rows), strong=(0,))


def difference_table(analysis: Analysis) -> Table | None:
    """Return the paired differences with intervals, or None for a single arm."""
    chosen = [c for c in analysis.comparisons if c.latency or c.accuracy]
    if not chosen:
        return None
    rows: list[tuple[str, ...]] = []
    for name, key, unit, digits in (
            ('latency, median difference', 'median_difference', ' ms', 2),
            ('latency, mean difference', 'mean_difference', ' ms', 2),
            ('times faster, by medians', 'median_ratio', '×', 2),
            ('times faster, by means', 'mean_ratio', '×', 2)):
        if any(c.latency for c in chosen):
            rows.append((name, *(interval(getattr(c.latency, key), unit, digits)
                                 if c.latency else NONE for c in chosen)))
    if any(c.accuracy for c in chosen):
        rows.append(('mIoU, points gained', *(
            interval(points(c.accuracy.difference), '', 2, sign=True) if c.accuracy else NONE
            for c in chosen)))
    by_blocks = any(c.latency and c.latency.basis for c in chosen)
    rows.append(('frames compared' if by_blocks else 'frames answered by both', *(
        NONE if not c.latency else c.latency.basis
        or f'{c.latency.n} (unpaired {c.latency.unpaired})' for c in chosen)))
    reference = analysis.labels[chosen[0].reference]
    together = ' that hold together' if len(chosen) > 1 else ''
    how = 'by rounds of blocks' if by_blocks else 'frame by frame'
    return Table(f'Against {reference}, {how}, with 95 % intervals{together}',
                 ('', *(analysis.labels[c.other] for c in chosen)), tuple(rows), strong=(0, 2))


def stage_table(analysis: Analysis) -> Table | None:
    """Return medians by stage, or None when no node said anything of itself."""
    arms = [arm.name for arm in analysis.run.arms]
    stages = list(dict.fromkeys(s for arm in arms for s in analysis.statistics[arm].stages))
    if not stages:
        return None
    rows = []
    for stage in stages:
        cells = []
        for arm in arms:
            found = analysis.statistics[arm].stages.get(stage)
            cells.append(f'{found.p50:.2f} · {found.p95:.2f}' if found and found.n else NONE)
        rows.append((stage, *cells))
    return Table('Stages as the nodes measure them, ms: median · p95',
                 ('', *(analysis.labels[a] for a in arms)), tuple(rows),
                 strong=(stages.index('total'),) if 'total' in stages else ())


def accuracy_table(analysis: Analysis) -> Table | None:
    """Return mIoU and friends by arm, or None without ground truth."""
    if not analysis.accuracies:
        return None
    arms = [arm.name for arm in analysis.run.arms]
    found = [analysis.accuracies.get(arm) for arm in arms]
    rows: list[tuple[str, ...]] = [
        (f'mIoU, classes ≥ {MIN_SHARE:.1%} of pixels',
         *(interval(points(a.miou), '', 1) if a else NONE for a in found)),
        ('mIoU, all classes', *(percent(a.miou_all) if a else NONE for a in found)),
        ('pixel accuracy', *(percent(a.pixel_accuracy) if a else NONE for a in found)),
        ('labelled frames', *(str(a.n) if a else NONE for a in found))]
    for comparison in analysis.comparisons:
        if comparison.agreement is not None:
            name = f'pixels equal to {analysis.labels[comparison.reference]}'
            rows.append((name, *(percent(comparison.agreement) if a == comparison.other else NONE
                                 for a in arms)))
    return Table('Accuracy against ground truth, in points of 100',
                 ('', *(analysis.labels[a] for a in arms)), tuple(rows), strong=(0,))


def class_table(analysis: Analysis, colors: Mapping[str, str]) -> Table | None:
    """
    Return IoU by class, most frequent first, and what it differs; None without ground truth.

    :param colors: by arm.
    """
    if not analysis.accuracies:
        return None
    arms = [arm.name for arm in analysis.run.arms if arm.name in analysis.accuracies]
    against = [c for c in analysis.comparisons if c.classes]
    first = analysis.accuracies[arms[0]]
    header = ['class', 'share of pixels', *(f'IoU {analysis.labels[arm]}' for arm in arms),
              *(f'difference {analysis.labels[c.other]}' for c in against)]
    rows: list[tuple[str, ...]] = []
    bars: list[tuple[Bar | None, ...]] = []
    widest = max([abs(c.classes[i].estimate) for c in against for i in range(len(c.classes))
                  if math.isfinite(c.classes[i].estimate)], default=0.0) or 1.0
    for i in sorted(range(len(first.share)), key=lambda i: -first.share[i]):
        found = [analysis.accuracies[arm].iou[i] for arm in arms]
        if not any(math.isfinite(v) for v in found):
            continue  # neither there nor seen by anyone
        changes = [c.classes[i] for c in against]
        rows.append((analysis.run.classes.names[i], f'{first.share[i]:.2%}',
                     *(percent(v) for v in found),
                     *(interval(points(change), '', 1, sign=True) for change in changes)))
        bars.append((None, None, *(
            Bar(0.0, v, colors[arm]) if math.isfinite(v) else None
            for v, arm in zip(found, arms, strict=True)),
            *(_signed_bar(change.estimate / widest) for change in changes)))
    return Table('By class, in points of 100, most frequent first', tuple(header), tuple(rows),
                 bars=tuple(bars))


def _signed_bar(value: float) -> Bar | None:
    """Return a bar from the middle, for -1 … 1."""
    if not math.isfinite(value):
        return None
    end = 0.5 + 0.5 * value
    return Bar(min(0.5, end), max(0.5, end), GOOD if value >= 0 else BAD)


def arms_table(analysis: Analysis) -> Table:
    """Return what ran in each arm."""
    arms = analysis.run.arms
    rows = (
        ('role', *(a.role or NONE for a in arms)),
        ('network', *(a.network or NONE for a in arms)),
        ('parameters', *(f'{a.parameters / 1e6:.2f} M' if a.parameters else NONE for a in arms)),
        ('input', *(f'{a.input_width}×{a.input_height}' if a.input_width else NONE
                    for a in arms)),
        ('engine', *(a.engine for a in arms)),
        ('device', *(a.device for a in arms)),
        ('precision executed', *(a.precision for a in arms)),
        ('threads', *(str(a.threads) if a.threads else 'as the engine chooses' for a in arms)),
        ('bundle hash (SHA-256)', *(a.bundle_hash for a in arms)))
    return Table('What ran', ('', *(analysis.labels[a.name] for a in arms)), rows)


def ms(value: float) -> str:
    """Return milliseconds with three or so significant digits."""
    return f'{number(value, _digits(value))} ms'


def known(value: Interval) -> str:
    """Return ``12.3 ms (11.9 … 12.8)``; an end that nobody knows is a question mark."""
    if not math.isfinite(value.estimate):
        return NONE
    digits = _digits(value.estimate)
    high = f'{value.high:.{digits}f}' if math.isfinite(value.high) else '?'
    return f'{ms(value.estimate)} ({value.low:.{digits}f} … {high})'


def _digits(value: float) -> int:
    return 0 if value >= 100 else 1 if value >= 10 else 2


def percent(share: float) -> str:
    """Return a share of 1 in points of 100, or a dash for NaN."""
    return number(100 * share, 1)


def number(value: float, digits: int) -> str:
    """Return ``value`` with ``digits`` decimals, or a dash when it is not finite."""
    return f'{value:.{digits}f}'.replace('-', '−') if math.isfinite(value) else NONE


def interval(value: Interval, unit: str, digits: int, *, sign: bool = False) -> str:
    """Return ``12.3 ms (11.9 … 12.8)``, or a dash where there is no estimate."""
    if not math.isfinite(value.estimate):
        return NONE
    form = f'{"+" if sign else ""}.{digits}f'
    text = f'{value.estimate:{form}}{unit} ({value.low:{form}} … {value.high:{form}})'
    return text.replace('-', '−')
