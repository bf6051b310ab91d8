"""The monitor's second thread: decodes masks and counts pixels while the first one receives."""

from __future__ import annotations

from collections.abc import Callable
import queue
import threading

from kd_perception.errors import GraphError, KdPerceptionError

MOST_WAITING = 300  # tasks; in lockstep there are some ten per arm


class CountingThread:
    """
    Does what is put in, in order, so that everything in here has one owner.

    :param after: called in this thread after every task.
    """

    def __init__(self, after: Callable[[], None]) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._after = after
        self._thread = threading.Thread(target=self._run, name='count pixels')

    def start(self) -> None:
        """Begin; ``close`` must be called from then on."""
        self._thread.start()

    def put(self, task: Callable[[], None]) -> None:
        """Let ``task`` run when all before it are done."""
        self._tasks.put(task)

    @property
    def empty(self) -> bool:
        """Return whether nothing waits; the last task may still be running."""
        return self._tasks.empty()

    @property
    def behind(self) -> bool:
        """
        Return whether so much waits that no more pixels may be put in.

        Else the memory of a long run would end before the run does.
        """
        return self._tasks.qsize() >= MOST_WAITING

    def drain(self) -> None:
        """Wait until everything that was put in before is done."""
        done = threading.Event()
        self.put(done.set)
        done.wait()

    def check(self) -> None:
        """
        Tell the owner of a task that failed.

        :raises KdPerceptionError: readable, whatever the task raised.
        """
        if self._error is None:
            return
        if isinstance(self._error, KdPerceptionError):
            raise self._error
        raise GraphError(f'the monitor failed: {type(self._error).__name__}: {self._error}')

    def close(self) -> None:
        """Do what waits, and end."""
        self._tasks.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
                self._after()
            except Exception as error:
                self._error = self._error or error
