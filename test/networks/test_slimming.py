"""Narrower networks of the same form, and what of them a bundle keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from kd_perception.bundle import BundleSpec, load_bundle, NetworkSpec
from kd_perception.errors import BundleError, ConfigError
from kd_perception.networks.channels import cut, widths
from kd_perception.networks.coupling import couple, OUT
from kd_perception.networks.deploy import load_module, save_bundle
from kd_perception.networks.registry import build, register
from kd_perception.networks.slimming import kept, slim

SMALL = {'encoder': 'resnet18', 'encoder_depth': 3, 'decoder_channels': [16, 8, 8]}
SIZE = (64, 64)


@register('knot')
class Knot(nn.Module):
    """A sum, a concatenation, a depthwise, a grouped and a transposed convolution."""

    def __init__(self, num_classes: int, groups: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.beside = nn.Conv2d(16, 16, 1, bias=False)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(32, 24, 1, groups=groups)
        self.up = nn.ConvTranspose2d(24, 32, 2, stride=2)
        self.head = nn.Conv2d(32, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = functional.relu(self.norm(self.first(x)))
        two = one + self.depthwise(self.beside(one))
        return self.head(functional.relu(self.up(self.grouped(torch.cat([two, one], 1)))))


def test_channels_that_meet_in_a_sum_are_one_group() -> None:
    found = couple(build(NetworkSpec('knot', {'groups': 1}), 5), SIZE)
    group = {name: found.sides[name, OUT][:, 0] for name in ('first', 'norm', 'beside',
                                                            'depthwise', 'up', 'head')}
    assert len({int(g) for name in ('first', 'norm', 'beside', 'depthwise')
                for g in group[name]}) == 1
    assert group['up'][0] != group['first'][0]
    assert found.outputs == found.fixed == {int(group['head'][0])}
    # The concatenation has every channel of the sum twice.
    assert (found.sides['grouped', 'in'][:16] == found.sides['grouped', 'in'][16:]).all()
    assert (found.sides['first', 'in'][:, 0] == -1).all()


@pytest.mark.parametrize(('channels', 'ratio', 'expected'), [
    (64, 0.25, 16), (64, 1.0, 64), (20, 1.0, 20), (20, 0.99, 16), (24, 0.5, 16), (16, 0.1, 8),
    (4, 0.5, 4), (64, 0.3, 16)])
def test_a_group_keeps_a_multiple_of_eight(channels: int, ratio: float, expected: int) -> None:
    assert kept(channels, ratio) == expected


def test_layers_in_groups_keep_their_channels_and_the_rest_is_cut() -> None:
    slimmed = slim(NetworkSpec('knot'), 5, 0.5, SIZE)
    # What a grouped convolution reads or writes stays whole, so only the last layer shrinks.
    assert slimmed.channels == {'up': (24, 16), 'head': (16, 0)}
    slimmed = slim(NetworkSpec('knot', {'groups': 1}), 5, 0.5, SIZE)
    assert slimmed.channels['depthwise'] == (8, 8, 8)
    assert slimmed.channels['grouped'] == (16, 16)
    assert slimmed.channels['norm'] == (8,)
    net = build(slimmed, 5)
    assert net(torch.zeros(1, 3, *SIZE)).shape == (1, 5, 64, 64)
    assert all(widths(net.get_submodule(name)) == found for name, found
               in slimmed.channels.items() if name != 'head')
    # The classes are as many as are asked for.
    assert build(slimmed, 7)(torch.zeros(1, 3, *SIZE)).shape == (1, 7, 64, 64)
    # Slimmed again, the widths are of what is there.
    assert slim(slimmed, 5, 1.0, SIZE) == slimmed
    with pytest.raises(ConfigError, match='no channels to leave out at ratio 0.5'):
        slim(NetworkSpec('knot', {'groups': 1}, {**slimmed.channels, 'grouped': (16, 8),
                                                 'up': (8, 8), 'head': (8, 5)}), 5, 0.5, SIZE)


def test_a_network_with_its_width_as_an_argument_needs_no_channels() -> None:
    assert slim(NetworkSpec('compact', {'depths': [0, 1, 1, 1]}), 5, 0.25, SIZE) == NetworkSpec(
        'compact', {'depths': [0, 1, 1, 1], 'width': 8})


def test_fresh_weights_of_a_cut_layer_are_spread_as_for_so_many_inputs() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(256, 256, 3, bias=False)
    expected = nn.Conv2d(64, 256, 3, bias=False).weight.std()
    cut(layer, {'': (64, 128)})
    assert layer.weight.shape == (128, 64, 3, 3)
    assert layer.weight.std().item() == pytest.approx(expected.item(), rel=0.02)


@pytest.mark.parametrize(('builder', 'arguments'), [('smp', SMALL), ('compact', {'width': 16})])
def test_a_slimmed_network_travels_in_a_bundle(make: Callable, tmp_path: Path, builder: str,
                                               arguments: dict) -> None:
    _, spec = make(builder, size=(64, 96), **arguments)
    wide = sum(p.numel() for p in build(spec.network, 5).parameters())
    slimmed = slim(spec.network, 5, 0.5, SIZE)
    spec = BundleSpec(**{**vars(spec), 'network': slimmed})
    torch.manual_seed(0)
    module = build(slimmed, 5).eval()
    assert sum(p.numel() for p in module.parameters()) < 0.35 * wide
    # Graphs are written, run and compared on the way.
    bundle = save_bundle(tmp_path / 'slim', module, spec)
    again = load_bundle(bundle.path)
    assert again.spec.network == slimmed
    assert bool(again.spec.network.channels) == (builder == 'smp')
    picture = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(load_module(again)(picture), module(picture))


def test_a_bundle_with_channels_is_read_without_torch_pruning() -> None:
    code = ("import sys; sys.modules['torch_pruning'] = None\n"
            'from kd_perception.bundle import NetworkSpec\n'
            'from kd_perception.networks.registry import build\n'
            "spec = NetworkSpec('compact', {}, {'fuse4.0': [32, 32]})\nbuild(spec, 3)\n"
            'from kd_perception.networks.slimming import slim\n'
            "slim(spec, 3, 0.5, (64, 64))")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          check=False)
    assert "pip install 'kd_perception[compress]'" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(('channels', 'message'), [
    ({'haed': [8, 5]}, "no layer 'haed' with channels; did you mean head"),
    ({'head': [64, 5]}, r"'head' of widths \[8, 5\] cannot be cut to \[64, 5\]"),
    ({'head': [8]}, 'cannot be cut'), ({'head': [-1, 5]}, 'cannot be cut'),
    ({'fuse4': [8, 5]}, "no layer 'fuse4'")])
def test_channels_that_do_not_fit_are_refused(channels: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(NetworkSpec('compact', {'width': 8}, channels), 5)


def test_what_is_no_channel_spec_is_refused() -> None:
    for wrong in ({'head': 8}, {'head': []}, {'head': [1.5]}, {1: [8]}, ['head']):
        with pytest.raises(BundleError, match='network channels: '):
            NetworkSpec('compact', {}, wrong)  # type: ignore[arg-type]


@register('counting')
class Counting(nn.Module):
    """Counts its own channels, so that it cannot be cut."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        assert x.shape[1] == 16, 'sixteen channels, please'
        return self.head(x)


def test_a_network_that_counts_its_channels_is_refused_in_a_line() -> None:
    with pytest.raises(ConfigError, match='does not run with fewer channels.*sixteen'):
        slim(NetworkSpec('counting'), 5, 0.5, SIZE)
    with pytest.raises(ConfigError, match='ratio 1.5: above 0, at most 1'):
        slim(NetworkSpec('counting'), 5, 1.5, SIZE)
