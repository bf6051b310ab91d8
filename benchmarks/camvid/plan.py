"""The runs behind the CamVid table: which networks are trained, on what, and in which order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Frames of camvid/train; the few-label setting has every fourth.
FRAMES, FEW = 367, 92

# What the student learns from, by method; ``none`` is the baseline without a teacher, whose
# cross-entropy weighs rare classes more. The teacher's part weighs them, too: without it the
# divergence learns large classes first.
BALANCED = {'weighting': {'class_balance': 0.5}}
KL = {'kl': {'temperature': 1}}
METHODS: dict[str, dict[str, Any]] = {
    'none': {},
    'kl': {'losses': {'cross_entropy': {}, **KL}, **BALANCED},
    'ce+ce': {'losses': {'cross_entropy': {}, 'soft_cross_entropy': {}}, **BALANCED},
    'cwd': {'losses': {'cross_entropy': {}, **KL, 'cwd': {'weight': 3}}, **BALANCED},
    'dist': {'losses': {'cross_entropy': {}, 'dist': {}}},
    'kl+dist': {'losses': {'cross_entropy': {}, **KL, 'dist': {}}, **BALANCED},
}
# Without ground truth the teacher's word is all there is.
ALONE = {'losses': KL, **BALANCED}
# What a student takes over from its teacher with few labels, by setting; baselines take over no
# weights. ``slim`` is the teacher's network with a third of its channels, 1.46 M.
FEW_LABELS: dict[str, dict[str, Any]] = {
    'few': {}, 'weights': {'from_teacher': 'weights'},
    'slim': {'from_teacher': 'both', 'ratio': 0.33}}
# Twice the student's width, 5.2 M: what two cores can train, and of the student's own family, so
# that the student begins with the weights of half of its channels.
TWICE_AS_WIDE = {'network.builder': 'compact', 'network.arguments': {'width': 64},
                 'optimization.learning_rate': 0.002}

# What is searched, in equally many trials for the baseline and for every method.
FOR_ALL = {'optimization.learning_rate': {'low': 1e-3, 'high': 6e-3, 'log': True},
           'augment.scale': {'choices': [[0.7, 1.5], [0.5, 2.0], [0.85, 1.25]]}}
FOR_TRUTH = {'optimization.class_weights': {'choices': ['log', 'median']}}
FOR_A_TEACHER = {'distillation.weighting.class_balance': {'choices': [0.5, 0.25]}}


@dataclass(frozen=True)
class Budget:
    """
    How long is trained.

    :param teacher_epochs: passes of the teacher over ``camvid/train``.
    :param student_epochs: the same of every student, baselines included.
    :param methods: keys of ``METHODS``.
    :param few: keys of ``FEW_LABELS``.
    :param trials: of the search for the settings of each method; 0: the recipe's are taken.
    :param trial_epochs: how long one of them learns.
    :param views: what all networks have in place of their recipe's, by dotted key.
    :param teacher: the same of the teachers alone.
    """

    teacher_epochs: int
    student_epochs: int
    methods: tuple[str, ...]
    few: tuple[str, ...]
    trials: int
    trial_epochs: int
    views: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)


# In so few epochs a small network cannot learn all that strong views ask of it, nor in few steps.
_SHORT = {'optimization.batch_size': 4, 'augment.scale': [0.7, 1.5], 'augment.aspect': 0.1,
          'augment.brightness': 0.2, 'augment.contrast': 0.2, 'augment.saturation': 0.3,
          'augment.hue': 0.02, 'augment.gamma': 0.2, 'augment.blur': 0.0, 'augment.noise': 0.0,
          'augment.focus': 0.0}
BUDGETS = {'cpu': Budget(40, 20, ('none', 'kl'), ('weights',), 0, 0, _SHORT, TWICE_AS_WIDE),
           'full': Budget(600, 600, tuple(METHODS), ('few', 'slim'), 20, 100)}


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
    :param student: ``distillation.student`` where the network is derived from the teacher's, for a
        baseline too, whose weights are fresh.
    :param tuned_as: which setting and method the search was for, whose best values are taken;
        empty: none was.
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
    student: dict[str, Any] = field(default_factory=dict)
    tuned_as: str = ''

    @property
    def space(self) -> dict[str, Any]:
        """Return what is searched."""
        return FOR_ALL | (FOR_A_TEACHER if 'weighting' in self.distillation else FOR_TRUTH)


def plan(budget: Budget, seeds: int) -> list[Run]:
    """Return the runs in order; a teacher comes before its students."""
    def student(setting: str, method: str, seed: int, frames: str, teacher: str = '',
                distillation: dict[str, Any] | None = None) -> Run:
        takes = dict(FEW_LABELS.get(setting, {}))
        if not teacher and 'from_teacher' in takes:
            takes = {**takes, 'from_teacher': 'architecture'} if 'ratio' in takes else {}
        # No more trials where the teacher is a weaker one: what it takes over was searched.
        tuned_as = f'{setting}_{"owned" if method == "semi" else method}'
        return Run(f'{setting}_{method}_{seed}'.replace('+', '_'), setting, method,
                   'student_camvid', frames, budget.student_epochs, seed, teacher,
                   distillation or {}, takes, tuned_as.replace('+', '_') if budget.trials else '')

    runs = [Run('teacher', 'teacher', 'all labels', 'teacher_camvid', 'train',
                budget.teacher_epochs, 1)]
    for setting in budget.few:
        for seed in range(1, seeds + 1):
            runs.append(student(setting, 'none', seed, 'few'))
            runs.append(student(setting, 'owned', seed, 'unlabelled', 'teacher', ALONE))
    for seed in range(1, seeds + 1):
        for method in budget.methods:
            runs.append(student('all', method, seed, 'train',
                                '' if method == 'none' else 'teacher', METHODS[method]))
    runs.append(Run('teacher_few', 'teacher', 'few labels', 'teacher_camvid', 'few',
                    budget.teacher_epochs, 1))
    for setting in budget.few:
        for seed in range(1, seeds + 1):
            runs.append(student(setting, 'semi', seed, 'unlabelled', 'teacher_few', ALONE))
    return runs
