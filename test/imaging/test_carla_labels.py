"""Label images as CARLA's ROS bridge and its native ROS 2 publish them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from kd_perception.classes import load_class_set
from kd_perception.errors import ImageError
from kd_perception.imaging import decode_label_image
from kd_perception.imaging.carla_labels import carla_tags

TAGS = np.array([[*range(29)], [0] * 10 + [11] * 19], np.uint8)


def bridge(tags):
    """Return the palette's colours in BGRA."""
    return np.dstack([load_class_set('carla').palette()[tags][..., ::-1],
                      np.full(tags.shape, 255, np.uint8)])


def native(tags):
    pixels = np.zeros((*tags.shape, 4), np.uint8)
    pixels[..., 2], pixels[..., 3] = tags, 255
    return pixels


def message(pixels, encoding='bgra8', pad=0):
    height, width, channels = pixels.shape
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (0, pad)), constant_values=77)
    return SimpleNamespace(height=height, width=width, encoding=encoding, is_bigendian=0,
                           step=width * channels + pad, data=rows.tobytes())


@pytest.mark.parametrize('form', [bridge, native])
@pytest.mark.parametrize('pad', [0, 3])
def test_both_forms_give_the_tags(form, pad):
    pixels = form(TAGS)
    assert np.array_equal(decode_label_image(message(pixels, pad=pad)), TAGS)
    for encoding, view in (('rgba8', pixels[..., [2, 1, 0, 3]]), ('bgr8', pixels[..., :3]),
                           ('rgb8', pixels[..., 2::-1]), ('8UC4', pixels)):
        told = decode_label_image(message(view, encoding, pad))
        assert np.array_equal(told, TAGS), encoding
        assert told.dtype == np.uint8


@pytest.mark.parametrize('tag', range(29))
@pytest.mark.parametrize('form', [bridge, native])
def test_an_image_of_one_class_is_no_riddle(form, tag):
    """All sky, all unlabelled, all rider: a single image has to be enough."""
    for tags in (np.full((3, 4), tag, np.uint8), np.array([[tag, 0, tag]], np.uint8)):
        assert np.array_equal(carla_tags(form(tags), 'bgra'), tags)


def test_tags_of_later_versions_are_unlabelled():
    tags = np.array([[7, 29, 40, 255, 11]], np.uint8)
    assert carla_tags(native(tags), 'bgra').tolist() == [[7, 255, 255, 255, 11]]


def test_colours_of_neither_are_one_line():
    pixels = bridge(TAGS)
    pixels[1, 3, :3] = (3, 2, 1)
    with pytest.raises(ImageError, match=r'RGB color \(1, 2, 3\) is neither of the palette'):
        carla_tags(pixels, 'bgra')
    instances = native(TAGS)
    instances[..., 0] = 9
    with pytest.raises(ImageError, match='nor a tag in the red byte'):
        carla_tags(instances, 'bgra')
    with pytest.raises(ImageError, match="must be mono8, not 'rgb16'"):
        decode_label_image(message(native(TAGS).astype(np.uint16), 'rgb16'))
