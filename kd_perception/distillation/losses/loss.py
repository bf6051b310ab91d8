"""
What every loss is: settings from a recipe that can be called with the signals of a batch.

A loss is one module of this package with one dataclass in it, registered under the name by which
recipes choose it::

    @register('kl')
    @dataclass(frozen=True, kw_only=True)
    class KullbackLeibler(SoftenedLoss):
        temperature: float = 2.0

        def __call__(self, signals: Signals) -> torch.Tensor: ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from kd_perception.errors import ConfigError
from kd_perception.networks.taps import Shape

# What a loss may look at. Of the teacher's output: its softmax per pixel; how far the logits of a
# pixel lie apart, which says also how unlikely the unlikely ones are; the logits themselves
# (softmax does not change when a number is added to all logits of a pixel; these losses do see
# it); or layers inside of it. Or ground truth alone.
SOFTMAX, RELATIVE, LOGITS = 'softmax', 'relative logits', 'logits'
# How the classes besides the target compare among themselves, also where it is nearly certain.
OTHERS = 'the other classes'
# What is left of a softmax without its likely classes; behind a class map that drops some.
REST = 'rest'
FEATURES, LABELS = 'features', 'labels'

# Takes a value out of a softmax and stays finite when it is subtracted from itself.
OUT = -1e30


@dataclass(frozen=True)
class Signals:
    """
    What there is to compare in a batch. Student and teacher are on one grid.

    :param student: float32 logits ``[N, K, h, w]``, with gradient; empty where all losses of the
        moment look at layers alone.
    :param labels: uint8 ``[N, H, W]``, 255 where nothing is labelled.
    :param own: float32 logits ``[N, K, h', w']`` of the student at its own stride.
    :param teacher: float32 logits ``[N, K, h, w]``, or None where there is no teacher.
    :param weights: float32 ``[N, h, w]``, what each pixel of the grid counts; 0 where the teacher
        says nothing, 1 on average elsewhere. A loss that is no mean over pixels asks where they
        are above 0.
    :param class_weights: float32 ``[K]`` for ground truth, or None.
    :param label_smoothing: share of a ground-truth target spread over all classes.
    :param student_features: float ``[N, C, h', w']``, layers of the student by name, with
        gradient.
    :param teacher_features: float ``[N, C', h'', w'']``, layers of the teacher by name.
    :param adapter: what this loss trains besides the student (``Loss.adapters``), or None.
    """

    student: torch.Tensor
    labels: torch.Tensor
    own: torch.Tensor
    teacher: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    class_weights: torch.Tensor | None = None
    label_smoothing: float = 0.0
    student_features: Mapping[str, torch.Tensor] = field(default_factory=dict)
    teacher_features: Mapping[str, torch.Tensor] = field(default_factory=dict)
    adapter: nn.Module | None = None

    def taught(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the teacher's logits and the weights of pixels; both must be there."""
        if self.teacher is None:
            raise ConfigError('this loss needs a teacher')
        weights = self.weights
        if weights is None:
            weights = torch.ones_like(self.teacher[:, 0])
        return self.teacher.detach(), weights


@dataclass(frozen=True, kw_only=True)
class Loss(ABC):
    """
    Settings that all losses have.

    :param weight: factor in the sum that is minimised.
    :param start: share of the run after which the loss counts; with ``end`` this makes phases.
    :param end: share of the run up to which it counts.
    :raises ConfigError: for values that make no sense, naming the setting.
    """

    looks_at: ClassVar[str] = SOFTMAX
    # Whether it is a mean over pixels that heeds what each counts (``distillation.weighting``).
    per_pixel: ClassVar[bool] = False
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        in_range('weight', self.weight, 0, 1e6)
        in_range('start', self.start, 0, self.end)
        in_range('end', self.end, self.start, 1)
        if self.start == self.end:
            raise ConfigError(f'end: {self.end:g} is no later than start')

    @abstractmethod
    def __call__(self, signals: Signals) -> torch.Tensor:
        """Return the value, a scalar without its weight; 0 where there is nothing to compare."""

    def adapters(self, student: Mapping[str, Shape],
                 teacher: Mapping[str, Shape]) -> nn.Module | None:
        """
        Return what is to be trained besides the student, or None; it is never exported.

        :param student: channels, rows and columns of the student's layers by name.
        :param teacher: the same of the teacher.
        :raises ConfigError: when this loss cannot compare such layers.
        """
        return None

    def require_batch(self, views: int) -> None:
        """
        Check that the loss can be computed, before anything is trained.

        :param views: of a batch, in each process.
        :raises ConfigError: when so many views are too few or too many, naming the setting.
        """
        return

    def active(self, at: float) -> bool:
        """Return whether the loss counts when the share ``at`` of the run is done."""
        return self.start <= at and (at < self.end or self.end == 1.0)


@dataclass(frozen=True, kw_only=True)
class SoftenedLoss(Loss):
    """
    A loss on distributions of student and teacher.

    :param temperature: softens both distributions.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range('temperature', self.temperature, 0.05, 100)


KINDS: dict[str, type[Loss]] = {}


def register(name: str) -> Callable[[type[Loss]], type[Loss]]:
    """Return a decorator that makes a loss known to recipes as ``name``."""
    def add(kind: type[Loss]) -> type[Loss]:
        KINDS[name] = kind
        return kind
    return add


def in_range(name: str, value: float, low: float, high: float) -> None:
    """
    Check a setting.

    :raises ConfigError: when it is outside of ``low`` to ``high``, or NaN.
    """
    if not low <= value <= high:
        raise ConfigError(f'{name}: {value:.10g} is not within {low:.10g} to {high:.10g}')


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """
    Check a setting.

    :raises ConfigError: when it is none of ``allowed``.
    """
    if value not in allowed:
        raise ConfigError(f'{name}: {value!r} is none of {", ".join(allowed)}')


def same_shape(student: torch.Tensor, teacher: torch.Tensor) -> None:
    """
    Check that two outputs can be compared class by class and pixel by pixel.

    :raises ConfigError: when the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ConfigError(f'student logits {tuple(student.shape)} and teacher logits '
                          f'{tuple(teacher.shape)} must have one shape')


def weighted_mean(pixels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the mean of ``pixels`` ``[N, h, w]`` by ``weights``; 0 where all of these are 0."""
    return (pixels * weights).sum() / weights.sum().clamp(min=1e-6)
