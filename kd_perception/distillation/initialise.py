"""
What a student takes over from its teacher: its network by slimming, its first weights.

A teacher's bundle and a recipe come in; a recipe with a resolved network goes out before the run,
a network with selected weights when it begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import logging
from typing import Any

from torch import nn

from kd_perception.bundle import ModelBundle, NetworkSpec
from kd_perception.classes import ClassMap, ClassSet, load_class_set
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.strict import to_plain
from kd_perception.distillation.student_recipe import NetworkRecipe, StudentRecipe
from kd_perception.distillation.teachers.teacher_set import TeacherSet
from kd_perception.errors import TrainingError
from kd_perception.networks.deploy import load_module
from kd_perception.networks.exits import ExitNet, exported_spec
from kd_perception.networks.slimming import slim
from kd_perception.networks.transplant import transplant

log = logging.getLogger(__name__)


def spec_of(network: NetworkRecipe) -> NetworkSpec:
    """Return what the registry builds a recipe's network from."""
    return NetworkSpec(network.builder, network.arguments, network.channels)


def resolve_networks(recipe: Recipe, teacher: ModelBundle | None) -> Recipe:
    """
    Return a recipe in which every network is spelled out, those derived from a teacher too.

    Assistants come one after the other, so each takes after the one before it.

    :param teacher: the first of them; None where labels were imported, or the student teaches
        itself.
    :raises KdPerceptionError: one line, where a teacher is needed and none with a network is
        there, or its network cannot be slimmed.
    """
    distillation = recipe.distillation
    learners = [(f'assistants[{i}].student', a.network, a.student)
                for i, a in enumerate(distillation.assistants)]
    learners.append(('student', recipe.network, distillation.student))
    size = (recipe.input.height, recipe.input.width)
    spec = None if teacher is None else teacher.spec.network
    classes = len(load_class_set(recipe.classes))
    resolved = []
    for where, network, student in learners:
        if student.from_teacher != 'none' and (spec is None or not spec.builder):
            who = ('no teacher is given that has a network' if teacher is None else
                   f'{teacher.path} is a foreign graph without a network spec')
            raise TrainingError(f'distillation.{where}.from_teacher {student.from_teacher}: {who};'
                                ' set it to none, or distil from a bundle of our own')
        if student.derives_network and spec is not None:
            network = _derived(spec, student, classes, size, network, where)
        # What it teaches with is its bundle.
        spec = exported_spec(spec_of(network))
        resolved.append(network)
    assistants = tuple(replace(a, network=network)
                       for a, network in zip(distillation.assistants, resolved))
    return replace(recipe, network=resolved[-1],
                   distillation=replace(distillation, assistants=assistants))


def initialise(network: nn.Module, recipe: Recipe, classes: ClassSet,
               teachers: TeacherSet) -> dict[str, Any] | None:
    """
    Give a student's network the weights that it takes over, in place.

    :param classes: the student's; outputs correspond by the names of classes, then by the class
        map of the teacher.
    :param teachers: of several teachers the first one gives.
    :returns: what ``metrics.json`` says of it; None where the recipe asks for fresh weights.
    :raises TrainingError: when nothing of the teacher fits.
    """
    student = recipe.distillation.student
    if not student.takes_weights or not teachers.bundles:
        return None
    teacher = teachers.bundles[0]
    class_map = next(m.class_map for m in teachers.members if m.bundle is teacher)
    # Exits are the student's own; what they stand on may be the teacher's.
    base = network.base if isinstance(network, ExitNet) else network
    done = transplant(load_module(teacher), base, (recipe.input.height, recipe.input.width),
                      channels=student.channels, blocks=student.blocks,
                      classes=_rows(classes.names, teacher.spec.classes.names, class_map))
    if not done.tensors:
        own = _called(spec_of(recipe.network))
        raise TrainingError(f'{teacher.path}: its network {_called(teacher.spec.network)} has no '
                            f'layer that fits {own}; set distillation.student.from_teacher to '
                            'none or architecture')
    log.info('%d of %d tensors, %.1f %% of parameters from the teacher%s', done.tensors,
             done.of_tensors, 100 * done.share,
             f'; fresh: {", ".join(done.fresh[:4])}…' if done.fresh else '')
    return {'teacher': teacher.hash, 'tensors': done.tensors, 'of_tensors': done.of_tensors,
            'share_of_parameters': round(done.share, 4), 'fresh': list(done.fresh)}


def _rows(names: Sequence[str], theirs: Sequence[str],
          class_map: ClassMap | None) -> list[int] | None:
    """Return the teacher's class for each of the student's, -1: none; None: they are the same."""
    if tuple(names) == tuple(theirs):
        return None
    # Of classes that the map brings together the first speaks for all.
    mapped = [] if class_map is None else class_map.table[:len(theirs)].tolist()
    return [theirs.index(name) if name in theirs else
            mapped.index(number) if number in mapped else -1
            for number, name in enumerate(names)]


def _derived(spec: NetworkSpec, student: StudentRecipe, classes: int, size: tuple[int, int],
             network: NetworkRecipe, where: str) -> NetworkRecipe:
    slimmed = slim(spec, classes, student.ratio, size)
    derived = NetworkRecipe(slimmed.builder, dict(slimmed.arguments),
                            to_plain(slimmed.channels))
    if network.builder and network != derived:
        log.info('distillation.%s: the network is the one that teaches at ratio %g; %s of the '
                 'recipe is not looked at', where, student.ratio, _called(spec_of(network)))
    return derived


def _called(spec: NetworkSpec) -> str:
    arguments = ', '.join(f'{k}={v}' for k, v in spec.arguments.items())
    return f'{spec.builder}({arguments})'
