"""Bundles to run: a random small one, one that is sure of its pictures, the shipped one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from kd_perception.bundle import (
    BundleSpec,
    DEPLOY,
    DEPLOY_INT8,
    InputSpec,
    load_bundle,
    ModelBundle,
    NetworkSpec,
    write_bundle,
)
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


def _quantized(bundle: ModelBundle, frames: np.ndarray, path: Path, *,
               symmetric: bool = False) -> ModelBundle:
    """
    Return the bundle with an int8 graph beside: Q/DQ nodes around its convolutions.

    :param frames: uint8 ``[N, H, W, 3]``, for the ranges of activations.
    :param symmetric: signed and around zero, which TensorRT wants; less exact than unsigned.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        quantize_static,
        QuantType,
    )

    class Frames(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{'images': frame[np.newaxis]} for frame in frames]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    path.mkdir(parents=True)
    quantize_static(
        str(bundle.file(DEPLOY)), str(path / DEPLOY_INT8), Frames(), per_channel=True,
        quant_format=QuantFormat.QDQ, op_types_to_quantize=['Conv'],
        activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        weight_type=QuantType.QInt8, extra_options={'ActivationSymmetric': symmetric})
    files = {name: bundle.file(name) for name in bundle.files}
    return write_bundle(path / 'bundle', bundle.spec, {**files, DEPLOY_INT8: path / DEPLOY_INT8})


def _fixed_batch(bundle: ModelBundle, number: int, path: Path) -> ModelBundle:
    """Return the bundle with a deploy graph that takes ``number`` images, no more and no less."""
    import onnx
    model = onnx.load(bundle.file(DEPLOY))
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = number
    del model.graph.value_info[:]
    files = {name: bundle.file(name) for name in bundle.files}
    return write_bundle(path, bundle.spec, {**files, DEPLOY: model.SerializeToString()})


@pytest.fixture(scope='session')
def quantized() -> Callable[..., ModelBundle]:
    """Return the maker of bundles with an int8 graph."""
    return _quantized


@pytest.fixture(scope='session')
def fixed_batch() -> Callable[[ModelBundle, int, Path], ModelBundle]:
    """Return the maker of bundles whose graph takes one number of images."""
    return _fixed_batch


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
