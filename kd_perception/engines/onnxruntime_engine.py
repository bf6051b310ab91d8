"""
ONNX Runtime, on the CPU or on an NVIDIA GPU.

The CPU is measured; the providers ``cuda`` and ``tensorrt`` were not run on hardware yet.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.bundle import ModelBundle
from kd_perception.engines.artefacts import ArtefactCache
from kd_perception.engines.engine import check_device, check_images
from kd_perception.engines.typed_graph import typed_graph
from kd_perception.errors import EngineError, first_line

_PROVIDERS = {'cpu': 'CPUExecutionProvider', 'cuda': 'CUDAExecutionProvider',
              'tensorrt': 'TensorrtExecutionProvider'}
# Of every graph of this package; the TensorRT provider wants to hear what may come in.
IMAGES = 'images'
MAX_BATCH = 8
_DTYPES = {'tensor(uint8)': np.uint8, 'tensor(float)': np.float32}


class OnnxRuntimeEngine:
    """
    One ONNX file in one session.

    Inputs and outputs are bound to numpy memory, so that nothing is copied on the CPU. Outputs
    are new arrays for each call: to allocate two masks costs microseconds.

    :param device: ``tensorrt`` is the GPU by the TensorRT provider, with CUDA for what that one
        refuses. It builds for minutes, and keeps the result beside the artefact cache.
    :param precision: ``auto`` or what the file itself holds: the runtime computes as the file
        says, in float32 (``int8`` where the file is quantized). On a GPU also ``fp16``, which is
        written into a copy of the graph.
    :raises EngineError: when the provider is missing or the file is refused.
    """

    name = 'onnxruntime'

    def __init__(self, bundle: ModelBundle, file_name: str, *, device: str = 'cpu',
                 precision: str = 'auto', threads: int = 0, quantized: bool = False) -> None:
        import onnxruntime

        check_device('onnxruntime', device)
        executes = 'int8' if quantized else 'fp32'
        kind = device.partition(':')[0]
        if precision == 'fp16' and kind != 'cpu' and not quantized:
            executes = 'fp16'
        if precision not in ('auto', executes):
            raise EngineError(f'onnxruntime computes {file_name} in {executes} on {kind}, not '
                              f'{precision}; choose precision auto or {executes}, or another '
                              'engine')
        self.device = device
        self.precision = executes
        self.input_shape = (bundle.spec.input.height, bundle.spec.input.width)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # warnings of the optimizer are not the user's business
        # By default the runtime's threads keep spinning after a run: on two cores the publishing
        # of the result then took twice as long, and the next process 9 ms more.
        options.add_session_config_entry('session.force_spinning_stop', '1')
        path = bundle.file(file_name)
        graph: str | bytes = str(path)
        if executes == 'fp16' or kind == 'tensorrt':
            graph = typed_graph(path.read_bytes(), executes)
        self._session: Any = _session(
            onnxruntime, graph, path, options,
            _providers(device, executes, self.input_shape, bundle.files[file_name]))
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


def artefacts(content: str, precision: str) -> Path:
    """
    Return where the TensorRT provider keeps what it builds from the graph of that hash.

    :param precision: that is executed; ``auto`` is fp32.
    """
    kind = 'fp32' if precision == 'auto' else precision
    return ArtefactCache().directory / f'onnxruntime-tensorrt-{content[:32]}-{kind}'


def _providers(device: str, precision: str, size: tuple[int, int],
               content: str) -> list[tuple[str, dict[str, str]]]:
    """Return providers with their settings, in the order in which they take nodes."""
    kind, _, index = device.partition(':')
    if kind == 'cpu':
        return [(_PROVIDERS['cpu'], {})]
    number = {'device_id': index or '0'}
    # TF32 is the provider's default and is no fp32: products keep 10 bits.
    cuda = (_PROVIDERS['cuda'], {**number, 'use_tf32': '0'})
    if kind == 'cuda':
        return [cuda]
    largest = f'{MAX_BATCH}x{size[0]}x{size[1]}x3'
    one = f'1x{size[0]}x{size[1]}x3'
    folder = artefacts(content, precision)
    with suppress(OSError):  # without it everything is built anew each time
        folder.mkdir(parents=True, exist_ok=True)
    return [(_PROVIDERS['tensorrt'], {
        **number, 'trt_fp16_enable': str(int(precision == 'fp16')),
        'trt_int8_enable': str(int(precision == 'int8')),
        'trt_engine_cache_enable': '1', 'trt_engine_cache_path': str(folder),
        'trt_timing_cache_enable': '1', 'trt_timing_cache_path': str(folder),
        'trt_profile_min_shapes': f'{IMAGES}:{one}', 'trt_profile_opt_shapes': f'{IMAGES}:{one}',
        'trt_profile_max_shapes': f'{IMAGES}:{largest}'}), cuda]


def _session(onnxruntime: Any, graph: str | bytes, path: Path, options: Any,
             providers: list[tuple[str, dict[str, str]]]) -> Any:
    provider = providers[0][0]
    if provider not in onnxruntime.get_available_providers():
        raise EngineError(f'onnxruntime {onnxruntime.__version__} is built without {provider}; '
                          'pip install onnxruntime-gpu in its place')
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # as in infer
        raise EngineError(f'{path}: onnxruntime refuses the graph: '
                          f'{first_line(error)}') from None
    if session.get_providers()[0] != provider:
        raise EngineError(f'onnxruntime could not use {provider} (driver or CUDA libraries are '
                          'missing) and would have run on the CPU silently')
    return session
