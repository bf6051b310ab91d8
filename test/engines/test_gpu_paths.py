"""What is sent to a GPU, as far as a machine without one can tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from kd_perception.bundle import DEPLOY, ModelBundle
from kd_perception.engines import openvino_engine
from kd_perception.engines.loader import load_engine
from kd_perception.engines.torch_engine import TorchEngine
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


def test_compile_is_an_option(small: ModelBundle, images: Callable[[int], np.ndarray],
                              monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch, 'compile', lambda module: asked.append(module) or module)
    TorchEngine(small).close()
    assert not asked
    run = TorchEngine(small, compiled=True)
    assert len(asked) == 1
    assert run.infer(images(1))['mask'].shape == (1, 45, 80)


@pytest.mark.parametrize(('device', 'precision', 'first'), [
    ('cuda', 'fp32', 'CUDAExecutionProvider'), ('cuda:1', 'fp16', 'CUDAExecutionProvider'),
    ('tensorrt', 'fp32', 'TensorrtExecutionProvider'),
    ('tensorrt:1', 'fp16', 'TensorrtExecutionProvider')])
def test_providers_of_onnxruntime(small: ModelBundle, images: Callable[[int], np.ndarray],
                                  monkeypatch: pytest.MonkeyPatch, device: str, precision: str,
                                  first: str) -> None:
    given: dict[str, Any] = {}
    real = onnxruntime.InferenceSession

    class Session:
        def __init__(self, graph: Any, options: Any, providers: Any) -> None:
            given.update(graph=graph, providers=providers)
            self._real = real(graph, options, providers=['CPUExecutionProvider'])

        def get_providers(self) -> list[str]:
            return [name for name, _ in given['providers']]

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    monkeypatch.setattr(onnxruntime, 'InferenceSession', Session)
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: [
        'TensorrtExecutionProvider', 'CUDAExecutionProvider', 'CPUExecutionProvider'])
    run = load_engine(small, 'onnxruntime', device=device, precision=precision)
    assert (run.device, run.precision) == (device, precision)
    assert run.infer(images(2))['mask'].shape == (2, 45, 80)
    name, settings = given['providers'][0]
    assert name == first
    assert settings['device_id'] == ('1' if device.endswith(':1') else '0')
    assert given['providers'][-1][1]['use_tf32'] == '0'
    assert isinstance(given['graph'], str) == (device == 'cuda')
    if first.startswith('Tensorrt'):
        assert settings['trt_fp16_enable'] == str(int(precision == 'fp16'))
        assert settings['trt_profile_max_shapes'] == 'images:8x45x80x3'
    with pytest.raises(EngineError, match='fp32 on cuda, not bf16'):
        load_engine(small, 'onnxruntime', device='cuda', precision='bf16')


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
