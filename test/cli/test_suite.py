"""Recording, resuming and checking of a robustness suite."""

from __future__ import annotations

from pathlib import Path
import shutil

import pytest
import yaml

from kd_perception.bags.source import open_source
from kd_perception.cli.main import main
from kd_perception.cli.suite import check_suite, read_manifest, record_suite, suite_bags
from kd_perception.cli.suite_plan import load_suite
from kd_perception.errors import BagError, SimulationError

PLAN = {
    'name': 'tiny', 'width': 64, 'height': 36, 'truth': ['detections'],
    'groups': {
        'train': {'role': 'train', 'scenarios': ['clear'], 'worlds': ['street'], 'first_seed': 1,
                  'drives': 1, 'frames': 2, 'rate_hz': 1.0},
        'test_weather': {'role': 'test', 'scenarios': ['clear', 'night'], 'worlds': ['street'],
                         'first_seed': 5, 'drives': 1, 'frames': 1, 'rate_hz': 1.0,
                         'same_seeds': True}}}


@pytest.fixture(scope='module')
def plan_file(tmp_path_factory) -> Path:
    """Return the file of a tiny plan; skip where OpenGL is missing."""
    from kd_perception.simulation.street import StreetSimulator
    try:
        StreetSimulator('clear', seed=1, width=64, height=36).close()
    except SimulationError as error:
        pytest.skip(str(error))
    path = tmp_path_factory.mktemp('plan') / 'tiny.yaml'
    path.write_text(yaml.safe_dump(PLAN, sort_keys=False))
    return path


@pytest.fixture(scope='module')
def suite(plan_file, tmp_path_factory) -> Path:
    """Return a whole suite, interrupted once on the way."""
    out, plan = tmp_path_factory.mktemp('suite') / 'out', load_suite(str(plan_file))

    def interrupt(done: int, total: int, note: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_suite(plan, out, progress=interrupt)
    state = check_suite(out, plan)
    assert state.whole == ('train/clear_street_0',)
    assert not read_manifest(out)['complete']
    assert not (out / 'test_weather' / 'clear_street_0').exists()
    first = (out / 'train' / 'clear_street_0').stat().st_mtime_ns
    told: list[tuple[int, int, str]] = []
    assert record_suite(plan, out, progress=lambda *x: told.append(x)) == 2
    assert (out / 'train' / 'clear_street_0').stat().st_mtime_ns == first
    assert told[0] == (2, 4, 'train/clear_street_0 is there')
    assert told[-1][:2] == (4, 4)
    return out


def test_a_suite_goes_on_where_it_was_interrupted_and_is_whole(suite, plan_file):
    state = check_suite(suite, load_suite(str(plan_file)))
    assert (len(state.whole), state.missing, state.changed) == (3, (), ())
    manifest = read_manifest(suite)
    assert manifest['complete']
    facts = manifest['parts']['test_weather/night_street_0']
    assert (facts['seed'], facts['scenario'], facts['world'], facts['frames']) == (
        5, 'night', 'street', 1)


def test_parts_are_labelled_recordings_and_weathers_are_paired(suite):
    clear, night = (open_source(p) for p in suite_bags(suite, ['test_weather']))
    assert len(clear) == 1
    assert clear.has_labels
    assert (clear[0].labels == night[0].labels).all()
    assert (clear[0].image != night[0].image).any()


def test_parts_are_found_by_role_group_and_name(suite):
    assert suite_bags(suite, ['train']) == [suite / 'train' / 'clear_street_0']
    assert len(suite_bags(suite)) == 3
    assert suite_bags(suite, ['test']) == suite_bags(suite, ['test_weather'])
    assert suite_bags(suite, ['test_weather/night_street_0']) == [
        suite / 'test_weather' / 'night_street_0']
    with pytest.raises(BagError, match="no part 'exam'; there are test_weather, train"):
        suite_bags(suite, ['exam'])


def test_the_same_suite_again_has_the_same_hashes(suite, plan_file, tmp_path):
    record_suite(load_suite(str(plan_file)), tmp_path / 'again')
    assert read_manifest(tmp_path / 'again')['parts'] == read_manifest(suite)['parts']


def test_the_command_checks_mends_and_lists(suite, plan_file, tmp_path, capsys):
    copy = tmp_path / 'copy'
    record_suite(load_suite(str(plan_file)), copy)
    command = ['bag', 'record', '--suite', str(copy), '--size', str(plan_file)]
    assert main([*command, '--check']) == 0
    assert 'is whole: 3 recordings, 4 frames' in capsys.readouterr().out
    file = next((copy / 'train' / 'clear_street_0').glob('*.mcap'))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1                      # one bit, the size stays
    file.write_bytes(data)
    assert main([*command, '--check']) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert '1 of 3 parts are not whole, the first: train/clear_street_0 was changed' in error
    assert main(command) == 0
    assert '1 recorded now, 2 were there' in capsys.readouterr().out
    assert check_suite(copy).changed == ()
    assert read_manifest(copy)['parts'] == read_manifest(suite)['parts']
    assert main([*command, '--parts', 'train']) == 0
    assert capsys.readouterr().out.split() == [str(copy / 'train' / 'clear_street_0')]


def test_a_whole_suite_of_another_plan_is_not_that_of_this_plan(suite, plan_file, tmp_path,
                                                                 capsys):
    """The names of parts are those of scenario and world, whatever the seed and length."""
    other = tmp_path / 'other.yaml'
    groups = PLAN['groups'] | {'train': PLAN['groups']['train'] | {'first_seed': 2}}
    other.write_text(yaml.safe_dump({**PLAN, 'groups': groups}, sort_keys=False))
    command = ['bag', 'record', '--suite', str(suite), '--check', '--size']
    assert check_suite(suite, load_suite(str(other))).changed == ('train/clear_street_0',)
    assert main([*command, str(other)]) == 2
    assert 'train/clear_street_0 was changed' in capsys.readouterr().err
    other.write_text(yaml.safe_dump({**PLAN, 'width': 80}, sort_keys=False))
    assert main([*command, str(other)]) == 2
    assert "suite 'tiny' of another plan" in capsys.readouterr().err


def test_a_suite_of_another_version_is_whole_and_says_so(suite, plan_file, tmp_path, capsys):
    copy = tmp_path / 'copy'
    shutil.copytree(suite, copy)
    command = ['bag', 'record', '--suite', str(copy), '--size', str(plan_file), '--check']
    assert main(command) == 0
    assert 'another version' not in capsys.readouterr().out
    manifest = yaml.safe_load((copy / 'suite.yaml').read_text())
    (copy / 'suite.yaml').write_text(yaml.safe_dump({**manifest, 'plan': '0' * 16}))
    assert main(command) == 0
    assert 'another version of the simulator recorded it' in capsys.readouterr().out


def test_what_is_no_suite_or_another_is_refused_and_left_alone(suite, plan_file, tmp_path,
                                                              capsys):
    folder = tmp_path / 'mine'
    folder.mkdir()
    (folder / 'notes.txt').write_text('keep')
    command = ['bag', 'record', '--suite', str(folder), '--size', str(plan_file)]
    assert main(command) == 2
    assert 'exists and is no suite' in capsys.readouterr().err
    assert [p.name for p in folder.iterdir()] == ['notes.txt']
    assert main([*command, '--check']) == 2
    assert 'holds no suite' in capsys.readouterr().err
    other = tmp_path / 'other.yaml'
    other.write_text(yaml.safe_dump({**PLAN, 'width': 80}, sort_keys=False))
    assert main(['bag', 'record', '--suite', str(suite), '--size', str(other)]) == 2
    assert 'of another plan' in capsys.readouterr().err
    (folder / 'suite.yaml').write_text('schema: 9')
    assert main([*command, '--check']) == 2
    assert 'damaged or of another version' in capsys.readouterr().err
