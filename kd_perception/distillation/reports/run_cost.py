"""
What a finished run took: its training, its teachers, and those of the assistants before it.

A cache may serve many runs, and hold more frames than one of them learns from: the run is
answerable for its part, the share of the labelled frames that it used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import json
from pathlib import Path
from typing import Any

from kd_perception.bundle import METRICS, ModelBundle
from kd_perception.distillation.labelling_log import read_cost
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.reports.run_log import read_log, RunLog
from kd_perception.distillation.run_directory import ASSISTANTS
from kd_perception.errors import TrainingError


def run_cost(folder: Path, recipe: Recipe, bundle: ModelBundle, metrics: Mapping[str, Any],
             events: RunLog) -> dict[str, Any]:
    """
    Return what a run took, as plain types; None where it is not known.

    :param folder: the run directory, below which its assistants lie.
    :param metrics: of its ``metrics.json``.
    """
    optimization, finished = recipe.optimization, events.finished
    steps = int(metrics['steps'])
    step, wait = (events.scalars.get(k) for k in ('step_s', 'wait_s'))
    processes = int(finished.get('processes', 1))
    statistics = bundle.spec.statistics
    out = {
        **_taught(metrics, finished),
        'training_minutes': metrics['training_minutes'], 'steps': steps,
        'batch_size': optimization.batch_size * processes, 'processes': processes,
        'views': steps * optimization.batch_size * processes,
        'training_frames': statistics.get('frames'),
        'labelled_training_frames': statistics.get('labelled_frames'),
        'step_s': None if step is None else float(sorted(step.values)[len(step.values) // 2]),
        'waited_share': None if step is None or wait is None else
        float(wait.values.sum() / max(1e-9, step.values.sum() + wait.values.sum())),
        'resumed': events.resumed, 'precision': metrics['precision'],
        'device': finished.get('device'), 'assistants': [], 'altogether': None}
    if recipe.distillation.assistants:
        out['assistants'] = list(_assistants(folder, len(recipe.distillation.assistants)))
        if None not in out['assistants']:
            chain = [*out['assistants'], out]
            seconds = [teacher_seconds(one) for one in chain]
            out['altogether'] = {
                'training_minutes': round(sum(one['training_minutes'] for one in chain), 2),
                'teacher_s': None if None in seconds else round(sum(s or 0.0 for s in seconds), 3)}
    return out


def teacher_seconds(cost: Mapping[str, Any]) -> float | None:
    """Return what teachers took for one run, for soft labels or in the loop."""
    labelling, in_loop = cost['labelling'], cost['teacher_in_loop_s']
    if labelling is None and in_loop is None:
        return None
    return (0.0 if labelling is None else labelling['used_teacher_s']) + (in_loop or 0.0)


def _taught(metrics: Mapping[str, Any], finished: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the teachers of a run took."""
    in_loop = metrics.get('teacher_s')
    return {'labelling': _labelling(finished),
            'teacher_in_loop_s': None if in_loop is None else
            round(in_loop * int(finished.get('processes', 1)), 3)}


def _labelling(finished: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the caches of a run took, and the part of it that the run used."""
    caches = [Path(c) for c in finished.get('caches', ())]
    whole = read_cost(caches)
    if whole is None:
        return None
    used = finished.get('taught_frames')
    seconds = teacher = 0.0
    for cost in filter(None, (read_cost([c]) for c in caches)):
        share = 1.0 if used is None else min(1.0, used / max(1, cost.frames))
        seconds += share * cost.seconds
        teacher += share * cost.teacher_s
    return {**whole.to_dict(), 'used_frames': used, 'used_seconds': round(seconds, 3),
            'used_teacher_s': round(teacher, 3)}


def _assistants(folder: Path, count: int) -> Iterator[dict[str, Any] | None]:
    """Yield what each assistant took; None where its run is not there any more."""
    for number in range(1, count + 1):
        run = folder / ASSISTANTS / str(number)
        try:
            metrics = json.loads((run / METRICS).read_text())
            yield {**_taught(metrics, read_log(run).finished),
                   'training_minutes': metrics['training_minutes'], 'steps': metrics['steps']}
        except (OSError, ValueError, KeyError, TrainingError):
            yield None
