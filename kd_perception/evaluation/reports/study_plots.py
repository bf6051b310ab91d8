"""
The figures of a study as PNG bytes: confusion, reliability, where networks differ, IoU by class.

None where there is nothing to draw.
"""

from __future__ import annotations

import numpy as np

from kd_perception.evaluation.reports.figures import class_bars, COLORS, figure, GRID, INK, png
from kd_perception.evaluation.study import BASELINE, STUDENT, Study, TEACHER

ROLE_COLORS = dict(zip((STUDENT, TEACHER, BASELINE), COLORS, strict=False))
_MANY = 20  # classes from which on cells bear no numbers


def class_iou(study: Study) -> bytes | None:
    """Return IoU by class and member, most frequent class first, or None without truth."""
    roles = [role for role in study.roles if role in study.accuracies]
    if not roles:
        return None
    share = np.array(study.accuracies[roles[0]].share)
    order = [int(i) for i in np.argsort(-share, kind='stable') if share[i] > 0]
    return class_bars([study.classes.names[i] for i in order], share[order],
                      [(study.name(role), ROLE_COLORS[role],
                        np.array(study.accuracies[role].iou)[order]) for role in roles])


def confusion(study: Study) -> bytes | None:
    """Return what the student takes for what, in % of the truth, or None without truth."""
    counts = study.matrices[STUDENT].counts
    rows = np.flatnonzero(counts.sum(1))
    if rows.size == 0:
        return None
    # Classes that are nowhere have no row; those that are never predicted keep their column.
    names = [study.classes.names[i] for i in rows]
    columns = [*rows, *np.setdiff1d(np.flatnonzero(counts[:, :-1].sum(0)), rows)]
    heads = [study.classes.names[i] for i in columns]
    shown = counts[rows]
    part = 100 * shown[:, columns] / shown.sum(1, keepdims=True)
    side = max(3.2, 0.42 * len(columns) + 1.2)
    drawing, axes = figure(side + 0.6, max(2.6, 0.38 * len(rows) + 1.3))
    axes.imshow(part, cmap='Blues', vmin=0, vmax=100, aspect='auto')
    if len(columns) <= _MANY:
        for (row, column), value in np.ndenumerate(part):
            if value >= 0.5:
                axes.annotate(f'{value:.0f}', (column, row), ha='center', va='center',
                              fontsize=7.5, color='white' if value > 55 else INK)
    axes.set_xticks(range(len(columns)), heads, rotation=45, ha='right', fontsize=8)
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.grid(visible=False)
    axes.set_xlabel(f'what the {study.name(STUDENT)} says')
    axes.set_ylabel('ground truth')
    return png(drawing)


def reliability(study: Study) -> bytes | None:
    """Return accuracy over confidence with the pixels by confidence, or None without truth."""
    roles = [r for r in study.roles if study.calibrations[r].pixels.any()]
    if not roles:
        return None
    drawing, axes = figure(4.6, 4.2)
    axes.plot([0, 1], [0, 1], color=INK, lw=1, ls=(0, (4, 3)), label='as sure as right')
    for role in roles:
        pixels, confidence, accuracy = study.calibrations[role].bins()
        there = pixels > 0
        axes.plot(confidence[there], accuracy[there], color=ROLE_COLORS[role], lw=1.8,
                  label=f'{study.name(role)}, ECE {100 * study.calibrations[role].ece():.1f} %')
        # The area of a dot is its share of the pixels: most are sure, and lie at the right.
        axes.scatter(confidence[there], accuracy[there], color=ROLE_COLORS[role], zorder=3,
                     s=8 + 160 * pixels[there] / pixels.sum(), alpha=0.85, lw=0)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel('confidence (size of a dot: share of the pixels)')
    axes.set_ylabel('share that is right')
    axes.legend(frameon=False, fontsize=8, loc='upper left')
    return png(drawing)


def where_they_differ(study: Study) -> bytes | None:
    """Return in how many frames each place differs, or None without a teacher."""
    if study.agreement is None:
        return None
    where = 100 * study.agreement.where()
    rows, columns = where.shape
    drawing, axes = figure(6.0, 5.2 * rows / columns + 0.5)
    image = axes.imshow(where, cmap='magma_r', vmin=0, vmax=max(1.0, float(where.max())),
                        interpolation='nearest')
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(GRID)
    bar = drawing.colorbar(image, ax=axes, shrink=0.9)
    bar.set_label('% of the frames', color=INK, size=9)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return png(drawing)


def disagreement_by_class(study: Study) -> bytes | None:
    """Return how much of each of the teacher's classes the student calls otherwise."""
    if study.agreement is None:
        return None
    part = 100 * study.agreement.by_class()
    order = [int(i) for i in np.argsort(-np.nan_to_num(part), kind='stable')
             if np.isfinite(part[i])]
    if not order:
        return None
    drawing, axes = figure(6.0, 0.8 + 0.27 * len(order))
    axes.barh(range(len(order)), part[order], height=0.7, color=ROLE_COLORS[STUDENT])
    for position, value in enumerate(part[order]):
        axes.annotate(f'{value:.0f}', (value, position), xytext=(3, 0), va='center',
                      textcoords='offset points', fontsize=7.5, color=INK)
    axes.set_yticks(range(len(order)), [study.classes.names[i] for i in order])
    axes.invert_yaxis()
    axes.grid(axis='y', visible=False)
    axes.set_xlim(0, 105)
    axes.set_xlabel("% of the teacher's pixels that the student calls otherwise")
    return png(drawing)
