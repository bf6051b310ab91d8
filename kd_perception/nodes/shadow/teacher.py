"""
The teacher's thread of a shadow node: takes answered frames when they are due and compares them.

Comes in: frames with a student's answer, as bytes. Goes out: a ``Comparison`` for each, handed to
an outlet in this thread. The teacher is asked on single frames, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import logging
import threading
import time

import numpy as np

from kd_perception.bags import messages as msgs
from kd_perception.bags.mined import standard_message
from kd_perception.bags.ring import RawMessage
from kd_perception.errors import ImageError, KdPerceptionError
from kd_perception.evaluation.metrics.disagreement import FrameComparison, FrameScores
from kd_perception.imaging import decode_label_image, OWN_CODEC
from kd_perception.nodes.perception.serving import ServingModel
from kd_perception.nodes.shadow.frames import Answered, ShadowFrames
from kd_perception.nodes.shadow.pace import Pace

_log = logging.getLogger(__name__)
# Context frames that come in between are written so soon.
_LOOK_EVERY_S = 0.1
# A frame at hand that takes longer than this to end is one of a runtime that hangs.
_END_S = 60.0


@dataclass(frozen=True)
class Comparison:
    """
    One compared frame.

    :param image: uint8 ``[H, W, 3]`` RGB.
    :param teacher: uint8 ``[H, W]``, the teacher's ids at the size of the picture.
    :param student: uint8, the student's ids as they came.
    :param how: what the scores came from; another one may count by now.
    :param student_hash: of the student whose answer it is.
    :param wall_ms: from decoding to scores.
    """

    how: FrameComparison
    message: RawMessage
    scores: FrameScores
    image: np.ndarray
    teacher: np.ndarray
    student: np.ndarray
    student_hash: str
    wall_ms: float
    cpu_ms: float


class ShadowTeacher:
    """
    One thread between frames and outlet.

    ``comparison`` may be set while it runs: how masks are compared; None while the student's
    classes are not known. So may ``student_hash``: the bundle whose masks come.

    :param model: loaded; it is closed with this.
    :param kind: message type of the pictures.
    :param outlet: called in this thread with each comparison.
    :param between: called in this thread a few times a second.
    :param on_failure: called in this thread with the reason when a frame fails.
    """

    def __init__(self, model: ServingModel, kind: str, frames: ShadowFrames, pace: Pace,
                 outlet: Callable[[Comparison], None], between: Callable[[], None],
                 on_failure: Callable[[str], None]) -> None:
        model.codec = OWN_CODEC  # messages are not those of ROS here
        self.comparison: FrameComparison | None = None
        self.student_hash = ''
        self._model, self._kind = model, kind
        self._frames, self._pace = frames, pace
        self._outlet, self._between, self._on_failure = outlet, between, on_failure
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name='teacher')

    def start(self) -> None:
        """Compare from now on."""
        self._thread.start()

    def close(self) -> None:
        """Finish the frame at hand, end the thread, release the model unless it hangs."""
        self._stop.set()
        self._frames.close()
        if self._thread.ident is not None:
            self._thread.join(_END_S)
        if not self.running:
            self._model.close()

    @property
    def running(self) -> bool:
        """Return whether the thread is alive; after ``close``: whether it hangs."""
        return self._thread.is_alive()

    def ask(self, data: bytes) -> np.ndarray:
        """
        Return what the teacher says of a serialised picture, uint8 ``[H, W]``.

        :raises KdPerceptionError: when it cannot be decoded or the runtime fails.
        """
        return self._model.process(standard_message(data, self._kind)).result.mask

    def _run(self) -> None:
        while not self._stop.is_set():
            self._keep()
            wait_s = self._pace.due_in(time.monotonic())
            if wait_s > 0:
                self._stop.wait(min(wait_s, _LOOK_EVERY_S))
                continue
            answered = self._frames.take(_LOOK_EVERY_S)
            if answered is None:
                continue
            comparison = self.comparison
            if comparison is None:
                self._frames.finish('skipped', 'unknown_classes')
                continue
            self._one(answered, comparison)

    def _keep(self) -> None:
        # It may ask the teacher and look for faces, which weighs on the student just as much.
        began, cpu = time.monotonic(), time.process_time()
        self._pace.begin_more()
        try:
            self._between()
        except Exception as error:
            self._fail(error)
        finally:
            self._pace.end_more(time.monotonic() - began, time.process_time() - cpu)

    def _one(self, answered: Answered, how: FrameComparison) -> None:
        began, cpu = time.monotonic(), time.process_time()
        self._pace.begin(began)
        try:
            done = self._compare(answered, how, began, cpu)
        except Exception as error:  # a runtime may raise anything, and the node must live on
            self._frames.finish('failed')
            self._fail(error)
            return
        finally:
            # Of all threads, since runtimes have their own; receiving is in it, too.
            self._pace.end(time.monotonic(), time.process_time() - cpu)
        try:
            self._outlet(done)
        except Exception as error:
            self._frames.finish('failed')
            self._fail(error)
            return
        self._frames.finish('compared')

    def _compare(self, answered: Answered, how: FrameComparison, began: float,
                 cpu: float) -> Comparison:
        of_student = self.student_hash
        processed = self._model.process(standard_message(answered.message.data, self._kind))
        student = _ids(answered.mask)
        confidence = None if answered.confidence is None else _ids(answered.confidence)
        image = processed.image
        if self._model.bundle.spec.input.channel_order == 'bgr':
            image = np.ascontiguousarray(image[..., ::-1])
        teacher = processed.result.mask
        scores = how.scores(image, teacher, student, confidence)
        return Comparison(how, answered.message, scores, image, teacher, student,
                          of_student, 1e3 * (time.monotonic() - began),
                          1e3 * (time.process_time() - cpu))

    def _fail(self, error: Exception) -> None:
        _log.debug('a frame failed', exc_info=error)
        known = isinstance(error, KdPerceptionError)
        self._on_failure(str(error) if known else f'{type(error).__name__}: {error}')


def _ids(data: bytes) -> np.ndarray:
    """Return uint8 ``[H, W]`` of a serialised mono8 image."""
    ids = decode_label_image(standard_message(data, msgs.IMAGE))
    if ids.dtype != np.uint8:
        raise ImageError(f'the student publishes {ids.dtype} masks; mono8 is needed')
    return ids
