"""What the monitor waits for in lockstep, and how it tells a parent process how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import json
import os
from pathlib import Path
import time
from typing import Any, Protocol

from kd_perception.nodes.monitor.live_figures import live_arms, LiveArm
from kd_perception.nodes.monitor.recorder import Key

_TELL_EVERY_S = 0.3


class Answers(Protocol):
    """Who knows what has been answered: a recorder."""

    def complete(self, arm: str, key: Key, *, labelled: bool) -> bool:
        """Return whether all is there that will ever be known of a frame in one arm."""
        ...


class Pending:
    """
    One act of serving that is not yet answered by all its arms.

    ``update`` is called in the thread that owns the recorder, the rest anywhere.

    :param index: frame in the source.
    :param keys: by arm that was served.
    :param labelled: whether ground truth comes with the frame.
    """

    def __init__(self, index: int, keys: Mapping[str, Key], labelled: bool,
                 timeout_s: float) -> None:
        self.index = index
        self.done = False
        self._open = dict(keys)
        self._labelled = labelled
        self._deadline = time.monotonic() + timeout_s

    def update(self, recorder: Answers) -> None:
        """Look which arms have answered."""
        self._open = {arm: key for arm, key in self._open.items()
                      if not recorder.complete(arm, key, labelled=self._labelled)}
        self.done = not self._open

    def expired(self) -> bool:
        """Return whether waiting has no sense any more."""
        return time.monotonic() > self._deadline

    def missing(self) -> tuple[str, ...]:
        """Return the arms that have not answered."""
        return tuple(self._open)


class Progress:
    """
    A small JSON file for the process that started the monitor; see ``read_progress``.

    :param path: empty to tell nobody.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._next = 0.0
        self._arms: list[dict[str, Any]] = []
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)

    def tell(self, done: int, total: int, note: str, *, force: bool = False,
             arms: Callable[[], Sequence[LiveArm]] | None = None) -> None:
        """
        Write how far the run is, at most every 0.3 s unless forced.

        :param arms: returns the figures of the arms so far.
        """
        now = time.monotonic()
        if self._path is None or (now < self._next and not force):
            return
        self._next = now + _TELL_EVERY_S
        if arms is not None:
            self._arms = [arm.to_dict() for arm in arms()]
        # Whole or not there, but not brought to the disk: waiting for that in the thread that
        # receives results would show as latency.
        fresh = self._path.with_name(f'{self._path.name}.new')
        fresh.write_text(json.dumps({'done': done, 'total': total, 'note': note,
                                     'arms': self._arms}))
        os.replace(fresh, self._path)


def read_progress(path: Path) -> tuple[int, int, str] | None:
    """Return (done, total, note) as the monitor told last, or None."""
    try:
        told = json.loads(path.read_text())
        return int(told['done']), int(told['total']), str(told['note'])
    except (OSError, ValueError, KeyError):
        return None


def read_live(path: Path) -> tuple[LiveArm, ...]:
    """Return the figures of the arms as the monitor told last; empty where it told none."""
    try:
        return live_arms(json.loads(path.read_text())['arms'])
    except (OSError, ValueError, KeyError, TypeError):
        return ()
