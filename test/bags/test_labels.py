"""What label ids mean."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.bags import messages as msgs
from kd_perception.bags.labels import classes_by_names, LabelCheck, recorded_classes
from kd_perception.bags.reader import BagReader
from kd_perception.bags.sampling import LabelError
from kd_perception.classes import load_class_set
from kd_perception.errors import BagError


@pytest.mark.parametrize('name', ['camvid', 'carla', 'driving'])
def test_known_names_give_the_known_set(name):
    known = load_class_set(name)
    assert classes_by_names(known.names, 'recorded') == known


def test_other_names_give_a_set_of_their_own():
    made = classes_by_names(['sky', 'ground'], 'recorded')
    assert (made.name, made.names) == ('recorded', ('sky', 'ground'))
    assert len(set(made.colors)) == 2


def label_bag(write_messages, infos):
    rows = [(topic, msgs.LABEL_INFO, msgs.make_label_info(names, 1), 1)
            for topic, names in infos.items()]
    return write_messages(rows)


@pytest.mark.parametrize(('infos', 'expected'), [
    ({}, None),
    ({'/anywhere': ('a',)}, 'a'),
    ({'/cam/label_info': ('a',), '/other': ('b',)}, 'a'),
    ({'/cam/labels_info': ('a',), '/cam/label_info': ('b',)}, 'a'),
])
def test_which_label_info_counts(infos, expected, write_messages):
    with BagReader(label_bag(write_messages, infos)) as reader:
        found = recorded_classes(reader, '/cam/labels')
    assert (found.names[0] if found else None) == expected


def test_several_infos_elsewhere_are_ambiguous(write_messages):
    bag = label_bag(write_messages, {'/a': ('a',), '/b': ('b',)})
    with BagReader(bag) as reader, pytest.raises(BagError, match='which of /a, /b explains'):
        recorded_classes(reader, '/cam/labels')


def test_ids_in_any_order_and_with_gaps(write_messages):
    info = msgs.make_label_info(('road', 'car', 'void'), 1)
    info.class_map[0].class_id, info.class_map[1].class_id = 2, 0
    info.class_map[2].class_id = 255
    bag = write_messages([('/info', msgs.LABEL_INFO, info, 1)])
    with BagReader(bag) as reader:
        assert recorded_classes(reader, '/labels').names == ('car', 'unnamed_1', 'road')


@pytest.mark.parametrize(('names', 'void', 'expected'), [
    (load_class_set('camvid').names, 11, load_class_set('camvid')),
    (('road', 'car'), 7, None)])
def test_ids_named_unlabelled_are_no_classes(names, void, expected, write_messages):
    info = msgs.make_label_info((*names, 'Unlabelled', 'unlabelled'), 1)
    info.class_map[-2].class_id, info.class_map[-1].class_id = void, 255
    bag = write_messages([('/info', msgs.LABEL_INFO, info, 1)])
    with BagReader(bag) as reader:
        found = recorded_classes(reader, '/labels')
    assert (found.names, found.void_ids) == (names, (void,))
    assert expected is None or found == expected


@pytest.mark.parametrize('ids', [[], [300], [255]])
def test_infos_without_use(ids, write_messages):
    info = msgs.make_label_info(tuple(f'c{i}' for i in ids), 1)
    for entry, number in zip(info.class_map, ids):
        entry.class_id = number
    bag = write_messages([('/info', msgs.LABEL_INFO, info, 1)])
    with BagReader(bag) as reader, pytest.raises(BagError, match='no class with an id'):
        recorded_classes(reader, '/labels')


def test_void_ids_are_no_strangers():
    check = LabelCheck(load_class_set('camvid'))
    labels = np.array([[0, 10, 11, 255]], np.uint8)
    check(labels, np.zeros((1, 4, 3), np.uint8), 'here')
    with pytest.raises(LabelError, match='12'):
        check(labels + np.uint8(1), np.zeros((1, 4, 3), np.uint8), 'here')
    LabelCheck(None)(labels + 100, np.zeros((1, 4, 3), np.uint8), 'here')
