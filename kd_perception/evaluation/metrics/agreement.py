"""
Where two networks say different things: by class, by place in the frame, and who is right there.

No ground truth is needed but for the last.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from kd_perception.classes import UNLABELLED
from kd_perception.tasks.metrics import ConfusionMatrix

# Rows of the picture of where they differ; columns follow from the first frame's aspect.
_ROWS = 45
# What may be on a pixel with ground truth, in this order.
OUTCOMES = ('both right', 'only the teacher right', 'only the student right',
            'both wrong, the same way', 'both wrong, differently')


class Agreement:
    """
    Counts over any number of frames.

    :param num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        # The teacher's mask in rows, the student's in columns.
        self.matrix = ConfusionMatrix(num_classes)
        self.frames = 0
        self.outcomes = np.zeros(len(OUTCOMES), np.int64)
        self._by_class = np.zeros(num_classes)
        self._seen = np.zeros(num_classes, np.int64)
        self._where: np.ndarray | None = None

    def update(self, teacher: np.ndarray, student: np.ndarray,
               truth: np.ndarray | None = None) -> float:
        """
        Count the pixels of one frame.

        :param teacher: uint8 ``[H, W]``, the teacher's ids; where it says nothing (255) nothing
            is counted.
        :param student: uint8 ``[H, W]``.
        :param truth: uint8 ``[H, W]``, or None without ground truth.
        :returns: the share of pixels on which they differ.
        """
        frame = ConfusionMatrix(self.matrix.num_classes)
        frame.update(teacher, student)
        self.matrix.merge(frame)
        same, own, _ = frame.sums()
        seen = own > 0
        self._by_class[seen] += 1 - same[seen] / own[seen]
        self._seen += seen
        self.frames += 1
        known = teacher != UNLABELLED
        differs = (teacher != student) & known
        if self._where is None:
            height, width = teacher.shape
            self._where = np.zeros((_ROWS, max(1, round(_ROWS * width / height))))
        self._where += cv2.resize(differs.astype(np.float32), self._where.shape[::-1],
                                  interpolation=cv2.INTER_AREA)
        if truth is not None:
            self._count(teacher, student, truth)
        return float(differs.sum() / max(1, int(known.sum())))

    @property
    def share(self) -> float:
        """Return the share of pixels on which both say the same; NaN before any pixel."""
        return self.matrix.pixel_accuracy()

    def by_class(self) -> np.ndarray:
        """
        Return float ``[K]``: how much of what the teacher calls a class the student does not.

        The mean over the frames in which the teacher sees the class, each frame alike; NaN where
        it never does.
        """
        return np.divide(self._by_class, self._seen, out=np.full(self._seen.shape, np.nan),
                         where=self._seen > 0)

    def where(self) -> np.ndarray:
        """Return float ``[rows, columns]``: the share of frames in which a place differs."""
        if self._where is None:
            return np.zeros((_ROWS, _ROWS))
        return np.clip(self._where / self.frames, 0, 1)

    def to_dict(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Return plain types; ``names``: classes by id."""
        out: dict[str, Any] = {
            'frames': self.frames, 'share': self.share, 'mean_iou': self.matrix.mean_iou(),
            'disagreement': dict(zip(names, self.by_class().tolist(), strict=True)),
            'where': np.round(self.where(), 4).tolist()}
        if self.outcomes.any():
            out['outcomes'] = dict(zip(OUTCOMES, self.outcomes.tolist(), strict=True))
        return out

    def _count(self, teacher: np.ndarray, student: np.ndarray, truth: np.ndarray) -> None:
        valid = (truth != UNLABELLED) & (teacher != UNLABELLED)
        taught, learnt, same = teacher == truth, student == truth, teacher == student
        for i, where in enumerate((taught & learnt, taught & ~learnt, ~taught & learnt,
                                   ~taught & ~learnt & same, ~taught & ~learnt & ~same)):
            self.outcomes[i] += np.count_nonzero(where & valid)
