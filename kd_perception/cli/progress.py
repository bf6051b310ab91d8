"""
Progress bars with an estimate of the time left, for every long verb.

On a terminal it is a live bar; elsewhere (a log file, CI) a line about every ten seconds, so that
logs stay readable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import os
import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kd_perception.interrupts import raise_swallowed

ProgressCallback = Callable[[int, int, str], None]

_LINE_EVERY_S = 10.0


@contextmanager
def progress(description: str) -> Iterator[ProgressCallback]:
    """
    Yield a callback ``(done, total, note)`` that draws progress on standard error.

    Of several processes that torchrun has started the first draws: they share the terminal.

    :param description: what is going on, in a few words.
    :raises KeyboardInterrupt: where one was swallowed before.
    """
    raise_swallowed()
    if os.environ.get('WORLD_SIZE', '1') != '1' and os.environ.get('RANK', '0') != '0':
        yield _silent
        return
    if sys.stderr.isatty():
        with bar(Console(stderr=True)) as drawn:
            task = drawn.add_task(description, total=None, note='')

            def update(done: int, total: int, note: str = '') -> None:
                drawn.update(task, completed=done, total=total or None, note=note)

            yield update
        return
    lines = _Lines(description)
    yield lines
    lines.finish()


def _silent(done: int, total: int, note: str = '') -> None:
    """Draw nothing."""


class _Lines:
    """Progress for files: the first, the last, and one line every few seconds between."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._start = time.monotonic()
        self._last = self._start
        self._state = (0, 0, '')

    def __call__(self, done: int, total: int, note: str = '') -> None:
        self._state = (done, total, note)
        now = time.monotonic()
        if now - self._last >= _LINE_EVERY_S:
            self._last = now
            self._print(now)

    def finish(self) -> None:
        """Print the final state; nothing of what was done in one go."""
        if self._state[1]:
            self._print(time.monotonic())

    def _print(self, now: float) -> None:
        done, total, note = self._state
        elapsed = now - self._start
        left = f', {elapsed / done * (total - done):.0f} s left' if 0 < done < total else ''
        print(f'{self._description}: {done}/{total} in {elapsed:.0f} s{left} {note}'.rstrip(),
              file=sys.stderr, flush=True)


def bar(console: Console) -> Progress:
    """Return a bar whose tasks have a ``note``."""
    return Progress(
        SpinnerColumn(), TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn('left'), TimeRemainingColumn(),
        TextColumn('{task.fields[note]}'), console=console)
