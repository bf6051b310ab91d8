"""Bundles to run: a random small one, one that is sure of its pictures, the shipped one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from kd_perception.bundle import BundleSpec, InputSpec, load_bundle, ModelBundle, NetworkSpec
from kd_perception.classes import ClassSet
from kd_perception.engines.loader import load_engine
from kd_perception.imaging import resize_image
from kd_perception.networks.deploy import load_module, Normalize, save_bundle
from kd_perception.networks.registry import build
from kd_perception.paths import share_directory
from kd_perception.simulation.street import StreetSimulator

SIZE = (45, 80)
DECISIVE_SIZE = (90, 160)


@pytest.fixture(scope='session')
def small(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """Return a bundle of a random network, 45x80, five classes, not the identity."""
    return random_bundle(tmp_path_factory.mktemp('bundles') / 'small', SIZE)


@pytest.fixture(scope='session')
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """Return the same for 32x32, for very many calls."""
    return random_bundle(tmp_path_factory.mktemp('bundles') / 'tiny', (32, 32))


def random_bundle(path: Path, size: tuple[int, int]) -> ModelBundle:
    torch.manual_seed(0)
    spec = BundleSpec(name=path.name, task='segmentation', role='student',
                      classes=ClassSet.from_names('five', 'abcde'), input=InputSpec(*size),
                      network=NetworkSpec('compact', {'width': 8}))
    module = build(spec.network, 5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return save_bundle(path, module, spec)


@pytest.fixture(scope='session')
def images() -> Callable[[int], np.ndarray]:
    """Return a maker of uint8 [N, 45, 80, 3] noise."""
    def make(n: int) -> np.ndarray:
        return np.random.default_rng(n).integers(0, 256, (n, *SIZE, 3), dtype=np.uint8)

    return make


@pytest.fixture(scope='session')
def shipped(tmp_path_factory: pytest.TempPathFactory
            ) -> tuple[ModelBundle, np.ndarray, np.ndarray]:
    """Return the shipped teacher for 320x176, a picture of its street, and torch's mask."""
    teacher = load_bundle(share_directory() / 'models' / 'street_teacher')
    folder = tmp_path_factory.mktemp('bundles') / 'shipped'
    with StreetSimulator('dense_fog', seed=77) as street:
        frame = resize_image(street.render(4.0).image, 176, 320)[np.newaxis]
    spec = replace(teacher.spec, input=replace(teacher.spec.input, height=176, width=320))
    bundle = save_bundle(folder, load_module(teacher), spec)
    return bundle, frame, load_engine(bundle, 'torch', precision='fp32').infer(frame)['mask']


@pytest.fixture(scope='session')
def decisive(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelBundle, np.ndarray]:
    """
    Return a network that is sure of what it sees, and the pictures [4, 90, 160, 3] it knows.

    Some seconds of training on noisy coloured boxes: undecided networks flip between runtimes,
    and on such nothing could be said about a runtime.
    """
    generator = np.random.default_rng(3)
    colours = np.array([[40, 40, 40], [220, 60, 50], [60, 200, 70], [60, 80, 220], [220, 210, 60],
                        [60, 210, 210], [210, 70, 210], [240, 240, 240]])
    labels = np.zeros((4, *DECISIVE_SIZE), np.int64)
    for picture in labels:
        for number in generator.permutation(np.arange(1, 8)):
            y, x = generator.integers(0, 60), generator.integers(0, 125)
            picture[y:y + generator.integers(20, 40), x:x + generator.integers(25, 50)] = number
    noise = generator.normal(0, 12, (*labels.shape, 3))
    frames = (colours[labels] + noise).clip(0, 255).astype(np.uint8)
    spec = BundleSpec(name='decisive', task='segmentation', role='student',
                      classes=ClassSet.from_names('eight', 'abcdefgh'),
                      input=InputSpec(*DECISIVE_SIZE),
                      network=NetworkSpec('compact', {'width': 8}))
    torch.manual_seed(0)
    module = build(spec.network, 8).train()
    pixels, truth = Normalize(spec.input)(torch.from_numpy(frames)), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for a busy core cost more than they bring
    for _ in range(70):
        logits = functional.interpolate(module(pixels), size=DECISIVE_SIZE, mode='bilinear')
        loss = functional.cross_entropy(logits, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    bundle = save_bundle(tmp_path_factory.mktemp('bundles') / 'decisive', module.eval(), spec,
                         images=frames)
    return bundle, frames
