"""
The gate of ``compare`` and ``report``: an older report, limits, and exit code 3 for regressions.

A regression is no bad input and no failure of the command, so it has an exit code of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.text import Text

from kd_perception.cli.tables import rich_table
from kd_perception.errors import ConfigError
from kd_perception.evaluation.analysis import Analysis
from kd_perception.evaluation.baseline import BaselineComparison, compare_reports, Limits
from kd_perception.evaluation.baseline_files import Baseline
from kd_perception.evaluation.reports.baseline_tables import baseline_headline, baseline_tables
from kd_perception.evaluation.reports.report import report_dict

REGRESSION = 3


def add_gate_arguments(parser: argparse.ArgumentParser, baseline: str = '') -> None:
    """
    Declare the limits.

    :param baseline: help of ``--baseline``; empty where the verb declares it itself.
    """
    gate = parser.add_argument_group(
        'gate (with --baseline; exit code 3 when a regression is shown)')
    if baseline:
        gate.add_argument('--baseline', type=Path, metavar='REPORT', help=baseline)
    gate.add_argument('--max-latency-regression', default='5%', metavar='SHARE',
                      help='slower p50, p95, p99 or rate (%(default)s)')
    gate.add_argument('--max-loss-regression', default='0.5', metavar='POINTS',
                      help='more lost frames, points of 100 (%(default)s)')
    gate.add_argument('--max-miou-regression', default='0.5', metavar='POINTS',
                      help='less mIoU (%(default)s)')
    gate.add_argument('--max-class-regression', default='2', metavar='POINTS',
                      help='less IoU of one class (%(default)s)')
    gate.add_argument('--max-memory-regression', default='10%', metavar='SHARE',
                      help='more RSS or GPU memory (%(default)s)')
    gate.add_argument('--allow-other-machine', action='store_true',
                      help='judge times and memory although the baseline is from another machine')
    gate.add_argument('--strict', action='store_true',
                      help='what cannot be decided or judged counts as a regression')


def limits_of(args: argparse.Namespace) -> Limits:
    """
    Return the limits that were asked for.

    :raises ConfigError: for one that is no number, and for one without ``--baseline``.
    """
    if not args.baseline:
        parser = argparse.ArgumentParser(add_help=False)
        add_gate_arguments(parser)
        for name, default in vars(parser.parse_args([])).items():
            if getattr(args, name) != default:
                raise ConfigError(f'--{name.replace("_", "-")} needs --baseline')
    return Limits(
        latency=_share(args.max_latency_regression, '--max-latency-regression'),
        loss=_points(args.max_loss_regression, '--max-loss-regression'),
        miou=_points(args.max_miou_regression, '--max-miou-regression'),
        class_iou=_points(args.max_class_regression, '--max-class-regression'),
        memory=_share(args.max_memory_regression, '--max-memory-regression'),
        other_machine=args.allow_other_machine, strict=args.strict)


def judged(analysis: Analysis, baseline: Baseline, limits: Limits) -> BaselineComparison:
    """Hold a comparison against an older one."""
    return compare_reports(baseline.data, report_dict(analysis), limits,
                           source=str(baseline.path), old_run=baseline.run, new_run=analysis.run)


def tell(found: BaselineComparison, analysis: Analysis, console: Console | None = None) -> int:
    """
    Print what came of ``analysis`` against an older one.

    :returns: 0, or 3 when a regression was shown.
    """
    print_changes(found, analysis.labels, console or Console())
    return REGRESSION if found.failed else 0


def print_changes(found: BaselineComparison, labels: Mapping[str, str],
                  console: Console) -> None:
    """Print table, notes and outcome; of the classes those that changed."""
    console.print(Text(f'\nBaseline: {found.source}, {found.started}'), soft_wrap=True)
    for table in baseline_tables(found, labels, all_classes=False):
        console.print(Text(f'\n{table.title}', style='bold'))
        console.print(rich_table(table))
    for note in found.notes:
        console.print(Text(f'Beware: {note}', style='yellow'))
    console.print(Text(baseline_headline(found), style='bold red' if found.failed else 'bold'))


def _share(text: str, option: str) -> float:
    """Return ``5%`` or ``5`` as 0.05."""
    return _points(text.strip().removesuffix('%'), option)


def _points(text: str, option: str) -> float:
    """Return points of 100 as a share."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1e6:
        raise ConfigError(f'{option} {text}: a number of 0 or more, such as 5 (or 5% where it is '
                          'relative)')
    return value / 100.0
