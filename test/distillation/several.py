"""The command line with a network of the tests' own, for runs in processes of their own."""

from __future__ import annotations

import sys

from torch import nn

from kd_perception.cli.main import main
from kd_perception.networks.registry import register


@register('plain')
def plain(num_classes: int, width: int = 8) -> nn.Module:
    """Return a network without batch norm: its gradient is a mean over samples."""
    return nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.ReLU(),
                         nn.Conv2d(width, num_classes, 1))


@register('normed')
def normed(num_classes: int, width: int = 8) -> nn.Module:
    """Return a network whose statistics are those of each process's own views."""
    return nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width),
                         nn.ReLU(), nn.Conv2d(width, num_classes, 1))


if __name__ == '__main__':
    sys.exit(main())
