"""OpenVINO on CPUs (and Intel GPUs, by device name)."""

from __future__ import annotations

from functools import cache as once
import io
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.bundle import ModelBundle
from kd_perception.engines.artefacts import ArtefactCache
from kd_perception.engines.engine import check_device, check_images
from kd_perception.errors import EngineError

_DEVICES = {'cpu': 'CPU', 'gpu': 'GPU'}
_HINTS = {'fp32': 'f32', 'bf16': 'bf16', 'fp16': 'f16'}
_NAMES = {'f32': 'fp32', 'float': 'fp32', 'float32': 'fp32', 'bf16': 'bf16', 'bfloat16': 'bf16',
          'f16': 'fp16', 'float16': 'fp16'}


@once
def _shared_core() -> Any:
    """
    Return the one OpenVINO core of this process, which lives as long as the process.

    The CPU plugin of a core moves the alternate signal stack of the thread that first compiles
    (processors with AMX need a larger one), and frees it with the core. Cores that go in another
    order than the reverse of their coming leave the thread with a freed stack, and the next
    Ctrl-C ends in a segmentation fault.
    """
    import openvino
    return openvino.Core()


class OpenVinoEngine:
    """
    One ONNX file, compiled for latency.

    Shapes are fixed per batch size, which OpenVINO needs to be fast; other batch sizes than one
    are compiled when they first come. Inputs and outputs are numpy memory that the runtime reads
    and writes itself; outputs are new arrays for each call.

    :param precision: ``auto`` is the runtime's default: bf16 on processors that multiply it
        natively, else fp32. ``precision`` of the engine tells.
    :raises EngineError: when the device or the precision is not to be had.
    """

    name = 'openvino'

    def __init__(self, bundle: ModelBundle, file_name: str, *, device: str = 'cpu',
                 precision: str = 'auto', threads: int = 0, quantized: bool = False,
                 cache: ArtefactCache | None = None) -> None:
        import openvino

        check_device('openvino', device)
        self.device = device
        self.input_shape = (bundle.spec.input.height, bundle.spec.input.width)
        self._openvino = openvino
        self._core: Any = _shared_core()
        present = self._core.available_devices
        if _DEVICES[device] not in {name.partition('.')[0] for name in present}:
            raise EngineError(f'openvino finds no device {device} here, only '
                              f'{", ".join(present)}; choose cpu')
        self._file, self._content = bundle.file(file_name), bundle.files[file_name]
        self._cache = cache or ArtefactCache()
        self._wish = precision
        self._config: dict[str, Any] = {'PERFORMANCE_HINT': 'LATENCY', 'NUM_STREAMS': '1'}
        if threads:
            self._config['INFERENCE_NUM_THREADS'] = threads
        if precision in _HINTS:
            self._config['INFERENCE_PRECISION_HINT'] = _HINTS[precision]
        self._requests: dict[int, tuple[Any, list[tuple[str, type, tuple[int, ...]]]]] = {}
        compiled = self._compiled(1)
        executes = _NAMES.get(_property(compiled, 'INFERENCE_PRECISION_HINT'), 'fp32')
        if precision in _HINTS and executes != precision:
            raise EngineError(f'openvino computes in {executes} on this {device}, not in '
                              f'{precision}; choose precision auto or {executes}')
        self.precision = 'int8' if quantized else executes
        self._keep(1, compiled)
        self.output_names = tuple(name for name, _, _ in self._requests[1][1])

    def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph; see :class:`kd_perception.engines.engine.Engine`."""
        if self._core is None:
            raise EngineError('the engine was closed')
        check_images(images, self.input_shape)
        batch = len(images)
        tensor = self._openvino.Tensor
        result: dict[str, np.ndarray] = {}
        if not images.flags.writeable:
            images = images.copy()  # the binding shares writable memory only
        try:
            if batch not in self._requests:
                self._keep(batch, self._compiled(batch))
            request, outputs = self._requests[batch]
            request.set_input_tensor(0, tensor(images, shared_memory=True))
            for index, (name, dtype, shape) in enumerate(outputs):
                result[name] = np.empty(shape, dtype)
                request.set_output_tensor(index, tensor(result[name], shared_memory=True))
            # Both calls release the interpreter; infer() would also build a dictionary.
            try:
                request.start_async()
            finally:
                # Also where Ctrl-C comes in between: till then the runtime writes into the arrays.
                request.wait()
        except EngineError:
            raise
        except Exception as error:  # RuntimeError of the runtime, TypeError of its binding
            raise EngineError(f'openvino failed: {_last_line(error)}') from None
        return result

    def close(self) -> None:
        """Release compiled models."""
        self._requests.clear()
        self._core = None

    def _keep(self, batch: int, compiled: Any) -> None:
        outputs = [(_output_name(o.get_names()), o.get_element_type().to_dtype().type,
                    tuple(o.shape)) for o in compiled.outputs]
        self._requests[batch] = (compiled.create_infer_request(), outputs)

    def _compiled(self, batch: int) -> Any:
        """Return the compiled model for a batch size, from the cache where it is there."""
        device = _DEVICES[self.device]
        shape = (batch, *self.input_shape, 3)
        path = _path(self._content, device, self._wish, shape, self._cache)
        blob = self._cache.read(path)
        if blob is not None:
            try:
                # Not from a stream: its copies would hold every other thread up.
                return self._core.import_model(blob, device, self._config)
            except RuntimeError:
                pass  # built by another build of the same version: make it anew
        return self._build(path, shape, device)

    def _build(self, path: Path, shape: tuple[int, ...], device: str) -> Any:
        try:
            model = self._core.read_model(self._file)
            model.reshape(list(shape))
            compiled = self._core.compile_model(model, device, self._config)
            stream = io.BytesIO()
            compiled.export_model(stream)
        except Exception as error:  # as in infer, and UnicodeDecodeError for its own text
            raise EngineError(f'{self._file}: openvino refuses the graph on {device} in '
                              f'{self._wish}: {_last_line(error)}') from None
        self._cache.write(path, stream.getvalue())
        return compiled


def artefact_path(bundle: ModelBundle, file_name: str, *, device: str, precision: str,
                  cache: ArtefactCache, batch: int = 1) -> Path:
    """Return where the model compiled for ``batch`` pictures belongs, if it is there or not."""
    shape = (batch, bundle.spec.input.height, bundle.spec.input.width, 3)
    return _path(bundle.files[file_name], _DEVICES[device], precision, shape, cache)


def _path(content: str, device: str, precision: str, shape: tuple[int, ...],
          cache: ArtefactCache) -> Path:
    import openvino
    return cache.path(
        content=content, runtime='openvino', version=openvino.__version__, device=device,
        precision=precision, shape=shape,
        extra={'processor': _property(_shared_core(), 'FULL_DEVICE_NAME', device)})


def _output_name(names: set[str]) -> str:
    # A tensor may also carry the exporter's internal names.
    known = [n for n in ('mask', 'confidence', 'logits', 'probabilities') if n in names]
    return known[0] if known else min(names)


def _property(source: Any, name: str, device: str = '') -> str:
    """Return a property as text: ``f32``, ``bf16``, a processor's name."""
    value = source.get_property(device, name) if device else source.get_property(name)
    named = getattr(value, 'get_type_name', None)
    return str(named() if named else value)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
