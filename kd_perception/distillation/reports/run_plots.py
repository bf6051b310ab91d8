"""The curves of a run as PNG bytes."""

from __future__ import annotations

from matplotlib.axes import Axes
import numpy as np

from kd_perception.distillation.reports.run_log import Curve, RunLog
from kd_perception.evaluation.reports.figures import COLORS, INK, png, stacked

_POINTS = 600


def curves(log: RunLog, best_step: int | None) -> bytes | None:
    """Return the loss with its terms, the learning rate and validation; None without steps."""
    if 'loss' not in log.scalars:
        return None
    validated = 'mean_iou' in log.validation
    heights = [2.5, 1.2, 2.0] if validated else [2.5, 1.2]
    drawing, (loss, rate, *rest) = stacked(6.4, heights)
    terms = dict(log.terms) if len(log.terms) > 1 else {}
    lines = {'loss': log.scalars['loss'], **terms}
    for i, (name, curve) in enumerate(lines.items()):
        _line(loss, curve, INK if i == 0 else COLORS[(i - 1) % len(COLORS)], name)
    values = np.concatenate([c.values for c in lines.values()])
    positive = values[values > 0]
    if positive.size == values.size and positive.max() > 20 * np.median(positive):
        loss.set_yscale('log')
    loss.set_ylabel('loss')
    loss.legend(frameon=False, fontsize=8, ncols=3, loc='lower center', bbox_to_anchor=(0.5, 1.0))
    if 'learning_rate' in log.scalars:
        curve = log.scalars['learning_rate']
        rate.plot(curve.steps, curve.values, color=COLORS[3], lw=1.5)
    rate.set_ylabel('learning rate')
    rate.set_ylim(bottom=0)
    if validated:
        curve = log.validation['mean_iou']
        rest[0].plot(curve.steps, 100 * curve.values, 'o-', color=COLORS[0], lw=1.5, ms=4,
                     label='mIoU')
        if 'pixel_accuracy' in log.validation:
            other = log.validation['pixel_accuracy']
            rest[0].plot(other.steps, 100 * other.values, 'o-', color=COLORS[2], lw=1.2, ms=3,
                         label='pixel accuracy')
        if best_step is not None:
            rest[0].axvline(best_step, color=INK, lw=1, ls=(0, (4, 3)), label='best')
        rest[0].set_ylabel('validation')
        rest[0].legend(frameon=False, fontsize=8, ncols=3, loc='best')
    (rest[0] if rest else rate).set_xlabel('step')
    return png(drawing)


def _line(axes: Axes, curve: Curve, color: str, label: str) -> None:
    """Draw values pale, and their running mean over a fiftieth of the run."""
    every = max(1, len(curve.values) // _POINTS)
    axes.plot(curve.steps[::every], curve.values[::every], color=color, lw=0.8, alpha=0.35)
    width = max(1, len(curve.values) // 50)
    ends = np.cumsum(np.r_[0.0, curve.values])
    low = np.maximum(0, np.arange(len(curve.values)) - width // 2)
    high = np.minimum(len(curve.values), low + width)
    axes.plot(curve.steps, (ends[high] - ends[low]) / (high - low), color=color, lw=1.6,
              label=label)
