"""
The TensorRT engine against a stand-in for TensorRT and CUDA.

The stand-in has the names of the real modules (compared with the bindings of 10.16 and 11.4), runs
graphs by ONNX Runtime, keeps "device memory" in numpy, and refuses what TensorRT refuses. What the
real thing does with the same calls is for ``test_conformance.py`` on a machine that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import ctypes
from enum import IntEnum
import importlib.machinery
import json
from pathlib import Path
import sys
import types
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from kd_perception.bundle import DEPLOY, load_bundle, ModelBundle, write_bundle
from kd_perception.engines import tensorrt_engine
from kd_perception.engines.artefacts import ArtefactCache
from kd_perception.engines.loader import available_engines, load_engine
from kd_perception.engines.tensorrt_engine import executed_precision, MAX_BATCH, TensorRtEngine
from kd_perception.errors import EngineError

FLOATS = {onnx.TensorProto.FLOAT: 'FP32', onnx.TensorProto.FLOAT16: 'FP16'}


class Memory:
    """The stand-in for ``cuda.bindings.runtime``."""

    class cudaError_t(IntEnum):  # noqa: N801
        cudaSuccess = 0  # noqa: N815
        cudaErrorMemoryAllocation = 2  # noqa: N815

    class cudaMemcpyKind(IntEnum):  # noqa: N801
        cudaMemcpyHostToDevice = 1  # noqa: N815
        cudaMemcpyDeviceToHost = 2  # noqa: N815

    cudaStreamNonBlocking = 1  # noqa: N815

    def __init__(self) -> None:
        self.device: dict[int, np.ndarray] = {}
        self.host: dict[int, np.ndarray] = {}
        self.streams = 0
        self.limit = 10 ** 9
        self.ok = self.cudaError_t.cudaSuccess

    def _take(self, where: dict[int, np.ndarray], size: int) -> tuple[Any, ...]:
        if size + sum(a.nbytes for a in where.values()) > self.limit:
            return self.cudaError_t.cudaErrorMemoryAllocation, None
        array = np.full(size, 0xCD, np.uint8)
        where[array.ctypes.data] = array
        return self.ok, array.ctypes.data

    def cudaSetDevice(self, index: int) -> tuple[Any, ...]:  # noqa: N802
        return (self.ok,)

    def cudaGetDeviceProperties(self, index: int) -> tuple[Any, ...]:  # noqa: N802
        return self.ok, types.SimpleNamespace(name=b'Stand-in', major=8, minor=7)

    def cudaGetErrorString(self, error: Any) -> tuple[Any, ...]:  # noqa: N802
        return self.ok, b'out of memory'

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        self.streams += 1
        return self.ok, 7

    def cudaStreamDestroy(self, stream: Any) -> tuple[Any, ...]:  # noqa: N802
        self.streams -= 1
        return (self.ok,)

    def cudaStreamSynchronize(self, stream: Any) -> tuple[Any, ...]:  # noqa: N802
        return (self.ok,)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:  # noqa: N802
        return self._take(self.device, size)

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:  # noqa: N802
        return self._take(self.host, size)

    def cudaFree(self, address: int) -> tuple[Any, ...]:  # noqa: N802
        del self.device[address]
        return (self.ok,)

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:  # noqa: N802
        del self.host[address]
        return (self.ok,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any,  # noqa: N802
                        stream: Any) -> tuple[Any, ...]:
        to, of = (self.device, self.host) if kind == 1 else (self.host, self.device)
        assert size <= to[target].nbytes
        assert size <= of[source].nbytes
        ctypes.memmove(target, source, size)
        return (self.ok,)


def refusal(graph: Any) -> str:
    """Return what TensorRT has against a graph, or ''."""
    typed = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph)).graph
    kinds = {v.name: v.type.tensor_type.elem_type
             for v in (*typed.value_info, *typed.input, *typed.output)}
    for node in graph.node:
        names = (*node.input, *node.output)
        if node.op_type != 'Cast' and any(
                kinds.get(n) == onnx.TensorProto.UINT8 for n in names):
            return f'{node.op_type}: UINT8 is not supported'
    return ''


def stand_in(memory: Memory, version: str) -> Any:
    """Return a module that looks like tensorrt."""
    trt: Any = types.ModuleType('tensorrt')
    trt.__version__ = version
    trt.__spec__ = importlib.machinery.ModuleSpec('tensorrt', None)
    simple = types.SimpleNamespace
    trt.NetworkDefinitionCreationFlag = IntEnum('NetworkDefinitionCreationFlag',
                                                {'STRONGLY_TYPED': 1})
    trt.BuilderFlag = IntEnum('BuilderFlag', {'TF32': 7})
    trt.ProfilingVerbosity = IntEnum('ProfilingVerbosity', {'DETAILED': 2})
    trt.LayerInformationFormat = IntEnum('LayerInformationFormat', {'JSON': 1})
    trt.TensorIOMode = IntEnum('TensorIOMode', {'INPUT': 1, 'OUTPUT': 2})
    trt.nptype = lambda dtype: dtype

    class ILogger:
        ERROR, INTERNAL_ERROR, WARNING = 'error', 'internal', 'warning'

    class Builder:
        built = 0

        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def create_network(self, flags: int) -> Any:
            assert flags == 2, 'weakly typed'
            network = simple(graph=None, num_inputs=1)
            network.get_input = lambda i: simple(
                name=network.graph.input[0].name,
                shape=(-1, *(d.dim_value for d in
                             network.graph.input[0].type.tensor_type.shape.dim[1:])))
            return network

        def create_builder_config(self) -> Any:
            config = simple(profiles=[], tf32=True)
            config.clear_flag = lambda flag: setattr(config, 'tf32', False)
            config.add_optimization_profile = config.profiles.append
            return config

        def create_optimization_profile(self) -> Any:
            profile = simple(shapes=None)
            profile.set_shape = lambda name, *shapes: setattr(profile, 'shapes', shapes)
            return profile

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            Builder.built += 1
            if trt.failing:
                self.logger.log(ILogger.ERROR, 'no memory for a tactic\nmore')
                return None
            assert not config.tf32
            head = json.dumps([config.profiles[0].shapes, version]).encode()
            return memoryview(head + b'\n' + network.model)

    class OnnxParser:
        num_errors = 1

        def __init__(self, network: Any, logger: Any) -> None:
            self.network = network

        def parse(self, model: bytes) -> bool:
            graph = onnx.load_from_string(model).graph
            self.reason = refusal(graph)
            self.network.model, self.network.graph = model, graph
            return not self.reason

        def get_error(self, index: int) -> Any:
            return simple(desc=lambda: self.reason + '\nmore lines')

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, blob: bytes) -> Any:
            head, _, model = blob.partition(b'\n')
            try:
                shapes, built_by = json.loads(head)
            except ValueError:
                return None
            return Engine(shapes, model, self.logger) if built_by == version else None

    class Engine:
        def __init__(self, shapes: Any, model: bytes, logger: Any) -> None:
            self.least, _, self.most = map(tuple, shapes)
            self.logger = logger
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            self.session = onnxruntime.InferenceSession(model, options,
                                                        providers=['CPUExecutionProvider'])
            self.graph = onnx.load_from_string(model).graph
            self.tensors = [self.session.get_inputs()[0], *self.session.get_outputs()]
            self.num_io_tensors = len(self.tensors)

        def get_tensor_name(self, index: int) -> str:
            return self.tensors[index].name

        def get_tensor_mode(self, name: str) -> Any:
            first = name == self.tensors[0].name
            return trt.TensorIOMode.INPUT if first else trt.TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            kind = next(t.type for t in self.tensors if t.name == name)
            return {'tensor(uint8)': np.uint8, 'tensor(float)': np.float32}[kind]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            found = next(t.shape for t in self.tensors if t.name == name)
            return tuple(s if isinstance(s, int) else -1 for s in found)

        def create_execution_context(self) -> Any:
            return Context(self)

        def create_engine_inspector(self) -> Any:
            layers = []
            weights = {i.name: i.data_type for i in self.graph.initializer}
            for node in self.graph.node:
                if node.op_type == 'Conv':
                    kind = FLOATS[weights[node.input[1]]]
                    tensor = ({'Name': 'x', 'Format/Datatype': f'Row major linear {kind} format'}
                              if version < '11' else
                              {'Name': 'x', 'Format': 'Linear', 'DataType':
                               {'FP32': 'Float', 'FP16': 'Half'}[kind]})
                    layers.append({'Name': node.name, 'LayerType': 'CaskConvolution',
                                   'Inputs': [tensor]})
            return simple(get_engine_information=lambda kind: json.dumps({'Layers': layers}))

    class Context:
        def __init__(self, engine: Engine) -> None:
            self.engine = engine
            self.addresses: dict[str, int] = {}
            self.shape: tuple[int, ...] = ()

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.addresses[name] = address
            return True

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            self.shape = tuple(shape)
            return all(a <= b <= c for a, b, c in zip(
                self.engine.least, self.shape, self.engine.most, strict=True))

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            known = self.engine.get_tensor_shape(name)
            return self.shape if name in self.engine.tensors[0].name else (
                self.shape[0], *known[1:])

        def execute_async_v3(self, stream: int) -> bool:
            assert stream == 7
            if trt.failing:
                self.engine.logger.log(ILogger.ERROR, 'device was lost\nmore')
                return False
            first = self.engine.tensors[0].name
            source = memory.device[self.addresses[first]][:int(np.prod(self.shape))]
            outputs = self.engine.session.run(None, {first: source.reshape(self.shape)})
            for tensor, value in zip(self.engine.tensors[1:], outputs, strict=True):
                target = memory.device[self.addresses[tensor.name]]
                target[:value.nbytes] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            return True

    trt.ILogger, trt.Builder, trt.OnnxParser, trt.Runtime = ILogger, Builder, OnnxParser, Runtime
    trt.failing = False
    return trt


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    made = Memory()
    monkeypatch.setitem(sys.modules, 'cuda.bindings.runtime', made)
    yield made
    assert not made.device, 'memory on the GPU was left'
    assert not made.host
    assert made.streams == 0


@pytest.fixture(params=['10.16.1', '11.4.0'])
def trt(request: pytest.FixtureRequest, memory: Memory, monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path) -> Any:
    made = stand_in(memory, request.param)
    monkeypatch.setitem(sys.modules, 'tensorrt', made)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return made


@pytest.mark.parametrize(('precision', 'limit'), [('fp32', 0.999), ('fp16', 0.995)])
def test_masks_are_those_of_torch(trt: Any, decisive: tuple[ModelBundle, np.ndarray],
                                  precision: str, limit: float) -> None:
    bundle, frames = decisive
    run = load_engine(bundle, 'tensorrt', device='cuda', precision=precision)
    assert (run.name, run.device, run.precision) == ('tensorrt', 'cuda', precision)
    assert run.output_names == ('mask', 'confidence')
    expected = load_engine(bundle, 'torch', precision='fp32').infer(frames)
    result = run.infer(frames)
    assert (result['mask'] == expected['mask']).mean() >= limit
    assert np.abs(result['confidence'].astype(int) - expected['confidence']).mean() < 0.3
    run.close()


def test_batches_of_any_size(trt: Any, small: ModelBundle,
                             images: Callable[[int], np.ndarray]) -> None:
    run = load_engine(small, 'tensorrt', device='cuda', precision='fp32')
    batch = images(2 * MAX_BATCH + 1)
    together = run.infer(batch)
    for n in (1, 3, MAX_BATCH, MAX_BATCH + 1):
        part = run.infer(batch[:n])
        assert part['mask'].shape == (n, 45, 80)
        assert (part['mask'] == together['mask'][:n]).mean() > 0.999
    first = run.infer(batch[:1])['mask']
    kept = first.copy()
    assert (run.infer(images(2)[:1])['mask'] != kept).any()
    assert (first == kept).all(), 'a later call wrote into an earlier result'
    with pytest.raises(EngineError, match='do not fit'):
        run.infer(batch[:, :40])
    run.close()
    run.close()
    with pytest.raises(EngineError, match='closed'):
        run.infer(batch)


def test_auto_is_fp16_and_logits_stay_float32(trt: Any, small: ModelBundle,
                                              images: Callable[[int], np.ndarray]) -> None:
    run = load_engine(small, 'tensorrt', device='cuda:1', graph='logits')
    assert (run.device, run.precision) == ('cuda:1', 'fp16')
    assert run.infer(images(2))['logits'].dtype == np.float32
    run.close()


def test_an_engine_is_built_once_per_version(trt: Any, small: ModelBundle,
                                             tmp_path: Path) -> None:
    cache = ArtefactCache(tmp_path / 'built')
    for _ in range(2):
        TensorRtEngine(small, DEPLOY, cache=cache).close()
    assert trt.Builder.built == 1
    blob, = (tmp_path / 'built').iterdir()
    cache.write(blob, b'of another driver')
    TensorRtEngine(small, DEPLOY, cache=cache).close()
    assert trt.Builder.built == 2
    trt.__version__ += '.9'
    TensorRtEngine(small, DEPLOY, cache=cache).close()
    assert trt.Builder.built == 3


def test_failures_are_one_line_and_leave_nothing(trt: Any, memory: Memory, small: ModelBundle,
                                                 images: Callable[[int], np.ndarray]) -> None:
    trt.failing = True
    with pytest.raises(EngineError, match='no memory for a tactic$'):
        load_engine(small, 'tensorrt', device='cuda')
    trt.failing = False
    memory.limit = 100_000
    with pytest.raises(EngineError, match='CUDA: out of memory'):
        load_engine(small, 'tensorrt', device='cuda')
    memory.limit = 10 ** 9
    run = load_engine(small, 'tensorrt', device='cuda')
    trt.failing = True
    with pytest.raises(EngineError, match='tensorrt failed: device was lost$'):
        run.infer(images(1))
    trt.failing = False
    assert run.infer(images(1))['mask'].shape == (1, 45, 80)
    run.close()


def test_a_refused_graph(trt: Any, small: ModelBundle, tmp_path: Path,
                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_engine, 'typed_graph', lambda content, precision: content)
    with pytest.raises(EngineError, match='refuses the graph: Transpose: UINT8.*supported$'):
        load_engine(small, 'tensorrt', device='cuda')


def test_bytes_that_are_computed_with(trt: Any, small: ModelBundle, tmp_path: Path) -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node('Add', ['images', 'images'], ['mask'])], 'g',
        [onnx.helper.make_tensor_value_info('images', onnx.TensorProto.UINT8, ['n', 45, 80, 3])],
        [onnx.helper.make_tensor_value_info('mask', onnx.TensorProto.UINT8, ['n', 45, 80, 3])])
    bundle = write_bundle(tmp_path / 'b', small.spec, {
        DEPLOY: onnx.helper.make_model(graph).SerializeToString()})
    with pytest.raises(EngineError, match='cannot compute on bytes: Add'):
        load_engine(bundle, 'tensorrt', device='cuda')


def test_a_graph_for_several_images_only(trt: Any, small: ModelBundle, tmp_path: Path,
                                         fixed_batch: Callable[..., ModelBundle]) -> None:
    with pytest.raises(EngineError, match='takes exactly 4 images in each call'):
        load_engine(fixed_batch(small, 4, tmp_path / 'four'), 'tensorrt', device='cuda')


def test_no_cpu(trt: Any, small: ModelBundle) -> None:
    with pytest.raises(EngineError, match='no device'):
        load_engine(small, 'tensorrt')
    assert available_engines()['tensorrt']
    assert load_bundle(small.path).hash == small.hash


@pytest.mark.parametrize('words', ['', 'no json', '[]', '{"Layers": ["Conv1"]}',
                                   '{"Layers": [{"Name": "conv", "Inputs": []}]}'])
def test_an_inspector_that_says_nothing(words: str) -> None:
    engine = types.SimpleNamespace(create_engine_inspector=lambda: types.SimpleNamespace(
        get_engine_information=lambda kind: words))
    kinds = types.SimpleNamespace(LayerInformationFormat=types.SimpleNamespace(JSON=1))
    assert executed_precision(kinds, engine) == ''
