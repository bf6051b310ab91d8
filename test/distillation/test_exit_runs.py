"""Networks with exits in real runs: every exit is taught, what comes out is what was asked for."""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
import torch

from kd_perception.bags.source import open_source
from kd_perception.bundle import InputSpec, ModelBundle, NetworkSpec
from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.labelling import label
from kd_perception.distillation.losses import build_losses
from kd_perception.distillation.recipe import ExitsRecipe, Recipe
from kd_perception.distillation.targets.segmentation import SegmentationTarget
from kd_perception.distillation.trainer import distill, train
from kd_perception.errors import ConfigError
from kd_perception.networks.deploy import load_module
from kd_perception.networks.exits import ExitNet
from kd_perception.networks.registry import build

Make = Callable[..., Recipe]


def exits(*, average: bool = False) -> dict:
    return {'builder': 'exits', 'arguments': {
        'base': 'toy', 'arguments': {'width': 12}, 'layers': ['2', '0'], 'average': average}}


def events(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / 'train.jsonl').read_text().splitlines()]
    return [line for line in lines if line['event'] == 'train']


@pytest.mark.parametrize('average', [False, True])
def test_ground_truth_teaches_every_exit(make_recipe: Make, tmp_path: Path,
                                         average: bool) -> None:
    recipe = make_recipe(network=exits(average=average), steps=120, validate_every=60,
                         distillation={'exits': {'weights': [0.5, 0.25]}})
    bundle = train(recipe, tmp_path / 'run')
    lines = events(tmp_path / 'run')
    for term in ('cross_entropy', 'cross_entropy/2', 'cross_entropy/0'):
        assert sum(e[term] for e in lines[-10:]) < 0.7 * sum(e[term] for e in lines[:10])
    assert lines[0]['loss'] == pytest.approx(sum(
        lines[0][t] for t in ('cross_entropy', 'cross_entropy/2', 'cross_entropy/0')), rel=1e-4)
    metrics = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    assert metrics['validation']['mean_iou'] > 0.3
    names = load_file(bundle.file('weights.safetensors')).keys()
    network = load_module(bundle)
    if average:
        assert bundle.spec.network.arguments == exits(average=True)['arguments']
        assert 'heads.0.weight' in names
        assert isinstance(network, ExitNet)
    else:
        assert bundle.spec.network == NetworkSpec('toy', {'width': 12})
        assert not [n for n in names if 'heads' in n]


def test_a_teacher_teaches_every_exit(make_recipe: Make, teacher: ModelBundle, bare_stripes: Path,
                                      tmp_path: Path) -> None:
    label(teacher, open_source(bare_stripes), tmp_path / 'cache', engine='onnxruntime')
    recipe = make_recipe(train=bare_stripes, network=exits(average=True), steps=4, distillation={
        'losses': {'kl': {}, 'hint': {'layers': {'base.2': '2'}}}})
    distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=tmp_path / 'cache')
    terms = events(tmp_path / 'run')[0].keys()
    # Layers are compared once, outputs at every exit.
    assert {'kl', 'hint', 'kl/2', 'kl/0'} <= terms
    assert not {'hint/2', 'hint/0'} & terms


def test_layers_alone_teach_first_then_every_exit(make_recipe: Make, teacher: ModelBundle,
                                                  bare_stripes: Path, tmp_path: Path) -> None:
    label(teacher, open_source(bare_stripes), tmp_path / 'cache', engine='onnxruntime')
    recipe = make_recipe(train=bare_stripes, network=exits(), steps=4, distillation={
        'losses': {'kl': {'start': 0.5}, 'hint': {'layers': {'base.2': '2'}, 'end': 0.5}}})
    distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=tmp_path / 'cache')
    told = [{k for k in e if k.partition('/')[0] in ('kl', 'hint')}
            for e in events(tmp_path / 'run')]
    assert told == [{'hint'}] * 2 + [{'kl', 'kl/2', 'kl/0'}] * 2


def test_an_exit_weighs_what_the_recipe_says() -> None:
    network = build(NetworkSpec('exits', exits()['arguments']), 12).train()
    images = torch.randint(0, 256, (2, 24, 32, 3), dtype=torch.uint8)
    batch = Batch(('a', 'b'), images, torch.ones(2, 24, 32, dtype=torch.uint8),
                  torch.eye(2, 3).repeat(2, 1, 1))

    def terms(**settings: object) -> dict[str, float]:
        target = SegmentationTarget(InputSpec(24, 32),
                                    losses=build_losses({'cross_entropy': {'weight': 3}}))
        target.attach(network, (24, 32), ExitsRecipe(**settings))  # type: ignore[arg-type]
        torch.manual_seed(0)
        return {n: float(t.detach()) for n, t in target.losses(network, batch).items()}

    once, twice = terms(weight=1.0), terms(weights=(2.0, 0.5))
    assert twice['cross_entropy'] == once['cross_entropy']
    assert twice['cross_entropy/2'] == pytest.approx(2 * once['cross_entropy/2'])
    assert twice['cross_entropy/0'] == pytest.approx(0.5 * once['cross_entropy/0'])
    with pytest.raises(ConfigError, match='exits.weights: 1 values for 2 exits'):
        terms(weights=(1.0,))


def test_weights_that_make_no_sense_are_refused(make_recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'distillation.exits.weights\[1\]: 0 is not within'):
        make_recipe(distillation={'exits': {'weights': [1, 0]}})
    with pytest.raises(ConfigError, match='distillation.exits.weight: -1 is not within'):
        make_recipe(distillation={'exits': {'weight': -1}})
    with pytest.raises(ConfigError, match='1 values for 0 exits'):
        train(make_recipe(distillation={'exits': {'weights': [1]}}), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
