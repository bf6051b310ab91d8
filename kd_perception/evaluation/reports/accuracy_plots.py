"""
The figures of a report that speak of accuracy, as PNG bytes; see ``plots``.

In: an ``Analysis``; out: one PNG per function, or None when there is nothing to draw.
"""

from __future__ import annotations

import math

import numpy as np

from kd_perception.evaluation.analysis import Analysis
from kd_perception.evaluation.metrics.objects import distance_names
from kd_perception.evaluation.reports.figures import figure, INK, legend_above, png
from kd_perception.evaluation.reports.plots import arm_color, log_ticks


def trade_off(analysis: Analysis) -> bytes | None:
    """Return mIoU over median latency, one point with a cross per arm; None without truth."""
    arms = [a.name for a in analysis.run.arms if a.name in analysis.accuracies
            and math.isfinite(analysis.accuracies[a.name].miou.estimate)
            and math.isfinite(analysis.intervals[a.name].p50.estimate)]
    if not arms:
        return None
    drawing, axes = figure(6.4, 3.2)
    seen_x, seen_y = [], []
    for arm in arms:
        latency, miou = analysis.intervals[arm].p50, analysis.accuracies[arm].miou
        color = arm_color(analysis, arm)
        x, y = latency.estimate, 100 * miou.estimate
        right = latency.high if math.isfinite(latency.high) else x
        axes.plot([latency.low, right], [y, y], color=color, lw=1.6, alpha=0.7)
        axes.plot([x, x], [100 * miou.low, 100 * miou.high], color=color, lw=1.6, alpha=0.7)
        axes.plot([x], [y], 'o', color=color, ms=9, mec='white', mew=1.2)
        seen_x += [latency.low, right]
        seen_y += [100 * miou.low, 100 * miou.high]
    low, high = max(1e-3, min(seen_x)), max(seen_x)
    if high > 5 * low:
        log_ticks(axes.set_xscale, axes.xaxis)
        axes.set_xlim(low / 1.5, high * 1.5)
        middle = math.sqrt(low * high)
    else:
        axes.set_xlim(0, high * 1.15)
        middle = high * 0.575
    pad = max(1.0, 0.12 * (max(seen_y) - min(seen_y)))
    axes.set_ylim(max(0.0, min(seen_y) - pad), min(100.0, max(seen_y) + pad))
    for k, arm in enumerate(arms):
        x = analysis.intervals[arm].p50.estimate
        # Away from the edge, and not two names on each other.
        axes.annotate(analysis.labels[arm], (x, 100 * analysis.accuracies[arm].miou.estimate),
                      xytext=(9 if x < middle else -9, 8 if k % 2 == 0 else -14),
                      textcoords='offset points', ha='left' if x < middle else 'right',
                      fontsize=9, color=INK)
    axes.set_xlabel('median latency, ms')
    axes.set_ylabel('mIoU, points of 100')
    return png(drawing)


def recall_by_distance(analysis: Analysis) -> bytes | None:
    """Return the share of found objects over distance, by arm; None where not measured."""
    found = analysis.objects
    if not found:
        return None
    bands = distance_names()
    drawing, axes = figure(6.4, 2.9)
    arms = [a.name for a in analysis.run.arms if a.name in found]
    for k, arm in enumerate(arms):
        cells = [(i, c) for i, band in enumerate(bands)
                 if (c := found[arm].cell('all', band)) is not None]
        # Side by side, so that intervals do not hide each other.
        x = np.array([i for i, _ in cells]) + 0.08 * (k - (len(arms) - 1) / 2)
        y = 100 * np.array([c.found.estimate for _, c in cells])
        low = 100 * np.array([c.found.low for _, c in cells])
        high = 100 * np.array([c.found.high for _, c in cells])
        axes.errorbar(x, y, (np.maximum(0, y - low), np.maximum(0, high - y)), fmt='o-', ms=5,
                      lw=1.8, elinewidth=1.2, color=arm_color(analysis, arm),
                      label=analysis.labels[arm])
    axes.set_xticks(range(len(bands)), bands)
    axes.set_ylim(0, 103)
    axes.set_ylabel('objects found, %')
    axes.set_xlabel('distance from the camera')
    legend_above(axes)
    return png(drawing)


def reliability(analysis: Analysis) -> bytes | None:
    """Return accuracy over confidence, by arm; None where no arm told its confidence."""
    found = analysis.calibration
    if not found:
        return None
    drawing, axes = figure(4.6, 3.6)
    axes.plot([0, 100], [0, 100], color=INK, lw=1, ls=(0, (4, 3)), label='as sure as right')
    for arm in (a.name for a in analysis.run.arms if a.name in found):
        # A bin of a handful of pixels says nothing.
        bins = [(c, a) for n, c, a in found[arm].bins if n >= 1e-4 * found[arm].pixels]
        axes.plot([100 * c for c, _ in bins], [100 * a for _, a in bins], 'o-', ms=4, lw=1.8,
                  color=arm_color(analysis, arm), label=analysis.labels[arm])
    axes.set_xlim(0, 101)
    axes.set_ylim(0, 101)
    axes.set_xlabel('confidence, %')
    axes.set_ylabel('pixels that are right, %')
    axes.legend(frameon=False, fontsize=8.5, loc='upper left')
    return png(drawing)
