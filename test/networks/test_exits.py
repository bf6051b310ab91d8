"""Exits: built by spec, averaged or left behind, exported like any other network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from kd_perception.bundle import BundleSpec, DEPLOY, LOGITS, NetworkSpec
from kd_perception.engines.torch_engine import TorchEngine
from kd_perception.errors import ConfigError
from kd_perception.networks import deploy
from kd_perception.networks.exits import ExitNet, mean_distribution, without_unused_exits
from kd_perception.networks.registry import build

Make = Callable[..., tuple[nn.Module, BundleSpec]]
SMALL: dict[str, Any] = {'base': 'compact', 'arguments': {'width': 8},
                         'layers': ['down8', 'context']}


def test_the_mean_of_distributions_by_hand() -> None:
    # Softmax of (ln 4, 0) is (0.8, 0.2), of (0, 0) it is (0.5, 0.5): the mean is (0.65, 0.35).
    one = torch.tensor([np.log(4.0), 0.0]).view(1, 2, 1, 1)
    got = mean_distribution([one, torch.zeros(1, 2, 1, 1)])
    np.testing.assert_allclose(got.softmax(1).flatten(), [0.65, 0.35], rtol=1e-6)
    np.testing.assert_allclose(got.exp().flatten(), [0.65, 0.35], rtol=1e-6)


def test_the_mean_agrees_with_an_independent_computation_and_stays_finite() -> None:
    rng = np.random.default_rng(0)
    logits = [rng.normal(0, 4, (2, 5, 6, 8)) for _ in range(3)]
    exps = [np.exp(z - z.max(1, keepdims=True)) for z in logits]
    expected = np.log(sum(e / e.sum(1, keepdims=True) for e in exps) / 3)
    got = mean_distribution([torch.tensor(z, dtype=torch.float32) for z in logits])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    sure = torch.tensor([200.0, 0.0]).view(1, 2, 1, 1)
    assert torch.isfinite(mean_distribution([sure, sure.half()])).all()
    coarse = mean_distribution([torch.randn(1, 3, 4, 6), torch.randn(1, 3, 2, 3)])
    assert coarse.shape == (1, 3, 4, 6)
    np.testing.assert_allclose(coarse.exp().sum(1), 1, rtol=1e-5)


def test_exits_speak_where_they_are_asked_to() -> None:
    torch.manual_seed(0)
    network = build(NetworkSpec('exits', {**SMALL, 'average': True}), 5).eval()
    assert isinstance(network, ExitNet)
    x = torch.randn(2, 3, 45, 80)
    every = network.all_logits(x)
    assert [tuple(z.shape) for z in every] == [(2, 5, 12, 20), (2, 5, 6, 10), (2, 5, 2, 3)]
    features = network.base.down8(network.base.stem(x))
    torch.testing.assert_close(every[1], network.heads[0](features))
    torch.testing.assert_close(network(x), mean_distribution(every))
    # In training the losses ask for every exit themselves.
    network.train()
    assert network(x).shape == (2, 5, 12, 20)
    network.eval().average = False
    assert torch.equal(network(x), network.base(x))
    assert not any(m._forward_hooks for m in network.modules())


def test_averaged_exits_are_exported(make: Make, tmp_path: Path) -> None:
    module, spec = make('exits', **SMALL, average=True)
    bundle = deploy.save_bundle(tmp_path / 'b', module, spec)
    images = np.random.default_rng(0).integers(0, 256, (2, 45, 80, 3), dtype=np.uint8)
    with torch.inference_mode():
        logits = deploy.LogitsGraph(module, spec.input)(torch.from_numpy(images)).numpy()
    for engine_graph, name in (('logits', LOGITS), ('deploy', DEPLOY)):
        engine = TorchEngine(bundle, engine_graph)
        expected = engine.infer(images)
        session = onnxruntime.InferenceSession(bundle.file(name).read_bytes(),
                                               providers=['CPUExecutionProvider'])
        got = dict(zip(engine.output_names, session.run(None, {deploy.IMAGES: images}),
                       strict=True))
        if name == LOGITS:
            scale = float(np.abs(logits).max())
            np.testing.assert_allclose(expected['logits'], logits, atol=1e-4 * scale)
            np.testing.assert_allclose(got['logits'], logits, atol=1e-4 * scale)
        else:
            assert (got['mask'] == expected['mask']).mean() > 0.999
            assert np.abs(got['confidence'].astype(int) - expected['confidence']).max() <= 2
    onnx.checker.check_model(onnx.load_model_from_string(bundle.file(DEPLOY).read_bytes()))


def test_exits_that_only_train_are_left_behind(make: Make, tmp_path: Path) -> None:
    module, spec = make('exits', **SMALL)
    base, network = without_unused_exits(module, spec.network)
    assert network == NetworkSpec('compact', {'width': 8})
    plain = BundleSpec(name='b', task=spec.task, role=spec.role, classes=spec.classes,
                       input=spec.input, network=network)
    bundle = deploy.save_bundle(tmp_path / 'b', base, plain)
    back = deploy.load_module(bundle)
    assert not [n for n in back.state_dict() if 'heads' in n or n.startswith('base')]
    x = torch.randn(1, 3, 45, 80)
    with torch.inference_mode():
        torch.testing.assert_close(back(x), module(x))
    average = build(NetworkSpec('exits', {**SMALL, 'average': True}), 5)
    kept = NetworkSpec('exits', {**SMALL, 'average': True})
    assert without_unused_exits(average, kept) == (average, kept)
    assert without_unused_exits(base, network) == (base, network)


def test_a_slimmed_network_keeps_its_channels_without_its_exits() -> None:
    cut = {'base.down8.1.first.0': (16, 6), 'base.down8.1.first.1': (6,),
           'base.down8.1.second': (6, 16)}
    spec = NetworkSpec('exits', SMALL, cut)
    module = build(spec, 5).eval()
    base, network = without_unused_exits(module, spec)
    assert network.channels == {name.removeprefix('base.'): w for name, w in cut.items()}
    again = build(network, 5).eval()
    again.load_state_dict(base.state_dict())
    x = torch.randn(1, 3, 45, 80)
    assert torch.equal(again(x), module(x))


@pytest.mark.parametrize(('arguments', 'said'), [
    ({'base': ''}, "base: '' is not the name of another builder"),
    ({'base': 'exits'}, "base: 'exits' is not the name of another builder"),
    ({'base': 'compakt'}, 'did you mean compact'),
    ({'layers': []}, 'layers: must be a list of names'),
    ({'layers': 'down8'}, 'layers: must be a list of names'),
    ({'layers': ['down9']}, "has no layer 'down9'; did you mean down8"),
    ({'arguments': 3}, 'arguments: must be a mapping'),
    ({'arguments': {'width': 3}}, 'width must be an even'),
    ({'average': 'yes'}, "average: must be true or false, not 'yes'")])
def test_arguments_that_make_no_network_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(NetworkSpec('exits', {**SMALL, **arguments}), 5)
