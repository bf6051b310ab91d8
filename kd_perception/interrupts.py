"""
Ctrl-C and SIGTERM in a program that answers them: neither lost on the way nor mistaken at the end.

Also a signal for when the process that started this one is gone, which may end without a word.

Two things of Python stand in the way of that, both met where a signal falls into an import:

- A KeyboardInterrupt that passes through code which Python compiles from a string (every dataclass
  and named tuple does that) marks the process as interrupted. Whatever is done about it then, a
  program started with ``python -m`` ends by killing itself with SIGINT: its exit code is lost.
- An ``except:`` or a finaliser of somebody's library may swallow a KeyboardInterrupt.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import ctypes
import os
import signal
import sys
import threading
from types import FrameType

_PR_SET_PDEATHSIG = 1


class Interrupt:
    """A signal handler that raises KeyboardInterrupt, and knows that it has."""

    def __init__(self) -> None:
        self.raised = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Unwind the main thread."""
        self.raised = True
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """
    Let Ctrl-C and SIGTERM raise KeyboardInterrupt within the block; behind it they are answered.

    Ctrl-C stays ignored where a shell has started the process that way, in the background.
    """
    handler = Interrupt()
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        answered()


@contextmanager
def deferred() -> Iterator[list[int]]:
    """
    Let Ctrl-C and SIGTERM wait until the block is done, so that nothing is left half made.

    Outside of the main thread, where no signal arrives, it does nothing.

    :returns: the signals that wait; grows while the block runs.
    """
    waiting: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield waiting
        return
    before = {number: signal.signal(number, lambda n, frame: waiting.append(n))
              for number in (signal.SIGINT, signal.SIGTERM)
              if callable(signal.getsignal(number))}
    try:
        yield waiting
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        if waiting and callable(old := before[signal.Signals(waiting[0])]):
            old(waiting[0], None)


def raise_swallowed() -> None:
    """
    Raise an interrupt again that somebody has swallowed since ``interruptible`` began.

    To be called where new work begins, which nobody begins who knows of the interrupt.

    :raises KeyboardInterrupt: where there was one.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if isinstance(handler, Interrupt) and handler.raised:
            raise KeyboardInterrupt


def answered() -> None:
    """Say that a KeyboardInterrupt has been dealt with: the exit code is the program's own."""
    # Evaluating any string takes the mark off; there is no other way to.
    exec('')  # noqa: S102


def end_with(parent: int, number: signal.Signals) -> None:
    """
    Ask Linux for a signal when the parent dies, however it dies; end now if it is dead already.

    What counts is the thread that started this process: it has to stay until this has ended.

    :param parent: process id of who started this, as that one knows it: the parent may die before
        the request is made, and this process has another one then.
    :param number: the signal.
    """
    if not sys.platform.startswith('linux'):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        sys.exit(0)
