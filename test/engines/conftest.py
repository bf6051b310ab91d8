"""Bundles to run: a random small one, and one trained on real frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from kd_perception.bundle import BundleSpec, InputSpec, load_bundle, ModelBundle, NetworkSpec
from kd_perception.classes import ClassSet, load_class_set
from kd_perception.imaging import resize_image, resize_labels
from kd_perception.networks.deploy import load_module, Normalize, save_bundle
from kd_perception.networks.registry import build
from kd_perception.paths import share_directory
from kd_perception.simulation.street import StreetSimulator

SIZE = (45, 80)
TRAINED_SIZE = (180, 240)


@pytest.fixture(scope='session', autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep built engines of tests out of the user's cache."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp('cache')
    patch.setenv('XDG_CACHE_HOME', str(folder))
    yield folder
    patch.undo()


@pytest.fixture(scope='session')
def small(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """Return a bundle of a random network, 45x80, five classes, not the identity."""
    torch.manual_seed(0)
    spec = BundleSpec(name='small', task='segmentation', role='student',
                      classes=ClassSet.from_names('five', 'abcde'), input=InputSpec(*SIZE),
                      network=NetworkSpec('compact', {'width': 8}))
    module = build(spec.network, 5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return save_bundle(tmp_path_factory.mktemp('bundles') / 'small', module, spec)


@pytest.fixture(scope='session')
def images() -> Callable[[int], np.ndarray]:
    """Return a maker of uint8 [N, 45, 80, 3] noise."""
    def make(n: int) -> np.ndarray:
        return np.random.default_rng(n).integers(0, 256, (n, *SIZE, 3), dtype=np.uint8)

    return make


@pytest.fixture(scope='session')
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelBundle, np.ndarray]:
    """Return the shipped teacher, and pictures [4, 360, 640, 3] of the street it knows."""
    teacher = load_bundle(share_directory() / 'models' / 'street_teacher')
    folder = tmp_path_factory.mktemp('bundles') / 'shipped'
    frames = []
    for scenario in ('clear', 'dense_fog'):
        with StreetSimulator(scenario, seed=77) as street:
            frames += [street.render(time_s).image for time_s in (4.0, 21.0)]
    return save_bundle(folder, load_module(teacher), teacher.spec), np.stack(frames)


@pytest.fixture(scope='session')
def trained(tmp_path_factory: pytest.TempPathFactory,
            test_data: Path) -> tuple[ModelBundle, np.ndarray]:
    """
    Return a network that really segments, and the real frames [4, 180, 240, 3] it knows.

    Some seconds of training on four CamVid frames: it over-fits them, and so is as decided about
    them as a good network about a drive; undecided ones flip between runtimes.
    """
    classes = load_class_set('camvid')
    folder = test_data / 'camvid'
    files = sorted((folder / 'train').iterdir())
    chosen = files[::len(files) // 4][:4]
    frames = np.stack([resize_image(cv2.imread(str(f))[:, :, ::-1], *TRAINED_SIZE)
                       for f in chosen])
    labels = np.stack([resize_labels(classes.lookup()[cv2.imread(
        str(next((folder / 'train_labels').glob(f'{f.stem}.*'))), cv2.IMREAD_UNCHANGED)],
        *TRAINED_SIZE) for f in chosen])
    spec = BundleSpec(name='trained', task='segmentation', role='student', classes=classes,
                      input=InputSpec(*TRAINED_SIZE),
                      network=NetworkSpec('compact', {'width': 16}))
    torch.manual_seed(0)
    module = build(spec.network, len(classes)).train()
    pixels = Normalize(spec.input)(torch.from_numpy(frames))
    truth = torch.from_numpy(labels).long()
    share = torch.bincount(truth[truth < 255], minlength=len(classes)) / truth.numel()
    optimizer = torch.optim.AdamW(module.parameters(), 5e-3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for a busy core cost more than they bring
    for _ in range(110):
        logits = functional.interpolate(module(pixels), size=TRAINED_SIZE, mode='bilinear')
        loss = functional.cross_entropy(logits, truth, weight=1 / (share + 0.02),
                                        ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    bundle = save_bundle(tmp_path_factory.mktemp('bundles') / 'trained', module.eval(), spec)
    return bundle, frames
