"""
Teacher assistants: a chain of sizes from a large teacher to a small student.

After Mirzadeh et al., "Improved knowledge distillation via teacher assistant" (AAAI 2020,
arXiv:1902.03393): a student learns less from a teacher that is much larger than itself, so that
networks of sizes between them pass the knowledge on::

    teacher -> assistant 1 -> ... -> assistant n -> student

Each assistant is a run of its own below the student's (``assistants/1``), with the soft labels
that it wrote of the same frames beside it (``assistants/1_cache``). A stop anywhere goes on there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
import logging
from pathlib import Path
from typing import Any

from accelerate import Accelerator
import yaml

from kd_perception.bundle import load_bundle, ModelBundle
from kd_perception.classes import ClassSet
from kd_perception.distillation.frame_store import LabelledSource
from kd_perception.distillation.labelling import label
from kd_perception.distillation.losses.loss import Loss
from kd_perception.distillation.recipe import OptimizationRecipe, Recipe, TeachersRecipe
from kd_perception.distillation.recipe_checks import ONLINE
from kd_perception.distillation.recipe_file import recipe_from_dict
from kd_perception.distillation.run_directory import ASSISTANTS, RunDirectory
from kd_perception.distillation.strict import build, first_difference, to_plain
from kd_perception.distillation.student_recipe import ASSISTANT, overridden
from kd_perception.distillation.teachers.teacher_set import choose_teachers, TeacherSet
from kd_perception.errors import ConfigError, first_line, TrainingError
from kd_perception.frames import Progress

log = logging.getLogger(__name__)
Distill = Callable[..., ModelBundle]


def assistant_recipes(recipe: Recipe) -> list[Recipe]:
    """
    Return the recipes of the assistants: the student's, but for what they say themselves.

    :raises ConfigError: one line with the dotted path of what makes no sense.
    """
    if recipe.distillation.assistants and recipe.distillation.ema_teacher:
        raise ConfigError('distillation.assistants: pass on what a teacher knows, and with '
                          'ema_teacher there is none; leave one of them out')
    out = []
    for index, assistant in enumerate(recipe.distillation.assistants):
        where = f'distillation.assistants[{index}]'
        taught = recipe.distillation if not index else _by_assistants(recipe).distillation
        optimization = build(OptimizationRecipe, overridden(
            to_plain(recipe.optimization), assistant.optimization), f'{where}.optimization')
        try:
            out.append(replace(
                recipe, name=f'{recipe.name}_assistant_{index + 1}', role=ASSISTANT,
                network=assistant.network, optimization=optimization,
                distillation=replace(taught, assistants=(), student=assistant.student)))
        except ConfigError as error:
            raise ConfigError(f'{where}: {error}') from None
    return out


def through_assistants(recipe: Recipe, classes: ClassSet, losses: Mapping[str, Loss],
                       teachers: TeacherSet, learn: Sequence[LabelledSource], run: RunDirectory,
                       accelerator: Accelerator, *, distill: Distill,
                       progress: Progress | None = None) -> TeacherSet:
    """
    Train the assistants one after the other; return who teaches the student.

    :param teachers: who teaches the first.
    :param distill: the verb.
    :raises KdPerceptionError: as the verb, and where an assistant of another recipe is there.
    """
    taught = _by_assistants(recipe)
    for number, one in enumerate(assistant_recipes(recipe), 1):
        folder = run.path / ASSISTANTS / str(number)
        told = _telling(progress, f'assistant {number}')
        bundle = _finished(folder, one, teachers)
        if bundle is None:
            log.info('assistant %d of %d: %s', number, len(recipe.distillation.assistants), folder)
            bundle = distill(one, folder, teacher=teachers.bundles, progress=told,
                             cache_dir=[cache.path for cache in teachers.caches])
        caches = []
        if recipe.distillation.view != ONLINE:
            caches.append(folder.with_name(f'{number}_cache'))
            _label(bundle, learn, caches[0], teachers, accelerator, told)
        teachers = choose_teachers(taught, classes, losses, [bundle], caches)
    return teachers


def _by_assistants(recipe: Recipe) -> Recipe:
    """Return the recipe of who is taught by an assistant: it is one, of the student's classes."""
    return replace(recipe, distillation=replace(recipe.distillation, class_map='',
                                                teachers=TeachersRecipe()))


def _finished(folder: Path, recipe: Recipe, teachers: TeacherSet) -> ModelBundle | None:
    """Return the bundle of an assistant that is trained already, None where it is not."""
    if not (folder / 'bundle').is_dir():
        return None
    stored = folder / 'recipe.yaml'
    try:
        old = recipe_from_dict(yaml.safe_load(stored.read_text())['recipe']).to_dict()
    except (OSError, yaml.YAMLError, KeyError, TypeError, ConfigError) as error:
        raise TrainingError(f'{stored}: not readable ({first_line(error)}); pass '
                            '--overwrite') from None
    difference = first_difference(old, recipe.to_dict())
    bundle = load_bundle(folder / 'bundle')
    if not difference and bundle.spec.lineage.parents != teachers.parents:
        difference = 'another teacher'
    if difference:
        raise TrainingError(f'{folder}: holds an assistant of another recipe ({difference}); '
                            'choose another --out or pass --overwrite')
    return bundle


def _label(bundle: ModelBundle, learn: Sequence[LabelledSource], cache: Path, teachers: TeacherSet,
           accelerator: Accelerator, progress: Progress | None) -> None:
    """Let an assistant label the frames that its own teacher has labelled."""
    device: dict[str, Any] = ({'engine': 'torch', 'device': 'cuda'}
                              if accelerator.device.type == 'cuda' else {})
    for entry in learn:
        label(bundle, entry.source, cache, codec=teachers.caches[0].codec, views=teachers.views,
              progress=progress, rank=accelerator.process_index,
              world=accelerator.num_processes, **device)
    accelerator.wait_for_everyone()


def _telling(progress: Progress | None, who: str) -> Progress | None:
    """Return a callback that says who is at work."""
    if progress is None:
        return None
    return lambda done, total, note: progress(done, total, f'{who}: {note}' if note else who)
