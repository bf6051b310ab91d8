"""
The compact student: a small encoder and decoder of plain convolutions, made for CPUs.

It goes down to stride 8 quickly, gathers context at strides 16 and 32, where pixels are few, and
comes back to stride 4, where a skip from the stem keeps poles and signs. Plain 3x3 convolutions
are used throughout: on CPUs with wide matrix units they beat depthwise ones of equal accuracy,
and they keep their accuracy under INT8.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from kd_perception.networks.registry import register


class ConvUnit(nn.Sequential):
    """Convolution, batch normalisation and (unless ``linear``) ReLU; padding keeps the size."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1,
                 linear: bool = False) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs)]
        if not linear:
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvUnit(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        # The block starts as the identity: networks from scratch settle faster.
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float ``[N, C, H, W]`` of the shape of ``x``."""
        return functional.relu(x + self.norm(self.second(self.first(x))))


class GlobalContext(nn.Module):
    """Adds what the whole picture looks like to every pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float ``[N, C, H, W]`` of the shape of ``x``."""
        # No batch normalisation here: its statistics over 1x1 maps of small batches are noise.
        return x + functional.relu(self.mix(x.mean((2, 3), keepdim=True)))


class CompactNet(nn.Module):
    """
    Segmentation network of about a million parameters with logits at stride 4.

    :param num_classes: channels of the logits.
    :param width: channels at stride 4; strides 8, 16 and 32 have 2, 4 and 4 times as many.
    :param depths: residual blocks at strides 4, 8, 16 and 32.
    """

    stride = 4

    def __init__(self, num_classes: int, width: int = 32,
                 depths: Sequence[int] = (0, 1, 1, 2)) -> None:
        super().__init__()
        if not _is_count(width) or width < 8 or width % 2:
            raise ValueError(f'width must be an even whole number of at least 8, not {width!r}')
        if (not isinstance(depths, (list, tuple)) or len(depths) != 4
                or not all(_is_count(d) for d in depths)):
            raise ValueError('depths must be a list of four whole numbers of 0 or more, not '
                             f'{depths!r}')
        channels = (width, 2 * width, 4 * width, 4 * width)
        self.stem = nn.Sequential(
            ConvUnit(3, width // 2, stride=2), _stage(width // 2, channels[0], depths[0]))
        self.down8 = _stage(channels[0], channels[1], depths[1])
        self.down16 = _stage(channels[1], channels[2], depths[2])
        self.down32 = _stage(channels[2], channels[3], depths[3])
        self.context = GlobalContext(channels[3])
        self.lateral16 = ConvUnit(channels[2], channels[3], kernel=1, linear=True)
        self.reduce16 = ConvUnit(channels[3], channels[1], kernel=1)
        self.lateral8 = ConvUnit(channels[1], channels[1], kernel=1, linear=True)
        self.fuse8 = ConvUnit(channels[1], channels[1])
        self.reduce8 = ConvUnit(channels[1], channels[0], kernel=1, linear=True)
        self.lateral4 = ConvUnit(channels[0], channels[0], kernel=1, linear=True)
        self.fuse4 = ConvUnit(channels[0], channels[0])
        self.head = nn.Conv2d(channels[0], num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        Return logits.

        :param x: float32 ``[N, 3, H, W]``, normalised; any size of at least 32.
        :returns: float32 ``[N, K, ceil(H / 4), ceil(W / 4)]``.
        """
        x4 = self.stem(x)
        x8 = self.down8(x4)
        x16 = self.down16(x8)
        x32 = self.context(self.down32(x16))
        y = functional.relu(self.lateral16(x16) + _resize_like(x32, x16))
        y = functional.relu(self.lateral8(x8) + _resize_like(self.reduce16(y), x8))
        y = self.reduce8(self.fuse8(y))
        y = functional.relu(self.lateral4(x4) + _resize_like(y, x4))
        return self.head(self.fuse4(y))


@register('compact')
def compact(num_classes: int, width: int = 32,
            depths: Sequence[int] = (0, 1, 1, 2)) -> CompactNet:
    """Build the compact student."""
    return CompactNet(num_classes, width=width, depths=depths)


def _is_count(value: object) -> bool:
    # YAML gives anything, and True is an int to Python.
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _stage(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    return nn.Sequential(ConvUnit(inputs, outputs, stride=2),
                         *(ResidualBlock(outputs) for _ in range(depth)))


def _resize_like(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    # Plain ints: exported graphs then hold constant sizes, which runtimes fold.
    size = (int(like.shape[2]), int(like.shape[3]))
    return functional.interpolate(x, size=size, mode='bilinear', align_corners=False)
