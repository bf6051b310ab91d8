"""
Looking into a network: layers by name go in, what they say during a forward pass comes out.

Hooks live only as long as one forward pass, so that copies, exports and validation of the network
never meet them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
import difflib
from typing import Any

import torch
from torch import nn

from kd_perception.errors import ConfigError, first_line

# Channels, rows and columns of what a layer says.
Shape = tuple[int, int, int]

_STRIDES = (1, 2, 4, 8, 16, 32, 64)


class Taps:
    """
    Layers of one kind of network, found once by a forward pass on an empty picture.

    :param module: float32 ``[N, 3, H, W]`` in; its mode is left as it was.
    :param names: as in ``named_modules()``.
    :param size: height and width of the picture, in pixels.
    :param where: what the network is called in messages.
    :raises ConfigError: for a name that does not exist (with the nearest ones), and for a layer
        that never runs, runs several times, or gives no map of features.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], size: tuple[int, int],
                 where: str = 'network') -> None:
        require_layers(module, names, where)
        self.names = tuple(dict.fromkeys(names))
        self._where = where
        self._overwritten: frozenset[str] = frozenset()
        self.shapes: dict[str, Shape] = self._look(module, size) if self.names else {}

    @contextmanager
    def open(self, module: nn.Module, size: tuple[int, int], names: Sequence[str] | None = None,
             *, stop: bool = False) -> Iterator[dict[str, torch.Tensor]]:
        """
        Collect what layers say while the body runs ``module`` once.

        :param module: the network that was looked at, or a copy of it.
        :param size: height and width of the pictures, in pixels.
        :param names: a part of the layers; None: all.
        :param stop: leave the body as soon as the last of the layers has spoken: what comes
            behind it is not computed, and its statistics do not change.
        :returns: float ``[N, C, h, w]`` by name, filled when the body ends.
        """
        wanted = self.names if names is None else tuple(names)
        seen: dict[str, torch.Tensor] = {}
        this_look = object()  # a network may look into itself by another one

        def take(name: str) -> Callable[..., None]:
            def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
                value = self._map(name, output, size)
                # What the next layer overwrites in place would be that layer's output.
                seen[name] = value.clone() if name in self._overwritten else value
                if stop and len(seen) == len(wanted):
                    # Made anew: one that is kept would keep, by its traceback, all activations.
                    raise _EnoughSeen(this_look)
            return hook

        handles = [module.get_submodule(name).register_forward_hook(take(name))
                   for name in wanted]
        try:
            yield seen
        except _EnoughSeen as said:
            if said.args[0] is not this_look:
                raise
        finally:
            for handle in handles:
                handle.remove()

    def _look(self, module: nn.Module, size: tuple[int, int]) -> dict[str, Shape]:
        """Run the network once; return the shapes and note which outputs are overwritten."""
        runs = dict.fromkeys(self.names, 0)
        outputs: dict[str, tuple[torch.Tensor, int]] = {}
        shapes: dict[str, Shape] = {}

        def look(name: str) -> Callable[..., None]:
            def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
                runs[name] += 1
                value = self._map(name, output, size)
                outputs[name] = value, value._version
                shapes[name] = (int(value.shape[1]), int(value.shape[2]), int(value.shape[3]))
            return hook

        device = next((p.device for p in module.parameters()), torch.device('cpu'))
        handles = [module.get_submodule(name).register_forward_hook(look(name))
                   for name in self.names]
        training = module.training
        module.eval()
        try:
            with torch.no_grad():
                module(torch.zeros(1, 3, *size, device=device))
        except ConfigError:
            raise
        except Exception as error:  # a network of somebody else may fail in any way
            raise ConfigError(f'{self._where} does not run on a picture of {size[1]}x{size[0]}: '
                              f'{first_line(error)}') from None
        finally:
            module.train(training)
            for handle in handles:
                handle.remove()
        for name, count in runs.items():
            if count != 1:
                said = 'never runs' if count == 0 else f'runs {count} times'
                raise ConfigError(f'layer {name!r} of the {self._where} {said} in a forward pass; '
                                  'name a layer that runs once')
        self._overwritten = frozenset(
            name for name, (value, version) in outputs.items() if value._version != version)
        return {name: shapes[name] for name in self.names}

    def _map(self, name: str, output: Any, size: tuple[int, int]) -> torch.Tensor:
        """Return float ``[N, C, h, w]`` from what a layer gave: a map, or tokens of a grid."""
        if isinstance(output, (tuple, list)) and len(output) == 1:
            output = output[0]
        if not isinstance(output, torch.Tensor):
            raise ConfigError(f'layer {name!r} of the {self._where} gives a '
                              f'{type(output).__name__}, not one tensor; name a layer inside of '
                              'it')
        if output.ndim == 3:
            count = int(output.shape[1])
            for stride in _STRIDES:
                rows, columns = -(-size[0] // stride), -(-size[1] // stride)
                if rows * columns == count:
                    return output.transpose(1, 2).unflatten(2, (rows, columns))
        if output.ndim != 4 or not output.is_floating_point():
            raise ConfigError(f'layer {name!r} of the {self._where} gives {output.dtype} '
                              f'{list(output.shape)}, not a map of features [N, C, h, w]')
        return output


def require_layers(module: nn.Module, names: Sequence[str], where: str = 'network') -> None:
    """
    Check that a network has layers of these names.

    :raises ConfigError: naming the first that does not exist, and the nearest names.
    """
    known = [name for name, _ in module.named_modules() if name]
    for name in names:
        if name in known:
            continue
        tail = name.rpartition('.')[2]
        near = (difflib.get_close_matches(name, known, n=3)
                or [k for k in known if k.rpartition('.')[2] == tail][:3])
        outer = [k for k in known if '.' not in k]
        hint = (f'did you mean {" or ".join(near)}?' if near else
                f'the outermost are {", ".join(outer[:12])}')
        raise ConfigError(f'the {where} has no layer {name!r}; {hint}')


class _EnoughSeen(Exception):  # noqa: N818 - not an error: ends a forward pass early
    """The last layer that was asked for has spoken."""
