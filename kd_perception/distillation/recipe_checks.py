"""
What a recipe's values must be, checked once when it is built.

Types and keys are checked by ``strict``; here are choices, ranges and settings that exclude each
other. Every message names the dotted path.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TYPE_CHECKING

from kd_perception.distillation.strict import to_plain
from kd_perception.distillation.student_recipe import (
    ARCHITECTURE,
    BOTH,
    check_learner,
    WEIGHTS,
)
from kd_perception.errors import ConfigError

if TYPE_CHECKING:
    from kd_perception.distillation.recipe import Recipe

OPTIMIZERS = ('adamw', 'sgd', 'momentum', 'adagrad')
SCHEDULES = ('one_cycle', 'cosine', 'poly', 'constant')
CLASS_WEIGHTS = ('none', 'log', 'median')
PRECISIONS = ('auto', 'fp32', 'bf16', 'fp16')
WARP, NUMBERED, ONLINE = 'warp', 'views', 'online'
VIEWS = (WARP, NUMBERED, ONLINE)
COMBINATIONS = ('mean', 'confident')
TEACHER_DEVICES = ('one', 'auto')
WEIGHT_DTYPES = ('fp32', 'fp16')


def validate(recipe: Recipe) -> None:
    """
    Check the values of a recipe.

    :raises ConfigError: one line with the dotted path of the first that makes no sense.
    """
    optimization, augment = recipe.optimization, recipe.augment
    choices = (
        ('optimization.optimizer', optimization.optimizer, OPTIMIZERS),
        ('optimization.schedule', optimization.schedule, SCHEDULES),
        ('optimization.class_weights', optimization.class_weights, CLASS_WEIGHTS),
        ('optimization.precision', optimization.precision, PRECISIONS),
        ('distillation.view', recipe.distillation.view, VIEWS),
        ('distillation.teachers.combine', recipe.distillation.teachers.combine, COMBINATIONS),
        ('distillation.teacher_devices', recipe.distillation.teacher_devices, TEACHER_DEVICES),
        ('weights_dtype', recipe.weights_dtype, WEIGHT_DTYPES))
    for key, value, allowed in choices:
        if value not in allowed:
            raise ConfigError(f'{key}: {value!r} is none of {", ".join(allowed)}')
    exits = recipe.distillation.exits
    ranges = (
        ('seed', recipe.seed, 0, 2 ** 32 - 1),  # what numpy and torch both take
        ('input.height', recipe.input.height, 16, 8192),
        ('input.width', recipe.input.width, 16, 8192),
        ('optimization.steps', optimization.steps, 0, 1e9),
        ('optimization.epochs', optimization.epochs, 0, 1e6),
        ('optimization.budget_minutes', optimization.budget_minutes, 0, 1e6),
        ('optimization.batch_size', optimization.batch_size, 1, 4096),
        ('optimization.learning_rate', optimization.learning_rate, 1e-9, 100),
        ('optimization.weight_decay', optimization.weight_decay, 0, 10),
        ('optimization.l1', optimization.l1, 0, 10),
        ('optimization.l2', optimization.l2, 0, 10),
        ('optimization.momentum', optimization.momentum, 0, 0.9999),
        ('optimization.poly_power', optimization.poly_power, 0, 10),
        ('optimization.gradient_clip', optimization.gradient_clip, 0, 1e6),
        ('optimization.checkpoint_minutes', optimization.checkpoint_minutes, 0, 1e4),
        ('optimization.warmup', optimization.warmup, 0, 0.9),
        ('optimization.ema_decay', optimization.ema_decay, 0, 0.999999),
        ('optimization.label_smoothing', optimization.label_smoothing, 0, 0.9),
        ('optimization.log_every', optimization.log_every, 1, 1e6),
        ('optimization.loader_threads', optimization.loader_threads, 1, 64),
        ('optimization.validate_every', optimization.validate_every, 0, 1e9),
        ('optimization.validation_frames', optimization.validation_frames, 0, 1e9),
        ('distillation.weighting.boundary', recipe.distillation.weighting.boundary, 0, 1000),
        ('distillation.weighting.boundary_width', recipe.distillation.weighting.boundary_width,
         1, 64),
        ('distillation.weighting.confidence', recipe.distillation.weighting.confidence, -4, 16),
        ('distillation.weighting.class_balance', recipe.distillation.weighting.class_balance,
         0, 2),
        ('distillation.weighting.labelled', recipe.distillation.weighting.labelled, 0, 1000),
        ('data.validation_share', recipe.data.validation_share, 0, 0.9),
        ('data.labelled_share', recipe.data.labelled_share, 0, 1),
        ('data.memory_gb', recipe.data.memory_gb, 0, 4096),
        ('distillation.views', recipe.distillation.views, 0, 65535),
        ('distillation.views_seed', recipe.distillation.views_seed, -1, 2 ** 32 - 1),
        ('augment.flip', augment.flip, 0, 1), ('augment.blur', augment.blur, 0, 1),
        ('augment.focus', augment.focus, 0, 1), ('augment.aspect', augment.aspect, 0, 0.5),
        ('augment.brightness', augment.brightness, 0, 0.9),
        ('augment.contrast', augment.contrast, 0, 0.9),
        ('augment.saturation', augment.saturation, 0, 1), ('augment.hue', augment.hue, 0, 0.5),
        ('augment.gamma', augment.gamma, 0, 0.9), ('augment.noise', augment.noise, 0, 100),
        ('augment.scale[0]', augment.scale[0], 0.1, augment.scale[1]),
        ('augment.scale[1]', augment.scale[1], augment.scale[0], 10),
        ('distillation.exits.weight', exits.weight, 1e-6, 1e6),
        *((f'distillation.exits.weights[{i}]', weight, 1e-6, 1e6)
          for i, weight in enumerate(exits.weights)))
    for key, number, low, high in ranges:
        if not low <= number <= high:
            # Ten digits: a seed must not be told as 4.29497e+09.
            raise ConfigError(f'{key}: {number:.10g} is not within {low:.10g} to {high:.10g}')
    if len(augment.crop) not in (0, 2) or any(c < 16 for c in augment.crop):
        raise ConfigError(f'augment.crop: {list(augment.crop)} is not [height, width] of at '
                          'least 16 pixels each')
    if optimization.optimizer == 'momentum' and not optimization.momentum:
        raise ConfigError('optimization.momentum: is 0, which is optimizer sgd: set one of them')
    distillation = recipe.distillation
    if any(not 0 < weight < 1e6 for weight in distillation.teachers.weights):
        raise ConfigError(f'distillation.teachers.weights: {list(distillation.teachers.weights)} '
                          'must all be above 0; leave a teacher out that is to count nothing')
    if distillation.ema_teacher and not optimization.ema_decay:
        raise ConfigError('distillation.ema_teacher: there is no average of the weights; set '
                          'optimization.ema_decay above 0')
    if distillation.ema_teacher and distillation.view != WARP:
        raise ConfigError(f'distillation.view {distillation.view}: distillation.ema_teacher looks '
                          'at the views of the student; leave the view out')
    if distillation.teacher_devices != 'one' and distillation.view != ONLINE:
        raise ConfigError(f'distillation.teacher_devices {distillation.teacher_devices}: no '
                          f'teacher is in the loop with distillation.view {distillation.view}; '
                          'set it to online')
    if distillation.teacher_memory and distillation.teacher_devices == 'one':
        raise ConfigError('distillation.teacher_memory: is of distillation.teacher_devices auto')
    if optimization.steps and optimization.epochs:
        raise ConfigError('optimization.steps and optimization.epochs exclude each other: '
                          'set one of them to 0')
    if not (optimization.steps or optimization.epochs or optimization.budget_minutes):
        raise ConfigError('optimization: needs steps, epochs or budget_minutes')
    check_learner(recipe.network, recipe.distillation.student)
    for index, assistant in enumerate(recipe.distillation.assistants):
        where = f'distillation.assistants[{index}].'
        check_learner(assistant.network, assistant.student, where, f'{where}student')


def idle_settings(recipe: Recipe) -> list[str]:
    """
    Return a line for each setting that was changed and does nothing beside the others.

    They are told and not refused: a recipe keeps them while one key is turned off and on. What a
    search may turn on counts as on.
    """
    optimization, distillation = recipe.optimization, recipe.distillation
    weighting, exits = distillation.weighting, distillation.exits
    learners = [('distillation.student', recipe.network, distillation.student), *(
        (f'distillation.assistants[{i}].student', one.network, one.student)
        for i, one in enumerate(distillation.assistants))]

    def of_any(key: str) -> set[Any]:
        return {getattr(optimization, key),
                *(one.optimization.get(key) for one in distillation.assistants)}

    has_exits = any(network.builder == 'exits' or student.derives_network
                    for _, network, student in learners)
    numbered = distillation.view == NUMBERED
    rules: list[tuple[str, Any, bool, str, str]] = [
        ('optimization.momentum', optimization, 'momentum' in of_any('optimizer'),
         'optimization.optimizer', 'momentum'),
        ('optimization.poly_power', optimization, 'poly' in of_any('schedule'),
         'optimization.schedule', 'poly'),
        ('distillation.views', distillation, numbered, 'distillation.view', NUMBERED),
        ('distillation.views_seed', distillation, numbered, 'distillation.view', NUMBERED),
        ('distillation.weighting.boundary_width', weighting, bool(weighting.boundary),
         'distillation.weighting.boundary', 'above 0'),
        ('distillation.exits.weight', exits, has_exits, 'network.builder', 'exits'),
        ('distillation.exits.weights', exits, has_exits, 'network.builder', 'exits')]
    for section, _, student in learners:
        rules += [(f'{section}.{key}', student, used, f'{section}.from_teacher', needed)
                  for key, used, needed in (
                      ('ratio', student.derives_network, f'{ARCHITECTURE} or {BOTH}'),
                      ('channels', student.takes_weights, f'{WEIGHTS} or {BOTH}'),
                      ('blocks', student.takes_weights, f'{WEIGHTS} or {BOTH}'))]
    told = []
    for key, values, used, switch, needed in rules:
        name = key.rpartition('.')[2]
        value = getattr(values, name)
        default = next(f.default for f in fields(values) if f.name == name)
        if value != default and not used and switch not in recipe.search:
            told.append(f'{key}: {to_plain(value)} does nothing without {switch} {needed}')
    return told
