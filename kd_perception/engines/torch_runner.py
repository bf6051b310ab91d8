"""
A torch module called the way a GPU is fast: fixed memory, one upload, one launch.

Bytes go up from page-locked memory and become floats there; all kernels of a batch size are
recorded once as a CUDA graph and launched together. On the CPU the same code runs without the
recording, for its tests. Not run on hardware yet.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
import logging
from typing import Any, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_WARMUP = 3
_MOST_SIZES = 4  # batch sizes whose memory and recording are kept


@dataclass(frozen=True, eq=False)
class _Slot:
    """
    Memory of one batch size.

    :param staged: the images, page-locked; ``source`` is their copy on the device.
    :param outputs: on the device, always the same tensors; ``results`` are their page-locked
        copies.
    :param launch: computes ``outputs`` from ``source``.
    """

    staged: torch.Tensor
    source: torch.Tensor
    outputs: tuple[torch.Tensor, ...]
    results: tuple[torch.Tensor, ...]
    launch: Callable[[], object]


class TorchRunner:
    """
    Calls a graph module with numpy pictures.

    :param graph: uint8 ``[N, H, W, 3]`` to one or more tensors, on ``device``, in evaluation mode.
    """

    def __init__(self, graph: torch.nn.Module, device: torch.device) -> None:
        import torch
        self._torch: Any = torch
        self._graph = graph
        self._device = device
        self._cuda = device.type == 'cuda'
        self._record = self._cuda
        self._slots: OrderedDict[int, _Slot] = OrderedDict()

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Return new arrays, one per output of the graph."""
        torch = self._torch
        # TF32, cuDNN's default, keeps 10 bits of a product and is no fp32.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            slot = self._slot(images)
            np.copyto(slot.staged.numpy(), images)
            slot.source.copy_(slot.staged, non_blocking=True)
            slot.launch()
            for result, output in zip(slot.results, slot.outputs, strict=True):
                result.copy_(output, non_blocking=True)
            if self._cuda:
                torch.cuda.current_stream(self._device).synchronize()
            return [result.numpy().copy() for result in slot.results]

    def _slot(self, images: np.ndarray) -> _Slot:
        slot = self._slots.get(len(images))
        if slot is None:
            while len(self._slots) >= _MOST_SIZES:
                self._slots.popitem(last=False)
            slot = self._slots[len(images)] = self._made(images.shape)
        self._slots.move_to_end(len(images))
        return slot

    def _made(self, shape: tuple[int, ...]) -> _Slot:
        torch = self._torch
        staged = torch.zeros(shape, dtype=torch.uint8, pin_memory=self._cuda)
        source = staged.to(self._device, copy=True)
        if self._record:
            try:
                outputs, launch = self._recorded(source)
            except RuntimeError as error:
                # A network that waits for the GPU in its middle cannot be recorded.
                log.info('torch runs without a CUDA graph: %s', error)
                self._record = False
        if not self._record:
            outputs, launch = self._eager(source)
        results = tuple(torch.empty(o.shape, dtype=o.dtype, pin_memory=self._cuda)
                        for o in outputs)
        return _Slot(staged, source, outputs, results, launch)

    def _eager(self, source: torch.Tensor) -> tuple[tuple[Any, ...], Callable[[], object]]:
        outputs = self._outputs(source)

        def launch() -> None:
            for kept, fresh in zip(outputs, self._outputs(source), strict=True):
                kept.copy_(fresh)

        return outputs, launch

    def _recorded(self, source: torch.Tensor) -> tuple[tuple[Any, ...], Callable[[], object]]:
        torch = self._torch
        with torch.cuda.device(self._device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # cuDNN and cuBLAS choose and allocate here
                for _ in range(_WARMUP):
                    self._outputs(source)
            torch.cuda.current_stream().wait_stream(side)
            recording = torch.cuda.CUDAGraph()
            with torch.cuda.graph(recording):
                outputs = self._outputs(source)
        return outputs, recording.replay

    def _outputs(self, source: torch.Tensor) -> tuple[Any, ...]:
        outputs = self._graph(source)
        return outputs if isinstance(outputs, tuple) else (outputs,)
