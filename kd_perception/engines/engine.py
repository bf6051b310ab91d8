"""
The one interface of all runtimes, and the check of what goes into it.

An engine runs one graph of one bundle on one device. It belongs to one thread at a time. The
arrays that it returns are the caller's: no later call writes into them.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from kd_perception.errors import EngineError

# Kinds of device by runtime; those of NVIDIA may carry a number (``cuda:1``). ``tensorrt`` of ONNX
# Runtime is the same GPU by its TensorRT provider.
DEVICES = {'openvino': ('cpu', 'gpu'), 'onnxruntime': ('cpu', 'cuda', 'tensorrt'),
           'torch': ('cpu', 'cuda'), 'tensorrt': ('cuda',)}
_NUMBERED = ('cuda', 'tensorrt')
PRECISIONS = ('auto', 'fp32', 'fp16', 'bf16', 'int8')


@runtime_checkable
class Engine(Protocol):
    """
    A graph that is loaded and ready.

    ``name`` is the runtime, ``device`` where it runs, ``precision`` what it really computes in
    (read back from the runtime, never the wish), ``input_shape`` height and width of the images,
    ``output_names`` the keys of the result.
    """

    name: str
    device: str
    precision: str
    input_shape: tuple[int, int]
    output_names: tuple[str, ...]

    def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """
        Run the graph.

        :param images: uint8 ``[N, H, W, 3]``, C-contiguous, in the bundle's channel order.
        :returns: ``mask`` and ``confidence`` (uint8 ``[N, H, W]``), or ``logits`` (float32
            ``[N, K, h, w]``), by name; they stay valid. Of a classification ``probabilities`` or
            ``logits``, float32 ``[N, K]``.
        :raises EngineError: for images of another shape or type, or when the runtime fails.
        """
        ...

    def close(self) -> None:
        """Release the runtime's memory; the engine is of no use afterwards."""
        ...


def check_device(engine: str, device: str) -> None:
    """
    Refuse a device that the runtime cannot have on any machine.

    :param engine: a key of ``DEVICES``.
    :raises EngineError: which names the devices that it has.
    """
    kind, colon, index = device.partition(':')
    known = DEVICES[engine]
    if kind not in known or (colon and (kind not in _NUMBERED or not index.isdecimal())):
        named = ', '.join((f'{k}, {k}:<n>' if k in _NUMBERED else k) for k in known)
        raise EngineError(f'{engine} has no device {device!r}; choose {named}')


def check_images(images: np.ndarray, input_shape: tuple[int, int]) -> None:
    """
    Refuse what the graph was not made for.

    :raises EngineError: which says what came and what was expected.
    """
    height, width = input_shape
    if (images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (height, width, 3)
            or images.shape[0] < 1):
        raise EngineError(f'images {images.dtype}{list(images.shape)} do not fit: the graph takes '
                          f'uint8[N, {height}, {width}, 3]; resize the frame first')
    if not images.flags.c_contiguous:
        raise EngineError('images are not C-contiguous; pass numpy.ascontiguousarray(images)')


def check_batch(fixed: object) -> None:
    """
    Refuse a graph that takes several images in each call: frames come one by one.

    :param fixed: first size of its input; no number above zero where any will do.
    :raises EngineError: which says so.
    """
    if isinstance(fixed, int) and fixed > 1:
        raise EngineError(f'the graph takes exactly {fixed} images in each call, and frames come '
                          'one by one; export it for one image, or for any number')
