"""What every image codec must do, ours and, where it is installed, cv_bridge."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from kd_perception.errors import ImageError
from kd_perception.imaging import encode_jpeg, encode_png, OWN_CODEC
from kd_perception.imaging.encodings import ENCODINGS
from kd_perception.nodes.cv_bridge_codec import CvBridgeCodec, probe_cv_bridge

ORDERS = ['rgb', 'bgr']
RAW = sorted(n for n, e in ENCODINGS.items() if e.family not in ('depth', 'other'))


@pytest.fixture(scope='module', params=['own', 'cv_bridge'])
def codec(request):
    if request.param == 'own':
        return OWN_CODEC
    if importlib.util.find_spec('cv_bridge') is None:
        pytest.skip('cv_bridge is not installed')
    encodings, reason = probe_cv_bridge()
    if not encodings:
        pytest.skip(reason)
    return CvBridgeCodec(encodings)


def flat(encoding, *, padding=0, bigendian=0, height=6, width=8):
    """Return a message of one colour, red 180, green 90, blue 40, and how it must come out."""
    rgb = np.array([180, 90, 40])
    found = ENCODINGS[encoding]
    tall, top = np.zeros((height, width), int), 257 if found.dtype == np.uint16 else 1
    rows = None
    if found.family == 'grey':
        pixels, rgb = tall + 90, np.array([90, 90, 90])
    elif found.family == 'colour':
        pixels = np.stack([tall + ([*rgb, 77]['rgba'.index(c)]) for c in found.order], axis=-1)
    elif found.family == 'bayer':
        pixels = tall
        for place, name in enumerate(found.order):
            pixels[place // 2::2, place % 2::2] = rgb['rgb'.index(name)]
    else:
        # ITU-R BT.601, limited range, of that colour.
        y, u, v = 112, 93, 171
        parts = {'uyvy': [[u, v], [y, y]], 'yuyv': [[y, y], [u, v]]}
        if found.family == 'yuv422':
            pixels = np.stack([np.tile(p, (height, width // 2)) for p in parts[found.order]],
                              axis=-1)
        else:
            step = width + padding
            luma = np.pad(tall + y, ((0, 0), (0, padding)))
            pair = [v, u] if encoding == 'nv21' else [u, v]
            tall_chroma = height if encoding == 'nv24' else height // 2
            row = np.tile(pair, width if encoding == 'nv24' else width // 2)
            wide = 2 * step if encoding == 'nv24' else step
            chroma = np.pad(np.tile(row, (tall_chroma, 1)), ((0, 0), (0, wide - len(row))))
            rows = np.concatenate([luma.reshape(-1), chroma.reshape(-1)]).astype(np.uint8)
    if rows is None:
        order = '>' if bigendian else '<'
        stored = (pixels * top).astype(found.dtype.newbyteorder(order))
        lines = np.frombuffer(stored.tobytes(), np.uint8).reshape(height, -1)
        step = lines.shape[1] + padding
        rows = np.pad(lines, ((0, 0), (0, padding)))
    return SimpleNamespace(encoding=encoding, height=height, width=width, step=step,
                           is_bigendian=bigendian, data=rows.tobytes()), rgb


@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('bigendian', [0, 1])
@pytest.mark.parametrize('padding', [0, 1, 24])
@pytest.mark.parametrize('encoding', RAW)
def test_colours(codec, encoding, padding, bigendian, order):
    message, rgb = flat(encoding, padding=padding, bigendian=bigendian)
    decoded = codec.decode(message, order)
    assert decoded.dtype == np.uint8
    assert decoded.shape == (6, 8, 3)
    assert np.abs(decoded.astype(int) - (rgb if order == 'rgb' else rgb[::-1])).max() <= 3


@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8'])
def test_places(codec, encoding, order, picture):
    channels = ENCODINGS[encoding].channels
    pixels = picture(5, 7, channels, np.uint8, 3)
    message = SimpleNamespace(encoding=encoding, height=5, width=7, step=7 * channels,
                              is_bigendian=0, data=pixels.tobytes())
    rgb = np.stack([pixels] * 3, axis=-1) if channels == 1 else pixels[:, :, :3]
    expected = rgb if encoding.startswith(order) or channels == 1 else rgb[:, :, ::-1]
    np.testing.assert_array_equal(codec.decode(message, order), expected)


@pytest.mark.parametrize('encoding', RAW)
def test_short_data_are_refused_in_one_line(codec, encoding):
    message, _ = flat(encoding)
    message.data = message.data[:-1]
    with pytest.raises(ImageError, match='^image claims .* but carries') as caught:
        codec.decode(message, 'rgb')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'mono8'])
@pytest.mark.parametrize('field', ['height', 'width', 'step'])
@pytest.mark.parametrize('value', [0, 2**31, 2**32 - 1])
def test_fields_that_cannot_be_are_refused(codec, encoding, field, value):
    message, _ = flat(encoding)
    setattr(message, field, value)
    with pytest.raises(ImageError):
        codec.decode(message, 'rgb')


@pytest.mark.parametrize('encoding', ['16UC1', '32FC1', '64FC1', '8UC2', 'h264', ''])
def test_what_is_no_picture_is_refused(codec, encoding):
    message = SimpleNamespace(encoding=encoding, height=2, width=2, step=16, is_bigendian=0,
                              data=bytes(32))
    with pytest.raises(ImageError):
        codec.decode(message, 'rgb')


@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('encode', [encode_jpeg, encode_png])
def test_compressed(codec, encode, order):
    image = np.full((16, 16, 3), (180, 90, 40), np.uint8)
    message = SimpleNamespace(format='rgb8; jpeg compressed bgr8', data=encode(image))
    expected = image if order == 'rgb' else image[:, :, ::-1]
    assert np.abs(codec.decode(message, order).astype(int) - expected).max() <= 3
