"""The verbs ``bundle`` and ``export``."""

from __future__ import annotations

import json
from pathlib import Path
import shutil

import numpy as np
import pytest
import torch

from kd_perception.bundle import (
    BundleSpec,
    DEPLOY,
    InputSpec,
    load_bundle,
    LOGITS,
    METRICS,
    MODEL_CARD,
    ModelBundle,
    NetworkSpec,
    WEIGHTS,
    write_bundle,
)
from kd_perception.classes import ClassSet
from kd_perception.cli.main import main
from kd_perception.engines.loader import load_engine
from kd_perception.networks.deploy import save_bundle
from kd_perception.networks.registry import build


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    torch.manual_seed(0)
    spec = BundleSpec(name='small', task='segmentation', role='student',
                      classes=ClassSet.from_names('five', 'abcde'), input=InputSpec(45, 80),
                      network=NetworkSpec('compact', {'width': 8}))
    module = build(spec.network, 5)
    return save_bundle(tmp_path_factory.mktemp('b') / 'small', module, spec,
                       weights_dtype='fp16',
                       extra_files={METRICS: json.dumps({'mean_iou': 0.625}).encode()})


def test_show(bundle: ModelBundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['bundle', 'show', str(bundle.path)]) == 0
    text = capsys.readouterr().out
    for part in ('small (student, segmentation)', '80x45 rgb', 'a, b, c, d, e', WEIGHTS,
                 'mean_iou 0.625'):
        assert part in text
    assert main(['bundle', 'show', str(bundle.path), '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['hash'] == bundle.hash
    assert facts['files'][WEIGHTS]['bytes'] == bundle.file(WEIGHTS).stat().st_size
    assert main(['bundle', 'show', 'small', '--models-dir', str(bundle.path.parent)]) == 0


def test_verify(bundle: ModelBundle, tmp_path: Path,
                capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['bundle', 'verify', str(bundle.path)]) == 0
    assert 'agrees with the weights' in capsys.readouterr().out
    shutil.copytree(bundle.path, tmp_path / 'b')
    content = bytearray((tmp_path / 'b' / LOGITS).read_bytes())
    content[100] ^= 1
    (tmp_path / 'b' / LOGITS).write_bytes(content)
    assert main(['bundle', 'verify', str(tmp_path / 'b')]) == 2
    error = capsys.readouterr().err
    assert 'differs from its hash' in error
    assert error.count('\n') == 1


def test_missing_bundle_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments in (['bundle', 'show', str(tmp_path / 'none')],
                      ['bundle', 'verify', str(tmp_path)], ['export', str(tmp_path / 'none')]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.count('\n') == 1


def test_export_from_weights_alone(bundle: ModelBundle, tmp_path: Path,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    bare = write_bundle(tmp_path / 'bare', bundle.spec, {
        name: bundle.file(name) for name in (WEIGHTS, METRICS)})
    assert main(['bundle', 'verify', str(bare.path)]) == 0
    assert 'kd_perception export' in capsys.readouterr().out
    assert main(['export', str(bare.path), '--out', str(tmp_path / 'full')]) == 0
    full = load_bundle(tmp_path / 'full')
    assert set(full.files) == {WEIGHTS, DEPLOY, LOGITS, MODEL_CARD, METRICS}
    # fp16 weights stay fp16, bit by bit.
    assert full.files[WEIGHTS] == bundle.files[WEIGHTS]
    picture = np.random.default_rng(0).integers(0, 256, (1, 45, 80, 3), dtype=np.uint8)
    for name, value in load_engine(full, 'onnxruntime').infer(picture).items():
        assert (value == load_engine(bundle, 'onnxruntime').infer(picture)[name]).all()


def test_export_in_place_needs_overwrite(bundle: ModelBundle, tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(bundle.path, tmp_path / 'b')
    before = load_bundle(tmp_path / 'b').hash
    assert main(['export', str(tmp_path / 'b')]) == 2
    assert '--overwrite' in capsys.readouterr().err
    assert load_bundle(tmp_path / 'b').hash == before
    assert main(['export', str(tmp_path / 'b'), '--overwrite', '--weights', 'fp32']) == 0
    assert load_bundle(tmp_path / 'b').hash != before
    assert [p.name for p in tmp_path.iterdir()] == ['b']


def test_export_at_another_size(bundle: ModelBundle, tmp_path: Path,
                                capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['export', str(bundle.path), '--size', '96x64', '--out',
                 str(tmp_path / 'b')]) == 0
    made = load_bundle(tmp_path / 'b')
    assert (made.spec.input.height, made.spec.input.width) == (64, 96)
    assert made.spec.lineage.parents == (bundle.hash,)
    assert load_engine(made).infer(np.zeros((1, 64, 96, 3), np.uint8))['mask'].shape == (
        1, 64, 96)
    capsys.readouterr()
    for size in ('96', '96x', 'x', '0x64', '²x²'):
        assert main(['export', str(bundle.path), '--size', size, '--out',
                     str(tmp_path / 'c')]) == 2
        assert capsys.readouterr().err.strip().count('\n') == 0
    assert not (tmp_path / 'c').exists()
