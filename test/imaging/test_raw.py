"""Raw images: every encoding against arithmetic that is written down here a second time."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.errors import ImageError
from kd_perception.imaging import decode_image, decode_label_image, MAX_PIXELS, raw_view
from kd_perception.imaging.encodings import ENCODINGS

LAYOUTS = {'rgb8': (np.uint8, 3), 'bgr8': (np.uint8, 3), '8UC3': (np.uint8, 3),
           'rgba8': (np.uint8, 4), 'bgra8': (np.uint8, 4), '8UC4': (np.uint8, 4),
           'mono8': (np.uint8, 1), '8UC1': (np.uint8, 1), 'mono16': (np.uint16, 1),
           '16UC1': (np.uint16, 1), 'rgb16': (np.uint16, 3), 'bgra16': (np.uint16, 4),
           'bayer_rggb8': (np.uint8, 1), 'bayer_gbrg16': (np.uint16, 1),
           'yuv422': (np.uint8, 2), '16SC1': (np.int16, 1), '8UC2': (np.uint8, 2)}
PICTURES = ['rgb8', 'bgr8', '8UC3', 'rgba8', 'bgra8', '8UC4', 'mono8', '8UC1', 'mono16', 'rgb16',
            'bgr16', 'rgba16', 'bgra16']
CONTAINERS = ['array', 'bytearray', 'bytes', 'memoryview', 'numpy']
PATTERNS = ['rggb', 'bggr', 'gbrg', 'grbg']
ORDERS = ['rgb', 'bgr']

sizes = st.integers(1, 17)
paddings = st.integers(0, 9)


def from_yuv(y, u, v):
    """Return ITU-R BT.601, limited range, rounded, as RGB ``[..., 3]``."""
    y, u, v = (np.asarray(a, float) for a in (y, u, v))
    luma = 1.164 * (np.maximum(y, 16) - 16)
    rgb = [luma + 1.596 * (v - 128), luma - 0.813 * (v - 128) - 0.391 * (u - 128),
           luma + 2.018 * (u - 128)]
    return np.clip(np.round(np.stack(rgb, axis=-1)), 0, 255)


def close(decoded, expected, order, tolerance=1):
    expected = expected if order == 'rgb' else expected[..., ::-1]
    assert decoded.dtype == np.uint8
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).max() <= tolerance


@given(st.sampled_from(sorted(LAYOUTS)), sizes, sizes, paddings, st.sampled_from(CONTAINERS),
       st.booleans(), st.integers(0, 99))
def test_raw_view_returns_the_elements(image_message, picture, encoding, height, width, padding,
                                       container, bigendian, seed):
    dtype, channels = LAYOUTS[encoding]
    pixels = picture(height, width, channels, np.uint16, seed).astype(dtype)
    message = image_message(pixels, encoding, padding=padding, container=container,
                            bigendian=bigendian)
    view = raw_view(message)
    np.testing.assert_array_equal(view, pixels)
    assert view.dtype == dtype


@given(st.sampled_from(PICTURES), sizes, sizes, paddings, st.booleans(), st.sampled_from(ORDERS),
       st.integers(0, 99))
def test_pictures_come_in_the_order_asked_for(image_message, picture, encoding, height, width,
                                              padding, bigendian, order, seed):
    dtype, channels = ENCODINGS[encoding].dtype, ENCODINGS[encoding].channels
    pixels = picture(height, width, channels, dtype, seed)
    decoded = decode_image(image_message(pixels, encoding, padding=padding, bigendian=bigendian),
                           order)
    eight = np.round(pixels / 257.0) if dtype == np.uint16 else pixels
    if channels == 1:
        expected = np.stack([eight] * 3, axis=-1)
    else:
        rgb = encoding.startswith('rgb')
        expected = eight[:, :, :3] if rgb == (order == 'rgb') else eight[:, :, 2::-1]
    np.testing.assert_array_equal(decoded, expected)
    assert decoded.dtype == np.uint8


@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('pattern', PATTERNS)
def test_a_mosaic_shows_its_colours(image_message, pattern, bits, order):
    """The pattern names the first two pixels of the first two rows (ROS), unlike OpenCV's."""
    quarter = {'red': (230, 40, 20), 'green': (30, 210, 60), 'blue': (10, 50, 240),
               'sand': (200, 170, 90)}
    colours = np.zeros((12, 16, 3), int)
    colours[:6, :8], colours[:6, 8:] = quarter['red'], quarter['green']
    colours[6:, :8], colours[6:, 8:] = quarter['blue'], quarter['sand']
    mosaic = np.zeros((12, 16), int)
    for place, name in enumerate(pattern):
        row, column = divmod(place, 2)
        mosaic[row::2, column::2] = colours[row::2, column::2, 'rgb'.index(name)]
    stored = (mosaic * 257).astype(np.uint16) if bits == 16 else mosaic.astype(np.uint8)
    for bigendian in (False, True):
        decoded = decode_image(image_message(stored, f'bayer_{pattern}{bits}', padding=3,
                                             bigendian=bigendian), order)
        # Within a quarter all neighbours have its colour.
        for rows in (slice(1, 5), slice(7, 11)):
            for columns in (slice(1, 7), slice(9, 15)):
                close(decoded[rows, columns], colours[rows, columns], order)


@pytest.mark.parametrize('size', [(2, 2), (2, 3), (3, 2), (2, 8), (7, 2), (3, 3)])
@pytest.mark.parametrize('pattern', PATTERNS)
def test_small_mosaics(image_message, pattern, size):
    mosaic = np.zeros(size, np.uint8)
    for place, name in enumerate(pattern):
        row, column = divmod(place, 2)
        mosaic[row::2, column::2] = {'r': 200, 'g': 100, 'b': 50}[name]
    expected = np.broadcast_to([200, 100, 50], (*size, 3))
    close(decode_image(image_message(mosaic, f'bayer_{pattern}8')), expected, 'rgb')


@pytest.mark.parametrize('size', [(1, 1), (1, 8), (8, 1)])
def test_what_is_too_small_for_a_mosaic_is_refused(image_message, size):
    with pytest.raises(ImageError, match='holds no colour'):
        decode_image(image_message(np.zeros(size, np.uint8), 'bayer_rggb8'))


@given(st.sampled_from(['yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv']), sizes, st.integers(1, 9),
       paddings, st.sampled_from(ORDERS), st.integers(0, 99))
def test_yuv_422(image_message, encoding, height, pairs, padding, order, seed):
    rng = np.random.default_rng(seed)
    luma = rng.integers(0, 256, (height, 2 * pairs), np.uint8)
    u, v = rng.integers(0, 256, (2, height, pairs), np.uint8)
    chroma = np.stack([u, v], axis=-1).reshape(height, 2 * pairs)
    parts = [chroma, luma] if encoding in ('yuv422', 'uyvy') else [luma, chroma]
    message = image_message(np.stack(parts, axis=-1), encoding, padding=padding)
    expected = from_yuv(luma, np.repeat(u, 2, axis=1), np.repeat(v, 2, axis=1))
    close(decode_image(message, order), expected, order)


@given(st.sampled_from(['nv12', 'nv21', 'nv24']), st.integers(1, 9), st.integers(1, 9), paddings,
       st.sampled_from(ORDERS), st.integers(0, 99))
def test_planar_yuv(encoding, rows, columns, padding, order, seed):
    rng = np.random.default_rng(seed)
    height, width = 2 * rows, 2 * columns
    small = (height, width) if encoding == 'nv24' else (rows, columns)
    luma = rng.integers(0, 256, (height, width), np.uint8)
    u, v = rng.integers(0, 256, (2, *small), np.uint8)
    chroma = np.stack([v, u] if encoding == 'nv21' else [u, v], axis=-1)
    step = width + padding
    padded = np.pad(luma, ((0, 0), (0, padding)), constant_values=0xAB).tobytes()
    chroma_rows = chroma.reshape(small[0], -1)
    chroma_step = 2 * step if encoding == 'nv24' else step
    padded += np.pad(chroma_rows, ((0, 0), (0, chroma_step - chroma_rows.shape[1]))).tobytes()
    message = SimpleNamespace(encoding=encoding, height=height, width=width, step=step,
                              is_bigendian=0, data=padded)
    if encoding != 'nv24':
        u, v = (p.repeat(2, axis=0).repeat(2, axis=1) for p in (u, v))
    close(decode_image(message, order), from_yuv(luma, u, v), order)
    last = chroma_step - chroma_rows.shape[1]
    message.data = padded[:len(padded) - last]  # the last padding need not be there
    close(decode_image(message, order), from_yuv(luma, u, v), order)
    message.data = padded[:len(padded) - last - 1]
    with pytest.raises(ImageError, match='claims .* but carries'):
        decode_image(message)


@pytest.mark.parametrize(('encoding', 'height', 'width', 'reason'), [
    ('yuv422', 4, 5, 'pairs of pixels'), ('yuyv', 4, 1, 'pairs of pixels'),
    ('nv12', 5, 4, 'half size'), ('nv21', 4, 5, 'half size')])
def test_sizes_that_an_encoding_cannot_have(encoding, height, width, reason):
    message = SimpleNamespace(encoding=encoding, height=height, width=width, step=32,
                              is_bigendian=0, data=bytes(1000))
    with pytest.raises(ImageError, match=reason):
        decode_image(message)


@pytest.mark.parametrize('padding', [0, 1, 7])
@pytest.mark.parametrize(('encoding', 'read'), [
    ('rgb8', decode_image), ('bgr8', lambda m: decode_image(m, 'bgr')),
    ('8UC3', lambda m: decode_image(m, 'bgr')), ('mono8', decode_label_image),
    ('8UC1', decode_label_image), ('bayer_rggb8', raw_view), ('mono16', raw_view),
    ('32FC1', raw_view)])
def test_what_needs_no_change_is_not_copied(image_message, picture, encoding, read, padding):
    found = ENCODINGS[encoding]
    pixels = picture(4, 6, found.channels, np.uint8, 0).astype(found.dtype)
    for container in ('array', 'numpy'):
        message = image_message(pixels, encoding, padding=padding, container=container)
        decoded = read(message)
        np.testing.assert_array_equal(decoded, pixels)
        assert np.shares_memory(decoded, np.frombuffer(message.data, np.uint8))


@given(st.sampled_from(sorted(LAYOUTS)), sizes, sizes, paddings, st.data())
def test_short_data_are_refused(image_message, picture, encoding, height, width, padding, data):
    dtype, channels = LAYOUTS[encoding]
    pixels = picture(height, width, channels, np.uint16, 0).astype(dtype)
    message = image_message(pixels, encoding, padding=padding)
    # The padding of the last row need not be there.
    needed = len(message.data) - padding
    message.data = message.data[:needed]
    raw_view(message)
    message.data = message.data[:data.draw(st.integers(0, needed - 1))]
    with pytest.raises(ImageError, match='claims .* but carries'):
        raw_view(message)


@given(st.sampled_from(sorted(LAYOUTS)), sizes, sizes, st.data())
def test_a_step_below_a_row_is_refused(image_message, encoding, height, width, data):
    dtype, channels = LAYOUTS[encoding]
    shape = (height, width, channels) if channels > 1 else (height, width)
    message = image_message(np.zeros(shape, dtype), encoding)
    message.step = data.draw(st.integers(0, message.step - 1))
    with pytest.raises(ImageError, match='is smaller than a row'):
        raw_view(message)


def test_data_behind_the_image_do_no_harm(image_message, picture):
    pixels = picture(3, 4, 3, np.uint8, 1)
    message = image_message(pixels, 'rgb8', tail=bytes(100))
    np.testing.assert_array_equal(decode_image(message), pixels)


def test_data_may_be_a_list(image_message, picture):
    pixels = picture(3, 4, 3, np.uint8, 1)
    message = image_message(pixels, 'bgr8')
    message.data = list(message.data)
    np.testing.assert_array_equal(decode_image(message, 'bgr'), pixels)


@pytest.mark.parametrize(('height', 'width'), [(0, 4), (4, 0), (2**32 - 1, 2**32 - 1),
                                               (2**15, 2**15), (1, MAX_PIXELS + 1)])
@pytest.mark.parametrize('encoding', ['rgb8', 'nv12', 'bayer_rggb16'])
def test_impossible_sizes_are_refused(encoding, height, width):
    message = SimpleNamespace(encoding=encoding, height=height, width=width, step=width * 3,
                              is_bigendian=0, data=b'')
    with pytest.raises(ImageError, match='is not possible'):
        decode_image(message)


@pytest.mark.parametrize('encoding', ['', 'RGB8', 'h264', 'bayer_rgbg8', '8UC5', '8UC', 'x' * 999])
def test_unknown_encodings_are_refused_by_name(encoding):
    message = SimpleNamespace(encoding=encoding, height=2, width=2, step=6, is_bigendian=0,
                              data=bytes(12))
    with pytest.raises(ImageError, match=f"encoding '{encoding[:40]}' is not supported; "
                                         'supported: mono8, '):
        decode_image(message)


@pytest.mark.parametrize('encoding', ['16UC1', '32FC1'])
def test_depth_is_no_picture(encoding):
    message = SimpleNamespace(encoding=encoding, height=2, width=2, step=8, is_bigendian=0,
                              data=bytes(16))
    with pytest.raises(ImageError, match=f"^encoding '{encoding}' is depth, no picture; "
                                         'decode_depth reads it$'):
        decode_image(message)


@pytest.mark.parametrize('encoding', ['8UC2', '16SC1', '32FC3', '64FC1', '16UC3'])
def test_numbers_without_a_meaning_are_no_picture(encoding):
    message = SimpleNamespace(encoding=encoding, height=1, width=1, step=32, is_bigendian=0,
                              data=bytes(32))
    with pytest.raises(ImageError, match='does not say what it shows'):
        decode_image(message)


@pytest.mark.parametrize('encoding', ['nv12', 'nv21', 'nv24'])
def test_planes_are_no_view(encoding):
    message = SimpleNamespace(encoding=encoding, height=2, width=2, step=2, is_bigendian=0,
                              data=bytes(12))
    with pytest.raises(ImageError, match='a plane of its own'):
        raw_view(message)


@settings(max_examples=300)
@given(st.text(max_size=6) | st.sampled_from(sorted(ENCODINGS)), st.integers(0, 2**32 - 1),
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
    assert np.nansum(view) is not None  # every element can be touched
