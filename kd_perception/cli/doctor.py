"""
What is installed, what is missing, and how to mend it.

Every line is ok, warn (a part is absent or slower than it could be) or missing (nothing works
without it). Exit code 0 unless something is missing.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
import json
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kd_perception import __version__
from kd_perception.cli.carla_checks import carla_checks
from kd_perception.cli.checks import Check, general_checks, MISSING, OK, WARN
from kd_perception.cli.ros_checks import ros_checks

_STYLES = {OK: 'green', WARN: 'yellow', MISSING: 'bold red'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('--json', action='store_true',
                        help='print JSON, e.g. for a bug report or a fleet')
    parser.add_argument('--carla', default='', metavar='HOST[:PORT]',
                        help='look for a CARLA server there (default: localhost:2000)')


def run(args: argparse.Namespace) -> int:
    """Look at everything; return 2 when something required is missing."""
    checks = [*general_checks(), *ros_checks(), *carla_checks(args.carla)]
    if args.json:
        print(json.dumps({'kd_perception': __version__, 'checks': [asdict(c) for c in checks]},
                         indent=1))
    else:
        # In a pipe rich assumes 80 columns, which folds paths.
        _show(checks, Console(width=None if sys.stdout.isatty() else 120))
    return 2 if any(c.state == MISSING for c in checks) else 0


def _show(checks: list[Check], console: Console) -> None:
    table = Table(box=None, padding=(0, 1), show_header=False)
    for column in ('topic', 'name', 'state'):
        table.add_column(column, no_wrap=True)
    table.add_column('detail', overflow='fold')
    topic = ''
    for check in checks:
        detail = Text(check.detail)
        if check.fix:
            detail.append(f'\n→ {check.fix}', style='bold')
        # Text, not markup: paths and extras ("kd_perception[train]") hold square brackets.
        table.add_row(Text(check.topic if check.topic != topic else '', style='bold'),
                      Text(check.name), Text(check.state, style=_STYLES[check.state]), detail)
        topic = check.topic
    console.print(table)
    counts = Counter(c.state for c in checks)
    console.print(f'\nkd_perception {__version__}: {counts[OK]} ok, {counts[WARN]} to look at, '
                  f'{counts[MISSING]} missing', highlight=False)
