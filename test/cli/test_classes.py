"""The verb ``classes``."""

from __future__ import annotations

import json

import pytest

from kd_perception.cli.main import main


def test_list(capsys):
    assert main(['classes', 'list']) == 0
    out = capsys.readouterr().out
    assert 'camvid               11 classes' in out
    assert 'carla_to_driving     map from carla to driving' in out


def test_show_a_set(capsys):
    assert main(['classes', 'show', 'camvid']) == 0
    out = capsys.readouterr().out
    assert 'camvid: 11 classes; 255 is unlabelled, and so are [11]' in out
    assert '   3 road                 #804080' in out
    assert main(['classes', 'show', 'driving', '--json']) == 0
    assert json.loads(capsys.readouterr().out)['classes'][0]['name'] == 'road'


def test_show_a_map(capsys):
    assert main(['classes', 'show', 'carla_to_driving']) == 0
    out = capsys.readouterr().out
    assert '  14 car                  ->   11 vehicle' in out
    assert '   0 unlabeled            ->  ignored' in out
    assert main(['classes', 'show', 'carla_to_driving', '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts['source'], facts['table'][14], len(facts['table'])) == ('carla', 11, 29)


def test_check(capsys, tmp_path):
    assert main(['classes', 'check', 'carla', 'driving']) == 0
    assert 'ok: every class of carla' in capsys.readouterr().out
    assert main(['classes', 'check', 'camvid', 'camvid']) == 0
    own = tmp_path / 'own.yaml'
    own.write_text('source: camvid\ntarget: driving\nmap: {road: [road]}\n')
    assert main(['classes', 'check', 'camvid', 'driving', '--map', str(own)]) == 2
    assert 'neither mapped nor ignored' in capsys.readouterr().err


def test_a_map_between_sets_of_ones_own(capsys, tmp_path):
    (tmp_path / 'mine.yaml').write_text(
        'name: mine\nclasses:\n  - {name: ground, color: [1, 2, 3]}\n')
    (tmp_path / 'theirs.yaml').write_text(
        'name: theirs\nclasses:\n  - {name: road, color: [1, 2, 3]}\n'
        '  - {name: sky, color: [4, 5, 6]}\n')
    own = tmp_path / 'own.yaml'
    own.write_text('source: theirs\ntarget: mine\nmap: {ground: [road]}\ndrop: [sky]\n')
    assert main(['classes', 'show', str(own)]) == 0
    assert '   1 sky                  ->  dropped' in capsys.readouterr().out
    # A map may be called as one of its sets is, which is then not looked for in it.
    (tmp_path / 'camvid.yaml').write_text(
        'source: camvid\ntarget: mine\nmap: {ground: [road]}\nignore: [sky]\n')
    assert main(['classes', 'show', str(tmp_path / 'camvid.yaml')]) == 2
    assert 'neither mapped nor ignored' in capsys.readouterr().err


@pytest.mark.parametrize(('arguments', 'message'), [
    (['check', 'carla', 'camvid'], 'no class map from'),
    (['show', 'nothing'], "no classes named 'nothing'"),
    (['show', '{tmp}/list.yaml'], 'neither a class set nor a map'),
    (['show', '{tmp}/broken.yaml'], 'not readable as YAML'),
    (['show', '{tmp}/half_map.yaml'], 'no classes named'),
    (['show', '{tmp}/path_map.yaml'], 'my/set'),
])
def test_bad_input_is_one_line(arguments, message, tmp_path, capsys):
    (tmp_path / 'list.yaml').write_text('- a\n')
    (tmp_path / 'broken.yaml').write_text('[a')
    (tmp_path / 'half_map.yaml').write_text('map: {}\nsource: nowhere\n')
    (tmp_path / 'path_map.yaml').write_text('map: {}\nsource: my/set\n')
    assert main(['classes', *(a.replace('{tmp}', str(tmp_path)) for a in arguments)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count('\n') == 1
