"""
A comparison while it runs: one row per arm, below a bar with the time left.

On a terminal it is redrawn in place; elsewhere (a log file, CI) it is a line about every ten
seconds, as ``progress`` has it, with the figures in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
import sys

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from kd_perception.cli.progress import bar, progress, ProgressCallback
from kd_perception.evaluation.comparison import ArmSpec
from kd_perception.evaluation.reports.tables import NONE
from kd_perception.interrupts import raise_swallowed
from kd_perception.nodes.monitor.live_figures import LiveArm

_COLUMNS = ('arm', 'frames', 'lost', 'p50 ms', 'p95 ms', 'mIoU', 'answers/s')


@dataclass
class ComparisonProgress:
    """
    What ``run_comparison`` tells while it runs.

    :param update: takes (done, total, note); ``arms``: takes the figures of the arms.
    """

    update: ProgressCallback
    arms: ArmsCallback


class ArmsCallback:
    """Takes the figures of the arms; they are drawn with the next update."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = dict(enumerate(names))
        self.now: tuple[LiveArm, ...] = ()

    def __call__(self, arms: Sequence[LiveArm]) -> None:
        """Take them."""
        self.now = tuple(arms)

    def rows(self) -> list[tuple[str, ...]]:
        """Return cells in the order of ``_COLUMNS``; empty before the first figures."""
        return [(self._names.get(i, arm.arm), *_cells(arm)) for i, arm in enumerate(self.now)]

    def sentence(self) -> str:
        """Return the figures in a line."""
        told = [f'{name} {frames} frames, p50 {p50} ms, mIoU {miou}, {lost} lost'
                for name, frames, lost, p50, _, miou, _ in self.rows() if p50 != NONE]
        return '; '.join(told)


@contextmanager
def comparison_progress(description: str, names: Sequence[str]) -> Iterator[ComparisonProgress]:
    """
    Draw a comparison on standard error while the block runs.

    :param names: how to call the arms, in their order.
    :raises KeyboardInterrupt: where one was swallowed before.
    """
    raise_swallowed()
    arms = ArmsCallback(names)
    if not sys.stderr.isatty():
        with progress(description) as plain:
            def tell(done: int, total: int, note: str = '') -> None:
                plain(done, total, f'{note} {arms.sentence()}'.strip())

            yield ComparisonProgress(tell, arms)
        return
    console = Console(stderr=True)
    drawn = bar(console)
    task = drawn.add_task(description, total=None, note='')
    with Live(console=console, refresh_per_second=4, transient=True,
              get_renderable=lambda: live_view(drawn, arms)):
        def update(done: int, total: int, note: str = '') -> None:
            drawn.update(task, completed=done, total=total or None, note=note)

        yield ComparisonProgress(update, arms)


def arm_names(arms: Sequence[ArmSpec]) -> list[str]:
    """Return how to call arms: letter and model; a run's ``bundle`` by the name of the run."""
    paths = [Path(arm.model) for arm in arms]
    return [f'{arm.name}: {(p.parent.name if p.name == "bundle" else "") or p.name}'
            for arm, p in zip(arms, paths, strict=True)]


def live_view(drawn: Progress, arms: ArmsCallback) -> RenderableType:
    """Return the bar with the table of the arms below it."""
    rows = arms.rows()
    if not rows:
        return drawn
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(_COLUMNS):
        table.add_column(name, justify='left' if i == 0 else 'right')
    for row in rows:
        table.add_row(*map(Text, row))
    return Group(drawn, table)


def _cells(arm: LiveArm) -> tuple[str, ...]:
    def known(value: float | None, form: str) -> str:
        return NONE if value is None else format(value, form)

    miou = None if arm.miou is None else 100 * arm.miou
    return (str(arm.answered), str(arm.lost), known(arm.p50_ms, '.1f'), known(arm.p95_ms, '.1f'),
            known(miou, '.1f'), known(arm.rate_hz or None, '.1f'))
