"""Layers of the student and of the teacher that losses compare, in pairs that recipes make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from kd_perception.bundle import ModelBundle, NetworkSpec
from kd_perception.distillation.losses.loss import FEATURES, Loss, Signals
from kd_perception.errors import ConfigError, TrainingError
from kd_perception.networks.registry import build
from kd_perception.networks.taps import require_layers, Shape


@dataclass(frozen=True, kw_only=True)
class FeatureLoss(Loss):
    """
    A loss on layers.

    :param layers: names in the student to names in the teacher.
    :raises ConfigError: when there are none, or anything but names.
    """

    looks_at: ClassVar[str] = FEATURES
    layers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers:
            raise ConfigError('layers: is empty; map layers of the student to layers of the '
                              'teacher, e.g. {down16: net.encoder.layer3}')
        for name in (*self.layers, *self.layers.values()):
            if not isinstance(name, str) or not name:
                raise ConfigError(f'layers: {name!r} is not the name of a layer')

    def pairs(self, signals: Signals) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """
        Yield the student's name of a layer, what the student and what the teacher says there.

        Float ``[N, C, h, w]`` and ``[N, C', h', w']``; no gradient flows into the teacher's.

        :raises ConfigError: when the teacher gave no such layer.
        """
        for student, teacher in self.layers.items():
            if teacher not in signals.teacher_features:
                raise ConfigError(f'nothing is known of layer {teacher!r} of the teacher: this '
                                  'loss needs the teacher in the loop, soft labels do not hold '
                                  'its layers')
            yield (student, signals.student_features[student],
                   signals.teacher_features[teacher].detach())


def student_layers(losses: Iterable[Loss]) -> tuple[str, ...]:
    """Return the names of the student's layers that losses look at, each once."""
    return tuple(dict.fromkeys(name for loss in losses for name in _layers(loss)))


def teacher_layers(losses: Iterable[Loss]) -> tuple[str, ...]:
    """Return the names of the teacher's layers that losses look at, each once."""
    return tuple(dict.fromkeys(name for loss in losses for name in _layers(loss).values()))


def require_layers_of(losses: Mapping[str, Loss], student: NetworkSpec, classes: int,
                      teacher: ModelBundle | None) -> None:
    """
    Check that student and teacher have the layers that losses look at.

    Both are built for it, without their weights: names are to be told before frames are read.

    :param classes: channels of the student's logits.
    :raises KdPerceptionError: naming the first that does not exist, with the nearest names, or
        the loss where there is no teacher to look into.
    """
    looking = [name for name, loss in losses.items() if _layers(loss)]
    if not looking:
        return
    if teacher is None:
        raise TrainingError(f'loss {looking[0]!r} looks at layers of the teacher, imported labels '
                            'have none; give --teacher BUNDLE, or leave the loss out')
    spec = teacher.spec
    if not spec.network.builder:
        raise TrainingError(f'loss {looking[0]!r} looks at layers of the teacher; {teacher.path} '
                            'is a foreign graph, whose layers cannot be looked at; leave the loss '
                            'out')
    require_layers(build(student, classes), student_layers(losses.values()), 'student')
    require_layers(build(spec.network, len(spec.classes)), teacher_layers(losses.values()),
                   f'teacher {spec.name}')


def coarser(one: torch.Tensor, two: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Bring two float32 ``[N, C, h, w]`` to the rows and columns of the coarser of both, bilinearly.

    Cells of the finer one are averaged (a triangle as wide as the step), not skipped.
    """
    size = (min(one.shape[2], two.shape[2]), min(one.shape[3], two.shape[3]))
    resized = (x if x.shape[2:] == size else
               functional.interpolate(x, size=size, mode='bilinear', align_corners=False,
                                      antialias=True)
               for x in (one, two))
    return next(resized), next(resized)


def build_adapters(losses: Mapping[str, Loss], student: Mapping[str, Shape],
                   teacher: Mapping[str, Shape]) -> nn.ModuleDict:
    """
    Return what losses train besides the student, by name of the loss.

    :raises ConfigError: one line with the name of the loss that cannot compare its layers.
    """
    adapters = nn.ModuleDict()
    for name, loss in losses.items():
        try:
            adapter = loss.adapters(student, teacher)
        except ConfigError as error:
            raise ConfigError(f'distillation.losses.{name}.{error}') from None
        if adapter is not None:
            adapters[name] = adapter
    return adapters


def _layers(loss: Loss) -> Mapping[str, str]:
    """Return the pairs of a loss; most look at none."""
    return loss.layers if isinstance(loss, FeatureLoss) else {}
