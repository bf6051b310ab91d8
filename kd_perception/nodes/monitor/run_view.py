"""
What people see of a comparison: live figures, a picture of disagreement, and the worst frames.

The monitor feeds it; nothing here touches what is measured. The picture is drawn only while
somebody looks, at most five times a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from sensor_msgs.msg import Image

from kd_perception.classes import ClassSet
from kd_perception.evaluation.comparison import SamplePicture
from kd_perception.evaluation.joining import Published
from kd_perception.imaging import colorize, resize_labels
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import header, image_message, status, statuses
from kd_perception.nodes.monitor.live_figures import LiveArm, LiveFigures
from kd_perception.nodes.monitor.worst_frames import FinishedFrame, Key, WorstFrames
from kd_perception.nodes.monitor.worst_pictures import WorstPictures

_SUMMARY_EVERY_S = 1.0
_FIGURES_EVERY_S = 0.5
_PICTURE_EVERY_S = 0.2
_WRONG = np.array([208, 38, 38], np.uint8)
_RIGHT = np.array([225, 229, 234], np.uint8)
_GAP = 4


class RunView:
    """
    See the module.

    :param node: the monitor.
    :param arms: names; the first is the reference.
    :param warmup: frames that do not count.
    """

    def __init__(self, node: Any, arms: Sequence[str], warmup: int) -> None:
        self._node = node
        self._arms = tuple(arms)
        self._figures = LiveFigures(arms, warmup)
        self._now = self._figures.arms()
        self._next_figures = 0.0
        self._summary = node.create_publisher(DiagnosticArray, '~/summary', qos.stream(5))
        self._picture = node.create_publisher(Image, '~/disagreement', qos.stream(1))
        self._worst: WorstFrames | None = None
        self._pictures: WorstPictures | None = None
        self._palette: np.ndarray | None = None
        self._next_summary = self._next_picture = 0.0

    def begin(self, classes: ClassSet, total: int) -> None:
        """
        Take what is known when the run begins.

        :param total: frames; 0 where nobody knows.
        """
        self._palette = classes.palette()
        self._worst = WorstFrames(self._arms, total)
        self._pictures = WorstPictures(self._node, self._worst)

    def on_published(self, record: Published) -> None:
        """Take the record of a publish call."""
        self._figures.on_published(record)

    def on_result(self, arm: str, key: Key, received_ns: int) -> None:
        """Take the arrival of a result."""
        self._figures.on_result(arm, key, received_ns)

    def on_frame(self, frame: FinishedFrame) -> None:
        """Take a finished frame, in the thread that counts."""
        self._figures.on_frame(frame)
        if self._worst is not None:
            self._worst.offer(frame)
        now = time.monotonic()
        if now >= self._next_picture and self._picture.get_subscription_count():
            self._next_picture = now + _PICTURE_EVERY_S
            self._show(frame)

    def on_sample(self, key: Key, image: Any) -> bool:
        """Return whether this picture was asked for here; ``image`` makes the array."""
        return self._pictures is not None and self._pictures.take(key, image)

    def arms(self) -> tuple[LiveArm, ...]:
        """
        Return the figures, new ones at most twice a second.

        They cost a millisecond or two of the thread that takes the time of arrival.
        """
        now = time.monotonic()
        if now >= self._next_figures:
            self._next_figures = now + _FIGURES_EVERY_S
            self._now = self._figures.arms()
        return self._now

    def tick(self) -> None:
        """Publish the summary if it is time."""
        now = time.monotonic()
        if now < self._next_summary:
            return
        self._next_summary = now + _SUMMARY_EVERY_S
        arms = self.arms()
        stamp_ns = self._node.get_clock().now().nanoseconds
        self._summary.publish(statuses(header(stamp_ns, ''), *(
            status(f'comparison: arm {a.arm}', a.arm, summary_values(a)) for a in arms)))

    def pictures_done(self) -> bool:
        """Return whether all pictures of the worst frames came that will come."""
        return self._pictures is None or self._pictures.done()

    def worst(self, known: Sequence[SamplePicture]) -> list[SamplePicture]:
        """Return the worst frames; ``known``: pictures that are there anyway."""
        return [] if self._worst is None else self._worst.pictures(known)

    def _show(self, frame: FinishedFrame) -> None:
        if self._palette is None or not set(self._arms) <= set(frame.masks):
            return
        masks = {arm: frame.masks[arm] for arm in self._arms}
        self._picture.publish(image_message(
            disagreement(masks, self._palette), 'rgb8', header(*frame.key)))


def summary_values(arm: LiveArm) -> dict[str, str]:
    """Return the figures of an arm as texts; empty for what is not known."""
    return {key: '' if value is None else f'{value:.4g}' if isinstance(value, float)
            else str(value) for key, value in arm.to_dict().items() if key != 'arm'}


def disagreement(masks: Mapping[str, np.ndarray], palette: np.ndarray) -> np.ndarray:
    """
    Return the masks side by side, and where any differs from the first in red.

    :param masks: by arm, uint8 ``[H, W]``; all are brought to the size of the first.
    :param palette: uint8 ``[256, 3]``.
    :returns: uint8 ``[H, W', 3]`` RGB.
    """
    same = [np.ascontiguousarray(m) for m in masks.values()]
    same = [resize_labels(m, *same[0].shape) for m in same]
    differs = np.zeros(same[0].shape, bool)
    for mask in same[1:]:
        differs |= mask != same[0]
    gap = np.full((same[0].shape[0], _GAP, 3), 255, np.uint8)
    parts: list[np.ndarray] = []
    for mask in same:
        parts += [colorize(mask, palette), gap]
    return np.hstack([*parts, np.where(differs[..., None], _WRONG, _RIGHT)])
