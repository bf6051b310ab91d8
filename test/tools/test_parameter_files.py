"""The parameter files are what the declarations say."""

import pytest
import yaml

from kd_perception.nodes.parameters import ParameterSpec, TABLES
from kd_perception.paths import share_directory
from tools.parameter_files import HEADS, render


@pytest.mark.parametrize('name', HEADS)
def test_files_are_what_the_generator_writes(name):
    there = (share_directory() / 'config' / name).read_text(encoding='utf-8')
    assert there == render(name), 'run: python -m tools.parameter_files'


def test_limits_choices_and_odd_texts(monkeypatch):
    table = (ParameterSpec('speed', 1.5, 'How fast.', minimum=0, maximum=1e6, dynamic=True),
             ParameterSpec('count', 2, 'How many.', minimum=0),
             ParameterSpec('word', "it's", 'What.', choices=("it's", 'y'), read_only=True),
             ParameterSpec('names', (), 'Who.'))
    monkeypatch.setitem(TABLES, 'perception', table)
    text = render('perception.yaml')
    assert '# How fast. From 0 to 1000000.\n' in text
    assert '# How many. At least 0. Can be set while the node is unconfigured only.\n' in text
    assert "# What. One of: it's, y. Set at the start of the node only.\n" in text
    assert yaml.safe_load(text)['/**']['ros__parameters'] == {
        'speed': 1.5, 'count': 2, 'word': "it's", 'names': ['']}
    assert all(len(line) < 100 for line in text.splitlines())
