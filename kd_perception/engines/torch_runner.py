"""
A torch module called the way a GPU is fast: fixed memory, one upload, one launch.

Bytes go up from page-locked memory and become floats there; all kernels of a batch size are
recorded once as a CUDA graph and launched together. Engines of other threads compute meanwhile:
each has a stream of its own. On the CPU the same code runs without the recording, for its tests.
Not run on hardware yet.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
import logging
import threading
from typing import Any, TYPE_CHECKING

import numpy as np

from kd_perception.engines.gpu_loss import is_for_a_while, is_for_good

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_WARMUP = 3
_ALIKE = 0.9  # share of values in which a recording must agree with the module
# Torch records one graph at a time in a process, and memory must not be given back meanwhile.
_RECORDING = threading.Lock()


class _ExactProducts:
    """
    Keeps cuDNN from TF32, its default, which keeps 10 bits of a product and is no fp32.

    The setting is the process's, and engines of several threads need it at the same time: who
    comes first remembers what it was, and who leaves last brings that back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = True

    def __enter__(self) -> None:
        import torch
        with self._lock:
            if not self._inside:
                self._before = torch.backends.cudnn.allow_tf32
                torch.backends.cudnn.allow_tf32 = False
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        import torch
        with self._lock:
            self._inside -= 1
            if not self._inside:
                torch.backends.cudnn.allow_tf32 = self._before


_EXACT_PRODUCTS = _ExactProducts()


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

    Memory and recording of every batch size that came are kept: those of a node come again.

    :param graph: uint8 ``[N, H, W, 3]`` to one or more tensors, on ``device``, in evaluation mode.
    :param device: with its number, where it is a GPU.
    """

    def __init__(self, graph: torch.nn.Module, device: torch.device) -> None:
        import torch
        self._torch: Any = torch
        self._graph: torch.nn.Module | None = graph
        self._device = device
        self._cuda = device.type == 'cuda'
        self._record = self._cuda
        self._stream: Any = None
        if self._cuda:
            # All work of this engine: torch's own stream for recordings is that of the first GPU,
            # and the default stream is shared with every other engine.
            with torch.cuda.device(device):
                self._stream = torch.cuda.Stream()
                self._stream.wait_stream(torch.cuda.current_stream())  # the weights are there
        self._slots: dict[int, _Slot] = {}

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Return new arrays, one per output of the graph."""
        torch = self._torch
        with self._on_stream(), torch.inference_mode(), _EXACT_PRODUCTS:
            slot = self._slots.get(len(images))
            if slot is None:
                slot = self._slots[len(images)] = self._made(images.shape)
            np.copyto(slot.staged.numpy(), images)
            slot.source.copy_(slot.staged, non_blocking=True)
            slot.launch()
            for result, output in zip(slot.results, slot.outputs, strict=True):
                result.copy_(output, non_blocking=True)
            if self._stream is not None:
                self._stream.synchronize()
            return [result.numpy().copy() for result in slot.results]

    def close(self) -> None:
        """Release recordings and memory; also after the GPU was lost."""
        self._slots.clear()
        self._graph = None
        if self._cuda:
            # Torch keeps freed memory for itself; another process or runtime may need it.
            with suppress(RuntimeError), _RECORDING, self._torch.cuda.device(self._device):
                self._torch.cuda.empty_cache()

    def _on_stream(self) -> AbstractContextManager[Any]:
        """Make the stream, and with it the GPU, the current one of this thread."""
        return nullcontext() if self._stream is None else self._torch.cuda.stream(self._stream)

    def _made(self, shape: tuple[int, ...]) -> _Slot:
        torch = self._torch
        staged = torch.zeros(shape, dtype=torch.uint8, pin_memory=self._cuda)
        source = staged.to(self._device, copy=True)
        made = self._recorded(source) if self._record else None
        if made is None:
            self._record = False
            made = self._eager(source)
        outputs, launch = made
        results = tuple(torch.empty(o.shape, dtype=o.dtype, pin_memory=self._cuda)
                        for o in outputs)
        return _Slot(staged, source, outputs, results, launch)

    def _eager(self, source: torch.Tensor) -> tuple[tuple[Any, ...], Callable[[], object]]:
        outputs = self._outputs(source)

        def launch() -> None:
            for kept, fresh in zip(outputs, self._outputs(source), strict=True):
                kept.copy_(fresh)

        return outputs, launch

    def _recorded(self, source: torch.Tensor
                  ) -> tuple[tuple[Any, ...], Callable[[], object]] | None:
        """Return outputs and what computes them; None where the network cannot be recorded."""
        torch = self._torch
        try:
            with _RECORDING:
                for _ in range(_WARMUP):  # cuDNN and cuBLAS choose and allocate here
                    self._outputs(source)
                recording = torch.cuda.CUDAGraph()
                # Of other threads nothing is forbidden meanwhile: they serve.
                with torch.cuda.graph(recording, stream=self._stream,
                                      capture_error_mode='thread_local'):
                    outputs = self._outputs(source)
        except RuntimeError as error:
            if is_for_good(str(error)) or is_for_a_while(str(error)):
                raise  # the GPU's fault, not the network's
            # A network that waits for the GPU in its middle cannot be recorded.
            log.info('torch runs without a CUDA graph: %s', error)
            return None
        if not self._follows(source, outputs, recording.replay):
            log.warning('torch runs without a CUDA graph: what was recorded computes something '
                        'else than the network')
            return None
        return outputs, recording.replay

    def _follows(self, source: torch.Tensor, outputs: tuple[Any, ...],
                 replay: Callable[[], object]) -> bool:
        """Return whether a recording gives for two pictures what the module gives for them."""
        torch = self._torch
        for seed in range(2):
            noise = torch.Generator().manual_seed(seed)
            source.copy_(torch.randint(0, 256, source.shape, dtype=torch.uint8, generator=noise))
            for output in outputs:
                output.fill_(85)  # what is not written is not taken for a result
            replay()
            for output, fresh in zip(outputs, self._outputs(source), strict=True):
                close = torch.isclose(output.float(), fresh.float(), rtol=1e-2, atol=1e-2)
                if float(close.float().mean()) < _ALIKE:
                    return False
        return True

    def _outputs(self, source: torch.Tensor) -> tuple[Any, ...]:
        assert self._graph is not None
        outputs = self._graph(source)
        return outputs if isinstance(outputs, tuple) else (outputs,)
