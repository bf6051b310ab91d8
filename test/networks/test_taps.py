"""Layers by name: what is taken, what is refused, and that nothing stays behind."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from kd_perception.errors import ConfigError
from kd_perception.networks.compact import CompactNet
from kd_perception.networks.taps import require_layers, Taps

SIZE = (32, 48)


class Both(nn.Module):
    """Gives two tensors."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([x, x[..., :1]], -1), x


class Tokens(nn.Module):
    """Cells as a list, as transformers have them, and outputs of other kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, stride=4)
        self.flat = nn.Flatten(2)
        self.mix = nn.Linear(6, 6)
        self.both = Both()
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.shared = nn.ReLU()
        self.spare = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.mix(self.flat(self.patches(x)).transpose(1, 2))
        said, _ = self.both(self.shared(self.shared(tokens)))
        return self.pool(said.transpose(1, 2))


def test_takes_what_layers_say_and_leaves_no_hook() -> None:
    network = CompactNet(5, width=8).train()
    taps = Taps(network, ['down8', 'context', 'down8'], SIZE)
    assert network.training
    assert taps.names == ('down8', 'context')
    assert taps.shapes == {'down8': (16, 4, 6), 'context': (32, 1, 2)}
    network.eval()
    x = torch.randn(2, 3, *SIZE)
    with taps.open(network, SIZE) as seen:
        network(x)
    assert torch.equal(seen['down8'], network.down8(network.stem(x)))
    assert not any(m._forward_hooks for m in network.modules())
    with pytest.raises(RuntimeError, match='channels'), taps.open(network, SIZE):
        network(torch.randn(2, 4, *SIZE))
    assert not any(m._forward_hooks for m in network.modules())
    # The same layers of a copy, and some of them only.
    with taps.open(copy.deepcopy(network), SIZE, ['context']) as seen:
        network(x)
    assert seen == {}


def test_a_look_changes_neither_weights_nor_statistics_nor_random_numbers() -> None:
    network = CompactNet(5, width=8).train()
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    Taps(network, ['head'], SIZE)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())


def test_what_comes_behind_the_last_layer_is_not_computed() -> None:
    network = CompactNet(5, width=8).train()
    taps = Taps(network, ['stem', 'down8'], SIZE)
    with taps.open(network, SIZE, stop=True) as seen:
        network(torch.randn(2, 3, *SIZE))
        pytest.fail('the pass should have ended inside of the network')
    assert set(seen) == {'stem', 'down8'}
    assert int(network.down8[0][1].num_batches_tracked) == 1
    assert int(network.down16[0][1].num_batches_tracked) == 0


def test_a_pass_that_ended_early_keeps_nothing_alive() -> None:
    network = CompactNet(5, width=8)
    taps = Taps(network, ['stem'], SIZE)
    gc.disable()  # who waits for it holds the activations of many steps
    try:
        with taps.open(network, SIZE, stop=True) as seen:
            network(torch.randn(2, 3, *SIZE))
        kept = weakref.ref(seen['stem'])
        del seen
        assert kept() is None
    finally:
        gc.enable()


def test_a_look_within_another_does_not_end_it() -> None:
    network = CompactNet(5, width=8)
    outer, inner = Taps(network, ['stem'], SIZE), Taps(network, ['down8', 'context'], SIZE)
    with outer.open(network, SIZE, stop=True) as seen:
        with inner.open(network, SIZE):
            network(torch.randn(2, 3, *SIZE))
        pytest.fail('the outer look should have ended')
    assert set(seen) == {'stem'}
    with outer.open(network, SIZE) as seen:
        with inner.open(network, SIZE, ['down8'], stop=True):
            network(torch.randn(2, 3, *SIZE))
            pytest.fail('the inner look should have ended')
        seen = dict(seen)
    assert set(seen) == {'stem'}
    assert not any(m._forward_hooks for m in network.modules())


def test_what_the_next_layer_overwrites_is_kept() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1))
    taps = Taps(network, ['0', '1'], (4, 4))
    x = torch.randn(1, 3, 4, 4)
    with taps.open(network, (4, 4)) as seen:
        network(x)
    assert torch.equal(seen['0'], network[0](x))
    assert float(seen['0'].detach().min()) < 0
    assert float(seen['1'].detach().min()) == 0
    seen['0'].square().sum().backward()
    assert network[0].weight.grad is not None


def test_tokens_become_a_map() -> None:
    network = Tokens()
    taps = Taps(network, ['patches', 'mix'], SIZE)
    assert taps.shapes['mix'] == taps.shapes['patches'] == (6, 8, 12)
    x = torch.randn(2, 3, *SIZE)
    with taps.open(network, SIZE) as seen:
        network(x)
    expected = nn.functional.conv2d(network.patches(x), network.mix.weight[:, :, None, None],
                                    network.mix.bias)
    torch.testing.assert_close(seen['mix'], expected)


@pytest.mark.parametrize(('name', 'said'), [
    ('both', 'gives a tuple, not one tensor'), ('pool', r'gives torch.float32 \[1, 7, 1\], not a'),
    ('shared', 'runs 2 times'), ('spare', 'never runs')])
def test_layers_that_cannot_be_taken_are_refused(name: str, said: str) -> None:
    network = Tokens()
    with pytest.raises(ConfigError, match=f"^layer '{name}' of the student {said}"):
        Taps(network, [name], SIZE, where='student')
    assert not any(m._forward_hooks for m in network.modules())


def test_a_name_that_does_not_exist_is_refused_with_the_nearest() -> None:
    network = CompactNet(5, width=8)
    with pytest.raises(ConfigError, match="^the teacher has no layer 'down15'; did you mean "
                       'down1?'):
        require_layers(network, ['stem', 'down15'], 'teacher')
    with pytest.raises(ConfigError, match='no layer .net.encoder.context.; did you mean context'):
        require_layers(network, ['net.encoder.context'])
    with pytest.raises(ConfigError, match='no layer .qqq.; the outermost are stem, down8, '):
        require_layers(network, ['qqq'])
    with pytest.raises(ConfigError, match="no layer ''"):
        require_layers(network, [''])
    with pytest.raises(ConfigError, match='does not run on a picture of 1x1'):
        Taps(nn.Sequential(nn.Conv2d(3, 3, 4)), ['0'], (1, 1))
