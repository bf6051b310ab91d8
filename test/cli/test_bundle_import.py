"""The verbs ``bundle import-onnx`` and ``import-torch``, and ``label --import``."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from kd_perception.bundle import load_bundle, NetworkSpec
from kd_perception.cli.main import main
from kd_perception.errors import KdPerceptionError
from kd_perception.networks.foreign.wishes import read_wishes
from kd_perception.networks.registry import build

FUZZ = int(os.environ.get('KD_PERCEPTION_FUZZ', '300'))
YAML = '''\
range: 0..255
mean: none
channel_order: bgr
resize: letterbox
classes: [road, car, person]
'''


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    torch.onnx.export(torch.nn.Conv2d(3, 3, 1), (torch.zeros(1, 3, 16, 24),),
                      str(tmp_path / 'net.onnx'), dynamo=False, input_names=['x'],
                      output_names=['y'])
    return tmp_path / 'net.onnx'


def test_a_graph_by_yaml_and_options(graph: Path, tmp_path: Path,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'net.yaml').write_text(YAML)
    arguments = ['bundle', 'import-onnx', str(graph), '--spec', str(tmp_path / 'net.yaml'),
                 '--channel-order', 'rgb', '--out', str(tmp_path / 'b')]
    assert main([*arguments, '--dry-run']) == 0
    text = capsys.readouterr().out
    assert 'nothing was written' in text
    assert not (tmp_path / 'b').exists()
    for part in ('letterbox', 'asked', 'guessed', 'onnxruntime: same class on 100.000%'):
        assert part in text
    assert main(arguments) == 0
    spec = load_bundle(tmp_path / 'b').spec
    assert (spec.input.channel_order, spec.input.scale, spec.input.resize) == ('rgb', 1.0,
                                                                               'letterbox')
    assert spec.classes.names == ('road', 'car', 'person')
    capsys.readouterr()
    assert main(['bundle', 'show', str(tmp_path / 'b')]) == 0
    assert 'foreign graph (file=net.onnx' in capsys.readouterr().out
    assert main(['bundle', 'verify', str(tmp_path / 'b')]) == 0
    assert main(arguments) == 2
    assert 'exists' in capsys.readouterr().err


def test_values_may_begin_with_a_minus(graph: Path, tmp_path: Path) -> None:
    assert main(['bundle', 'import-onnx', str(graph), '--range', '-1..1', '--mean', '-.5,-0.25,0',
                 '--std', '1', '--out', str(tmp_path / 'b')]) == 0
    spec = load_bundle(tmp_path / 'b').spec.input
    assert (spec.scale, spec.mean) == (2 / 255, (0.5, 0.75, 1.0))


def test_weights_into_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = build(NetworkSpec('compact', {'width': 8}), 3)
    torch.save({f'module.{k}': v for k, v in net.state_dict().items()}, tmp_path / 'w.pth')
    arguments = ['bundle', 'import-torch', str(tmp_path / 'w.pth'), '--builder', 'compact',
                 '--arguments', '{width: 8}', '--classes', 'a,b,c', '--size', '60x40',
                 '--multiple', '16', '--out', str(tmp_path / 'b')]
    assert main(arguments) == 0
    assert 'graph against torch: same class on' in capsys.readouterr().out
    spec = load_bundle(tmp_path / 'b').spec
    assert (spec.input.height, spec.input.width, spec.input.resize) == (48, 64, 'pad')
    assert main(['bundle', 'verify', str(tmp_path / 'b')]) == 0
    assert 'agrees with the weights' in capsys.readouterr().out


@pytest.mark.parametrize('arguments', [
    ['import-onnx', 'none.onnx', '--dry-run'], ['import-onnx', 'none.onnx'],
    ['import-onnx', 'x', '--dry-run', '--size', '9'], ['import-torch', 'x', '--dry-run'],
    ['import-onnx', 'x', '--dry-run', '--spec', 'none.yaml'],
    ['import-torch', 'none.pth', '--builder', 'smp', '--dry-run', '--classes', 'a,b'],
    ['import-torch', 'x', '--builder', 'smp', '--dry-run', '--arguments', '[1'],
    ['import-torch', 'x', '--builder', 'smp', '--dry-run', '--arguments', '[1]']])
def test_bad_calls_are_one_line(arguments: list[str],
                                capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(['bundle', *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert capsys.readouterr().err.strip().count('\n') == 0


def test_mutated_yaml_is_read_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    refused: list[str] = []
    for _ in range(FUZZ):
        data = bytearray(YAML.encode())
        for position in rng.integers(0, len(data), rng.integers(1, 8)):
            data[position] = rng.integers(256) if rng.random() < 0.3 else rng.choice(
                list(b':[]{}&*!|>\'"%@`- \n\t0'))
        (tmp_path / 'net.yaml').write_bytes(data)
        try:
            read_wishes(tmp_path / 'net.yaml')
        except KdPerceptionError as error:
            refused.append(str(error))
    assert len(refused) > FUZZ / 4
    assert not any('\n' in line for line in refused)


def test_labels_of_a_team(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ('drive', 'masks'):
        (tmp_path / folder).mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / 'drive' / f'f{i}.png'), np.zeros((16, 24, 3), np.uint8))
        cv2.imwrite(str(tmp_path / 'masks' / f'f{i}.png'), np.full((16, 24), i, np.uint8))
    arguments = ['label', '--import', str(tmp_path / 'masks'), str(tmp_path / 'drive'), '--out',
                 str(tmp_path / 'cache')]
    assert main(arguments) == 2
    assert '--import needs --classes' in capsys.readouterr().err
    assert main([*arguments, '--classes', 'camvid']) == 0
    assert '3 frames with ids by name, 0 without a label' in capsys.readouterr().out
