"""The runs behind the CamVid table: which networks are trained, on what, and in which order."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Frames of camvid/train; the few-label setting has every fourth.
FRAMES, FEW = 367, 92
BATCH = 8

# What the student learns from, by method; ``none`` is the baseline without a teacher, whose
# cross-entropy weighs rare classes more. The teacher's part weighs them, too: without it the
# divergence learns large classes first, and in 40 epochs comes to less than the baseline. A weight
# of 1 / tau^2 lets both terms pull alike.
BALANCED = {'weighting': {'class_balance': 0.5}}
KL = {'kl': {'temperature': 2, 'weight': 0.25}}
METHODS: dict[str, dict[str, Any]] = {
    'none': {},
    'kl': {'losses': {'cross_entropy': {}, **KL}, **BALANCED},
    'ce+ce': {'losses': {'cross_entropy': {}, 'soft_cross_entropy': {}}, **BALANCED},
    'cwd': {'losses': {'cross_entropy': {}, **KL, 'cwd': {'weight': 3}}, **BALANCED},
    'dist': {'losses': {'cross_entropy': {}, 'dist': {}}},
    'kl+dist': {'losses': {'cross_entropy': {}, **KL, 'dist': {}}, **BALANCED},
}
# Without ground truth the teacher's word is all there is.
ALONE = {'losses': {'kl': {'temperature': 2}}, **BALANCED}


@dataclass(frozen=True)
class Budget:
    """
    How long is trained.

    :param teacher_epochs: passes of the teacher over ``camvid/train``.
    :param student_epochs: the same of every student, baselines included.
    :param methods: keys of ``METHODS``.
    """

    teacher_epochs: int
    student_epochs: int
    methods: tuple[str, ...]


BUDGETS = {'cpu': Budget(40, 40, ('none', 'kl')),
           'full': Budget(600, 600, tuple(METHODS))}


@dataclass(frozen=True)
class Run:
    """
    One network.

    :param name: folder of the run.
    :param recipe: name of a recipe.
    :param frames: ``train`` (367, labelled), ``few`` (92 of them) or ``unlabelled`` (the 367
        pictures alone).
    :param teacher: name of the run whose soft labels are learned from; empty: ground truth.
    :param setting: heading of the table.
    :param method: row of the table.
    :param distillation: section of the recipe.
    """

    name: str
    setting: str
    method: str
    recipe: str
    frames: str
    epochs: int
    seed: int
    teacher: str = ''
    distillation: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps of optimisation: the same for few frames as for all, or less data had less."""
        return self.epochs * FRAMES // BATCH


def plan(budget: Budget, seeds: int) -> list[Run]:
    """Return the runs in order; a teacher comes before its students."""
    def student(setting: str, method: str, seed: int, frames: str, teacher: str = '',
                distillation: dict[str, Any] | None = None) -> Run:
        return Run(f'{setting}_{method}_{seed}'.replace('+', '_'), setting, method,
                   'student_camvid', frames, budget.student_epochs, seed, teacher,
                   distillation or {})

    runs = [Run('teacher', 'teacher', 'all labels', 'teacher_camvid', 'train',
                budget.teacher_epochs, 1)]
    for seed in range(1, seeds + 1):
        for method in budget.methods:
            runs.append(student('all', method, seed, 'train',
                                '' if method == 'none' else 'teacher', METHODS[method]))
        runs.append(student('few', 'none', seed, 'few'))
        runs.append(student('few', 'owned', seed, 'unlabelled', 'teacher', ALONE))
    runs.append(Run('teacher_few', 'teacher', 'few labels', 'teacher_camvid', 'few',
                    budget.teacher_epochs, 1))
    for seed in range(1, seeds + 1):
        runs.append(student('few', 'semi', seed, 'unlabelled', 'teacher_few', ALONE))
    return runs


def data_argument(folders: Path, data: Path, frames: str) -> list[str]:
    """Return the option that names the frames to learn from."""
    if frames == 'few':
        return ['--data', str(data / 'train'), '--data.defaults.count', str(FEW)]
    return ['--data', str(data / 'train' if frames == 'train' else folders / 'unlabelled')]
