"""Tables of a comparison on the terminal: the same cells as in the report."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from kd_perception.evaluation.analysis import Analysis
from kd_perception.evaluation.reports import tables
from kd_perception.evaluation.reports.robustness_report import (
    cautions_of,
    robustness_halves,
    robustness_table,
)
from kd_perception.evaluation.reports.tables import Table
from kd_perception.evaluation.robustness import Robustness

WIDE = 140  # columns of a terminal that the whole table of a robustness run fits


def print_comparison(analysis: Analysis, page: Path, console: Console | None = None) -> None:
    """Print the tables, the verdict, what limits it, and where the report ``page`` lies."""
    console = console or Console()
    found = (tables.arms_table(analysis), tables.latency_table(analysis),
             tables.accuracy_table(analysis), tables.difference_table(analysis))
    for table in found:
        if table is not None:
            console.print(Text(f'\n{table.title}', style='bold'))
            console.print(rich_table(table))
    console.print()
    for comparison in analysis.comparisons:
        for sentence in comparison.verdict.sentences:
            console.print(Text(sentence, style='bold'))
    for caution in analysis.cautions:
        console.print(Text(f'Beware: {caution}', style='yellow'))
    # A path that wraps cannot be copied.
    console.print(Text(f'\nreport: {page}'), soft_wrap=True)


def print_robustness(found: Robustness, page: Path, console: Console | None = None) -> None:
    """Print one line per scenario and model, and where the ``page`` lies."""
    console = console or Console()
    wide = console.width >= WIDE
    for table in (robustness_table(found),) if wide else robustness_halves(found):
        console.print(Text(f'\n{table.title}', style='bold'))
        console.print(rich_table(table))
    console.print(Text(found.headline, style='bold'))
    for caution in cautions_of(found):
        console.print(Text(f'Beware: {caution}', style='yellow'))
    console.print(Text(f'\nreport: {page}'), soft_wrap=True)


def rich_table(table: Table) -> RichTable:
    """Return ``table`` for the terminal, without its title; cells are literal, not markup."""
    out = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, cell in enumerate(table.header):
        out.add_column(Text(cell), justify='left' if i == 0 else 'right')
    for i, row in enumerate(table.rows):
        out.add_row(*(Text(cell) for cell in row), style='bold' if i in table.strong else None)
    return out
