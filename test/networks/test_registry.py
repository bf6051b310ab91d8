"""Builders by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kd_perception.bundle import NetworkSpec
from kd_perception.errors import ConfigError
from kd_perception.networks import registry


def test_own_builders_are_listed_and_build() -> None:
    assert {'compact', 'smp'} <= set(registry.builders())
    net = registry.build(NetworkSpec('compact', {'width': 8}), 5)
    assert net(torch.zeros(2, 3, 64, 96)).shape == (2, 5, 16, 24)


def test_unknown_builder_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match='did you mean compact'):
        registry.build(NetworkSpec('compct'), 5)
    with pytest.raises(ConfigError, match='known: .*compact.*smp'):
        registry.build(NetworkSpec('zzz'), 5)


def test_bad_arguments_are_one_line() -> None:
    for builder, arguments in (('compact', {'depth': 3}), ('compact', {'width': 7}),
                               ('smp', {'encoder': 'resnet18000'}),
                               ('smp', {'architecture': 'Vnet'}),
                               ('smp', {'encoder_weights': 'imagenet'})):
        with pytest.raises(ConfigError) as caught:
            registry.build(NetworkSpec(builder, arguments), 5)
        assert '\n' not in str(caught.value)


def test_register(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, '_BUILDERS', dict(registry._BUILDERS))

    @registry.register('one_by_one')
    def one_by_one(num_classes: int, bias: bool = True) -> nn.Module:
        return nn.Conv2d(3, num_classes, 1, bias=bias)

    net = registry.build(NetworkSpec('one_by_one', {'bias': False}), 4)
    assert isinstance(net, nn.Conv2d)
    assert net.bias is None
    assert 'one_by_one' in registry.builders()


def test_entry_point_of_an_installed_package(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A real distribution on the path, as pip would install it.
    (tmp_path / 'teamnets.py').write_text(
        'from torch import nn\n'
        'def net(num_classes, width=4):\n'
        '    return nn.Conv2d(3, num_classes, 1)\n')
    info = tmp_path / 'teamnets-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: teamnets\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text(
        '[kd_perception.networks]\nteam = teamnets:net\nbroken = teamnets:missing\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, '_BUILDERS', dict(registry._BUILDERS))
    assert {'team', 'broken'} <= set(registry.builders())
    assert isinstance(registry.build(NetworkSpec('team', {'width': 2}), 4), nn.Conv2d)
    with pytest.raises(ConfigError, match='does not load'):
        registry.build(NetworkSpec('broken'), 4)
