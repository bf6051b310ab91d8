"""Class sets and maps."""

from __future__ import annotations

from pathlib import Path
import tempfile

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import yaml

from kd_perception.classes import (
    class_map_from_dict,
    ClassSet,
    load_class_map,
    load_class_set,
    map_speaks_of,
    UNLABELLED,
)
from kd_perception.errors import ConfigError

SHIPPED = ('camvid', 'carla', 'driving')
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(['name', 'classes', 'color', 'map', 'ignore', 'source', 'target',
                         'void_ids', 'a', 'b']) | st.integers() | st.none(), inner, max_size=4),
    max_leaves=12)


def two_sets():
    source = ClassSet.from_names('source', ['a', 'b', 'c'])
    target = ClassSet.from_names('target', ['x', 'y'])
    return source, target


@pytest.mark.parametrize('name', SHIPPED)
def test_shipped_sets_are_sound(name):
    classes = load_class_set(name)
    assert classes.name == name
    assert ClassSet.from_dict(classes.to_dict()) == classes
    assert len(set(classes.colors)) == len(classes)


def test_carla_tags_have_the_numbers_of_the_simulator():
    names = load_class_set('carla').names
    assert len(names) == 29
    for number, name in ((1, 'roads'), (7, 'traffic_light'), (12, 'pedestrians'), (14, 'car'),
                         (19, 'bicycle'), (24, 'road_lines'), (28, 'guard_rail')):
        assert names[number] == name


def test_lookup_palette_and_unknown_ids():
    camvid = load_class_set('camvid')
    lookup = camvid.lookup()
    assert lookup[:13].tolist() == [*range(11), UNLABELLED, UNLABELLED]
    assert camvid.palette().shape == (256, 3)
    assert camvid.palette()[3].tolist() == [128, 64, 128]
    assert camvid.palette()[200].tolist() == [0, 0, 0]
    assert camvid.unknown_ids(np.array([[0, 10, 11, 255]], np.uint8)) == []
    assert camvid.unknown_ids(np.array([[12, 0, 254]], np.uint8)) == [12, 254]


def test_made_up_colours_differ():
    made = ClassSet.from_names('many', [f'c{i}' for i in range(40)])
    assert len(set(made.colors)) == 40


@pytest.mark.parametrize(('change', 'message'), [
    ({'names': (), 'colors': ()}, '1 to 65535 classes'),
    ({'names': ('a', 'a')}, "must differ: \\['a'\\]"),
    ({'colors': ((0, 0, 0),)}, '2 names but 1 colors'),
    ({'colors': ((0, 0, 0), (0, 0, 256))}, 'is no RGB color'),
    ({'colors': ((0, 0, 0), (0, 0))}, 'is no RGB color'),
    ({'void_ids': (1,)}, 'void id 1'),
    ({'void_ids': (256,)}, 'void id 256'),
])
def test_impossible_sets_are_refused(change, message):
    arguments = {'name': 's', 'names': ('a', 'b'), 'colors': ((0, 0, 0), (1, 1, 1)), **change}
    with pytest.raises(ConfigError, match=message):
        ClassSet(**arguments)


@given(TREES)
def test_no_file_content_brings_a_class_set_down(data):
    with pytest.raises(ConfigError):
        ClassSet.from_dict(data)


@given(TREES)
def test_no_file_content_brings_a_class_map_down(data):
    with pytest.raises(ConfigError):
        class_map_from_dict(data, *two_sets())
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / 'map.yaml').write_text(yaml.safe_dump(data))
        assert map_speaks_of(*two_sets(), f'{folder}/map.yaml') >= (0, 0)


def test_map():
    source, target = two_sets()
    table = class_map_from_dict({'map': {'x': ['b'], 'y': ['a']}, 'ignore': ['c']}, source, target)
    assert table(np.array([[0, 1, 2, 255, 77]], np.uint8)).tolist() == [[1, 0, 255, 255, 255]]


@pytest.mark.parametrize(('data', 'message'), [
    ({'map': {'x': ['b'], 'y': ['a']}}, "neither mapped nor ignored: \\['c'\\]"),
    ({'map': {'x': ['b', 'a', 'c']}}, "nothing maps to \\['y'\\]"),
    ({'map': {'x': ['b', 'a'], 'y': ['a', 'c']}}, "'a' is mapped twice"),
    ({'map': {'x': ['b', 'q'], 'y': ['a', 'c']}}, "'q' is no class of 'source'"),
    ({'map': {'z': ['b'], 'y': ['a', 'c']}}, "'z' is no class of 'target'"),
    ({'map': {'x': 'b', 'y': ['a', 'c']}}, 'x needs a list of classes'),
    ({'map': {'x': ['b'], 'y': ['a', 'c']}, 'ignore': None}, 'ignore needs a list'),
    ({'map': {'x': ['b'], 'y': ['a', 'c']}, 'source': 'other'}, "source is 'other'"),
    ({'map': {'x': ['b'], 'y': ['a', 'c']}, 'extra': 1}, "unknown keys \\['extra'\\]"),
    (['map'], 'needs a mapping'),
])
def test_maps_that_do_not_fit_are_refused(data, message):
    with pytest.raises(ConfigError, match=message):
        class_map_from_dict(data, *two_sets())


def test_shipped_map():
    carla, driving = load_class_set('carla'), load_class_set('driving')
    table = load_class_map(carla, driving)
    tags = np.array([1, 24, 12, 13, 14, 18, 11, 0, 20, 200], np.uint8)
    names = [driving.names[i] if i < 255 else None for i in table(tags)]
    assert names == ['road', 'road_line', 'person', 'person', 'vehicle', 'vehicle', 'sky', None,
                     None, None]


def test_sets_of_equal_names_need_no_map():
    camvid = load_class_set('camvid')
    table = load_class_map(camvid, camvid)
    assert table.table.tolist() == camvid.lookup().tolist()


def test_maps_by_path_and_missing_maps(tmp_path):
    source, target = two_sets()
    with pytest.raises(ConfigError, match='no class map from .* write config/classes/'):
        load_class_map(source, target)
    path = tmp_path / 'own.yaml'
    path.write_text(yaml.safe_dump({'map': {'x': ['b'], 'y': ['a', 'c']}}))
    assert load_class_map(source, target, str(path)).table[:3].tolist() == [1, 0, 1]
    path.write_text('[')
    with pytest.raises(ConfigError, match='own.yaml: not readable as YAML'):
        load_class_map(source, target, str(path))


@pytest.mark.parametrize('name', ['nothing', '../classes/camvid', '/nowhere/set.yaml'])
def test_missing_sets_are_named(name):
    with pytest.raises(ConfigError) as caught:
        load_class_set(name)
    assert '\n' not in str(caught.value)
