"""
A robustness comparison for programs and people: ``robustness.json`` and ``robustness.html``.

In: a ``Robustness`` and where the single reports lie; out: the two files, and the table for the
terminal. ``docs/report.md`` describes the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from html import escape
import json
from pathlib import Path

from kd_perception.evaluation.reports.page import (
    card,
    cautions,
    page,
    paragraphs,
    section,
    small,
    table,
)
from kd_perception.evaluation.reports.tables import interval, ms, NONE, percent, Table
from kd_perception.evaluation.robustness import Robustness
from kd_perception.evaluation.statistics.bootstrap import Interval
from kd_perception.evaluation.words import points
from kd_perception.paths import atomic_file

JSON_FILE = 'robustness.json'
HTML_FILE = 'robustness.html'


def write_robustness(found: Robustness, folder: Path, reports: Mapping[str, str]) -> Path:
    """
    Write both files into ``folder``.

    :param reports: by scenario, the path of its own report relative to ``folder``.
    :returns: the path of the page.
    """
    texts = {JSON_FILE: json.dumps({**found.to_dict(), 'reports': dict(reports)}, indent=1,
                                   allow_nan=False, ensure_ascii=False) + '\n',
             HTML_FILE: render(found, reports)}
    for name, text in texts.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text, encoding='utf-8', newline='')
    return folder / HTML_FILE


def robustness_table(found: Robustness) -> Table:
    """Return one line per scenario and arm, in points of 100."""
    accuracy, rest = robustness_halves(found)
    return Table('Every model under every condition, in points of 100 with 95 % intervals',
                 (*accuracy.header, *rest.header[2:]),
                 tuple((*a, *b[2:]) for a, b in zip(accuracy.rows, rest.rows)), accuracy.strong)


def robustness_halves(found: Robustness) -> tuple[Table, Table]:
    """Return the same as two narrow tables: mIoU, and everything else."""
    first = next(iter(found.labels))
    names = [(r.scenario if r.arm == first else '', found.labels[r.arm]) for r in found.rows]
    columns: dict[str, list[str]] = {'mIoU': [_points(r.miou) for r in found.rows]}
    if found.baseline:
        columns[f'against {found.baseline}'] = [_points(r.change, sign=True) for r in found.rows]
    if len(found.labels) > 1:
        columns[f'against {found.labels[first]}'] = [_points(r.difference, sign=True)
                                                     for r in found.rows]
    other = {'latency': [ms(r.latency_ms) for r in found.rows],
             'p95': [ms(r.latency_p95_ms) for r in found.rows],
             'boundary': [_estimate(r.boundary) for r in found.rows],
             'objects': [_estimate(r.found) for r in found.rows],
             'flicker': [_estimate(r.flicker) for r in found.rows]}
    strong = tuple(i for i, r in enumerate(found.rows) if r.scenario == found.baseline)

    def made(title: str, cells: dict[str, list[str]]) -> Table:
        return Table(title, ('scenario', 'model', *cells), tuple(
            (*name, *values) for name, values in zip(names, zip(*cells.values()))), strong)

    return (made('mIoU under every condition, in points of 100 with 95 % intervals', columns),
            made('Latency, boundaries, objects found and flicker (points of 100)', other))


def cautions_of(found: Robustness) -> list[str]:
    """Return what limits the table."""
    out = []
    if found.missing:
        out.append(f'Not run yet: {", ".join(found.missing)}.')
    if found.interrupted:
        out.append(f'Interrupted, so measured on fewer frames: {", ".join(found.interrupted)}.')
    if found.baseline:
        first = next(iter(found.labels))
        other = [r.scenario for r in found.rows if r.arm == first and r.change is None
                 and r.scenario != found.baseline and r.miou is not None]
        if other:
            out.append(f'{", ".join(other)} showed another scene than {found.baseline} (or too '
                       'few frames in common), so no loss against it is given.')
    return out


def render(found: Robustness, reports: Mapping[str, str]) -> str:
    """Return the page."""
    whole = robustness_table(found)
    # An interval that is broken over lines is hard to read: rather scroll.
    content = replace(whole, rows=tuple(tuple(cell.replace(' ', '\u00a0') for cell in row)
                                        for row in whole.rows))
    links = ' · '.join(f'<a href="{escape(path)}">{escape(name)}</a>'
                       for name, path in reports.items())
    frames = max(r.n for r in found.rows)
    return page(
        title='Robustness of ' + ' and '.join(found.labels.values()),
        kicker=f'robustness · {len(found.scenarios)} scenarios · {frames} frames each',
        headline=found.headline, cards=_cards(found),
        parts=[cautions(cautions_of(found)),
               section('Conditions', [table(content, {})]),
               section('Single reports', [f'<p>{links}</p>' if links else '']),
               section('How to read it', [paragraphs([
                   'All scenarios have the same seed. Where weather and light alone differ, every '
                   'frame has its twin with equal ground truth: "against '
                   f'{found.baseline or "the baseline"}" is the change over twins, with an '
                   'interval of its own: what is hard about the frames themselves is in both.']),
                   small('mIoU covers classes with at least 0.1 % of the labelled pixels. Objects '
                         'is the share of pedestrians, riders, signs, lights and vehicles of '
                         'which half of the visible pixels are right; boundary is the boundary '
                         'F-score; flicker the share of pixels that change class though what '
                         'they show does not. Latency is the median.')])])


def _cards(found: Robustness) -> list[str]:
    out = []
    for arm, label in found.labels.items():
        own = [r for r in found.rows if r.arm == arm and r.change is not None]
        if own:
            worst = min(own, key=lambda r: r.change.estimate if r.change else 0.0)
            change = points(worst.change) if worst.change else None
            out.append(card(f'{change.estimate:+.1f}'.replace('-', '−') if change else NONE,
                            f'mIoU points, {label} in {worst.scenario}',
                            f'its largest change against {found.baseline}'))
    return out


def _points(value: Interval | None, *, sign: bool = False) -> str:
    return NONE if value is None else interval(points(value), '', 1, sign=sign)


def _estimate(value: Interval | None) -> str:
    return NONE if value is None else percent(value.estimate)
