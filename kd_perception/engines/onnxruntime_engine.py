"""
ONNX Runtime, on the CPU or on an NVIDIA GPU.

The CPU is measured; the providers ``cuda`` and ``tensorrt`` were not run on hardware yet.
"""

from __future__ import annotations

from collections.abc import Callable
import logging
from pathlib import Path
import shutil
from typing import Any

import numpy as np

from kd_perception.bundle import ModelBundle
from kd_perception.engines.artefacts import ArtefactCache, is_whole
from kd_perception.engines.engine import check_batch, check_device, check_images
from kd_perception.engines.gpu_loss import gpu_of, is_for_a_while, is_for_good
from kd_perception.engines.machine import nvidia
from kd_perception.engines.typed_graph import typed_graph
from kd_perception.errors import EngineError, first_line

log = logging.getLogger(__name__)

_PROVIDERS = {'cpu': 'CPUExecutionProvider', 'cuda': 'CUDAExecutionProvider',
              'tensorrt': 'TensorrtExecutionProvider'}
# Of every graph of this package; the TensorRT provider wants to hear what may come in.
IMAGES = 'images'
MAX_BATCH = 8
# Where the words begin that tell a lost GPU or too little memory from any other failure.
_DECIDES = ('CUDA failure', 'Failed to allocate memory', 'bad_alloc', 'bad allocation')
_DTYPES = {'tensor(uint8)': np.uint8, 'tensor(float)': np.float32}


class OnnxRuntimeEngine:
    """
    One ONNX file in one session.

    Inputs and outputs are bound to numpy memory, so that nothing is copied on the CPU; for a GPU
    the images are copied once, into memory there that is kept per batch size. Outputs are new
    arrays for each call: to allocate two masks costs microseconds.

    :param device: ``tensorrt`` is the GPU by the TensorRT provider, with CUDA for what that one
        refuses. It builds for minutes, and keeps the result in the artefact cache.
    :param precision: ``auto`` or what the file itself holds: the runtime computes as the file
        says, in float32 (``int8`` where the file is quantized). On a GPU also ``fp16``, which is
        written into a copy of the graph.
    :raises EngineError: when the provider is missing or the file is refused.
    """

    name = 'onnxruntime'

    def __init__(self, bundle: ModelBundle, file_name: str, *, device: str = 'cpu',
                 precision: str = 'auto', threads: int = 0, quantized: bool = False,
                 cache: ArtefactCache | None = None) -> None:
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

        def opened(folder: Path | None = None) -> Any:
            return _session(onnxruntime, graph, path, options,
                            _providers(device, executes, self.input_shape, folder))

        if kind == 'tensorrt':
            cache = cache or ArtefactCache()
            self._session: Any = _built(opened, cache, artefact_folder(
                bundle, file_name, device=device, precision=executes, cache=cache),
                self.input_shape)
        else:
            self._session = opened()
        self._ort: Any = onnxruntime
        gpu = gpu_of(device)
        self._gpu = int(gpu.partition(':')[2]) if gpu else None
        self._sources: dict[int, Any] = {}  # images on the GPU, by batch size
        self._input = self._session.get_inputs()[0].name
        self._outputs = [(o.name, _DTYPES.get(o.type), tuple(o.shape[1:]))
                         for o in self._session.get_outputs()]
        self.output_names = tuple(name for name, _, _ in self._outputs)
        # Foreign graphs may leave sizes open; these are allocated by the runtime.
        self._bindable = all(
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
            self._bind_images(binding, images)
            result = {}
            for name, dtype, shape in self._outputs:
                array = np.empty((len(images), *shape), dtype)
                binding.bind_output(name, 'cpu', 0, dtype, array.shape, array.ctypes.data)
                result[name] = array
            self._session.run_with_iobinding(binding)
            if self._gpu is not None:
                binding.synchronize_outputs()
        except Exception as error:  # the runtime's exceptions share no base but this
            raise EngineError(f'onnxruntime failed: {_reason(error)}') from None
        return result

    def close(self) -> None:
        """Release the session."""
        self._sources.clear()
        self._session = None

    def _bind_images(self, binding: Any, images: np.ndarray) -> None:
        if self._gpu is None:
            binding.bind_input(self._input, 'cpu', 0, np.uint8, images.shape, images.ctypes.data)
            return
        source = self._sources.get(len(images))
        if source is None:
            source = self._sources[len(images)] = self._ort.OrtValue.ortvalue_from_shape_and_type(
                images.shape, np.uint8, 'cuda', self._gpu)
        source.update_inplace(images)
        binding.bind_ortvalue_input(self._input, source)
        binding.synchronize_inputs()


def artefact_folder(bundle: ModelBundle, file_name: str, *, device: str, precision: str,
                    cache: ArtefactCache) -> Path:
    """
    Return where the TensorRT provider keeps what it builds from this graph, if it is there or not.

    :param precision: that is executed; ``auto`` is fp32.
    """
    import onnxruntime
    size = bundle.spec.input
    return cache.path(
        content=bundle.files[file_name], runtime='onnxruntime-tensorrt',
        version=onnxruntime.__version__, device=gpu_of(device),
        precision='fp32' if precision == 'auto' else precision,
        shape=(MAX_BATCH, size.height, size.width, 3), extra={'gpu': nvidia()}).with_suffix('')


def _built(opened: Callable[[Path | None], Any], cache: ArtefactCache, folder: Path,
           size: tuple[int, int]) -> Any:
    """
    Return a session whose engines lie in ``folder``, built first where they do not.

    The provider writes files by itself and not at once: it does so in a folder of another name,
    and what it has written is read again before it serves.
    """
    def build(temporary: Path) -> None:
        session = opened(temporary)
        images = np.zeros((1, *size, 3), np.uint8)
        try:  # what waits for its first images is built by them
            session.run(None, {session.get_inputs()[0].name: images})
        except Exception as error:  # as in infer
            raise EngineError(f'onnxruntime failed: {_reason(error)}') from None

    if is_whole(folder):
        try:
            return opened(folder)
        except EngineError as error:
            if is_for_good(str(error)) or is_for_a_while(str(error)):
                raise  # the GPU's fault, not the file's
            log.warning('%s cannot be loaded and is built again: %s', folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    return opened(folder if cache.build_folder(folder, build) else None)


def _providers(device: str, precision: str, size: tuple[int, int],
               folder: Path | None) -> list[tuple[str, dict[str, str]]]:
    """
    Return providers with their settings, in the order in which they take nodes.

    :param folder: where the TensorRT provider reads and writes what it has built; None: nowhere.
    """
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
    kept = {} if folder is None else {
        'trt_engine_cache_enable': '1', 'trt_engine_cache_path': str(folder),
        'trt_timing_cache_enable': '1', 'trt_timing_cache_path': str(folder)}
    return [(_PROVIDERS['tensorrt'], {
        **number, 'trt_fp16_enable': str(int(precision == 'fp16')),
        'trt_int8_enable': str(int(precision == 'int8')),
        'trt_profile_min_shapes': f'{IMAGES}:{one}', 'trt_profile_opt_shapes': f'{IMAGES}:{one}',
        'trt_profile_max_shapes': f'{IMAGES}:{largest}', **kept}), cuda]


def _reason(error: Exception) -> str:
    """Return an error in one line; what decides comes late in it and must not be cut off."""
    for word in _DECIDES:
        _, found, rest = str(error).partition(word)
        if found:
            return first_line(Exception(found + rest))
    return first_line(error)


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
                          f'{_reason(error)}') from None
    if session.get_providers()[0] != provider:
        raise EngineError(f'onnxruntime could not use {provider} (driver or CUDA libraries are '
                          'missing) and would have run on the CPU silently')
    check_batch(session.get_inputs()[0].shape[0])
    return session
