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
    :raises EngineError: when the device or the precision is not to be had.
    """

    name = 'torch'

    def __init__(self, bundle: ModelBundle, graph: str = 'deploy', *, device: str = 'cpu',
                 precision: str = 'auto', threads: int = 0, compiled: bool = False) -> None:
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
        module = load_module(bundle)
        if self._dtype is not None:
            module = _autocast(module, kind, self._dtype)
        made = (deployed(module, bundle.spec) if graph == 'deploy'
                else LogitsGraph(module, bundle.spec.input))
        self._graph: torch.nn.Module | None = made.to(device).eval()
        if compiled:
            self._graph = cast('torch.nn.Module', torch.compile(self._graph))
        self._runner = TorchRunner(self._graph, torch.device(device)) if kind == 'cuda' else None

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
        """Release the module."""
        self._graph = self._runner = None


def _autocast(module: torch.nn.Module, kind: str, dtype: torch.dtype) -> torch.nn.Module:
    """
    Return a module that runs ``module`` under autocast and returns float32.

    The network alone: in bf16 a confidence of 255 would become 256, which is no byte.
    """
    import torch

    class Cast(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast(kind, dtype=dtype):
                return self.module(x).float()

    return Cast()
