"""The lessons of a run: loaded teachers, and what they decide where there is no truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from kd_perception.distillation.dataset import Batch, still
from kd_perception.distillation.frame_store import FrameStore, Sample
from kd_perception.distillation.memory import memory_advice
from kd_perception.distillation.precision import choose_precision
from kd_perception.distillation.processes import Processes
from kd_perception.distillation.teachers.average import AverageTeacher
from kd_perception.distillation.teachers.stopwatch import Stopwatch
from kd_perception.distillation.teachers.teacher_set import TeacherSet

# Frames that tell how often the teacher sees each class.
_SAMPLE = 100


class Lessons:
    """
    The teachers of a run, loaded.

    :param precision: ``optimization.precision``: teachers in the loop compute as the student does.
    :param layers: names of the teacher's layers that losses look at.
    :raises TrainingError: when memory runs out.
    """

    def __init__(self, teachers: TeacherSet, device: torch.device, precision: str,
                 layers: Sequence[str] = ()) -> None:
        self.teachers = teachers
        chosen = choose_precision(precision, device)
        self._watch = Stopwatch(device)
        with memory_advice(device, f'while the teacher was loaded in {chosen}',
                           'set distillation.teacher_devices to auto, or cache its soft labels'):
            self.teacher, self.guide = teachers.load(device, chosen, layers, self._watch)
        self._device = device

    @property
    def online(self) -> bool:
        """Return whether a network is asked in every step."""
        return self.teachers.online or self.guide is not None

    def seconds(self) -> float:
        """Return how long networks have computed for lessons so far."""
        return self._watch.seconds()

    @property
    def shown(self) -> dict[str, Any]:
        """Return the settings of ``Batches`` that the teachers ask for."""
        teachers = self.teachers
        return {'caches': teachers.caches, 'views': teachers.views, 'decide': teachers.decide,
                'calm': teachers.calm}

    def begin(self, network: nn.Module,
              normalise: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Tell a teacher that follows the student's average which network that is."""
        if isinstance(self.teacher, AverageTeacher):
            self.teacher.follow(network, normalise)

    def pseudo_truth(self, store: FrameStore,
                     ) -> Callable[[Processes], Iterator[tuple[np.ndarray, np.ndarray]]]:
        """Return pictures with the teacher's decision, at the resolution of its lessons."""
        decisions: dict[int, np.ndarray] = {}  # a network in the loop is asked once

        def frames(processes: Processes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for position in processes.own(len(store)):
                sample = store.own(position)
                if sample is None:
                    continue
                shown = self._shown(sample)
                if position not in decisions:
                    decisions[position] = self._decision(shown)
                yield shown.images[0].numpy(), decisions[position]
        return frames

    def seen(self, store: FrameStore, classes: int) -> np.ndarray:
        """Return int64 ``[K]``: cells per class as the teacher sees some of the frames."""
        counts = np.zeros(classes, np.int64)
        for position in range(0, len(store), max(1, len(store) // _SAMPLE)):
            ids = self._decision(self._shown(store[position]))
            counts += np.bincount(ids.ravel(), minlength=256)[:classes]
        return counts

    def _shown(self, sample: Sample) -> Batch:
        return still(sample, self.teachers.caches, self.teachers.views)

    def _decision(self, shown: Batch) -> np.ndarray:
        with torch.no_grad():
            return self.teacher.teach(shown.to(self._device), (1, 1)).decision()[0]
