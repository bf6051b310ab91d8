"""
How far a student's answer on one frame lies from a teacher's, and how sure the student was.

Comes in: both masks of one picture, the student's confidence, the picture. Goes out: a handful of
scores by which frames can be told apart; no ground truth is needed. The same scores are published
by the shadow node and written beside mined frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_perception.classes import ClassSet, UNLABELLED
from kd_perception.errors import ConfigError
from kd_perception.evaluation.evaluate import common_classes
from kd_perception.imaging import resize_labels
from kd_perception.tasks.familiarity import picture_features, PictureStatistics
from kd_perception.tasks.metrics import ConfusionMatrix

SCHEMA_VERSION = 1
# A class of fewer pixels than this share of the frame is an outline: what differs there is noise.
_LEAST_SHARE = 0.001


@dataclass(frozen=True)
class FrameScores:
    """
    What one frame is worth a look for; all but novelty lie between 0 and 1.

    :param disagreement: share of the pixels on which both say something and not the same.
    :param balanced: mean over the classes that the teacher sees (at least 0.1 % of the pixels) of
        the share of their pixels that the student calls otherwise; NaN where it sees none.
    :param low_confidence: share of the pixels below the limit; NaN where the student told none.
    :param novelty: distance of the picture from the training pictures over the one that one of
        a hundred exceeds (``tasks/familiarity.py``); NaN without statistics.
    :param by_class: the shares behind ``balanced``, NaN for a class that the teacher does not see.
    """

    disagreement: float
    balanced: float
    low_confidence: float = float('nan')
    novelty: float = float('nan')
    by_class: tuple[float, ...] = ()

    def values(self, classes: ClassSet) -> dict[str, Any]:
        """Return key-value pairs; of the classes, only those that were seen."""
        out: dict[str, Any] = {
            'schema_version': SCHEMA_VERSION, 'disagreement': self.disagreement,
            'balanced': self.balanced, 'low_confidence': self.low_confidence,
            'novelty': self.novelty}
        out.update({f'class/{name}': share for name, share in
                    zip(classes.names, self.by_class, strict=False) if share == share})
        return out


class FrameComparison:
    """
    Compares masks in the classes that both networks share.

    :param class_map: name or path of a map from one's classes to the other's; empty for the one
        that fits by name.
    :param low_confidence: confidence (0 to 1) below which a pixel counts as unsure.
    :param statistics: of the pictures that the student was trained on.
    :raises ConfigError: when the classes differ and no map is known, or the limit is none.
    """

    def __init__(self, teacher: ClassSet, student: ClassSet, *, class_map: str = '',
                 low_confidence: float = 0.5,
                 statistics: PictureStatistics | None = None) -> None:
        if not 0 <= low_confidence <= 1:
            raise ConfigError(f'low_confidence {low_confidence:g}: must be from 0 to 1')
        self.classes, self._of_teacher, self._of_student = common_classes(
            teacher, student, class_map)
        # The smallest byte that is at least the limit.
        self._limit = int(np.ceil(low_confidence * 255 - 1e-9))
        self._statistics = statistics

    def scores(self, image: np.ndarray, teacher: np.ndarray, student: np.ndarray,
               confidence: np.ndarray | None = None, channel_order: str = 'rgb') -> FrameScores:
        """
        Return the scores of one frame.

        :param image: uint8 ``[H, W, 3]`` in ``channel_order``.
        :param teacher: uint8 ``[H, W]``, the teacher's ids.
        :param student: uint8 of any size, the student's ids of the whole picture; brought to the
            teacher's size by nearest neighbour.
        :param confidence: uint8 like ``student``; 0 where the student did not look.
        """
        own = self._of_teacher(teacher)
        other = self._of_student(resize_labels(student, *teacher.shape))
        matrix = ConfusionMatrix(len(self.classes))
        known = (own != UNLABELLED) & (other != UNLABELLED)
        matrix.update(np.where(known, own, np.uint8(UNLABELLED)), other)
        same, there, _ = matrix.sums()
        pixels = int(known.sum())
        seen = there >= max(1.0, _LEAST_SHARE * own.size)
        by_class = np.full(len(self.classes), np.nan)
        by_class[seen] = 1 - same[seen] / there[seen]
        return FrameScores(
            disagreement=1 - float(same.sum()) / pixels if pixels else float('nan'),
            balanced=float(by_class[seen].mean()) if seen.any() else float('nan'),
            low_confidence=self._unsure(confidence), novelty=self._novelty(image, channel_order),
            by_class=tuple(float(v) for v in by_class))

    def differing(self, teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
        """Return bool ``[H, W]``: where both say something, and not the same."""
        own = self._of_teacher(teacher)
        other = self._of_student(resize_labels(student, *teacher.shape))
        out: np.ndarray = (own != other) & (own != UNLABELLED) & (other != UNLABELLED)
        return out

    def _unsure(self, confidence: np.ndarray | None) -> float:
        if confidence is None:
            return float('nan')
        looked = confidence > 0  # a softmax has no zero at its maximum: outside of a region
        total = int(np.count_nonzero(looked))
        low = int(np.count_nonzero(looked & (confidence < self._limit)))
        return low / total if total else float('nan')

    def _novelty(self, image: np.ndarray, channel_order: str) -> float:
        if self._statistics is None:
            return float('nan')
        features = picture_features(image, channel_order)
        return float(self._statistics.distance(features)) / self._statistics.limit
