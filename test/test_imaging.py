"""The image codec, on messages of every shape that drivers send."""

from __future__ import annotations

import array
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.errors import ImageError
from kd_perception.imaging import (
    colorize,
    decode_compressed,
    decode_image,
    decode_label_image,
    encode_jpeg,
    encode_png,
    overlay,
    raw_view,
    resize_image,
    resize_labels,
)

LAYOUTS = {'rgb8': (np.uint8, 3), 'bgr8': (np.uint8, 3), '8UC3': (np.uint8, 3),
           'mono8': (np.uint8, 1), '8UC1': (np.uint8, 1), 'mono16': (np.uint16, 1),
           '16UC1': (np.uint16, 1)}
CONTAINERS = {
    'bytes': bytes, 'bytearray': bytearray, 'memoryview': memoryview,
    'array': lambda data: array.array('B', data),
    'numpy': lambda data: np.frombuffer(data, np.uint8),
}


def image_message(pixels, encoding, *, padding=0, container='bytes', bigendian=False, tail=b''):
    """Pack ``[H, W]`` or ``[H, W, C]`` into a message whose rows end with ``padding`` bytes."""
    height, width = pixels.shape[:2]
    stored = pixels.astype(pixels.dtype.newbyteorder('>' if bigendian else '<'))
    rows = np.frombuffer(stored.tobytes(), np.uint8).reshape(height, -1)
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAB).tobytes() + tail
    return SimpleNamespace(encoding=encoding, height=height, width=width,
                           step=rows.shape[1] + padding, is_bigendian=int(bigendian),
                           data=CONTAINERS[container](data))


def picture(height, width, channels, dtype, seed):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


sizes = st.integers(1, 17)
paddings = st.integers(0, 9)


@given(st.sampled_from(sorted(LAYOUTS)), sizes, sizes, paddings,
       st.sampled_from(sorted(CONTAINERS)), st.booleans(), st.integers(0, 99))
def test_raw_view_returns_the_pixels(encoding, height, width, padding, container, bigendian, seed):
    dtype, channels = LAYOUTS[encoding]
    pixels = picture(height, width, channels, dtype, seed)
    message = image_message(pixels, encoding, padding=padding, container=container,
                            bigendian=bigendian)
    view = raw_view(message)
    np.testing.assert_array_equal(view, pixels)
    assert view.dtype == dtype


@given(st.sampled_from(['rgb8', 'bgr8', '8UC3', 'mono8', '8UC1']), sizes, sizes, paddings,
       st.sampled_from(['rgb', 'bgr']), st.integers(0, 99))
def test_decode_image_gives_the_order_asked_for(encoding, height, width, padding, order, seed):
    _, channels = LAYOUTS[encoding]
    pixels = picture(height, width, channels, np.uint8, seed)
    decoded = decode_image(image_message(pixels, encoding, padding=padding), order)
    if channels == 1:
        expected = np.stack([pixels] * 3, axis=-1)
    else:
        stored = 'rgb' if encoding == 'rgb8' else 'bgr'
        expected = pixels if stored == order else pixels[:, :, ::-1]
    np.testing.assert_array_equal(decoded, expected)
    assert decoded.flags.c_contiguous


def test_an_unpadded_image_is_not_copied():
    message = image_message(picture(4, 5, 3, np.uint8, 0), 'rgb8', container='array')
    assert np.shares_memory(decode_image(message), np.frombuffer(message.data, np.uint8))
    message = image_message(picture(4, 5, 3, np.uint8, 0), 'bgr8', padding=7, container='array')
    assert np.shares_memory(raw_view(message), np.frombuffer(message.data, np.uint8))


@given(st.sampled_from(sorted(LAYOUTS)), sizes, sizes, paddings, st.data())
def test_short_data_are_refused(encoding, height, width, padding, data):
    dtype, channels = LAYOUTS[encoding]
    pixels = picture(height, width, channels, dtype, 0)
    message = image_message(pixels, encoding, padding=padding)
    # The padding of the last row need not be there.
    needed = len(message.data) - padding
    message.data = message.data[:needed]
    raw_view(message)
    message.data = message.data[:data.draw(st.integers(0, needed - 1))]
    with pytest.raises(ImageError, match='claims .* but carries'):
        raw_view(message)


@given(st.sampled_from(sorted(LAYOUTS)), sizes, sizes, st.data())
def test_a_step_below_a_row_is_refused(encoding, height, width, data):
    dtype, channels = LAYOUTS[encoding]
    message = image_message(picture(height, width, channels, dtype, 0), encoding)
    message.step = data.draw(st.integers(0, message.step - 1))
    with pytest.raises(ImageError, match='is smaller than a row'):
        raw_view(message)


def test_data_behind_the_image_do_no_harm():
    pixels = picture(3, 4, 3, np.uint8, 1)
    np.testing.assert_array_equal(decode_image(image_message(pixels, 'rgb8', tail=bytes(100))),
                                  pixels)


@pytest.mark.parametrize(('height', 'width'), [(0, 4), (4, 0), (2**32 - 1, 2**32 - 1),
                                               (2**15, 2**15)])
def test_impossible_sizes_are_refused(height, width):
    message = SimpleNamespace(encoding='rgb8', height=height, width=width, step=width * 3,
                              is_bigendian=0, data=b'')
    with pytest.raises(ImageError, match='is not possible'):
        raw_view(message)


@pytest.mark.parametrize('encoding', ['', 'nv12', 'bayer_rggb8', 'RGB8', '32FC1'])
def test_unknown_encodings_are_refused_by_name(encoding):
    message = image_message(picture(2, 2, 3, np.uint8, 0), encoding)
    with pytest.raises(ImageError, match=f"encoding '{encoding}' is not supported; supported: "):
        decode_image(message)


def test_depth_is_no_picture():
    message = image_message(picture(2, 2, 1, np.uint16, 0), 'mono16')
    with pytest.raises(ImageError, match='no'):
        decode_image(message)


@settings(max_examples=300)
@given(st.text(max_size=6) | st.sampled_from(sorted(LAYOUTS)), st.integers(0, 2**32 - 1),
       st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 255),
       st.binary(max_size=200))
def test_no_header_brings_the_codec_down(encoding, height, width, step, bigendian, data):
    message = SimpleNamespace(encoding=encoding, height=height, width=width, step=step,
                              is_bigendian=bigendian, data=data)
    try:
        view = raw_view(message)
    except ImageError:
        return
    assert view.shape[:2] == (height, width)
    assert view.sum() >= 0  # every pixel can be touched


@pytest.mark.parametrize('order', ['rgb', 'bgr'])
@pytest.mark.parametrize('container', sorted(CONTAINERS))
def test_compressed_pictures(order, container):
    image = np.full((16, 24, 3), (200, 100, 20), np.uint8)
    expected = image if order == 'rgb' else image[:, :, ::-1]
    png = decode_compressed(CONTAINERS[container](encode_png(image)), order)
    np.testing.assert_array_equal(png, expected)
    jpeg = decode_compressed(CONTAINERS[container](encode_jpeg(image)), order)
    assert np.abs(jpeg.astype(int) - expected).max() <= 3


def test_zeros_behind_a_jpeg_do_no_harm():
    data = encode_jpeg(picture(16, 16, 3, np.uint8, 0))
    np.testing.assert_array_equal(decode_compressed(data + bytes(5000)), decode_compressed(data))


def test_grey_pictures_get_three_channels():
    grey = picture(8, 8, 1, np.uint8, 0)
    np.testing.assert_array_equal(decode_compressed(encode_png(grey)),
                                  np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize('encode', [encode_jpeg, encode_png])
def test_cut_off_anywhere_is_refused(encode, capfd):
    data = encode(picture(16, 16, 3, np.uint8, 0))
    for size in range(len(data) - 1):
        with pytest.raises(ImageError):
            decode_compressed(data[:size])
    # The decoders below would print about it.
    assert capfd.readouterr().err == ''


@pytest.mark.parametrize('data', [b'', b'\x00', b'GIF89a', bytes(1000), b'\xff\xd8\xff\xd9'])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(ImageError, match='compressed image'):
        decode_compressed(data)


@settings(max_examples=60)
@given(st.sampled_from(['jpeg', 'png']), st.integers(0, 10**6), st.integers(1, 255))
def test_a_flipped_byte_never_escapes_as_another_error(kind, place, flip):
    image = picture(12, 12, 3, np.uint8, 5)
    data = bytearray(encode_jpeg(image) if kind == 'jpeg' else encode_png(image))
    data[place % len(data)] ^= flip
    try:
        decoded = decode_compressed(bytes(data))
    except ImageError:
        return
    assert decoded.dtype == np.uint8
    assert decoded.ndim == 3


def test_label_images():
    ids = picture(6, 7, 1, np.uint8, 2)
    np.testing.assert_array_equal(decode_label_image(image_message(ids, 'mono8', padding=3)), ids)
    png = SimpleNamespace(format='png', data=encode_png(ids))
    np.testing.assert_array_equal(decode_label_image(png), ids)


@pytest.mark.parametrize(('message', 'reason'), [
    (image_message(picture(2, 2, 3, np.uint8, 0), 'rgb8'), 'must be mono8'),
    (image_message(picture(2, 2, 1, np.uint16, 0), 'mono16'), 'must be mono8'),
    (SimpleNamespace(format='jpeg', data=b''), 'must not be JPEG'),
    (SimpleNamespace(format='mono8; jpg compressed', data=b''), 'must not be JPEG'),
    (SimpleNamespace(format='png', data=encode_png(picture(2, 2, 3, np.uint8, 0))), 'one channel'),
    (SimpleNamespace(format='png', data=encode_png(picture(2, 2, 1, np.uint16, 0))), '8 bits'),
])
def test_what_is_no_label_image_is_refused(message, reason):
    with pytest.raises(ImageError, match=reason):
        decode_label_image(message)


def test_sixteen_bit_png_survives():
    import cv2
    deep = picture(5, 6, 1, np.uint16, 3)
    np.testing.assert_array_equal(
        cv2.imdecode(np.frombuffer(encode_png(deep), np.uint8), cv2.IMREAD_UNCHANGED), deep)


def test_resizing():
    image = picture(8, 12, 3, np.uint8, 0)
    assert resize_image(image, 8, 12) is image
    halved = resize_image(image, 4, 6)
    # Area averaging: each pixel is the mean of four.
    expected = image.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - expected).max() <= 1
    assert resize_image(image, 16, 5).shape == (16, 5, 3)


@given(sizes, sizes, sizes, sizes, st.integers(0, 20))
def test_resized_labels_hold_no_new_ids(height, width, new_height, new_width, seed):
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
