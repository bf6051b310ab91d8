"""
TensorRT 10 and 11, on NVIDIA GPUs.

Networks are strongly typed in both: the precision is written into the graph
(``typed_graph.py``), not asked for by builder flags, which TensorRT 11 no longer has. Not run on
hardware yet.
"""

from __future__ import annotations

from collections import Counter
import json
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.bundle import ModelBundle
from kd_perception.engines.artefacts import ArtefactCache
from kd_perception.engines.cuda import Buffer, CudaStream
from kd_perception.engines.engine import check_batch, check_device, check_images
from kd_perception.engines.typed_graph import typed_graph
from kd_perception.errors import EngineError, first_line

# Larger batches are run in parts: memory is set aside for this many pictures.
MAX_BATCH = 8
_RECIPE = '1'  # to be counted up when engines are built in another way
_KINDS = (('int8', ('int8',)), ('bf16', ('bf16', 'bfloat')), ('fp16', ('fp16', 'half')),
          ('fp32', ('fp32', 'float')))


class TensorRtEngine:
    """
    One ONNX file, built for one GPU and kept in the artefact cache; building takes minutes.

    One optimisation profile takes 1 to ``MAX_BATCH`` pictures and is tuned for one.

    :param precision: ``auto`` is fp16.
    :param threads: not used: the host has nothing to compute.
    :raises EngineError: when GPU, driver or a package is missing, or the graph is refused.
    """

    name = 'tensorrt'

    def __init__(self, bundle: ModelBundle, file_name: str, *, device: str = 'cuda',
                 precision: str = 'auto', threads: int = 0, quantized: bool = False,
                 cache: ArtefactCache | None = None) -> None:
        import tensorrt

        check_device('tensorrt', device)
        self.device = device
        self.input_shape = (bundle.spec.input.height, bundle.spec.input.width)
        self._trt: Any = tensorrt
        self._logger = _logger(tensorrt)
        self._engine: Any = None
        self._context: Any = None
        self._stream: CudaStream | None = CudaStream(device)
        try:
            self._load(bundle, file_name, 'int8' if quantized else _named(precision),
                       cache or ArtefactCache())
        except BaseException:
            self.close()
            raise

    def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph; see :class:`kd_perception.engines.engine.Engine`."""
        if self._stream is None:
            raise EngineError('the engine was closed')
        check_images(images, self.input_shape)
        parts = [self._run(self._stream, images[i:i + self._most])
                 for i in range(0, len(images), self._most)]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts])
                for name in self.output_names}

    def close(self) -> None:
        """Release the engine and its memory on the GPU."""
        self._context = self._engine = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _run(self, stream: CudaStream, images: np.ndarray) -> dict[str, np.ndarray]:
        stream.use()
        stream.upload(self._source, images)
        context = self._context
        if not (context.set_input_shape(self._input, images.shape)
                and context.execute_async_v3(stream.handle)):
            raise EngineError(f'tensorrt failed: {self._logger.last}')
        results = {}
        for name, (buffer, dtype) in self._results.items():
            result = np.empty(tuple(context.get_tensor_shape(name)), dtype)
            stream.download(buffer, result.nbytes)
            results[name] = result
        stream.synchronize()
        for name, result in results.items():
            result.reshape(-1).view(np.uint8)[:] = self._results[name][0].host[:result.nbytes]
        return results

    def _load(self, bundle: ModelBundle, file_name: str, precision: str,
              cache: ArtefactCache) -> None:
        stream = self._stream
        assert stream is not None
        trt = self._trt
        self._runtime = trt.Runtime(self._logger)
        path = _path(bundle, file_name, stream.gpu, precision, cache)
        blob = cache.read(path)
        self._engine = blob and self._runtime.deserialize_cuda_engine(blob)
        if not self._engine:
            blob = build_engine(trt, self._logger, bundle.file(file_name).read_bytes(), precision)
            cache.write(path, blob)
            self._engine = self._runtime.deserialize_cuda_engine(blob)
        if not self._engine:
            raise EngineError(f'tensorrt cannot load what it has built: {self._logger.last}')
        self.precision = executed_precision(trt, self._engine) or precision
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f'tensorrt: {self._logger.last or "the GPU has too little memory"}')
        self._allocate(stream)

    def _allocate(self, stream: CudaStream) -> None:
        trt, engine, context = self._trt, self._engine, self._context
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self.output_names = tuple(n for n in names if n not in inputs)
        self._input = inputs[0]
        fixed = engine.get_tensor_shape(self._input)[0]
        check_batch(fixed)
        self._most = fixed if fixed > 0 else MAX_BATCH  # foreign graphs may fix the batch
        largest = (self._most, *self.input_shape, 3)
        if not context.set_input_shape(self._input, largest):
            raise EngineError(f'tensorrt: the graph does not take {list(largest)}: '
                              f'{self._logger.last}')
        self._source = stream.buffer(int(np.prod(largest)))
        context.set_tensor_address(self._input, self._source.address)
        self._results: dict[str, tuple[Buffer, np.dtype]] = {}
        for name in self.output_names:
            dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
            shape = tuple(context.get_tensor_shape(name))
            if min(shape) < 0:
                raise EngineError(f'tensorrt: the size of {name} depends on the picture; such '
                                  'graphs run in onnxruntime')
            buffer = stream.buffer(int(np.prod(shape)) * dtype.itemsize)
            context.set_tensor_address(name, buffer.address)
            self._results[name] = buffer, dtype


def artefact_path(bundle: ModelBundle, file_name: str, *, device: str, precision: str,
                  cache: ArtefactCache) -> Path:
    """
    Return where the engine for this graph belongs, whether it was built or not.

    :raises EngineError: when GPU, driver or a package is missing.
    """
    stream = CudaStream(device)
    stream.close()
    return _path(bundle, file_name, stream.gpu, _named(precision), cache)


def _path(bundle: ModelBundle, file_name: str, gpu: str, precision: str,
          cache: ArtefactCache) -> Path:
    import tensorrt
    size = bundle.spec.input
    return cache.path(
        content=bundle.files[file_name], runtime='tensorrt', version=tensorrt.__version__,
        device=gpu, precision=precision, shape=(MAX_BATCH, size.height, size.width, 3),
        extra={'recipe': _RECIPE})


def _named(precision: str) -> str:
    return 'fp16' if precision == 'auto' else precision


def build_engine(trt: Any, logger: Any, content: bytes, precision: str) -> bytes:
    """
    Return a serialized engine.

    :param content: ONNX, in float32 or with Q/DQ nodes.
    :raises EngineError: with the runtime's reason.
    """
    builder = trt.Builder(logger)
    # The default and the only kind in TensorRT 11, where the flag is ignored.
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(typed_graph(content, precision)):
        reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise EngineError('tensorrt refuses the graph: '
                          f'{first_line(Exception(reasons[0])) if reasons else logger.last}')
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # its products keep 10 bits: not fp32
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or it cannot say what it runs
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.shape[0] == -1:
            rest = tuple(tensor.shape)[1:]
            profile.set_shape(tensor.name, (1, *rest), (1, *rest), (MAX_BATCH, *rest))
    config.add_optimization_profile(profile)
    blob = builder.build_serialized_network(network, config)
    if blob is None:
        raise EngineError(f'tensorrt cannot build the graph in {precision}: {logger.last}')
    return bytes(blob)


def executed_precision(trt: Any, engine: Any) -> str:
    """
    Return what most convolutions of an engine compute in, or '' where it does not say.

    The inspector's words differ: TensorRT 10 gives ``Format/Datatype`` of each tensor, 11
    ``Format`` and ``DataType``.
    """
    try:
        text = engine.create_engine_inspector().get_engine_information(
            trt.LayerInformationFormat.JSON)
        layers = json.loads(text).get('Layers', [])
    except (RuntimeError, ValueError, AttributeError):
        return ''
    found: Counter[str] = Counter()
    for layer in layers:
        if not isinstance(layer, dict) or 'conv' not in json.dumps(layer).lower():
            continue
        words = ' '.join(str(value) for tensor in layer.get('Inputs', [])
                         for key, value in tensor.items()
                         if 'format' in key.lower() or 'datatype' in key.lower()).lower()
        for name, signs in _KINDS:
            if any(sign in words for sign in signs):
                found[name] += 1
                break
    return found.most_common(1)[0][0] if found else ''


def _logger(trt: Any) -> Any:
    """Return a logger that keeps the last error, which the runtime says nowhere else."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ''

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.last = first_line(Exception(message))

    return Logger()
