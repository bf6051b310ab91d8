"""
A comparison against an older one in words and tables, for terminal and page alike.

In: a ``BaselineComparison``; out: sentences and ``Table`` s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math

from kd_perception.evaluation.baseline import BaselineComparison, Change
from kd_perception.evaluation.reports.tables import NONE, number, Table

_NAMES = {'p50': 'latency, median', 'p95': 'latency, p95', 'p99': 'latency, p99',
          'fps': 'frames/s', 'lost': 'frames lost', 'miou': 'mIoU', 'memory': 'memory (RSS)',
          'gpu_memory': 'GPU memory', 'arm': 'all figures'}


def baseline_headline(found: BaselineComparison) -> str:
    """Return what came of it in a line."""
    worse = found.of_state('regression')
    left = found.of_state('undecided')
    gone = sum(c.missing for c in found.changes)
    more = (f', {len(left)} undecided' if left else '') + (
        f', {gone} missing that the baseline has' if gone else '')
    if worse:
        return (f'{len(worse)} regression{"s" if len(worse) > 1 else ""} against the baseline'
                f'{more}.')
    if found.failed:
        return f'No regression shown, but not everything could be judged (strict){more}.'
    judged = len(found.changes) - len(found.of_state('not gated'))
    if not judged:
        return f'Nothing could be judged against the baseline{more}.'
    return f'No regression shown in {judged} figures{more}.'


def baseline_tables(found: BaselineComparison, labels: Mapping[str, str], *,
                    all_classes: bool = True) -> list[Table]:
    """
    Return every change, one table per arm.

    :param labels: names to show, by arm; arms that only the baseline has go by their own.
    :param all_classes: with the classes of which there is nothing to tell.
    """
    return [_table([c for c in found.changes if c.arm == arm], labels.get(arm, arm), all_classes)
            for arm in dict.fromkeys(c.arm for c in found.changes)]


def _table(changes: Sequence[Change], label: str, all_classes: bool) -> Table:
    rows: list[tuple[str, ...]] = []
    strong: list[int] = []
    for change in changes:
        if (change.kind == 'class' and not all_classes and not change.missing
                and change.state in ('within limit', 'not gated', 'undecided')):
            continue
        if change.state == 'regression':
            strong.append(len(rows))
        rows.append((_name(change), _value(change, change.old), _value(change, change.new),
                     _worsening(change), _limit(change), change.state))
    return Table(f'{label} against the baseline; a positive change is worse',
                 ('', 'then', 'now', 'worse by (95 %)', 'limit', ''), tuple(rows),
                 strong=tuple(strong))


def _name(change: Change) -> str:
    name = _NAMES.get(change.metric, f'IoU {change.metric}')
    return f'{name} (paired)' if change.paired else name


def _value(change: Change, value: float) -> str:
    if not math.isfinite(value):
        return NONE
    if change.kind == 'latency':
        return f'{number(value, 0 if value >= 100 else 1 if value >= 10 else 2)} ms'
    if change.kind == 'memory':
        return f'{value:.0f} MiB'
    if change.kind == 'rate':
        return number(value, 1)
    if change.kind == 'loss':
        return f'{100 * value:.2f} %'
    return number(100 * value, 1)


def _worsening(change: Change) -> str:
    worse = change.worsening
    if not math.isfinite(worse.estimate):
        return NONE
    unit = ' %' if change.kind in ('latency', 'rate', 'memory') else ''

    def shown(value: float) -> str:
        # A relative change of -100 % is what an open end comes to.
        known = math.isfinite(value) and not (unit and value <= -1.0)
        return f'{100 * value:+.1f}'.replace('-', '−') if known else '?'

    if worse.low == worse.high:
        return f'{shown(worse.estimate)}{unit}'
    return f'{shown(worse.estimate)}{unit} ({shown(worse.low)} … {shown(worse.high)})'


def _limit(change: Change) -> str:
    if not math.isfinite(change.limit):
        return NONE
    unit = ' %' if change.kind in ('latency', 'rate', 'memory') else ''
    return f'{100 * change.limit:g}{unit}'
