"""The comparison with published scores, as far as it goes without their weights."""

from __future__ import annotations

from pathlib import Path
import runpy
import sys

import pytest

FOLDER = Path(__file__).resolve().parents[2] / 'benchmarks'


@pytest.mark.parametrize('network', ['espnet', 'resnet20'])
def test_a_file_that_is_no_graph_is_one_line(network, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))             # it imports ``result`` beside it
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data_labels').mkdir()
    for name in ('data', 'data_labels'):
        (tmp_path / name / '1.png').write_bytes(b'')
    (tmp_path / 'net.onnx').write_bytes(b'no graph')
    script = runpy.run_path(str(FOLDER / 'foreign_networks.py'))
    monkeypatch.setattr(sys, 'argv', ['foreign_networks', network, str(tmp_path / 'net.onnx'),
                                      str(tmp_path / 'data')])
    assert script['main']() == 2
    told = capsys.readouterr().err
    assert 'net.onnx: is no ONNX file or is damaged' in told
    assert told.count('\n') == 1
