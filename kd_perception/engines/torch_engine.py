"""
Torch: for machines that train.

Also the reference that the other runtimes are held against.
"""

from __future__ import annotations

from typing import cast, TYPE_CHECKING

import numpy as np

from kd_perception.bundle import DEPLOY, LOGITS, ModelBundle
from kd_perception.engines.engine import check_device, check_images
from kd_perception.engines.torch_runner import TorchRunner
from kd_perception.errors import EngineError, first_line

if TYPE_CHECKING:
    import torch


class TorchEngine:
    """
    The module of a bundle with the same pre- and post-processing as its graphs.

    :param graph: ``deploy`` or ``logits``.
    :param precision: ``auto`` is fp32; ``bf16`` (and ``fp16`` on GPUs) run under autocast.
    :param compiled: let ``torch.compile`` fuse the graph; its first call takes a minute and needs
        a C compiler.
    :param verified: the weights have been hashed already.
    :raises EngineError: when the device or the precision is not to be had.
    """

    name = 'torch'

    def __init__(self, bundle: ModelBundle, graph: str = 'deploy', *, device: str = 'cpu',
                 precision: str = 'auto', threads: int = 0, compiled: bool = False,
                 verified: bool = False) -> None:
        import torch

        from kd_perception.networks.deploy import deployed, load_module, LogitsGraph, OUTPUTS

        check_device('torch', device)
        kind = device.partition(':')[0]
        if kind == 'cuda' and not torch.cuda.is_available():
            raise EngineError('torch sees no CUDA device here; choose device cpu')
        self._dtype = {'auto': None, 'fp32': None, 'bf16': torch.bfloat16,
                       'fp16': torch.float16}.get(precision)
        if precision == 'int8' or (precision == 'fp16' and kind == 'cpu'):
            raise EngineError(f'torch does not run {precision} on {kind}; choose fp32 or bf16')
        if threads:
            # Process-wide in torch; there is no per-module setting.
            torch.set_num_threads(threads)
        self._torch = torch
        self.device = device
        self.precision = precision if self._dtype is not None else 'fp32'
        self.input_shape = (bundle.spec.input.height, bundle.spec.input.width)
        self.output_names: tuple[str, ...] = OUTPUTS[bundle.spec.task][
            DEPLOY if graph == 'deploy' else LOGITS]
        module = load_module(bundle, verify=not verified)
        if self._dtype is not None:
            module = _narrowed(module, kind, self._dtype)
        made = (deployed(module, bundle.spec) if graph == 'deploy'
                else LogitsGraph(module, bundle.spec.input))
        # Without its number it would be the current GPU of whichever thread.
        place = torch.device('cuda:0' if device == 'cuda' else device)
        self._graph: torch.nn.Module | None = made.to(place).eval()
        if compiled:
            self._graph = cast('torch.nn.Module', torch.compile(self._graph))
        self._runner = TorchRunner(self._graph, place) if kind == 'cuda' else None

    def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph; see :class:`kd_perception.engines.engine.Engine`."""
        if self._graph is None:
            raise EngineError('the engine was closed')
        check_images(images, self.input_shape)
        torch = self._torch
        try:
            if self._runner is not None:
                return dict(zip(self.output_names, self._runner(images), strict=True))
            with torch.inference_mode():
                # A read-only array (a view of a message) is fine: nothing writes to the input.
                source = images if images.flags.writeable else images.copy()
                outputs = self._graph(torch.from_numpy(source))
                if not isinstance(outputs, tuple):
                    outputs = (outputs,)
                return {name: value.numpy()
                        for name, value in zip(self.output_names, outputs, strict=True)}
        except Exception as error:  # a network of somebody else may fail in any way
            raise EngineError(f'torch failed: {first_line(error)}') from None

    def close(self) -> None:
        """Release the module and its memory on the GPU."""
        runner, self._graph, self._runner = self._runner, None, None
        if runner is not None:
            runner.close()


def _narrowed(module: torch.nn.Module, kind: str, dtype: torch.dtype) -> torch.nn.Module:
    """
    Return a module that runs ``module`` in ``dtype`` and returns float32.

    The network alone: in bf16 a confidence of 255 would become 256, which is no byte. The weights
    of convolutions and linear layers are converted here, once: autocast would convert them in
    every call, and a recording repeats that. All else is left to autocast, which knows what must
    stay float32, and lets networks of others mix types; to convert these as a whole would not.
    """
    import torch
    from torch.nn.modules.conv import _ConvNd

    for layer in module.modules():
        if isinstance(layer, (_ConvNd, torch.nn.Linear)):
            layer.to(dtype)

    class Narrowed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast(kind, dtype=dtype, cache_enabled=False):
                return self.module(x).float()

    return Narrowed()
