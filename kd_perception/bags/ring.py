"""
The last messages of a topic, as bytes, and which of them go into an excerpt.

Comes in: every message of a camera, not decoded. Goes out: those around the chosen ones, each
once and in order. Memory is bounded in bytes, whatever the size of a message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
import threading


@dataclass(frozen=True)
class RawMessage:
    """
    A serialised message with a header.

    :param number: place in the stream, from 0.
    :param data: as it came from the middleware.
    :param log_ns: when it was received.
    """

    number: int
    data: bytes
    log_ns: int
    stamp_ns: int
    frame_id: str


class RingBuffer:
    """
    The newest messages, as many as fit into ``max_bytes``; one at least. For several threads.

    :raises ValueError: unless ``max_bytes`` is above 0.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes <= 0:
            raise ValueError('a ring buffer needs room')
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._messages: deque[RawMessage] = deque()
        self._bytes = 0

    def append(self, message: RawMessage) -> None:
        """Take the next message; the oldest ones make room."""
        with self._lock:
            self._messages.append(message)
            self._bytes += len(message.data)
            while self._bytes > self._max_bytes and len(self._messages) > 1:
                self._bytes -= len(self._messages.popleft().data)

    def clear(self) -> None:
        """Let go of all messages."""
        with self._lock:
            self._messages.clear()
            self._bytes = 0

    def get(self, number: int) -> RawMessage | None:
        """Return a message by its number; None when it is gone, or not there yet."""
        with self._lock:
            if not self._messages:
                return None
            place = number - self._messages[0].number
            return self._messages[place] if 0 <= place < len(self._messages) else None

    @property
    def newest(self) -> int:
        """Return the number of the newest message; -1 before the first."""
        with self._lock:
            return self._messages[-1].number if self._messages else -1

    @property
    def bytes(self) -> int:
        """Return what is held."""
        with self._lock:
            return self._bytes


class Excerpt:
    """
    Which numbers of a stream are wanted: chosen ones and their context, each once.

    Chosen numbers ascend. For one thread.

    :param ring: where the messages are.
    :param context: how many before and after a chosen one.
    """

    def __init__(self, ring: RingBuffer, context: int) -> None:
        self._ring, self._context = ring, context
        self._next = 0
        self._wanted: deque[tuple[int, int]] = deque()
        self._held: dict[int, RawMessage] = {}
        self._yielded = -1
        self.missing = 0
        self.promised = 0

    def cost(self, number: int) -> int:
        """Return how many messages choosing ``number`` would add."""
        return len(self._added(number))

    def has_gone(self, number: int) -> bool:
        """Return whether a message was yielded as the context of another, or passed by."""
        return number <= self._yielded

    def choose(self, message: RawMessage) -> None:
        """Want a message, which the ring may have let go of, and its context."""
        for one in self._added(message.number):
            self._wanted.append((one, message.number))
            self._next = one + 1
            self.promised += 1
        if not self.has_gone(message.number):
            self._held[message.number] = message

    def due(self) -> Iterator[tuple[RawMessage, int]]:
        """
        Yield the wanted messages that have come, and the chosen number that each belongs to.

        Those that the ring has let go of meanwhile are counted in ``missing``.
        """
        newest = self._ring.newest
        while self._wanted and self._wanted[0][0] <= newest:
            number, chosen = self._wanted.popleft()
            self._yielded = number
            message = self._held.pop(number, None) or self._ring.get(number)
            if message is None:
                self.missing += 1
                self.promised -= 1
            else:
                yield message, chosen

    def _added(self, number: int) -> range:
        return range(max(self._next, number - self._context, 0), number + self._context + 1)
