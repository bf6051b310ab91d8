"""Sizes and colours of pictures that are decoded already."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
import numpy as np

from kd_perception.imaging import colorize, overlay, resize_image, resize_labels

sizes = st.integers(1, 17)


def test_resizing(picture):
    image = picture(8, 12, 3, np.uint8, 0)
    assert resize_image(image, 8, 12) is image
    halved = resize_image(image, 4, 6)
    # Area averaging: each pixel is the mean of four.
    expected = image.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - expected).max() <= 1
    assert resize_image(image, 16, 5).shape == (16, 5, 3)


@given(sizes, sizes, sizes, sizes, st.integers(0, 20))
def test_resized_labels_hold_no_new_ids(picture, height, width, new_height, new_width, seed):
    labels = picture(height, width, 1, np.uint8, seed)
    resized = resize_labels(labels, new_height, new_width)
    assert resized.shape == (new_height, new_width)
    # Nearest neighbour by pixel centres in whole numbers; between two, either will do.
    def nearest(old, new, above):
        return ((2 * np.arange(new) + 1) * old - (1 - above)) // (2 * new)

    candidates = [labels[nearest(height, new_height, a)][:, nearest(width, new_width, b)]
                  for a in (0, 1) for b in (0, 1)]
    assert np.logical_or.reduce([resized == c for c in candidates]).all()


def test_colours_and_overlay():
    palette = np.zeros((256, 3), np.uint8)
    palette[3] = (10, 200, 30)
    mask = np.array([[3, 255]], np.uint8)
    image = np.full((1, 2, 3), 100, np.uint8)
    assert colorize(mask, palette).tolist() == [[[10, 200, 30], [0, 0, 0]]]
    painted = overlay(image, mask, palette, 0.5)
    assert painted.tolist() == [[[55, 150, 65], [100, 100, 100]]]
    assert image.tolist() == [[[100] * 3] * 2]
