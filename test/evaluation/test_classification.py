"""Top-1 of a classification on a folder of folders."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from torch import nn

from kd_perception.bundle import BundleSpec, InputSpec, ModelBundle, NetworkSpec
from kd_perception.classes import ClassSet
from kd_perception.errors import BagError, ConfigError
from kd_perception.evaluation.classification import evaluate_classification
from kd_perception.networks.deploy import save_bundle
from kd_perception.networks.registry import build, register

COLORS = {'red': (255, 0, 0), 'green': (0, 255, 0), 'blue': (0, 0, 255)}


@register('mean_color')
class MeanColor(nn.Module):
    """Says which of the channels is the brightest."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(nn.init.constant_(nn.Conv2d(1, 1, 1).weight, 3.0)[:, 0, 0])

    def forward(self, x):
        return x.mean((2, 3)) * self.scale


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    spec = BundleSpec(name='colors', task='classification', role='teacher',
                      classes=ClassSet.from_names('colors', COLORS), input=InputSpec(16, 16),
                      network=NetworkSpec('mean_color'))
    return save_bundle(tmp_path_factory.mktemp('b') / 'b', build(spec.network, 3), spec)


def write(folder: Path, name: str, color: tuple[int, ...], count: int = 2) -> None:
    (folder / name).mkdir(parents=True)
    for i in range(count):
        image = np.full((20, 30, 3), color, np.uint8)[..., ::-1]
        cv2.imwrite(str(folder / name / f'{i}.png'), image)


def test_top1(bundle: ModelBundle, tmp_path: Path) -> None:
    write(tmp_path, 'red', COLORS['red'])
    write(tmp_path, '1', COLORS['green'], 1)
    write(tmp_path, 'blue', COLORS['red'], 1)
    (tmp_path / 'blue' / 'x.jpg').write_bytes(b'no picture')
    for engine in ('onnxruntime', 'openvino', 'torch'):
        result = evaluate_classification(bundle, tmp_path, engine=engine)
        assert result.counts.tolist() == [[2, 0, 0], [0, 1, 0], [1, 0, 0]]
        assert result.bad_frames == 1
        assert result.accuracy == 0.75
    figures = result.to_dict()
    assert figures['recall'] == {'red': 1.0, 'green': 1.0, 'blue': 0.0}


def test_folders_that_do_not_fit(bundle: ModelBundle, tmp_path: Path) -> None:
    with pytest.raises(BagError, match='no such folder'):
        evaluate_classification(bundle, tmp_path / 'none')
    with pytest.raises(BagError, match='holds no folders of pictures'):
        evaluate_classification(bundle, tmp_path)
    write(tmp_path, 'violet', (9, 0, 9))
    with pytest.raises(ConfigError, match=r'1 folders are no classes of .colors. \(violet\)'):
        evaluate_classification(bundle, tmp_path)
