import numpy as np
import pytest

from kd_perception.classes import load_class_set
from kd_perception.imaging import decode_image, decode_label_image, raw_view
from kd_perception.nodes.conversion import (
    header,
    image_message,
    label_info_message,
    label_info_names,
    ns_to_stamp,
    stamp_to_ns,
    status,
    values_of,
)


@pytest.mark.parametrize('stamp', [0, 1, 999_999_999, 1_000_000_000, 1_700_000_000_123_456_789])
def test_stamps_survive(stamp):
    assert stamp_to_ns(ns_to_stamp(stamp)) == stamp


def test_images_survive():
    rng = np.random.default_rng(1)
    colour = rng.integers(0, 255, (5, 7, 3), np.uint8)
    message = image_message(colour, 'rgb8', header(5, 'c'))
    assert (message.height, message.width, message.step) == (5, 7, 21)
    assert message.header.frame_id == 'c'
    assert np.array_equal(decode_image(message), colour)
    assert np.array_equal(decode_image(image_message(colour, 'bgr8', header(5, 'c'))),
                          colour[..., ::-1])
    grey = rng.integers(0, 255, (5, 7), np.uint8)
    assert np.array_equal(decode_label_image(image_message(grey, 'mono8', header(0, ''))), grey)
    deep = rng.integers(0, 65535, (5, 7), np.uint16)
    assert np.array_equal(raw_view(image_message(deep, 'mono16', header(0, ''))), deep)


def test_strided_images_are_copied_right():
    wide = np.arange(5 * 8 * 3, dtype=np.uint8).reshape(5, 8, 3)
    cut = wide[:, 1:6, ::-1]
    assert np.array_equal(decode_image(image_message(cut, 'rgb8', header(0, ''))), cut)


def test_wrong_arrays_are_refused():
    with pytest.raises(ValueError, match='mono8 needs uint8 with 2 dimensions'):
        image_message(np.zeros((2, 2, 3), np.uint8), 'mono8', header(0, ''))


@pytest.mark.parametrize('name', ['carla', 'driving', 'camvid'])
def test_class_sets_survive(name):
    classes = load_class_set(name)
    message = label_info_message(classes, header(0, ''), 0.25)
    assert label_info_names(message) == classes.names
    assert message.threshold == 0.25
    ids = [entry.class_id for entry in message.class_map]
    assert ids[-1] == 255
    assert len(set(ids)) == len(ids)


def test_label_info_with_gaps_is_refused():
    message = label_info_message(load_class_set('driving'), header(0, ''))
    message.class_map.pop(3)
    with pytest.raises(ValueError, match='gaps'):
        label_info_names(message)


def test_status_values_are_text():
    entry = status('n', 'h', {'a': 1, 'b': 0.5, 'c': 'x', 'd': True})
    assert values_of(entry) == {'a': '1', 'b': '0.5', 'c': 'x', 'd': 'True'}
    assert entry.level == b'\x00'
