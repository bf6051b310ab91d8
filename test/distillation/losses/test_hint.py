from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kd_perception.distillation.losses import build_losses
from kd_perception.distillation.losses.hint import half_mean_square
from kd_perception.distillation.losses.loss import Signals
from kd_perception.errors import ConfigError


def reduced(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return float64 maps at a coarser size: weights of a triangle as wide as the step."""
    for axis, target in ((2, size[0]), (3, size[1])):
        source = maps.shape[axis]
        step = source / target
        weights = np.zeros((target, source))
        for row in range(target):
            middle = (row + 0.5) * step
            weights[row] = np.maximum(0, 1 - np.abs(np.arange(source) + 0.5 - middle) / step)
        weights /= weights.sum(1, keepdims=True)
        maps = np.moveaxis(np.tensordot(weights, maps, (1, axis)), 0, axis)
    return maps


def test_a_golden_value_by_hand() -> None:
    # Differences 1, 2, 3 and 0: half of (1 + 4 + 9 + 0) / 4.
    student = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2)
    teacher = torch.tensor([0.0, 0.0, 0.0, 4.0]).view(1, 1, 2, 2)
    assert float(half_mean_square(student, teacher)) == pytest.approx(1.75)


@pytest.mark.parametrize(('own', 'other'), [((4, 6), (4, 6)), ((4, 6), (8, 12)),
                                            ((9, 6), (3, 4))])
def test_value_and_gradient_agree_with_an_independent_computation(
        own: tuple[int, int], other: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 2, (2, 3, *own)), rng.normal(0, 2, (2, 3, *other))
    size = (min(own[0], other[0]), min(own[1], other[1]))

    def independent(values: np.ndarray) -> float:
        return 0.5 * float(((reduced(values, size) - reduced(teacher, size)) ** 2).mean())

    tensor = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    loss = half_mean_square(tensor, torch.tensor(teacher, dtype=torch.float32))
    loss.backward()
    assert float(loss) == pytest.approx(independent(student), rel=1e-5)
    for place in ((0, 0, 0, 0), (1, 2, 3, 5), (0, 1, 2, 3)):
        step = np.zeros_like(student)
        step[place] = 1e-5
        slope = (independent(student + step) - independent(student - step)) / 2e-5
        assert float(tensor.grad[place]) == pytest.approx(slope, rel=1e-3, abs=1e-7)


def test_an_adapter_brings_the_student_to_the_channels_of_the_teacher() -> None:
    loss = build_losses({'hint': {'layers': {'a.b': 'x', 'c': 'y'}}})['hint']
    adapter = loss.adapters({'a.b': (4, 3, 3), 'c': (2, 3, 3)}, {'x': (7, 3, 3), 'y': (5, 6, 6)})
    assert isinstance(adapter, nn.ModuleDict)
    shapes = {n: tuple(p.shape) for n, p in adapter.named_parameters()}
    assert shapes == {'a/b.weight': (7, 4, 1, 1), 'a/b.bias': (7,),
                      'c.weight': (5, 2, 1, 1), 'c.bias': (5,)}
    student = {'a.b': torch.randn(2, 4, 3, 3, requires_grad=True),
               'c': torch.randn(2, 2, 3, 3, requires_grad=True)}
    teacher = {'x': torch.randn(2, 7, 3, 3, requires_grad=True), 'y': torch.randn(2, 5, 6, 6)}
    nothing = torch.empty(0)
    signals = Signals(nothing, nothing, nothing, student_features=student,
                      teacher_features=teacher, adapter=adapter)
    value = loss(signals)
    parts = [half_mean_square(adapter['a/b'](student['a.b']), teacher['x']),
             half_mean_square(adapter['c'](student['c']), teacher['y'])]
    assert float(value) == pytest.approx(float(sum(parts)), rel=1e-6)
    value.backward()
    assert student['a.b'].grad.any()
    assert adapter['c'].weight.grad.any()
    assert teacher['x'].grad is None
    with pytest.raises(ConfigError, match="nothing is known of layer 'x' of the teacher"):
        loss(Signals(nothing, nothing, nothing, student_features=student, adapter=adapter))


@pytest.mark.parametrize(('layers', 'said'), [
    ({}, r'distillation.losses.hint.layers: is empty; map layers of the student'),
    ({'a': 3}, 'hint.layers: 3 is not the name of a layer'),
    ({'': 'b'}, "hint.layers: '' is not the name of a layer"),
    ('a', 'hint.layers: must be a mapping')])
def test_layers_that_are_no_names_are_refused(layers: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_losses({'hint': {'layers': layers}})
