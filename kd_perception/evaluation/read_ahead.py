"""Read the next frames in a thread while the present one is computed on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar('T')


def read_ahead(read: Callable[[int], T], positions: Iterable[int],
               depth: int = 3) -> Generator[T, None, None]:
    """
    Yield ``read(position)`` for every position, in order, read by one thread ahead of time.

    An exception of ``read`` is raised where its value would have come; the generator ends then.

    :param depth: values that may wait; each holds a decoded frame in memory.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix='read_ahead')
    waiting: list[Future[T]] = []
    try:
        for position in positions:
            waiting.append(pool.submit(read, position))
            if len(waiting) > depth:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
