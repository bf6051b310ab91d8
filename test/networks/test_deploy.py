"""Graphs against torch, and bundles there and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from kd_perception.bundle import (
    BundleSpec,
    DEPLOY,
    InputSpec,
    load_bundle,
    LOGITS,
    METRICS,
    MODEL_CARD,
    NetworkSpec,
    WEIGHTS,
)
from kd_perception.errors import BundleError
from kd_perception.networks import deploy

Make = Callable[..., tuple[nn.Module, BundleSpec]]


def run(graph: bytes, images: np.ndarray) -> list[Any]:
    session = onnxruntime.InferenceSession(graph, providers=['CPUExecutionProvider'])
    return session.run(None, {deploy.IMAGES: images})


def pictures(n: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *size, 3), dtype=np.uint8)


def test_tail_is_softmax_and_argmax_of_upsampled_logits() -> None:
    torch.manual_seed(1)
    for size in ((9, 16), (18, 31), (45, 80), (300, 500)):
        logits = torch.randn(2, 6, 9, 16) * 6
        mask, confidence = deploy.segmentation_tail(logits, size)
        up = functional.interpolate(logits, size=size, mode='bilinear', align_corners=False)
        best, index = up.softmax(1).max(1)
        assert mask.dtype == confidence.dtype == torch.uint8
        assert mask.shape == confidence.shape == (2, *size)
        assert (mask == index).float().mean() > 0.9999
        assert (confidence - best * 255).abs().max() < 0.51


def test_tail_survives_extreme_logits() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 0, 0, 0], logits[:, 1, 1, 1] = 1e4, 1e4
    mask, confidence = deploy.segmentation_tail(logits, (8, 8))
    assert mask[0, 0, 0] == 0
    assert mask[0, 7, 7] == 1
    assert confidence[0, 0, 0] == 255
    assert mask.max() <= 2


def test_normalize() -> None:
    spec = InputSpec(4, 4, scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    images = torch.from_numpy(pictures(1, (4, 4)))
    got = deploy.Normalize(spec)(images)
    for c in range(3):
        expected = (images[..., c].double() / 255 - spec.mean[c]) / spec.std[c]
        torch.testing.assert_close(got[:, c].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(('builder', 'arguments'), [
    ('compact', {'width': 8}),
    ('smp', {'encoder': 'resnet18', 'encoder_depth': 3, 'decoder_channels': [16, 8, 8]}),
    ('smp', {'architecture': 'FPN', 'encoder': 'tu-resnet10t', 'encoder_depth': 4,
             'upsampling': 1})])
def test_graphs_equal_torch(make: Make, builder: str, arguments: dict[str, Any]) -> None:
    module, spec = make(builder, **arguments)
    graphs = deploy.export_graphs(module, spec)
    images = pictures(2, (45, 80))
    with torch.inference_mode():
        mask, confidence = deploy.DeployGraph(module, spec.input)(torch.from_numpy(images))
        logits = deploy.LogitsGraph(module, spec.input)(torch.from_numpy(images))
    # The batch is dynamic: exported with one picture, run with two.
    got_mask, got_confidence = run(graphs[DEPLOY], images)
    got_logits, = run(graphs[LOGITS], images)
    scale = float(logits.abs().max())
    np.testing.assert_allclose(got_logits, logits.numpy(), atol=1e-4 * scale)
    assert (got_mask == mask.numpy()).mean() > 0.999
    assert np.abs(got_confidence.astype(int) - confidence.numpy()).max() <= 2
    assert got_mask.dtype == got_confidence.dtype == np.uint8


def test_graphs_are_portable(make: Make) -> None:
    module, spec = make()
    for name, graph in deploy.export_graphs(module, spec).items():
        model = onnx.load_model_from_string(graph)
        onnx.checker.check_model(model)
        assert [(o.domain, o.version) for o in model.opset_import] == [('', deploy.OPSET)]
        shape = model.graph.input[0].type.tensor_type.shape.dim
        assert shape[0].dim_param == 'N'
        assert [d.dim_value for d in shape[1:]] == [45, 80, 3]
        assert tuple(o.name for o in model.graph.output) == deploy.OUTPUTS['segmentation'][name]


def test_export_leaves_the_module_as_it_was(make: Make) -> None:
    module, spec = make()
    module.train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    deploy.export_graphs(module, spec)
    assert module.training
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_bundle_there_and_back(make: Make, tmp_path: Path) -> None:
    module, spec = make()
    bundle = deploy.save_bundle(tmp_path / 'b', module, spec, extra_files={METRICS: b'{}'})
    assert set(bundle.files) == {WEIGHTS, DEPLOY, LOGITS, MODEL_CARD, METRICS}
    back = deploy.load_module(load_bundle(tmp_path / 'b'))
    assert not back.training
    x = torch.rand(1, 3, 45, 80)
    with torch.inference_mode():
        torch.testing.assert_close(back(x), module(x))
    with pytest.raises(BundleError, match='--overwrite'):
        deploy.save_bundle(tmp_path / 'b', module, spec)
    deploy.save_bundle(tmp_path / 'b', module, spec, overwrite=True)


def test_graphs_of_an_fp16_bundle_are_of_the_rounded_weights(make: Make, tmp_path: Path) -> None:
    module, spec = make()
    bundle = deploy.save_bundle(tmp_path / 'b', module, spec, weights_dtype='fp16')
    images = pictures(1, (45, 80))
    with torch.inference_mode():
        logits = deploy.LogitsGraph(deploy.load_module(bundle), spec.input)(
            torch.from_numpy(images)).numpy()
    got, = run(bundle.file(LOGITS).read_bytes(), images)
    np.testing.assert_allclose(got, logits, atol=1e-4 * np.abs(logits).max())


def test_spec_that_does_not_rebuild_the_module_is_refused(make: Make, tmp_path: Path) -> None:
    module, _ = make(width=8)
    _, other = make(width=10)
    with pytest.raises(BundleError, match='network needs'):
        deploy.save_bundle(tmp_path / 'b', module, other)
    assert not list(tmp_path.iterdir())


def test_changed_weights_and_foreign_bundles_are_refused(make: Make, tmp_path: Path) -> None:
    module, spec = make()
    bundle = deploy.save_bundle(tmp_path / 'b', module, spec)
    path = bundle.file(WEIGHTS)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match='differs from its hash'):
        deploy.load_module(bundle)
    foreign = BundleSpec(name='f', task='segmentation', role='teacher', classes=spec.classes,
                         input=spec.input, network=NetworkSpec())
    object.__setattr__(bundle, 'spec', foreign)
    with pytest.raises(BundleError, match='foreign graph'):
        deploy.load_module(bundle)


def test_a_graph_that_lies_is_caught(make: Make) -> None:
    module, spec = make()
    other, _ = make()
    with torch.no_grad():
        other.head.weight.neg_()
        other.head.bias.neg_()
    graph = deploy.export_graphs(other, spec)[DEPLOY]
    with pytest.raises(BundleError, match='agrees with torch on only'):
        deploy.check_graph(module, spec, graph)
    assert deploy.check_graph(other, spec, graph) > 0.999


def test_other_tasks_have_no_graph_yet(make: Make) -> None:
    module, spec = make()
    boxes = BundleSpec(name='d', task='detection', role='student', classes=spec.classes,
                       input=spec.input, network=spec.network)
    with pytest.raises(BundleError, match='no deployable graph yet'):
        deploy.export_graphs(module, boxes)


def test_a_network_that_does_not_export_is_one_line(tmp_path: Path) -> None:
    # In a process of its own: the exporter prints past Python's streams.
    code = '''
import torch
from torch import nn
from kd_perception.bundle import BundleSpec, InputSpec, NetworkSpec
from kd_perception.classes import ClassSet
from kd_perception.errors import BundleError
from kd_perception.networks.deploy import export_graphs

class Unpooled(nn.Module):
    def forward(self, x):
        y, at = nn.functional.max_pool2d(x, 2, return_indices=True)
        return nn.functional.max_unpool2d(y, at, 2)

spec = BundleSpec(name='n', task='segmentation', role='teacher',
                  classes=ClassSet.from_names('c', 'abc'), input=InputSpec(8, 8),
                  network=NetworkSpec('none', {}))
try:
    export_graphs(Unpooled(), spec)
except BundleError as error:
    print(error)
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          check=True, cwd=tmp_path)
    assert 'max_unpool2d' in done.stdout
    assert len(done.stdout.splitlines()) == 1
