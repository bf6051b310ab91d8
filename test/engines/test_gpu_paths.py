"""What is sent to a GPU, as far as a machine without one can tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from kd_perception.bundle import DEPLOY, DEPLOY_INT8, ModelBundle
from kd_perception.engines import openvino_engine
from kd_perception.engines.loader import is_built, load_engine
from kd_perception.engines.torch_runner import TorchRunner
from kd_perception.engines.typed_graph import typed_graph
from kd_perception.errors import EngineError
from kd_perception.networks.deploy import deployed, load_module


def test_the_runner_with_fixed_memory(small: ModelBundle,
                                      images: Callable[[int], np.ndarray]) -> None:
    graph = deployed(load_module(small), small.spec).eval()
    runner = TorchRunner(graph, torch.device('cpu'))
    kept = []
    for call, n in enumerate((1, 3, 1, 2, 4, 5, 6, 1)):
        given = np.ascontiguousarray(images(10 + call)[:n])
        with torch.inference_mode():
            expected = [value.numpy() for value in graph(torch.from_numpy(given))]
        results = runner(given)
        kept.append((results, [r.copy() for r in results]))
        for result, value in zip(results, expected, strict=True):
            assert (result == value).all()
    for results, copies in kept:
        for result, copy in zip(results, copies, strict=True):
            assert (result == copy).all(), 'a later call wrote into an earlier result'


class Provider:
    """
    ONNX Runtime as it is with a GPU: sessions and memory are those of the CPU.

    Like the TensorRT provider it writes its engine by itself, in parts, and refuses a broken one.
    """

    def __init__(self) -> None:
        self.opened: list[tuple[Any, list[tuple[str, dict[str, str]]]]] = []
        self.memory: list[tuple[tuple[int, ...], str, int]] = []
        self.copies = self.built = 0
        self.dies = False
        self.refusal = 'could not deserialize engine from cache'
        outer = self
        session, value = onnxruntime.InferenceSession, onnxruntime.OrtValue

        class Session:
            def __init__(self, graph: Any, options: Any, providers: Any) -> None:
                outer.opened.append((graph, providers))
                folder = providers[0][1].get('trt_engine_cache_path')
                if folder is not None:
                    outer.engine(Path(folder) / 'graph_sm90.engine')
                self._real = session(graph, options, providers=['CPUExecutionProvider'])

            def get_providers(self) -> list[str]:
                return [name for name, _ in outer.opened[-1][1]]

            def __getattr__(self, name: str) -> Any:
                return getattr(self._real, name)

        class Value:
            @staticmethod
            def ortvalue_from_shape_and_type(shape: Any, kind: Any, device: str,
                                             index: int) -> Any:
                outer.memory.append((tuple(shape), device, index))
                made = value.ortvalue_from_shape_and_type(shape, kind)
                update = made.update_inplace

                def counted(array: np.ndarray) -> None:
                    outer.copies += 1
                    update(array)

                made.update_inplace = counted
                return made

        self.names = {'InferenceSession': Session, 'OrtValue': Value,
                      'get_available_providers': lambda: list(PROVIDERS)}

    def engine(self, path: Path) -> None:
        if path.exists():
            if path.read_text() != 'all of it':
                raise RuntimeError(self.refusal)
            return
        self.built += 1
        path.write_text('all')
        if self.dies:
            raise KeyboardInterrupt
        path.write_text('all of it')


PROVIDERS = ('TensorrtExecutionProvider', 'CUDAExecutionProvider', 'CPUExecutionProvider')


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Provider:
    made = Provider()
    for name, value in made.names.items():
        monkeypatch.setattr(onnxruntime, name, value)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return made


@pytest.mark.parametrize(('device', 'precision', 'first'), [
    ('cuda', 'fp32', 'CUDAExecutionProvider'), ('cuda:1', 'fp16', 'CUDAExecutionProvider'),
    ('tensorrt', 'fp32', 'TensorrtExecutionProvider'),
    ('tensorrt:1', 'fp16', 'TensorrtExecutionProvider')])
def test_providers_of_onnxruntime(small: ModelBundle, images: Callable[[int], np.ndarray],
                                  provider: Provider, device: str, precision: str,
                                  first: str) -> None:
    run = load_engine(small, 'onnxruntime', device=device, precision=precision)
    assert (run.device, run.precision) == (device, precision)
    expected = load_engine(small, 'torch', precision='fp32').infer(images(2))
    for number in (2, 1, 2):
        result = run.infer(images(2)[:number])
        assert (result['mask'] == expected['mask'][:number]).mean() > 0.98
    # The images lie on the GPU that was asked for, in memory that is kept.
    index = int(device.endswith(':1'))
    assert provider.memory == [((n, 45, 80, 3), 'cuda', index) for n in (2, 1)]
    assert provider.copies == 3
    graph, providers = provider.opened[-1]
    name, settings = providers[0]
    assert name == first
    assert settings['device_id'] == str(index)
    assert providers[-1][1]['use_tf32'] == '0'
    assert isinstance(graph, str) == (device == 'cuda')
    if first.startswith('Tensorrt'):
        assert settings['trt_fp16_enable'] == str(int(precision == 'fp16'))
        assert settings['trt_profile_max_shapes'] == 'images:8x45x80x3'
    with pytest.raises(EngineError, match='fp32 on cuda, not bf16'):
        load_engine(small, 'onnxruntime', device='cuda', precision='bf16')


WISH: dict[str, Any] = {'engine': 'onnxruntime', 'device': 'tensorrt'}


def test_what_the_tensorrt_provider_builds_is_whole_or_not_there(
        small: ModelBundle, provider: Provider, tmp_path: Path) -> None:
    provider.dies = True
    with pytest.raises(KeyboardInterrupt):
        load_engine(small, **WISH)
    assert not is_built(small, **WISH)
    provider.dies = False
    load_engine(small, **WISH).close()
    assert provider.built == 2
    assert is_built(small, **WISH)
    # Neither in another precision, nor on another GPU.
    assert not is_built(small, **WISH, precision='fp16')
    assert not is_built(small, 'onnxruntime', device='tensorrt:1')
    load_engine(small, **WISH).close()
    assert provider.built == 2
    folder, = (tmp_path / 'cache' / 'kd_perception' / 'engines').iterdir()
    assert provider.opened[-1][1][0][1]['trt_engine_cache_path'] == str(folder)


def test_what_the_tensorrt_provider_cannot_read_is_built_again(
        small: ModelBundle, provider: Provider, tmp_path: Path,
        caplog: pytest.LogCaptureFixture) -> None:
    load_engine(small, **WISH).close()
    engine, = tmp_path.rglob('*.engine')
    engine.write_text('half')
    # Not where the GPU is at fault: another time it may be read.
    for words in ('CUDA failure 2: out of memory', 'CUDA failure 719: unspecified launch failure',
                  'CUDA failure 46: all CUDA-capable devices are busy or unavailable'):
        provider.refusal = words
        with pytest.raises(EngineError, match=words):
            load_engine(small, **WISH)
        assert is_built(small, **WISH)
    provider.refusal = 'could not deserialize engine from cache'
    load_engine(small, **WISH).close()
    assert 'could not deserialize' in caplog.text
    assert provider.built == 2
    assert is_built(small, **WISH)


def test_a_cache_that_cannot_be_written_costs_time_only(
        small: ModelBundle, provider: Provider, tmp_path: Path,
        images: Callable[[int], np.ndarray]) -> None:
    (tmp_path / 'cache').write_text('no folder')
    run = load_engine(small, **WISH)
    assert run.infer(images(1))['mask'].shape == (1, 45, 80)
    assert 'trt_engine_cache_path' not in provider.opened[-1][1][0][1]


@pytest.mark.parametrize(('precision', 'kind'), [
    ('fp32', onnx.TensorProto.FLOAT), ('fp16', onnx.TensorProto.FLOAT16),
    ('bf16', onnx.TensorProto.BFLOAT16)])
def test_convolutions_have_the_precision_and_edges_are_casts(small: ModelBundle, precision: str,
                                                             kind: int) -> None:
    model = onnx.load_from_string(typed_graph(small.file(DEPLOY).read_bytes(), precision))
    onnx.checker.check_model(model)
    types = {i.name: i.data_type for i in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == 'Conv']
    assert len(convolutions) > 10
    assert {types[node.input[1]] for node in convolutions} == {kind}
    for node in model.graph.node:
        if {'images', 'mask', 'confidence'} & {*node.input, *node.output}:
            assert node.op_type == 'Cast'


@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
def test_a_typed_graph_keeps_the_mask(decisive: tuple[ModelBundle, np.ndarray],
                                      precision: str) -> None:
    """By OpenVINO, which knows both types on every processor."""
    pytest.importorskip('openvino')
    bundle, frames = decisive
    core = openvino_engine._shared_core()
    model = core.read_model(typed_graph(bundle.file(DEPLOY).read_bytes(), precision))
    compiled = core.compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    mask, confidence = compiled(frames).values()
    expected = load_engine(bundle, 'torch', precision='fp32').infer(frames)
    assert (mask == expected['mask']).mean() >= 0.995
    assert np.abs(confidence.astype(int) - expected['confidence']).mean() < 3


def test_an_int8_graph_for_tensorrt_keeps_the_mask(decisive: tuple[ModelBundle, np.ndarray],
                                                   quantized: Callable[..., ModelBundle],
                                                   tmp_path: Path) -> None:
    bundle, frames = decisive
    made = quantized(bundle, frames, tmp_path / 'q', symmetric=True)
    content = typed_graph(made.file(DEPLOY_INT8).read_bytes(), 'int8')
    mask, _ = onnxruntime.InferenceSession(content).run(None, {'images': frames})
    run = load_engine(made, 'onnxruntime', precision='int8')
    assert (mask == run.infer(frames)['mask']).mean() > 0.999
    points = [onnx.numpy_helper.to_array(i) for i in onnx.load_from_string(
        content).graph.initializer if i.name.endswith('zero_point')]
    assert points
    assert not any(point.any() for point in points), 'TensorRT takes none but zero'


def test_bfloat16_is_rounded_to_the_nearest(small: ModelBundle) -> None:
    model = onnx.load_from_string(typed_graph(small.file(DEPLOY).read_bytes(), 'bf16'))
    plain = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load_from_string(
        small.file(DEPLOY).read_bytes()).graph.initializer}
    checked = 0
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.BFLOAT16:
            bits = np.frombuffer(tensor.raw_data, '<u2').astype(np.uint32) << 16
            expected = torch.from_numpy(plain[tensor.name.removesuffix('_bf16')].copy()).bfloat16()
            assert (bits.view(np.float32) == expected.float().numpy().ravel()).all()
            checked += 1
    assert checked > 10
