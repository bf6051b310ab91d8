"""Networks of segmentation-models-pytorch."""

from __future__ import annotations

import socket

import pytest
import torch

from kd_perception.bundle import NetworkSpec
from kd_perception.errors import ConfigError
from kd_perception.networks.registry import build
from kd_perception.networks.smp import smp

FPN = {'encoder_depth': 4, 'upsampling': 2}
SMALL = {'encoder': 'resnet18', 'encoder_depth': 3, 'decoder_channels': [16, 8, 8]}


def test_unused_stages_are_dropped() -> None:
    net = smp(5, encoder='resnet18', encoder_depth=4, decoder_channels=[32, 16, 8, 8])
    unused = [name for name, _ in net.named_parameters() if 'layer4' in name]
    assert not unused
    assert sum(p.numel() for p in net.parameters()) < 5_000_000
    # What is left is all used.
    net(torch.rand(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_stages_that_are_called_child_by_child_are_used() -> None:
    net = smp(5, encoder='mobilenet_v2', encoder_depth=3, decoder_channels=[16, 8, 8])
    with torch.no_grad():
        assert net.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5, 64, 64)


def test_shipped_teacher_fits_ten_megabytes_in_fp16() -> None:
    net = smp(12, encoder='resnet18', encoder_depth=4, decoder_channels=[256, 128, 64, 32])
    assert sum(p.numel() for p in net.parameters()) <= 5_000_000


@pytest.mark.parametrize(('encoder', 'message'), [
    ('resnet81', "no encoder 'resnet81'; did you mean resnet18"),
    ('tu-resnet10tt', 'did you mean .*tu-resnet10t'), ('xyzzy', 'e.g. resnet18'),
    (18, 'no encoder 18')])
def test_an_unknown_encoder_is_told_the_nearest_names(encoder: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        build(NetworkSpec('smp', {'encoder': encoder}), 5)
    assert len(str(told.value)) < 120


@pytest.mark.parametrize('architecture', ['Unet', 'FPN', 'Linknet'])
def test_any_size_keeps_its_size(architecture: str) -> None:
    arguments = {'Unet': SMALL, 'FPN': FPN, 'Linknet': {'encoder_depth': 4}}[architecture]
    net = smp(5, architecture=architecture, **arguments).eval()
    with torch.no_grad():
        for size in ((90, 160), (64, 96), (37, 53)):
            assert net(torch.zeros(1, 3, *size)).shape == (1, 5, *size)


def test_stride_follows_the_upsampling_asked_for() -> None:
    net = smp(5, architecture='FPN', encoder_depth=4, upsampling=1).eval()
    assert net.stride == 2
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 37, 53)).shape == (1, 5, 19, 27)
    with pytest.raises(ConfigError, match='2 times as large'):
        smp(5, architecture='FPN', encoder_depth=4)


def test_padding_does_not_move_the_picture() -> None:
    torch.manual_seed(0)
    net = smp(5, architecture='FPN', **FPN).eval()
    picture = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        whole = net(picture)
        cropped = net(picture[:, :, :60])
    # Far from the cut the receptive field is the same but for the padding's distant influence.
    top_left = (slice(None), slice(None), slice(0, 8), slice(0, 96))
    assert (whole[top_left].argmax(1) == cropped[top_left].argmax(1)).float().mean() > 0.9


def test_timm_encoder_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError('a network connection was tried')

    monkeypatch.setattr(socket.socket, 'connect', refuse)
    net = smp(5, encoder='tu-resnet10t', encoder_depth=4, decoder_channels=[16, 8, 8, 8]).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 5, 32, 32)
