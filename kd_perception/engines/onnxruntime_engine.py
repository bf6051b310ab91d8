"""ONNX Runtime, on the CPU or on an NVIDIA GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.bundle import ModelBundle
from kd_perception.engines.engine import check_device, check_images
from kd_perception.errors import EngineError, first_line

_PROVIDERS = {'cpu': 'CPUExecutionProvider', 'cuda': 'CUDAExecutionProvider'}
_DTYPES = {'tensor(uint8)': np.uint8, 'tensor(float)': np.float32}


class OnnxRuntimeEngine:
    """
    One ONNX file in one session.

    Inputs and outputs are bound to numpy memory, so that nothing is copied on the CPU. Outputs
    are new arrays for each call: to allocate two masks costs microseconds.

    :param precision: ``auto`` or what the file itself holds: the runtime computes as the file
        says, in float32 (``int8`` where the file is quantized).
    :raises EngineError: when the provider is missing or the file is refused.
    """

    name = 'onnxruntime'

    def __init__(self, bundle: ModelBundle, file_name: str, *, device: str = 'cpu',
                 precision: str = 'auto', threads: int = 0, quantized: bool = False) -> None:
        import onnxruntime

        executes = 'int8' if quantized else 'fp32'
        if precision not in ('auto', executes):
            raise EngineError(f'onnxruntime computes {file_name} in {executes}, not {precision}; '
                              f'choose precision auto or {executes}, or another engine')
        self.device = device
        self.precision = executes
        self.input_shape = (bundle.spec.input.height, bundle.spec.input.width)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # warnings of the optimizer are not the user's business
        # By default the runtime's threads keep spinning after a run: on two cores the publishing
        # of the result then took twice as long, and the next process 9 ms more.
        options.add_session_config_entry('session.force_spinning_stop', '1')
        self._session: Any = _session(onnxruntime, bundle.file(file_name), options, device)
        self._input = self._session.get_inputs()[0].name
        self._outputs = [(o.name, _DTYPES.get(o.type), tuple(o.shape[1:]))
                         for o in self._session.get_outputs()]
        self.output_names = tuple(name for name, _, _ in self._outputs)
        # Foreign graphs may leave sizes open; these are allocated by the runtime.
        self._bindable = device == 'cpu' and all(
            dtype is not None and all(isinstance(s, int) for s in shape)
            for _, dtype, shape in self._outputs)

    def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph; see :class:`kd_perception.engines.engine.Engine`."""
        if self._session is None:
            raise EngineError('the engine was closed')
        check_images(images, self.input_shape)
        try:
            if not self._bindable:
                arrays = self._session.run(None, {self._input: images})
                return dict(zip(self.output_names, arrays, strict=True))
            binding = self._session.io_binding()
            binding.bind_input(self._input, 'cpu', 0, np.uint8, images.shape, images.ctypes.data)
            result = {}
            for name, dtype, shape in self._outputs:
                array = np.empty((len(images), *shape), dtype)
                binding.bind_output(name, 'cpu', 0, dtype, array.shape, array.ctypes.data)
                result[name] = array
            self._session.run_with_iobinding(binding)
        except Exception as error:  # the runtime's exceptions share no base but this
            raise EngineError(f'onnxruntime failed: {first_line(error)}') from None
        return result

    def close(self) -> None:
        """Release the session."""
        self._session = None


def _session(onnxruntime: Any, path: Path, options: Any, device: str) -> Any:
    check_device('onnxruntime', device)
    kind, _, index = device.partition(':')
    provider = _PROVIDERS[kind]
    if provider not in onnxruntime.get_available_providers():
        raise EngineError(f'onnxruntime {onnxruntime.__version__} is built without {provider}; '
                          'pip install onnxruntime-gpu in its place')
    settings: dict[str, str] = {}
    if kind == 'cuda':
        # TF32 is the provider's default and is no fp32: products keep 10 bits.
        settings = {'device_id': index or '0', 'use_tf32': '0'}
    try:
        session = onnxruntime.InferenceSession(str(path), options,
                                               providers=[(provider, settings)])
    except Exception as error:  # as in infer
        raise EngineError(f'{path}: onnxruntime refuses the graph: '
                          f'{first_line(error)}') from None
    if session.get_providers()[0] != provider:
        raise EngineError(f'onnxruntime could not use {provider} (driver or CUDA libraries are '
                          'missing) and would have run on the CPU silently')
    return session
