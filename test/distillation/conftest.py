"""A small world that can be learned in seconds: coloured stripes, a ten-line network."""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import signal
from typing import Any

import cv2
import numpy as np
import pytest
from safetensors.torch import load_file
import torch
from torch import nn

from kd_perception.bundle import BundleSpec, InputSpec, ModelBundle, NetworkSpec
from kd_perception.classes import ClassSet, load_class_set
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.recipe_file import recipe_from_dict
from kd_perception.frames import Progress
from kd_perception.networks.deploy import save_bundle
from kd_perception.networks.registry import build, register

HEIGHT, WIDTH = 32, 48


@register('toy')
def toy(num_classes: int, width: int = 8) -> nn.Module:
    """Return a network with batch norm and dropout whose logits have stride 2."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Dropout2d(0.1), nn.Conv2d(width, num_classes, 1))


@pytest.fixture(scope='session')
def driving() -> ClassSet:
    return load_class_set('driving')


def write_frames(folder: Path, count: int, *, seed: int, labels: bool = True) -> Path:
    """Write pictures of four stripes in the colours of their classes, with some noise."""
    rng = np.random.default_rng(seed)
    palette = load_class_set('driving').palette()
    folder.mkdir(parents=True)
    if labels:
        folder.with_name(f'{folder.name}_labels').mkdir()
    for index in range(count):
        ids = rng.choice(12, 4, replace=False).astype(np.uint8)
        truth = np.repeat(ids, WIDTH // 4)[None].repeat(HEIGHT, 0)
        image = np.clip(palette[truth] + rng.normal(0, 4, (HEIGHT, WIDTH, 3)), 0, 255)
        cv2.imwrite(str(folder / f'{index:04d}.png'), image.astype(np.uint8)[..., ::-1])
        if labels:
            truth = truth.copy()
            truth[:2] = 255
            cv2.imwrite(str(folder.with_name(f'{folder.name}_labels') / f'{index:04d}.png'),
                        truth)
    return folder


@pytest.fixture(scope='session')
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 24 labelled frames."""
    return write_frames(tmp_path_factory.mktemp('stripes') / 'train', 24, seed=1)


@pytest.fixture(scope='session')
def many_stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 100 labelled frames."""
    return write_frames(tmp_path_factory.mktemp('stripes') / 'many', 100, seed=3)


@pytest.fixture(scope='session')
def bare_stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 12 frames without labels."""
    return write_frames(tmp_path_factory.mktemp('stripes') / 'bare', 12, seed=2, labels=False)


@pytest.fixture
def make_recipe(stripes: Path) -> Callable[..., Recipe]:
    """Return a factory of quick recipes: ``make_recipe('--key', 'value', ...)``-like kwargs."""
    def make(*, train: Path = stripes, **optimization: Any) -> Recipe:
        sections = {k: optimization.pop(k) for k in
                    ('augment', 'data', 'distillation', 'network', 'seed', 'classes')
                    if k in optimization}
        return recipe_from_dict({
            'name': 'toy', 'network': {'builder': 'toy'},
            'input': {'height': HEIGHT, 'width': WIDTH},
            'data': {'defaults': {'classes': 'driving'}, 'validation_share': 0.25},
            'augment': {'crop': [24, 32], 'hue': 0.0, 'saturation': 0.1},
            'optimization': {'steps': 12, 'batch_size': 4, 'precision': 'fp32',
                             'learning_rate': 0.02, 'validate_every': 6, 'ema_decay': 0.9,
                             'log_every': 1, **optimization}, **sections}, train=[train])
    return make


@pytest.fixture
def stopped_at() -> Callable[..., Progress]:
    """Return a factory of progress functions that press Ctrl-C behind a step."""
    def make(step: int, note: str = 'loss') -> Progress:
        def stop(done: int, total: int, told: str) -> None:
            if done == step and told.startswith(note):
                os.kill(os.getpid(), signal.SIGINT)
        return stop
    return make


@pytest.fixture
def same_weights() -> Callable[[ModelBundle, ModelBundle], bool]:
    """Return whether two bundles have the same weights, to the bit."""
    def same(one: ModelBundle, two: ModelBundle) -> bool:
        first, second = (load_file(b.file('weights.safetensors')) for b in (one, two))
        return first.keys() == second.keys() and all(torch.equal(first[n], second[n])
                                                     for n in first)
    return same


@pytest.fixture
def resumes(tmp_path: Path, stopped_at: Callable[..., Progress],
            same_weights: Callable[[ModelBundle, ModelBundle], bool]) -> Callable[..., None]:
    """Return a check that a stopped run goes on to the weights of an undisturbed one."""
    def check(run: Callable[..., ModelBundle], *, at: int = 5) -> None:
        """Run into ``tmp_path / 'whole'``, and with a stop into ``tmp_path / 'run'``."""
        whole = run(tmp_path / 'whole')
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / 'run', progress=stopped_at(at))
        assert same_weights(whole, run(tmp_path / 'run'))
    return check


@pytest.fixture(scope='session')
def teacher(tmp_path_factory: pytest.TempPathFactory, driving: ClassSet) -> ModelBundle:
    """Return a bundle of an untrained network, the same whatever ran before."""
    torch.manual_seed(0)
    spec = BundleSpec(name='toy_teacher', task='segmentation', role='teacher', classes=driving,
                      input=InputSpec(HEIGHT, WIDTH), network=NetworkSpec('toy', {'width': 16}))
    return save_bundle(tmp_path_factory.mktemp('bundles') / 'teacher',
                       build(spec.network, len(driving)), spec)
