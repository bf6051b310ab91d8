"""The compact student."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kd_perception.bundle import NetworkSpec
from kd_perception.errors import ConfigError
from kd_perception.networks.compact import CompactNet, ResidualBlock
from kd_perception.networks.registry import build


def test_size_and_cost_are_within_the_budget() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net = CompactNet(12).eval()
    assert sum(p.numel() for p in net.parameters()) <= 1_500_000
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 360, 640))
    assert counter.get_total_flops() / 2 <= 1.5e9


@pytest.mark.parametrize('size', [(360, 640), (37, 53), (64, 64), (100, 33)])
def test_any_size_gives_logits_at_stride_four(size: tuple[int, int]) -> None:
    net = CompactNet(5, width=8).eval()
    with torch.no_grad():
        logits = net(torch.zeros(1, 3, *size))
    assert logits.shape == (1, 5, -(-size[0] // 4), -(-size[1] // 4))


@pytest.mark.parametrize(('arguments', 'named'), [
    ({'width': '32'}, "width must be .*, not '32'"), ({'width': 9}, 'width must be .*, not 9'),
    ({'width': 32.0}, 'width must be .*, not 32.0'), ({'width': True}, 'width must be'),
    ({'depths': 3}, 'depths must be .*, not 3'), ({'depths': [1, 1]}, 'depths must be'),
    ({'depths': [0, 1, '1', 2]}, 'depths must be'), ({'depths': [0, 1, 1, -2]}, 'depths must'),
    ({'depths': 'abcd'}, "depths must be .*, not 'abcd'"),
    ({'deep': 1}, "unexpected keyword argument 'deep'")])
def test_wrong_arguments_are_named(arguments: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as told:
        build(NetworkSpec('compact', arguments), 5)
    assert '\n' not in str(told.value)


def test_blocks_start_as_identities() -> None:
    x = torch.rand(1, 8, 6, 6)
    assert torch.equal(ResidualBlock(8)(x), x)


def test_depths_add_blocks() -> None:
    small = CompactNet(5, width=8, depths=(0, 0, 0, 0))
    large = CompactNet(5, width=8, depths=(1, 1, 1, 1))
    assert not any(isinstance(m, ResidualBlock) for m in small.modules())
    assert sum(isinstance(m, ResidualBlock) for m in large.modules()) == 4


def test_batch_of_one_small_picture_trains() -> None:
    net = CompactNet(5, width=8).train()
    net(torch.rand(1, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_learns_thin_lines() -> None:
    """A pole of three pixels on a plain picture is found at stride four."""
    torch.manual_seed(0)
    net = CompactNet(2, width=8)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(1)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.zeros(8, 64, 64, dtype=torch.long)
        for one, column in zip(labels, torch.randint(4, 58, (8,), generator=generator),
                               strict=True):
            one[:, column:column + 3] = 1
        noise = torch.randn(8, 3, 64, 64, generator=generator)
        return noise * 0.3 + labels[:, None] * 2.0, labels

    for _ in range(60):
        images, labels = batch()
        logits = functional.interpolate(net(images), size=(64, 64), mode='bilinear')
        loss = functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = batch()
    with torch.no_grad():
        found = functional.interpolate(net.eval()(images), size=(64, 64),
                                       mode='bilinear').argmax(1)
    hits = ((found == 1) & (labels == 1)).sum() / ((found == 1) | (labels == 1)).sum()
    assert hits > 0.6
