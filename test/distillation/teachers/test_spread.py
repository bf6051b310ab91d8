from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
import torch
from torch import nn

from kd_perception.bags.source import open_source
from kd_perception.bundle import BundleSpec, InputSpec, ModelBundle, NetworkSpec
from kd_perception.classes import ClassSet
from kd_perception.distillation.cache import SoftLabelCache
from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.labelling import label
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.teachers.online import OnlineTeacher
from kd_perception.distillation.teachers.spread import blocks
from kd_perception.distillation.trainer import distill
from kd_perception.errors import ConfigError, EngineError, TrainingError
from kd_perception.networks.deploy import save_bundle
from kd_perception.networks.registry import build
from kd_perception.tasks.soft_labels import SoftLabelCodec

Make = Callable[..., Recipe]


@pytest.fixture(scope='module')
def unet(tmp_path_factory: pytest.TempPathFactory, driving: ClassSet) -> ModelBundle:
    network = NetworkSpec('smp', {'architecture': 'Unet', 'encoder': 'resnet18'})
    spec = BundleSpec(name='unet', task='segmentation', role='teacher', classes=driving,
                      input=InputSpec(64, 64), network=network)
    return save_bundle(tmp_path_factory.mktemp('unet') / 'b', build(network, len(driving)), spec)


def batch() -> Batch:
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(0))
    return Batch(('a', 'b'), images, images[..., 0], torch.eye(2, 3).repeat(2, 1, 1))


def test_a_teacher_in_parts_says_what_it_says_in_one_piece(unet: ModelBundle) -> None:
    """The processor's memory and the disk stand for two devices."""
    whole = OnlineTeacher(unet)
    parts = OnlineTeacher(unet, spread=True, memory={'cpu': '20MiB'})
    told = parts.network.places
    assert 'cpu' in told
    assert 'disk' in told
    assert any(p.device.type == 'meta' for p in parts.network.module.parameters())
    torch.testing.assert_close(parts.teach(batch(), (1, 1)).logits,
                               whole.teach(batch(), (1, 1)).logits, atol=1e-5, rtol=1e-4)


def test_blocks_stay_in_one_piece(unet: ModelBundle) -> None:
    network = build(unet.spec.network, 12)
    assert 'BasicBlock' in blocks(network)
    assert blocks(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())) == []


def test_a_student_is_taught_by_a_teacher_in_parts(make_recipe: Make, unet: ModelBundle,
                                                   bare_stripes: Path, tmp_path: Path) -> None:
    recipe = make_recipe(train=bare_stripes, steps=2, distillation={
        'view': 'online', 'teacher_devices': 'auto', 'teacher_memory': {'cpu': '20MiB'}})
    student = distill(recipe, tmp_path / 'run', teacher=unet, cache_dir=None)
    assert student.spec.lineage.parents == (unet.hash,)
    # It says what it says in one piece.
    whole = distill(make_recipe(train=bare_stripes, steps=2, distillation={'view': 'online'}),
                    tmp_path / 'whole', teacher=unet, cache_dir=None)
    for name, tensor in load_file(whole.file('weights.safetensors')).items():
        torch.testing.assert_close(load_file(student.file('weights.safetensors'))[name], tensor,
                                   atol=1e-4, rtol=1e-3)


def test_a_teacher_in_parts_labels_whole_frames(unet: ModelBundle, bare_stripes: Path,
                                                tmp_path: Path) -> None:
    source, codec = open_source(bare_stripes, limit=2), SoftLabelCodec('fp16', 1)
    label(unet, source, tmp_path / 'whole', codec=codec, engine='onnxruntime')
    report = label(unet, source, tmp_path / 'parts', codec=codec, precision='fp32', spread=True,
                   memory={'cpu': '20MiB'})
    assert (report.labelled, report.engine) == (2, 'torch')
    whole, parts = (SoftLabelCache(tmp_path / name) for name in ('whole', 'parts'))
    for key in whole.keys:
        np.testing.assert_allclose(parts[key], whole[key], atol=0.02)
    with pytest.raises(EngineError, match='a teacher in parts runs in torch'):
        label(unet, source, tmp_path / 'x', engine='onnxruntime', spread=True)


def test_one_process_alone_has_all_devices(make_recipe: Make, unet: ModelBundle,
                                           bare_stripes: Path, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(train=bare_stripes, distillation={
        'view': 'online', 'teacher_devices': 'auto'})
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(ConfigError, match='teacher_devices auto: .*leave torchrun out'):
        distill(recipe, tmp_path / 'run', teacher=unet, cache_dir=None)
    assert not (tmp_path / 'run').exists()


def test_what_cannot_be_spread_is_told(make_recipe: Make) -> None:
    with pytest.raises(ConfigError, match='no teacher is in the loop'):
        make_recipe(distillation={'teacher_devices': 'auto'})
    with pytest.raises(ConfigError, match='is of distillation.teacher_devices auto'):
        make_recipe(distillation={'view': 'online', 'teacher_memory': {'cpu': '1GiB'}})


def test_a_wish_that_accelerate_does_not_understand_is_one_line(unet: ModelBundle) -> None:
    with pytest.raises(TrainingError, match='cannot be spread: .*teacher_memory'):
        OnlineTeacher(unet, spread=True, memory={'cpu': 'much'})
    with pytest.raises(TrainingError, match='not one part fits into memory'):
        OnlineTeacher(unet, spread=True, memory={'cpu': '1KiB'})
