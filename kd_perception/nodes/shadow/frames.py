"""
The frames of a camera joined with a student's answers, and what became of each.

Comes in: images, masks and confidences as bytes, in any order. Goes out: the freshest frame that
is answered, to compare. ``received = compared + skipped + failed + in_flight`` at every instant,
and ``skipped`` is the sum of its reasons. Frames and answers are joined by stamp and frame id
alone; where two frames have the same, neither is compared.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
import threading
import time
from typing import Literal

from kd_perception.bags.ring import RawMessage

COUNTERS = ('received', 'compared', 'skipped', 'failed', 'in_flight')
# Why a frame was not compared.
REASONS = ('rate', 'unanswered', 'ambiguous', 'unknown_classes', 'student_changed')
# A student that is so far behind has dropped the frame.
_PATIENCE_NS = 3_000_000_000
_MOST_WAITING = 200
_MOST_AMBIGUOUS = 200
# Answers may be read before their frame, which waits in another queue of the middleware.
_MOST_EARLY = 20
# So many masks without a confidence: there is a topic, and the student is told not to publish.
_MASKS_ALONE = 20

Key = tuple[int, str]


@dataclass
class _Answer:
    mask: bytes | None = None
    confidence: bytes | None = None


@dataclass
class _Waiting:
    message: RawMessage
    since_ns: int
    answer: _Answer


@dataclass(frozen=True)
class Answered:
    """
    A frame with the student's answer, all serialised.

    :param confidence: None where the student publishes none.
    """

    message: RawMessage
    mask: bytes
    confidence: bytes | None


class ShadowFrames:
    """
    The meeting place of the ROS thread and the teacher's thread.

    Frames are taken in the order in which they came.

    :param with_confidence: whether a frame waits for the student's confidence, too; may be set
        while frames come. It does not where none has come with the last twenty masks.
    :param max_bytes: of frames that wait for an answer; the oldest make room.
    """

    def __init__(self, max_bytes: int = 128 << 20) -> None:
        self.with_confidence = False
        self._max_bytes, self._bytes = max_bytes, 0
        self._newest_taken = -1
        self._masks_alone = 0
        self._lock = threading.Condition()
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._reasons = dict.fromkeys(REASONS, 0)
        self._waiting: OrderedDict[Key, _Waiting] = OrderedDict()
        self._early: OrderedDict[Key, _Answer] = OrderedDict()
        self._ambiguous: OrderedDict[Key, None] = OrderedDict()
        self._ready: Answered | None = None
        self._taken_key: Key | None = None
        self._closed = False

    def image(self, message: RawMessage) -> None:
        """Take a frame of the camera."""
        key = (message.stamp_ns, message.frame_id)
        with self._lock:
            self._counts['received'] += 1
            self._counts['in_flight'] += 1
            if key in self._ambiguous or self._is_held(key):
                self._doubt(key)
                return
            waiting = _Waiting(message, time.monotonic_ns(), self._early.pop(key, _Answer()))
            self._waiting[key] = waiting
            self._bytes += len(message.data)
            self._complete(key, waiting)
            while len(self._waiting) > _MOST_WAITING or (
                    self._bytes > self._max_bytes and len(self._waiting) > 1):
                self._drop(next(iter(self._waiting)), 'unanswered')

    def damaged(self) -> None:
        """Count a frame whose header cannot be read."""
        with self._lock:
            self._counts['received'] += 1
            self._counts['failed'] += 1

    def mask(self, stamp_ns: int, frame_id: str, data: bytes) -> None:
        """Take the student's mask of a frame; one of a frame that never comes is let go of."""
        self._answered((stamp_ns, frame_id), mask=data)

    def confidence(self, stamp_ns: int, frame_id: str, data: bytes) -> None:
        """Take the student's confidence of a frame."""
        self._answered((stamp_ns, frame_id), confidence=data)

    def take(self, timeout_s: float) -> Answered | None:
        """Wait for an answered frame and take it; the caller must ``finish`` it."""
        with self._lock:
            if self._ready is None and not self._closed:
                self._lock.wait(timeout_s)
            taken, self._ready = self._ready, None
            if taken is not None:
                self._taken_key = (taken.message.stamp_ns, taken.message.frame_id)
                self._newest_taken = taken.message.number
            return taken

    def finish(self, outcome: Literal['compared', 'failed', 'skipped'], reason: str = '') -> None:
        """
        Count what became of the taken frame.

        :param reason: of ``REASONS``, for one that was skipped.
        """
        with self._lock:
            self._taken_key = None
            if outcome == 'skipped':
                self._skip(reason)
                return
            self._counts['in_flight'] -= 1
            self._counts[outcome] += 1

    def expire(self) -> None:
        """Count frames that were not answered in time."""
        now = time.monotonic_ns()
        with self._lock:
            while self._waiting:
                key, first = next(iter(self._waiting.items()))
                if now - first.since_ns < _PATIENCE_NS:
                    return
                self._drop(key, 'unanswered')

    def student_changed(self) -> None:
        """Let go of all frames: the answers that have come or will may be of either student."""
        with self._lock:
            for key in list(self._waiting):
                self._drop(key, 'student_changed')
            if self._ready is not None:
                self._ready = None
                self._skip('student_changed')
            self._early.clear()

    def close(self) -> None:
        """Wake ``take``."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()

    def snapshot(self) -> dict[str, int]:
        """Return counters and reasons (``skipped_rate``, …), consistent with each other."""
        with self._lock:
            return {**self._counts,
                    **{f'skipped_{name}': self._reasons[name] for name in REASONS}}

    def _answered(self, key: Key, **parts: bytes) -> None:
        with self._lock:
            waiting = self._waiting.get(key)
            answer = waiting.answer if waiting is not None \
                else self._early.setdefault(key, _Answer())
            for name, data in parts.items():
                setattr(answer, name, data)
            self._masks_alone = 0 if 'confidence' in parts else self._masks_alone + 1
            if waiting is not None:
                self._complete(key, waiting)
            if self._masks_alone == _MASKS_ALONE:
                for key, waiting in list(self._waiting.items()):
                    self._complete(key, waiting)
            while len(self._early) > _MOST_EARLY:
                self._early.popitem(last=False)

    def _complete(self, key: Key, waiting: _Waiting) -> None:
        answer = waiting.answer
        wanted = self.with_confidence and self._masks_alone < _MASKS_ALONE
        if answer.mask is None or (wanted and answer.confidence is None):
            return
        self._forget(key)
        number = waiting.message.number
        if number < self._newest_taken:
            self._skip('rate')
            return
        if self._ready is not None:
            self._skip('rate')
            if self._ready.message.number > number:
                return  # an answer that was overtaken
        self._ready = Answered(waiting.message, answer.mask, answer.confidence)
        self._lock.notify()

    def _is_held(self, key: Key) -> bool:
        ready = self._ready
        return (key in self._waiting or key == self._taken_key or
                (ready is not None and key == (ready.message.stamp_ns, ready.message.frame_id)))

    def _doubt(self, key: Key) -> None:
        """Let go of all frames of a key that came twice: whose the answer is cannot be told."""
        self._skip('ambiguous')
        if key in self._waiting:
            self._drop(key, 'ambiguous')
        ready = self._ready
        if ready is not None and key == (ready.message.stamp_ns, ready.message.frame_id):
            self._ready = None
            self._skip('ambiguous')
        self._ambiguous[key] = None
        while len(self._ambiguous) > _MOST_AMBIGUOUS:
            self._ambiguous.popitem(last=False)

    def _forget(self, key: Key) -> None:
        self._bytes -= len(self._waiting.pop(key).message.data)

    def _drop(self, key: Key, reason: str) -> None:
        self._forget(key)
        self._skip(reason)

    def _skip(self, reason: str) -> None:
        self._counts['in_flight'] -= 1
        self._counts['skipped'] += 1
        self._reasons[reason] += 1
