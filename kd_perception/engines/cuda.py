"""
Memory and a stream of one NVIDIA GPU, for engines that bring none of their own.

By NVIDIA's ``cuda-python`` (``cuda.bindings``); not run on hardware yet.
"""

from __future__ import annotations

from dataclasses import dataclass
import importlib
from typing import Any

import numpy as np

from kd_perception.errors import EngineError


@dataclass(frozen=True, eq=False)
class Buffer:
    """
    Memory for one tensor on the GPU, and page-locked memory of the same size beside it.

    :param address: on the GPU.
    :param host: uint8 ``[bytes]``; copies from and to it need no detour.
    """

    address: int
    host: np.ndarray


class CudaStream:
    """
    One stream on one GPU.

    :param device: ``cuda`` or ``cuda:<n>``.
    :raises EngineError: when cuda-python, the driver or the GPU is missing.
    """

    def __init__(self, device: str) -> None:
        try:
            self._cuda: Any = importlib.import_module('cuda.bindings.runtime')
        except ImportError:
            raise EngineError("cuda-python is missing: pip install 'kd_perception[tensorrt]'"
                              ) from None
        self._index = int(device.partition(':')[2] or 0)
        self._buffers: list[Buffer] = []
        self._stream: Any = None
        self.use()
        properties, = self._checked(self._cuda.cudaGetDeviceProperties(self._index))
        name = properties.name
        self.gpu = (f'{name.decode() if isinstance(name, bytes) else name} '
                    f'sm{properties.major}{properties.minor}')
        self._stream, = self._checked(self._cuda.cudaStreamCreateWithFlags(
            self._cuda.cudaStreamNonBlocking))

    @property
    def handle(self) -> int:
        """Return the stream as a number."""
        return int(self._stream)

    def use(self) -> None:
        """Make the GPU that of the calling thread, which begins with the first one."""
        self._checked(self._cuda.cudaSetDevice(self._index))

    def buffer(self, size: int) -> Buffer:
        """Return memory of ``size`` bytes, which lives until ``close``."""
        address, = self._checked(self._cuda.cudaMalloc(size))
        try:
            pinned, = self._checked(self._cuda.cudaMallocHost(size))
        except EngineError:
            self._cuda.cudaFree(address)
            raise
        made = Buffer(int(address), np.asarray(_Memory(int(pinned), size)))
        self._buffers.append(made)
        return made

    def upload(self, buffer: Buffer, array: np.ndarray) -> None:
        """Bring an array to the GPU; it may change as soon as this returns."""
        size = array.nbytes
        buffer.host[:size] = array.reshape(-1).view(np.uint8)
        self._checked(self._cuda.cudaMemcpyAsync(
            buffer.address, buffer.host.ctypes.data, size,
            self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice, self._stream))

    def download(self, buffer: Buffer, size: int) -> None:
        """Bring ``size`` bytes to ``buffer.host``; they are there after ``synchronize``."""
        self._checked(self._cuda.cudaMemcpyAsync(
            buffer.host.ctypes.data, buffer.address, size,
            self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost, self._stream))

    def synchronize(self) -> None:
        """Wait until all that was begun is done."""
        self._checked(self._cuda.cudaStreamSynchronize(self._stream))

    def close(self) -> None:
        """Release all memory; also after the GPU was lost."""
        self._cuda.cudaSetDevice(self._index)
        for buffer in self._buffers:
            self._cuda.cudaFree(buffer.address)
            self._cuda.cudaFreeHost(buffer.host.ctypes.data)
        self._buffers.clear()
        if self._stream is not None:
            self._cuda.cudaStreamDestroy(self._stream)
            self._stream = None

    def _checked(self, answer: tuple[Any, ...]) -> tuple[Any, ...]:
        error, *values = answer
        if error != self._cuda.cudaError_t.cudaSuccess:
            _, text = self._cuda.cudaGetErrorString(error)
            raise EngineError('CUDA: ' + (text.decode() if isinstance(text, bytes) else str(text)))
        return tuple(values)


class _Memory:
    """What numpy needs in order to see memory at an address."""

    def __init__(self, address: int, size: int) -> None:
        self.__array_interface__ = {'data': (address, False), 'shape': (size,),
                                    'typestr': '|u1', 'version': 3}
