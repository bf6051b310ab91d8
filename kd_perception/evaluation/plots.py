"""
The figures of a report as PNG bytes.

In: an ``Analysis``; out: one PNG per function, or None when there is nothing to draw. Figures are
drawn as ``figures`` has them.
"""

from __future__ import annotations

import numpy as np

from kd_perception.evaluation.analysis import Analysis
from kd_perception.evaluation.figures import class_bars, COLORS, figure, GRID, INK, png
from kd_perception.evaluation.paired import ANSWERED, pair_rows

STAGE_COLORS = {
    'wait': '#c9ced6', 'decode': '#8fb8de', 'preprocess': '#5f97c7', 'inference': '#2b4c7e',
    'postprocess': '#7aa77f', 'publish': '#e3b45a', 'elsewhere': '#e8e8ea'}


def latency_distribution(analysis: Analysis) -> bytes | None:
    """Return the share of frames answered within a time, by arm (ECDF), or None without any."""
    if not any(_latencies(analysis, arm) for arm, _ in _arms(analysis)):
        return None
    drawing, axes = figure(6.4, 3.4)
    highest, lowest = 0.0, np.inf
    for arm, color in _arms(analysis):
        values = np.sort(_latencies(analysis, arm))
        if values.size == 0:
            continue
        share = np.arange(1, values.size + 1) / values.size
        axes.step(np.r_[values[0], values], np.r_[0, share], where='post', color=color, lw=2,
                  label=analysis.labels[arm])
        median = float(np.median(values))
        axes.plot([median], [0.5], 'o', color=color, ms=6)
        axes.annotate(f'{median:.1f} ms', (median, 0.5), textcoords='offset points',
                      xytext=(8, -4), color=color, fontsize=9)
        highest, lowest = max(highest, values[-1]), min(lowest, values[0])
    if highest > 5 * lowest:
        axes.set_xscale('log')
        axes.xaxis.set_major_formatter(lambda value, _: f'{value:g}')
        axes.xaxis.set_minor_formatter(
            lambda value, _: f'{value:g}' if f'{value:.0e}'[0] in '25' else '')
        axes.set_xlim(lowest * 0.8, highest * 1.6)
    axes.set_xlabel('latency, ms')
    axes.set_ylabel('share of frames')
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, fontsize=9, ncols=3, loc='lower center',
                bbox_to_anchor=(0.5, 1.0))
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
    if len(chosen) > 1:
        axes.legend(frameon=False)
    return png(drawing)


def timeline(analysis: Analysis) -> bytes:
    """Return latency over the frames of the run, losses marked on the upper edge."""
    drawing, axes = figure(6.4, 3.2)
    ceiling = max((max(_latencies(analysis, arm), default=1.0) for arm, _ in _arms(analysis)),
                  default=1.0)
    marked: set[str] = set()
    for arm, color in _arms(analysis):
        rows = analysis.run.arm_rows(arm, warmup=True)
        answered = sorted((r.index, r.latency_ms) for r in rows
                          if r.status in ANSWERED and r.latency_ms is not None)
        if answered:
            x, y = zip(*answered, strict=True)
            axes.plot(x, y, '.', ms=3.5, color=color, label=analysis.labels[arm])
        for status, marker, tint in (('lost', 'x', '#c22f2f'), ('late', 'v', '#c22f2f'),
                                     ('duplicate', '+', '#6b7480')):
            found = [r.index for r in rows if r.status == status]
            if found:
                axes.plot(found, [ceiling * 1.15] * len(found), marker, color=tint, ms=6,
                          label=status if status not in marked else None, clip_on=False)
                marked.add(status)
    warmup = analysis.run.spec.warmup
    if warmup:
        axes.axvspan(-0.5, warmup - 0.5, color=GRID, lw=0, zorder=0)
        axes.annotate('warm-up', (warmup / 2, 0.03), xycoords=('data', 'axes fraction'),
                      ha='center', fontsize=7, color='#6b7480', rotation=90)
    axes.set_ylim(0, ceiling * 1.2)
    axes.set_xlabel('frame')
    axes.set_ylabel('latency, ms')
    axes.legend(frameon=False, fontsize=9, ncols=3, loc='lower center',
                bbox_to_anchor=(0.5, 1.0))
    return png(drawing)


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


def class_iou(analysis: Analysis) -> bytes | None:
    """Return IoU by class and arm, most frequent class first, or None without truth."""
    arms = [(arm, color) for arm, color in _arms(analysis) if arm in analysis.accuracies]
    if not arms:
        return None
    share = np.array(analysis.accuracies[arms[0][0]].share)
    order = [int(i) for i in np.argsort(-share, kind='stable') if share[i] > 0]
    if not order:
        return None
    return class_bars(
        [analysis.run.classes.names[i] for i in order], share[order],
        [(analysis.labels[arm], color, np.array(analysis.accuracies[arm].iou)[order])
         for arm, color in arms])


def arm_color(analysis: Analysis, arm: str) -> str:
    """Return the colour that stands for ``arm`` in all figures."""
    return dict(_arms(analysis))[arm]


def _arms(analysis: Analysis) -> list[tuple[str, str]]:
    return [(arm.name, COLORS[i % len(COLORS)])
            for i, arm in enumerate(analysis.run.arms)]


def _latencies(analysis: Analysis, arm: str) -> list[float]:
    return [r.latency_ms for r in analysis.run.arm_rows(arm)
            if r.status in ANSWERED and r.latency_ms is not None]
