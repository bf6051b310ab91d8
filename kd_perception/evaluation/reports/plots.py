"""
The figures of a report as PNG bytes.

In: an ``Analysis``; out: one PNG per function, or None when there is nothing to draw. Figures are
drawn as ``figures`` has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, MaxNLocator
import numpy as np

from kd_perception.evaluation.analysis import Analysis
from kd_perception.evaluation.reports.figures import COLORS, figure, GRID, INK, legend_above, png
from kd_perception.evaluation.statistics.paired import ANSWERED, pair_rows

_SHORTEST_MS = 0.001  # what a logarithmic scale can still show
_EXCHANGE = '#f3e3c3'
STAGE_COLORS = {
    'wait': '#c9ced6', 'decode': '#8fb8de', 'preprocess': '#5f97c7', 'inference': '#2b4c7e',
    'postprocess': '#7aa77f', 'publish': '#e3b45a', 'elsewhere': '#e8e8ea'}


def latency_distribution(analysis: Analysis) -> bytes | None:
    """Return the share of frames answered within a time, by arm (ECDF), or None without any."""
    if not any(_latencies(analysis, arm) for arm, _ in _arms(analysis)):
        return None
    drawing, axes = figure(6.4, 3.4)
    highest, lowest = 0.0, np.inf
    for k, (arm, color) in enumerate(_arms(analysis)):
        values = np.sort(_latencies(analysis, arm))
        if values.size == 0:
            continue
        share = np.arange(1, values.size + 1) / values.size
        axes.step(np.r_[values[0], values], np.r_[0, share], where='post', color=color, lw=2,
                  label=analysis.labels[arm])
        median = float(np.median(values))
        axes.plot([median], [0.5], 'o', color=color, ms=6)
        axes.annotate(f'{median:.1f} ms', (median, 0.5), textcoords='offset points',
                      xytext=(8, -4 - 13 * k), color=color, fontsize=9)
        highest, lowest = max(highest, values[-1]), min(lowest, values[0])
    if highest > 5 * lowest:
        log_ticks(axes.set_xscale, axes.xaxis)
        axes.set_xlim(lowest * 0.8, highest * 1.6)
    axes.set_xlabel('latency, ms')
    axes.set_ylabel('share of frames')
    axes.set_ylim(0, 1.02)
    legend_above(axes)
    return png(drawing)


def difference_distribution(analysis: Analysis) -> bytes | None:
    """Return histograms of the paired differences, or None without pairs."""
    # Where arms did not see the same frames there is no difference by frame.
    chosen = [c for c in analysis.comparisons if c.latency and not c.latency.basis]
    if not chosen:
        return None
    drawing, axes = figure(6.4, 2.6)
    colors = dict(_arms(analysis))
    for comparison in chosen:
        assert comparison.latency is not None
        rows = (*analysis.run.arm_rows(comparison.reference),
                *analysis.run.arm_rows(comparison.other))
        pairs = pair_rows(rows, comparison.reference, comparison.other)[0]
        values = np.array([(a.latency_ms or 0.0) - (b.latency_ms or 0.0) for a, b in pairs])
        # A single outlier must not squeeze the rest into one bin.
        low, high = np.percentile(values, (0.5, 99.5))
        color = colors[comparison.other]
        axes.hist(np.clip(values, low, high), bins=40, color=color, alpha=0.75,
                  label=analysis.labels[comparison.other])
        interval = comparison.latency.median_difference
        axes.axvspan(interval.low, interval.high, color=INK, alpha=0.15, lw=0)
        axes.axvline(interval.estimate, color=INK, lw=1.5)
    axes.set_xlabel(f'ms saved per frame against {analysis.labels[chosen[0].reference]} '
                    '(line: median, grey: its 95 % interval)')
    axes.set_ylabel('frames')
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(chosen) > 1:
        axes.legend(frameon=False)
    return png(drawing)


def timeline(analysis: Analysis) -> bytes:
    """Return latency over the frames of the run, losses marked on the upper edge."""
    drawing, axes = figure(6.4, 3.4)
    found = [v for arm, _ in _arms(analysis) for v in _latencies(analysis, arm)]
    lowest, highest = (min(found), max(found)) if found else (0.0, 1.0)
    log = highest > 8 * lowest > 0
    ceiling = highest * 1.15
    for arm, color in _arms(analysis):
        rows = analysis.run.arm_rows(arm, warmup=True)
        answered = sorted((r.index, r.latency_ms) for r in rows
                          if r.status in ANSWERED and r.latency_ms is not None)
        if answered:
            x, y = zip(*answered, strict=True)
            axes.plot(x, y, '.', ms=4, color=color, label=analysis.labels[arm])
            ceiling = max(ceiling, max(y) * 1.15)
    top = ceiling * (1.6 if log else 1.06)
    _mark_trouble(analysis, axes, top)
    warmup = analysis.run.spec.warmup
    if warmup:
        axes.axvspan(-0.5, warmup - 0.5, color=GRID, lw=0, zorder=0)
        axes.annotate('warm-up', (warmup / 2, 0.03), xycoords=('data', 'axes fraction'),
                      ha='center', fontsize=7, color=INK, rotation=90)
    if log:
        log_ticks(axes.set_yscale, axes.yaxis)
        axes.set_ylim(lowest * 0.8, top * 1.15)
    else:
        axes.set_ylim(0, top * 1.04)
    axes.set_xlabel('frame')
    axes.set_ylabel('latency, ms')
    legend_above(axes)
    return png(drawing)


def _mark_trouble(analysis: Analysis, axes: Axes, top: float) -> None:
    """Mark lost, late and duplicate frames on the upper edge, by arm; exchanges behind all."""
    arms, exchanged = _arms(analysis), False
    for k, (arm, color) in enumerate(arms):
        rows = analysis.run.arm_rows(arm, warmup=True)
        for first, last in _spans(r.index for r in rows if r.swapping):
            axes.axvspan(first - 0.5, last + 0.5, color=_EXCHANGE, lw=0, zorder=0,
                         label=None if exchanged else 'model being exchanged')
            exchanged = True
        # Arms side by side within the edge, so that none hides another's losses.
        height = top * (1.0 - 0.035 * k)
        for status, marker in (('lost', 'x'), ('late', 'v'), ('ambiguous', '*'),
                               ('duplicate', '+')):
            found = [r.index for r in rows if r.status == status]
            if found:
                axes.plot(found, [height] * len(found), marker, color=color, ms=5,
                          label=f'{analysis.labels[arm]}: {len(found)} {status}', clip_on=False)


def _spans(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Return first and last of every run of consecutive numbers."""
    spans: list[tuple[int, int]] = []
    for index in sorted(set(indices)):
        if spans and index == spans[-1][1] + 1:
            spans[-1] = spans[-1][0], index
        else:
            spans.append((index, index))
    return spans


def log_ticks(set_scale: Callable[[str], None], axis: Axis, *, wide: bool = False) -> None:
    """
    Give an axis a logarithmic scale with plain numbers at 1, 2 and 5.

    :param wide: so many powers of ten that there is room for these alone.
    """
    set_scale('log')
    axis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    axis.set_major_formatter(lambda value, _: f'{value:g}')
    axis.set_minor_formatter(lambda value, _: '' if wide else f'{value:g}')


def stage_breakdown(analysis: Analysis) -> bytes | None:
    """Return where the mean latency goes, stage by stage, or None when nodes said nothing."""
    arms = [(arm, color) for arm, color in _arms(analysis) if analysis.statistics[arm].stages]
    if not arms:
        return None
    drawing, axes = figure(6.4, 1.3 + 0.55 * len(arms))
    names: dict[str, None] = {}
    for position, (arm, _) in enumerate(arms):
        statistics = analysis.statistics[arm]
        parts = {s: v.mean for s, v in statistics.stages.items() if s != 'total' and v.n}
        # What the node cannot see: transport to it, and from it to the monitor.
        parts['elsewhere'] = max(0.0, statistics.latency.mean - sum(parts.values()))
        left = 0.0
        for stage, value in parts.items():
            names[stage] = None
            axes.barh(position, value, left=left, height=0.62,
                      color=STAGE_COLORS.get(stage, '#b59ad6'), edgecolor='white', lw=0.6)
            left += value
        axes.annotate(f' {left:.1f} ms', (left, position), va='center', fontsize=9, color=INK)
    axes.set_yticks(range(len(arms)), [analysis.labels[arm] for arm, _ in arms])
    axes.invert_yaxis()
    axes.grid(axis='y', visible=False)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel('mean latency, ms')
    handles = [axes.barh(0, 0, color=STAGE_COLORS.get(name, '#b59ad6')) for name in names]
    axes.legend(handles, names, frameon=False, ncols=4, fontsize=8, loc='lower center',
                bbox_to_anchor=(0.45, 1.0))
    return png(drawing)


def stage_distribution(analysis: Analysis) -> bytes | None:
    """Return how every stage varies, by arm, or None when nodes said nothing."""
    arms = [(arm, color) for arm, color in _arms(analysis) if analysis.statistics[arm].stages]
    stages = list(dict.fromkeys(s for arm, _ in arms for s in analysis.statistics[arm].stages
                                if s != 'total'))
    if not stages:
        return None
    drawing, axes = figure(6.4, 1.0 + 0.22 * len(stages) * (len(arms) + 0.7))
    step, seen = len(arms) + 0.7, []
    for k, (arm, color) in enumerate(arms):
        rows = [r for r in analysis.run.arm_rows(arm)
                if r.status in ANSWERED and not r.swapping]
        for i, stage in enumerate(stages):
            values = np.array([r.stages[stage] for r in rows if stage in r.stages])
            if values.size == 0:
                continue
            p1, p25, p50, p75, p99 = np.maximum(
                np.percentile(values, (1, 25, 50, 75, 99)), _SHORTEST_MS)
            y = i * step + k
            axes.plot([p1, p99], [y, y], color=color, lw=1.2)
            axes.barh(y, p75 - p25, left=p25, height=0.62, color=color, alpha=0.6)
            axes.plot([p50, p50], [y - 0.36, y + 0.36], color=INK, lw=1.4)
            seen += [p1, p99]
        axes.plot([], [], color=color, lw=5, label=analysis.labels[arm])
    axes.set_yticks([i * step + (len(arms) - 1) / 2 for i in range(len(stages))], stages)
    axes.invert_yaxis()
    axes.grid(axis='y', visible=False)
    log_ticks(axes.set_xscale, axes.xaxis, wide=max(seen) > 1000 * min(seen))
    axes.set_xlim(min(seen) * 0.7, max(seen) * 1.4)
    axes.set_xlabel('ms per frame, logarithmic')
    legend_above(axes, 0.45)
    return png(drawing)


def arm_color(analysis: Analysis, arm: str) -> str:
    """Return the colour that stands for ``arm`` in all figures."""
    return dict(_arms(analysis))[arm]


def _arms(analysis: Analysis) -> list[tuple[str, str]]:
    return [(arm.name, COLORS[i % len(COLORS)])
            for i, arm in enumerate(analysis.run.arms)]


def _latencies(analysis: Analysis, arm: str) -> list[float]:
    return [r.latency_ms for r in analysis.run.arm_rows(arm)
            if r.status in ANSWERED and r.latency_ms is not None and not r.swapping]
