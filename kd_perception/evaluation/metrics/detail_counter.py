"""
What is counted of a frame beside its confusion matrix; the monitor and ``evaluate`` count alike.

Comes in: what is known of a frame, masks and confidences of arms. Goes out: ``FrameDetail`` per
arm, and calibration counts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from kd_perception.classes import ClassMap, ClassSet
from kd_perception.errors import ConfigError
from kd_perception.evaluation.metrics.boundary import TrueBoundary
from kd_perception.evaluation.metrics.calibration import Calibration
from kd_perception.evaluation.metrics.flicker import (
    count_flicker,
    FLOW,
    follow,
    Matches,
    movable,
    reproject,
    REPROJECTED,
    SAME_PIXEL,
    stay,
    steady,
    View,
)
from kd_perception.evaluation.metrics.frame_detail import FrameDetail
from kd_perception.evaluation.metrics.objects import ObjectCounter
from kd_perception.frames import CameraPlace, InstanceTable, KnownTruth
from kd_perception.imaging import resize_labels

MEASURES = ('boundary', 'objects', 'flicker', 'calibration')
OBJECTS, VIEW = 'objects', 'view'  # parts of the truth that may come beside the labels

Lens = tuple[float, float, float, float]


def chosen_measures(names: Collection[str], pacing: str) -> frozenset[str]:
    """
    Return what to measure.

    :param names: of ``MEASURES``; ``auto``: all in lockstep, where counting happens between
        frames, and none otherwise, where it would take time from the arms; ``none``.
    :raises ConfigError: for an unknown name.
    """
    known = {*MEASURES, 'auto', 'none'}
    if unknown := sorted(set(names) - known):
        raise ConfigError(f'measures: {unknown[0]!r} is none of {", ".join((*MEASURES, "auto"))} '
                          'and none')
    if 'auto' in names:
        return frozenset(MEASURES) if pacing == 'lockstep' else frozenset()
    return frozenset(names) - {'none'}


@dataclass
class FrameTruth:
    """
    What is known of one frame.

    :param labels: uint8 ``[H, W]``, ids of the counted classes.
    :param instances: uint16 ``[H, W]`` with ``table``.
    :param depth: float32 ``[H, W]`` metres, with the ``place`` of the camera.
    :param parts: what will come beside labels, as the camera says: ``OBJECTS``, ``VIEW``.
    :param image: uint8 ``[H, W, 3]``, to follow by optical flow where there is no view.
    """

    labels: np.ndarray | None = None
    instances: np.ndarray | None = None
    table: InstanceTable | None = None
    depth: np.ndarray | None = None
    place: CameraPlace | None = None
    parts: frozenset[str] = field(default_factory=frozenset)
    image: np.ndarray | None = None
    boundary: TrueBoundary | None = None

    @classmethod
    def of(cls, labels: np.ndarray, known: KnownTruth | None,
           image: np.ndarray | None = None) -> FrameTruth:
        """Return what a source says of a frame; ``labels`` in the counted classes."""
        if known is None:
            return cls(labels, image=image)
        parts = {OBJECTS: (known.instances, known.table),
                 VIEW: (known.depth, known.place, known.lens)}
        return cls(labels, known.instances, known.table, known.depth, known.place, frozenset(
            name for name, values in parts.items() if all(v is not None for v in values)), image)

    def complete(self, wanted: Collection[str]) -> bool:
        """Return whether labels and the wanted ones of the promised parts are there."""
        return self.labels is not None and not (
            ('objects' in wanted and OBJECTS in self.parts
             and (self.instances is None or self.table is None))
            or ('flicker' in wanted and VIEW in self.parts
                and (self.depth is None or self.place is None)))

    def view(self, lens: Lens | None) -> View | None:
        """Return the geometry of the frame, or None where it is not known."""
        if self.depth is None or self.place is None or lens is None:
            return None
        return View(self.depth, self.place, lens)


class DetailCounter:
    """
    Counts what ``measures`` names, for all arms.

    :param class_map: from the ids of ``source`` to ``classes``.
    :param source: class set of the labels and of instance tables; None where it is not known.
    """

    def __init__(self, measures: Collection[str], classes: ClassSet, class_map: ClassMap | None,
                 source: ClassSet | None) -> None:
        self.measures = frozenset(measures)
        self._num_classes = len(classes)
        self._objects = (ObjectCounter(source, class_map)
                         if source is not None and class_map is not None else None)
        self._movable = movable(classes.names)
        self._last: dict[str, tuple[int, FrameTruth, np.ndarray]] = {}
        self._matches: tuple[tuple[int, int], Matches | None] = ((-1, -1), None)
        self._calibrations: dict[str, Calibration] = {}
        self.lens: Lens | None = None
        self.flicker_method = ''

    @property
    def confidences(self) -> dict[str, np.ndarray]:
        """Return by arm int64 ``[2, 256]``: pixels by confidence, and those that were right."""
        return {arm: c.counts for arm, c in self._calibrations.items()}

    def count(self, arm: str, index: int, truth: FrameTruth,
              mask: np.ndarray) -> FrameDetail | None:
        """
        Return the counts of one frame in one arm.

        :param index: of the frame; flicker is counted between consecutive ones.
        :param mask: uint8 of the size of the labels.
        """
        if not self.measures or truth.labels is None:
            return None
        boundary = objects = flicker = None
        if 'boundary' in self.measures:
            truth.boundary = truth.boundary or TrueBoundary(truth.labels, self._num_classes)
            boundary = truth.boundary.count(mask)
        if 'objects' in self.measures and self._objects is not None \
                and truth.instances is not None and truth.table is not None \
                and truth.instances.shape == mask.shape:
            objects = self._objects.count(truth.table, truth.instances, mask)
        if 'flicker' in self.measures:
            flicker = self._flicker(arm, index, truth, mask)
        return FrameDetail(boundary, objects, flicker)

    def calibrate(self, arm: str, truth: np.ndarray, mask: np.ndarray,
                  confidence: np.ndarray) -> None:
        """
        Count the confidences of one frame.

        :param truth: uint8 ``[H, W]``; ``mask``, ``confidence``: uint8 of any one size.
        """
        self._calibrations.setdefault(arm, Calibration()).update(
            truth, *(resize_labels(a, *truth.shape) for a in (mask, confidence)))

    def _flicker(self, arm: str, index: int, truth: FrameTruth,
                 mask: np.ndarray) -> np.ndarray | None:
        before = self._last.get(arm)
        self._last[arm] = (index, truth, mask)
        if before is None or before[0] != index - 1 or before[2].shape != mask.shape:
            return None
        matches = self._matched(index, truth, before[1])
        return None if matches is None else count_flicker(matches, mask, before[2])

    def _matched(self, index: int, truth: FrameTruth, before: FrameTruth) -> Matches | None:
        """Return what two frames have in common; the same for all arms, so worked out once."""
        # One frame may be served anew, with the same truth: its index tells all.
        key = (index, index - 1)
        if self._matches[0] != key:
            self._matches = (key, self._match(truth, before))
        return self._matches[1]

    def _match(self, truth: FrameTruth, before: FrameTruth) -> Matches | None:
        assert truth.labels is not None  # callers
        assert before.labels is not None  # have counted both
        now, then = truth.view(self.lens), before.view(self.lens)
        image, last = truth.image, before.image
        pictures = (image, last) if image is not None and last is not None else None
        method = REPROJECTED if VIEW in truth.parts else FLOW if pictures else SAME_PIXEL
        self.flicker_method = self.flicker_method or method
        if method != self.flicker_method:
            return None  # figures of two ways must not be mixed
        if method == SAME_PIXEL:
            shape = truth.labels.shape
            return steady(stay((shape[0], shape[1])), truth.labels, before.labels)
        if method == FLOW and pictures:
            return steady(follow(*pictures), truth.labels, before.labels)
        if now is None or then is None or now.depth.shape != truth.labels.shape:
            return None
        return steady(reproject(now, then), truth.labels, before.labels, self._movable)
