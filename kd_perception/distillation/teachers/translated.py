r"""
A teacher of other classes than the student's: its lessons in the student's words.

For a class ``c`` of the student and the teacher's classes ``S_c`` that are mapped to it::

    t_c = log sum_{k in S_c} exp(t_k)

At temperature 1 the softmax of ``t`` is then that of the teacher with the probabilities of merged
classes added up; classes that are left out give theirs to the rest in proportion. At another
temperature it is the softened form of that merged distribution. Where the teacher decides for an
ignored class, nothing is taught.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from kd_perception.classes import ClassMap, UNLABELLED
from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.teachers.teacher import Lesson, Teacher


class TranslatedTeacher:
    """
    A teacher behind a class map.

    :param sources: number of the teacher's classes.
    :param targets: number of the student's.
    """

    def __init__(self, teacher: Teacher, class_map: ClassMap, sources: int, targets: int) -> None:
        self._teacher = teacher
        self._groups = [np.flatnonzero(class_map.table[:sources] == c).tolist()
                        for c in range(targets)]
        self._ignored = torch.from_numpy(ignored(class_map, sources))

    def teach(self, batch: Batch, grid: tuple[int, int]) -> Lesson:
        """Return the lesson in the student's classes."""
        lesson = self._teacher.teach(batch, grid)
        silent = self._ignored.to(lesson.logits.device)[lesson.logits.argmax(1)]
        return Lesson(merged(lesson.logits, self._groups), lesson.valid & ~silent,
                      lesson.features)


def merged(logits: torch.Tensor, groups: Sequence[Sequence[int]]) -> torch.Tensor:
    """
    Return logits of merged classes, float32 ``[N, C, h, w]``.

    :param logits: float32 ``[N, K, h, w]``.
    :param groups: the classes of ``logits`` that make each of the new ones.
    """
    return torch.stack([logits[:, group[0]] if len(group) == 1 else logits[:, group].logsumexp(1)
                        for group in groups], 1)


def ignored(class_map: ClassMap, sources: int) -> np.ndarray:
    """Return bool ``[K]``: classes of the teacher that silence it; dropped ones do not."""
    silent = class_map.table[:sources] == UNLABELLED
    silent[list(class_map.dropped)] = False
    return silent
