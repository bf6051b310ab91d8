"""
Builders of networks by name: a ``NetworkSpec`` comes in, a torch module goes out.

Own builders register themselves when their module is imported. An installed package adds its own
through the entry-point group ``kd_perception.networks``: the entry's name is the builder's name,
its object a callable ``(num_classes, **arguments) -> nn.Module``.
"""

from __future__ import annotations

from collections.abc import Callable
import difflib
import importlib
from importlib import metadata

from torch import nn

from kd_perception.bundle import NetworkSpec
from kd_perception.errors import ConfigError, first_line, KdPerceptionError
from kd_perception.networks.channels import cut

Builder = Callable[..., nn.Module]

GROUP = 'kd_perception.networks'

# Builder name -> module that registers it; imported on first use, smp takes seconds.
_OWN = {'compact': 'kd_perception.networks.compact', 'exits': 'kd_perception.networks.exits',
        'hf': 'kd_perception.networks.huggingface',
        'smp': 'kd_perception.networks.smp', 'timm': 'kd_perception.networks.timm',
        'torchvision': 'kd_perception.networks.torchvision'}
_BUILDERS: dict[str, Builder] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Return a decorator that makes a callable known as the builder ``name``."""
    def add(builder: Builder) -> Builder:
        _BUILDERS[name] = builder
        return builder
    return add


def builders() -> tuple[str, ...]:
    """Return the names of all builders, those of installed packages included."""
    return tuple(sorted({*_OWN, *_BUILDERS, *(e.name for e in _entry_points())}))


def build(spec: NetworkSpec, num_classes: int) -> nn.Module:
    """
    Build the module that a spec describes, with fresh random weights, cut to its channel spec.

    A segmentation module takes float32 ``[N, 3, H, W]``, normalised, and returns float32 logits
    ``[N, num_classes, h, w]`` at its own stride; a classification ``[N, num_classes]``.

    :raises ConfigError: for an unknown builder (with the nearest names), or bad arguments or
        channels.
    """
    builder = find_builder(spec.builder)
    try:
        module = builder(num_classes=num_classes, **spec.arguments)
    except KdPerceptionError:
        raise
    except Exception as error:  # networks of others refuse arguments in any way
        reason = first_line(error)
        raise ConfigError(f'network {spec.builder!r}: arguments {spec.arguments} do not fit: '
                          f'{reason}') from None
    cut(module, spec.channels)
    return module


def find_builder(name: str) -> Builder:
    """
    Return the builder of that name.

    :raises ConfigError: when there is none (with the nearest names) or it does not load.
    """
    if name not in _BUILDERS and name in _OWN:
        importlib.import_module(_OWN[name])
    if name in _BUILDERS:
        return _BUILDERS[name]
    for entry in _entry_points():
        if entry.name == name:
            try:
                _BUILDERS[name] = entry.load()
            except Exception as error:  # another package's import may fail in any way
                raise ConfigError(f'network {name!r}: entry point {entry.value} does not load: '
                                  f'{error}') from None
            return _BUILDERS[name]
    known = builders()
    near = difflib.get_close_matches(name, known, cutoff=0.5)
    hint = f'did you mean {" or ".join(near)}?' if near else f'known: {", ".join(known)}'
    raise ConfigError(f'no network builder named {name!r}; {hint}')


def _entry_points() -> list[metadata.EntryPoint]:
    return list(metadata.entry_points(group=GROUP))
