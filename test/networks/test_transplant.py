"""What a student takes over from its teacher's weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from kd_perception.bundle import NetworkSpec
from kd_perception.networks.coupling import couple
from kd_perception.networks.registry import build, register
from kd_perception.networks.slimming import slim
from kd_perception.networks.transplant import chosen, importance, matched_layers, transplant

SIZE = (64, 64)
SMALL = {'encoder': 'resnet18', 'encoder_depth': 3, 'decoder_channels': [16, 8, 8]}


@register('residual')
class Residual(nn.Module):
    """A residual sum of two convolutions, with batch norm, and a head."""

    def __init__(self, num_classes: int, width: int = 16, colors: int = 3) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(colors, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 1)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x)).relu()
        return self.head(x + self.second(x))


def trained(net: nn.Module) -> nn.Module:
    """Give a network statistics and weights as training would, away from its start."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    net.train()
    with torch.no_grad():
        net(torch.rand(4, 3, *SIZE))
    return net.eval()


def logits(net: nn.Module) -> torch.Tensor:
    picture = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return net.eval()(picture.to(next(net.parameters()).dtype))


@pytest.mark.parametrize('spec', [NetworkSpec('compact', {'width': 16}), NetworkSpec('smp', SMALL),
                                  NetworkSpec('residual')])
@pytest.mark.parametrize('classes', [None, [0, 1, 2, 3, 4]])
def test_all_channels_give_the_logits_of_the_teacher(spec: NetworkSpec,
                                                     classes: list[int] | None) -> None:
    teacher, student = trained(build(spec, 5)), build(slim(spec, 5, 1.0, SIZE), 5)
    # With classes every channel is selected one by one, without it they are copied.
    done = transplant(teacher, student, SIZE, classes=classes)
    assert done.share == 1
    assert done.tensors == done.of_tensors > 0
    assert not done.fresh
    assert torch.equal(logits(teacher), logits(student))


@pytest.mark.parametrize('spec', [NetworkSpec('compact', {'width': 32}), NetworkSpec('smp', SMALL),
                                  NetworkSpec('residual')])
def test_channels_that_say_nothing_can_be_left_out(spec: NetworkSpec) -> None:
    slimmed = slim(spec, 5, 0.5, SIZE)
    # In float64 the order of sums does not hide anything.
    teacher, student = trained(build(spec, 5)).double(), build(slimmed, 5).double()
    coupling, counted = couple(teacher, SIZE), couple(student, SIZE)
    layers = dict(teacher.named_modules())
    rng = np.random.default_rng(0)
    # Silence as many channels of each group as the student lacks, at random places.
    donors = {int(g): int(coupling.sides[side][p, 0]) for side, labels in counted.sides.items()
              for p, g in enumerate(labels[:, 0]) if labels[p, 1] == 0 and g >= 0
              and len(set(labels[:, 0])) == 1}
    silent = {donor: rng.choice(coupling.sizes[donor], coupling.sizes[donor]
                                - counted.sizes[own], replace=False)
              for own, donor in donors.items()}
    assert sum(map(len, silent.values())) >= 8
    with torch.no_grad():
        for (name, side), labels in coupling.sides.items():
            if side == 'out':
                gone = [p for p, (g, c) in enumerate(labels) if g in silent and c in silent[g]]
                layer = layers[name]
                for value in (layer.weight, layer.bias, getattr(layer, 'running_mean', None)):
                    if value is not None:
                        value[gone] = 0
    done = transplant(teacher, student, SIZE)
    assert done.share == 1
    assert torch.allclose(logits(teacher), logits(student), rtol=1e-9, atol=1e-12)
    # The first channels are others: the choice matters, and this test can fail.
    transplant(teacher, student, SIZE, channels='first')
    assert not torch.allclose(logits(teacher), logits(student), rtol=1e-2, atol=1e-3)


def test_importance_is_the_sum_over_the_layers_of_a_group() -> None:
    net = trained(build(NetworkSpec('residual'), 5))
    coupling = couple(net, SIZE)
    group = int(coupling.sides['first', 'out'][0, 0])
    expected = np.zeros(16)
    for layer in ('first', 'second'):
        weight = net.get_submodule(layer).weight.detach().numpy().astype(np.float64)
        norms = np.array([sum(abs(v) for v in weight[c].ravel().tolist()) for c in range(16)])
        expected += norms * 16 / norms.sum()
    np.testing.assert_allclose(importance(net, coupling)[group], expected, rtol=1e-12)
    student = build(NetworkSpec('residual', {'width': 8}), 5)
    transplant(net, student, SIZE)
    best = np.sort(np.argsort(-expected)[:8])
    assert torch.equal(student.second.weight, net.second.weight[best][:, best])
    assert torch.equal(student.norm.running_mean, net.norm.running_mean[best])
    assert torch.equal(student.norm.running_var, net.norm.running_var[best])
    assert torch.equal(student.head.weight, net.head.weight[:, best])


def test_chosen_numbers() -> None:
    assert chosen(3, 9, 'even').tolist() == [0, 4, 8]
    assert chosen(3, 9, 'first').tolist() == [0, 1, 2]
    assert chosen(3, 9, 'last').tolist() == [6, 7, 8]
    assert chosen(1, 9, 'even').tolist() == [0]


@pytest.mark.parametrize(('blocks', 'expected'), [
    ('even', {1: 1, 2: 3}), ('first', {1: 1, 2: 2}), ('last', {1: 2, 2: 3})])
def test_a_student_of_fewer_blocks_takes_some(blocks: str, expected: dict) -> None:
    teacher = build(NetworkSpec('compact', {'width': 16, 'depths': [0, 1, 1, 3]}), 5)
    student = build(NetworkSpec('compact', {'width': 8}), 5)
    pairs = matched_layers(teacher, student, blocks)
    for own, donor in expected.items():
        assert pairs[f'down32.{own}.second'] == f'down32.{donor}.second'
    assert pairs['down32.0.0'] == 'down32.0.0'
    assert transplant(teacher, student, SIZE, blocks=blocks).share == 1


def test_more_blocks_than_the_teacher_has_stay_fresh_and_are_told() -> None:
    teacher = trained(build(NetworkSpec('compact', {'width': 16, 'depths': [0, 1, 1, 1]}), 5))
    student = build(NetworkSpec('compact', {'width': 16}), 5)
    done = transplant(teacher, student, SIZE)
    assert {name.rpartition('.')[0] for name in done.fresh} == {
        'down32.2.first.0', 'down32.2.first.1', 'down32.2.second', 'down32.2.norm'}
    assert done.of_tensors - done.tensors == len(done.fresh) == 6
    count = sum(p.numel() for p in student.parameters())
    assert done.of_parameters == count
    assert count - done.parameters == sum(p.numel() for p in student.down32[2].parameters())


def test_a_wider_student_and_another_family_take_what_fits() -> None:
    teacher = trained(build(NetworkSpec('residual', {'width': 8}), 5))
    done = transplant(teacher, build(NetworkSpec('residual', {'width': 16}), 5), SIZE)
    assert done.fresh == ('first.weight', 'first.bias', 'norm.weight', 'norm.bias',
                          'second.weight', 'second.bias', 'head.weight')
    assert transplant(teacher, build(NetworkSpec('compact', {'width': 8}), 5), SIZE).tensors == 0


def test_the_head_follows_the_classes() -> None:
    teacher = trained(build(NetworkSpec('residual'), 5))
    student = build(NetworkSpec('residual'), 4)
    fresh = student.head.weight[2].clone()
    done = transplant(teacher, student, SIZE, classes=[4, 1, -1, 1])
    assert torch.equal(student.head.weight[[0, 1, 3]], teacher.head.weight[[4, 1, 1]])
    assert torch.equal(student.head.bias[[0, 1, 3]], teacher.head.bias[[4, 1, 1]])
    assert torch.equal(student.head.weight[2], fresh)
    assert done.of_parameters - done.parameters == 17
    assert not done.fresh
    student = build(NetworkSpec('residual'), 4)
    assert transplant(teacher, student, SIZE).fresh == ('head.weight', 'head.bias')


def test_an_encoder_of_the_same_family_gives_its_weights(make: Callable) -> None:
    teacher, _ = make('smp', **{**SMALL, 'encoder': 'resnet34'})
    student = build(NetworkSpec('smp', {**SMALL, 'decoder_channels': [8, 8, 8]}), 5)
    done = transplant(teacher, student, SIZE)
    assert done.share == 1
    own, other = dict(student.named_parameters()), dict(teacher.named_parameters())
    # The last of three equal blocks: even takes the first and the last.
    assert torch.equal(own['net.encoder.layer1.1.conv1.weight'],
                       other['net.encoder.layer1.2.conv1.weight'])
