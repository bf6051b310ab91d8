from __future__ import annotations

from collections.abc import Callable
from functools import partial
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
import torch
from torch import nn

from kd_perception.bundle import ModelBundle
from kd_perception.distillation.checkpoint import load_checkpoint, save_checkpoint
from kd_perception.distillation.optimizer import decayed_parameters, make_optimizer, penalties
from kd_perception.distillation.recipe import OptimizationRecipe, Recipe
from kd_perception.distillation.recipe_checks import OPTIMIZERS
from kd_perception.distillation.trainer import train

Make = Callable[..., Recipe]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)).double()


def weights(bundle: ModelBundle) -> dict[str, torch.Tensor]:
    return load_file(bundle.file('weights.safetensors'))


def expected_step(name: str, w: np.ndarray, g: np.ndarray, first: np.ndarray, second: np.ndarray,
                  step: int) -> np.ndarray:
    """Return the change of weights by the papers' formulas, rate 0.1; updates the moments."""
    if name == 'sgd':
        return -0.1 * g
    if name == 'momentum':
        first[:] = 0.9 * first + g
        return -0.1 * (g + 0.9 * first)
    if name == 'adagrad':
        second += g ** 2
        return -0.1 * g / (np.sqrt(second) + 1e-10)
    first[:] = 0.9 * first + 0.1 * g
    second[:] = 0.999 * second + 0.001 * g ** 2
    mean, variance = first / (1 - 0.9 ** step), second / (1 - 0.999 ** step)
    return -0.1 * mean / (np.sqrt(variance) + 1e-8)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_each_optimiser_steps_as_its_paper_says(name: str) -> None:
    module = network()
    optimizer = make_optimizer(module, OptimizationRecipe(
        optimizer=name, learning_rate=0.1, weight_decay=0.0))
    weight = module[0].weight
    w = weight.detach().numpy().copy()
    first, second = np.zeros_like(w), np.zeros_like(w)
    for step in range(1, 4):
        optimizer.zero_grad()
        module(torch.ones(2, 2, 3, 3).double() * torch.rand(1).double()).square().sum().backward()
        g = weight.grad.numpy().copy()
        optimizer.step()
        w += expected_step(name, w, g, first, second, step)
        np.testing.assert_allclose(weight.detach(), w, rtol=1e-6)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_only_weights_decay(name: str) -> None:
    module = network()
    optimizer = make_optimizer(module, OptimizationRecipe(
        optimizer=name, learning_rate=0.1, weight_decay=0.5))
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for n, parameter in module.named_parameters():
        assert torch.equal(parameter, before[n]) == (parameter.ndim == 1), n


def test_penalties_agree_with_an_independent_computation() -> None:
    module = network()
    decayed = decayed_parameters(module)
    values = np.concatenate([p.detach().numpy().ravel() for p in (module[0].weight,
                                                                  module[2].weight)])
    assert penalties(decayed, OptimizationRecipe()) == {}
    terms = penalties(decayed, OptimizationRecipe(l1=0.25, l2=0.5))
    assert float(terms['l1']) == pytest.approx(0.25 * np.abs(values).sum(), rel=1e-6)
    assert float(terms['l2']) == pytest.approx(0.5 / 2 * (values ** 2).sum(), rel=1e-6)
    torch.stack(list(terms.values())).sum().backward()
    weight = module[0].weight
    np.testing.assert_allclose(weight.grad, (0.25 * torch.sign(weight) + 0.5 * weight).detach(),
                               rtol=1e-6)
    assert module[0].bias.grad is None


def test_penalties_are_terms_of_the_loss_and_keep_weights_small(make_recipe: Make,
                                                                tmp_path: Path) -> None:
    plain = train(make_recipe(weight_decay=0), tmp_path / 'plain')
    small = train(make_recipe(weight_decay=0, l1=0.02, l2=0.02), tmp_path / 'small')
    sizes = [sum(float(w.abs().sum()) for w in weights(b).values() if w.ndim > 1)
             for b in (plain, small)]
    assert sizes[1] < 0.9 * sizes[0]
    lines = [json.loads(x) for x in (tmp_path / 'small' / 'train.jsonl').read_text().splitlines()]
    first = next(x for x in lines if x['event'] == 'train')
    assert first['loss'] == pytest.approx(first['cross_entropy'] + first['l1'] + first['l2'],
                                          rel=1e-4)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_every_optimiser_resumes_to_the_bit(make_recipe: Make, resumes: Callable[..., None],
                                            name: str) -> None:
    recipe = make_recipe(optimizer=name, steps=4, validate_every=4, l1=1e-4, l2=1e-4)
    resumes(partial(train, recipe), at=2)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_a_checkpoint_holds_all_that_an_optimiser_knows(tmp_path: Path, name: str) -> None:
    recipe = OptimizationRecipe(optimizer=name, learning_rate=0.1)

    def stepped(times: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        module = network().to(memory_format=torch.channels_last)
        optimizer = make_optimizer(module, recipe)
        for _ in range(times):
            optimizer.zero_grad()
            module(torch.ones(2, 2, 3, 3).double()).square().sum().backward()
            optimizer.step()
        return module, optimizer

    module, optimizer = stepped(3)
    save_checkpoint(tmp_path / 'c', module, optimizer=optimizer, state={})
    # One that has state of its own already, and one that has none yet.
    for times in (1, 0):
        other, restored = stepped(times)
        load_checkpoint(tmp_path / 'c', other, optimizer=restored)
        expected, got = optimizer.state_dict()['state'], restored.state_dict()['state']
        assert expected.keys() == got.keys()
        for index, values in expected.items():
            assert values.keys() == got[index].keys()
            for key, value in values.items():
                assert value is got[index][key] is None or torch.equal(value, got[index][key])
