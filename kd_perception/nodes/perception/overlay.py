"""Drawing the mask over the image, in a thread of its own and only while somebody looks."""

from __future__ import annotations

from collections.abc import Callable
import logging
import threading
from typing import Any

import numpy as np

from kd_perception.classes import UNLABELLED
from kd_perception.imaging import overlay, resize_labels
from kd_perception.nodes.perception.worker import FrameResult

_log = logging.getLogger(__name__)


class OverlayPainter:
    """
    Paints the freshest result; results that come while it paints replace the one that waits.

    :param publish: called in the painter's thread with camera, uint8 ``[H, W, 3]`` RGB, header.
    :param on_failure: called in that thread with the reason when a picture fails.
    """

    def __init__(self, publish: Callable[[str, np.ndarray, Any], None],
                 on_failure: Callable[[str], None]) -> None:
        self._publish = publish
        self._on_failure = on_failure
        self._lock = threading.Condition()
        self._waiting: FrameResult | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._work, name='overlay')
        self._thread.start()

    def offer(self, frame: FrameResult) -> None:
        """Let ``frame`` be painted soon."""
        with self._lock:
            self._waiting = frame
            self._lock.notify()

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            self._stop = True
            self._lock.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                while self._waiting is None and not self._stop:
                    self._lock.wait()
                if self._stop or self._waiting is None:
                    return
                frame, self._waiting = self._waiting, None
            try:
                self._paint(frame)
            except Exception as error:
                # One picture that fails must not end all that follow.
                _log.debug('overlay failed', exc_info=True)
                self._on_failure(f'overlay: {type(error).__name__}: {error}')
            del frame  # its model may be exchanged before the next one comes

    def _paint(self, frame: FrameResult) -> None:
        spec = frame.model.bundle.spec
        image = frame.processed.image
        if spec.input.channel_order == 'bgr':
            image = np.ascontiguousarray(image[..., ::-1])
        result, shown = frame.processed.result, frame.processed.shown
        if shown is None:
            mask = resize_labels(result.mask, *image.shape[:2])
        else:
            mask = np.full(image.shape[:2], UNLABELLED, np.uint8)
            shown.crop(mask)[:] = resize_labels(result.mask, shown.height, shown.width)
        painted = overlay(image, mask, spec.classes.palette())
        self._publish(frame.arrival.camera, painted, frame.arrival.message.header)
