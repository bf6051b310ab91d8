"""
The tables of what a mean IoU hides: boundaries, objects, flicker, calibration.

In: an ``Analysis``; out: ``Table`` s, or None where it was not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kd_perception.evaluation.analysis import Analysis
from kd_perception.evaluation.metrics.objects import (
    distance_names,
    KINDS,
    ObjectRecall,
    visible_names,
)
from kd_perception.evaluation.reports.tables import interval, NONE, number, percent, Table
from kd_perception.evaluation.statistics.bootstrap import Interval
from kd_perception.evaluation.statistics.shares import PairedShare
from kd_perception.evaluation.words import points


def detail_table(analysis: Analysis) -> Table | None:
    """Return the summary: each figure by arm, and what the others differ from the reference."""
    arms = [a.name for a in analysis.run.arms]
    rows: list[tuple[str, ...]] = []

    def add(name: str, found: Mapping[str, Interval | None],
            differences: Sequence[PairedShare | None], digits: int) -> None:
        if not any(found.values()):
            return
        cells = [interval(points(v), '', digits) if v else NONE for v in
                 (found.get(arm) for arm in arms)]
        rows.append((name, *cells, *(
            interval(points(d.difference), '', digits, sign=True) if d else NONE
            for d in differences)))

    add('boundary F-score', {k: v.score for k, v in (analysis.boundary or {}).items()},
        [c.boundary for c in analysis.comparisons], 1)
    add('objects found', {
        k: cell.found if (cell := v.cell()) else None
        for k, v in (analysis.objects or {}).items()},
        [c.objects for c in analysis.comparisons], 1)
    for kind in KINDS:
        add(f'{kind}s found', {
            k: cell.found if (cell := v.cell(kind)) else None
            for k, v in (analysis.objects or {}).items()},
            [c.objects_by_kind.get(kind) for c in analysis.comparisons], 1)
    add('pixels that flicker', {k: v.share for k, v in (analysis.flicker or {}).items()},
        [c.flicker for c in analysis.comparisons], 2)
    for name, key in (('calibration error (ECE)', 'ece'), ('mean confidence', 'confidence')):
        if analysis.calibration:
            rows.append((name, *(
                percent(getattr(analysis.calibration[arm], key)) if arm in analysis.calibration
                else NONE for arm in arms), *(NONE for _ in analysis.comparisons)))
    if not rows:
        return None
    return Table('What a mean IoU hides, in points of 100',
                 ('', *(analysis.labels[a] for a in arms),
                  *(f'difference {analysis.labels[c.other]}' for c in analysis.comparisons)),
                 tuple(rows))


def object_table(analysis: Analysis, by: str) -> Table | None:
    """
    Return the share of found instances by kind, along ``distance`` or ``visible``.

    A cell holds one figure per arm, in their order, and how many different things are behind it.
    """
    found = analysis.objects
    if not found:
        return None
    columns = distance_names() if by == 'distance' else visible_names()
    arms = [a.name for a in analysis.run.arms if a.name in found]
    rows = []
    for kind in (*KINDS, 'all'):
        cells = [_cell([found[arm] for arm in arms], kind, by, c) for c in ('all', *columns)]
        if any(c != NONE for c in cells):
            rows.append((kind, *cells))
    names = ' · '.join(analysis.labels[a] for a in arms)
    word = 'distance' if by == 'distance' else 'visible share'
    return Table(f'Objects found by {word}, in points of 100: {names} (n: different things)',
                 ('', 'all', *columns), tuple(rows),
                 strong=(len(rows) - 1,) if rows else ())


def boundary_table(analysis: Analysis) -> Table | None:
    """Return the boundary F-score by class and arm."""
    found = analysis.boundary
    if not found:
        return None
    arms = [a.name for a in analysis.run.arms if a.name in found]
    rows = [(name, *(percent(found[arm].f[i]) for arm in arms))
            for i, name in enumerate(analysis.run.classes.names)
            if any(found[arm].frames[i] for arm in arms)]
    return Table('Boundary F-score by class, in points of 100',
                 ('class', *(analysis.labels[a] for a in arms)), tuple(rows))


def _cell(found: Sequence[ObjectRecall], kind: str, by: str, column: str) -> str:
    cells = [r.cell(kind, column) if by == 'distance' else r.cell(kind, 'all', column)
             for r in found]
    if not any(cells):
        return NONE
    shares = ' · '.join(number(100 * c.found.estimate, 0) if c else NONE for c in cells)
    return f'{shares} (n {max(c.things for c in cells if c)})'
