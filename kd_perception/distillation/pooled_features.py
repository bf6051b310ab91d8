"""One vector per picture: the mean of a network's deepest features, whatever the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from kd_perception.bundle import ModelBundle, WEIGHTS
from kd_perception.errors import EngineError
from kd_perception.networks.deploy import load_module, LogitsGraph
from kd_perception.tasks.placement import network_input


def has_features(bundle: ModelBundle) -> bool:
    """Return whether a bundle can be run as a torch module, layer by layer."""
    return bool(bundle.spec.network.builder) and bundle.has(WEIGHTS)


class PooledFeatures:
    """
    The deepest features of a bundle's network, averaged over the picture.

    The deepest layer is the one of the coarsest grid (more than one cell), of these the one with
    most channels, of these the last: the end of the encoder of a segmentation network.

    :param bundle: with weights (``has_features``).
    :param device: of torch.
    :raises EngineError: when the device is not to be had, or no layer has a grid.
    """

    def __init__(self, bundle: ModelBundle, device: str = 'cpu') -> None:
        if device.startswith('cuda') and not torch.cuda.is_available():
            raise EngineError('torch sees no CUDA device here; choose device cpu')
        self._spec = bundle.spec.input
        self._device = device
        module = load_module(bundle)
        self._graph = LogitsGraph(module, self._spec).to(device).eval()
        self._seen: torch.Tensor | None = None
        self.layer = self._deepest(module)
        module.get_submodule(self.layer).register_forward_hook(self._keep)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return float32 ``[channels]`` of an RGB picture, uint8 ``[H, W, 3]`` of any size."""
        self._run(network_input(image, self._spec))
        assert self._seen is not None
        return self._seen.float().mean((0, 2, 3)).cpu().numpy()

    def _run(self, image: np.ndarray) -> None:
        with torch.no_grad():
            self._graph(torch.from_numpy(image[None]).to(self._device))

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._seen = output

    def _deepest(self, module: nn.Module) -> str:
        shapes: dict[str, tuple[int, int, int]] = {}

        def look(name: str) -> Any:
            def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
                if torch.is_tensor(output) and output.ndim == 4:
                    shapes.pop(name, None)
                    shapes[name] = (output.shape[1], output.shape[2], output.shape[3])
            return hook

        hooks = [m.register_forward_hook(look(n)) for n, m in module.named_modules() if n]
        self._run(np.zeros((self._spec.height, self._spec.width, 3), np.uint8))
        for hook in hooks:
            hook.remove()
        best = ''
        for name, (channels, rows, columns) in shapes.items():
            if rows * columns > 1 and (not best or (-rows * columns, channels) >= (
                    -shapes[best][1] * shapes[best][2], shapes[best][0])):
                best = name
        if not best:
            raise EngineError('no layer of the teacher gives features on a grid; choose by soft '
                              'labels: give a --cache instead of --teacher')
        return best
