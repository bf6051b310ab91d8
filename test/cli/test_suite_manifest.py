"""What a suite on disk and its options must not be: needs no OpenGL."""

from __future__ import annotations

import pytest
import yaml

from kd_perception.cli import suite as suites
from kd_perception.cli.main import main
from kd_perception.cli.suite import read_manifest, suite_bags
from kd_perception.cli.suite_plan import load_suite
from kd_perception.errors import BagError

FACTS = {'sha256': 'a', 'bytes': 1, 'group': 'train', 'role': 'train'}
WHOLE = {'schema': 1, 'name': 'tiny', 'plan': 'p', 'complete': True,
         'parts': {'train/a_0': FACTS}}


def write(folder, **changes):
    data = {k: v for k, v in {**WHOLE, **changes}.items() if v is not None}
    (folder / 'suite.yaml').write_text(yaml.safe_dump(data))


@pytest.mark.parametrize('changes', [
    {'plan': None}, {'complete': None}, {'name': 5}, {'parts': {'train/a_0': 5}},
    {'parts': {'../a': FACTS}}, {'parts': {'/etc/a': FACTS}}, {'parts': {5: FACTS}},
    {'parts': {'train/a_0': {**FACTS, 'bytes': 'many'}}}])
def test_a_manifest_that_is_none_is_refused(changes, tmp_path):
    write(tmp_path, **changes)
    with pytest.raises(BagError, match='is damaged or of another version'):
        read_manifest(tmp_path)


def test_parts_of_a_suite_that_is_not_whole_are_not_handed_out(tmp_path, capsys):
    write(tmp_path)
    command = ['bag', 'record', '--suite', str(tmp_path), '--parts', 'train']
    assert main(command) == 2
    said = capsys.readouterr()
    assert not said.out
    assert 'train/a_0 is missing or cut off; go on with: kd_perception bag record' in said.err
    (tmp_path / 'train' / 'a_0').mkdir(parents=True)
    assert main(command) == 2
    assert 'is missing or cut off' in capsys.readouterr().err
    (tmp_path / 'train' / 'a_0' / 'a_0.mcap').write_bytes(bytes(FACTS['bytes']))
    assert main([*command, '--check']) == 2
    assert 'ask one at a time' in capsys.readouterr().err
    assert suite_bags(tmp_path) == [tmp_path / 'train' / 'a_0']
    write(tmp_path, complete=False)
    assert main(command) == 2
    assert 'its recording was interrupted' in capsys.readouterr().err


def test_another_simulator_is_another_suite(tmp_path, monkeypatch):
    plan = load_suite('small')
    before = suites._fingerprint(plan)
    assert suites._fingerprint(plan) == before
    (tmp_path / 'renderer.py').write_text('# draws in another way')
    monkeypatch.setattr(suites.simulation, '__file__', str(tmp_path / '__init__.py'))
    assert suites._fingerprint(plan) != before


@pytest.mark.parametrize(('given', 'told'), [
    (['--check'], '--check is for bag record --suite'),
    (['--parts', 'train'], '--parts is for bag record --suite'),
    (['--size', 'small'], '--size is for bag record --suite'),
    (['--max-size', '1GB'], '--max-size is for bag record --live'),
    (['--suite', '--seed', '3'], '--seed is for the simulator'),
    (['--suite', '--world', 'street'], '--world is for the simulator'),
    (['--suite', '--overwrite'], '--overwrite is of no use'),
    (['--suite', '--live'], 'are different recordings')])
def test_options_of_another_kind_are_refused(given, told, tmp_path, capsys):
    assert main(['bag', 'record', str(tmp_path / 'out'), *given]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
