"""Depth: raw, and as compressed_depth_image_transport packs it (the packing written anew here)."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.errors import ImageError
from kd_perception.imaging import compressed_size, decode_depth, encode_png

NAN, INF = float('nan'), float('inf')
MILLIMETRES = np.array([[0, 1, 1000], [65535, 0, 4321]], np.uint16)
METRES = np.array([[NAN, 0.001, 1.0], [65.535, NAN, 4.321]], np.float32)


def compressed(text, data):
    return SimpleNamespace(format=text, data=data)


@pytest.mark.parametrize('encoding', ['16UC1', 'mono16'])
@pytest.mark.parametrize('bigendian', [False, True])
@pytest.mark.parametrize('padding', [0, 3, 8])
def test_millimetres(image_message, encoding, bigendian, padding):
    message = image_message(MILLIMETRES, encoding, bigendian=bigendian, padding=padding)
    depth = decode_depth(message)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, METRES, rtol=1e-6)


@pytest.mark.parametrize('bigendian', [False, True])
@pytest.mark.parametrize('padding', [0, 3, 8])
def test_metres(image_message, bigendian, padding):
    given_metres = np.array([[1.5, 0.0, NAN], [INF, -INF, -2.0]], np.float32)
    expected = np.array([[1.5, NAN, NAN], [NAN, NAN, NAN]], np.float32)
    message = image_message(given_metres, '32FC1', bigendian=bigendian, padding=padding,
                            container='array')
    depth = decode_depth(message)
    np.testing.assert_array_equal(depth, expected)
    depth[:] = 7  # the message stays as it is
    np.testing.assert_array_equal(decode_depth(message), expected)


@pytest.mark.parametrize('text', ['16UC1; compressedDepth png', '16UC1; compressedDepth', '16UC1',
                                  '16UC1;compressedDepth png', 'mono16; compressedDepth png'])
def test_compressed_millimetres(depth_header, text):
    message = compressed(text, depth_header() + encode_png(MILLIMETRES))
    np.testing.assert_allclose(decode_depth(message), METRES, rtol=1e-6)


def test_millimetres_without_the_parameters(depth_header):
    for text in ('16UC1; compressedDepth png', '16UC1; png compressed '):
        np.testing.assert_allclose(decode_depth(compressed(text, encode_png(MILLIMETRES))), METRES,
                                   rtol=1e-6)


@pytest.mark.parametrize('codec', ['png', 'rvl', ''])
def test_quantised_inverse_depth(depth_header, rvl, codec):
    """Parameters as the transport makes them: quantum 100, largest depth 10 m."""
    rng = np.random.default_rng(0)
    metres = rng.uniform(0.3, 9.9, (40, 50))
    metres[rng.random(metres.shape) < 0.2] = NAN
    scale = 100.0 * 101.0
    offset = 1.0 - scale / 10.0
    with np.errstate(invalid='ignore'):
        stored = np.where(np.isnan(metres), 0, scale / metres + offset).astype(np.uint16)
    body = rvl(stored) if codec == 'rvl' else encode_png(stored)
    depth = decode_depth(compressed(f'32FC1; compressedDepth {codec}'.strip(),
                                    depth_header(scale, offset) + body))
    np.testing.assert_array_equal(np.isnan(depth), np.isnan(metres))
    found = ~np.isnan(metres)
    # One step of the quantisation is z² / scale.
    assert (np.abs(depth - metres)[found] <= 1.01 * metres[found] ** 2 / scale + 1e-5).all()


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 999), st.floats(0, 1))
def test_rvl(depth_header, rvl, height, width, seed, empty):
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 65536, (height, width)).astype(np.uint16)
    values[rng.random(values.shape) < empty] = 0
    depth = decode_depth(compressed('16UC1; compressedDepth rvl', depth_header() + rvl(values)))
    expected = np.where(values == 0, np.nan, values * 0.001)
    np.testing.assert_allclose(depth, expected, rtol=1e-6)


def test_rvl_cut_off_anywhere_is_refused(depth_header, rvl):
    values = np.random.default_rng(1).integers(0, 3000, (8, 9)).astype(np.uint16)
    data = depth_header() + rvl(values)
    for size in range(len(data) - 4):
        with pytest.raises(ImageError):
            decode_depth(compressed('16UC1; compressedDepth rvl', data[:size]))


@pytest.mark.parametrize(('text', 'data', 'reason'), [
    ('16UC1; compressedDepth png', b'', 'is cut off'),
    ('16UC1; compressedDepth png', bytes(12), 'is cut off'),
    ('16UC1; compressedDepth png', bytes(200), 'no JPEG or PNG'),
    ('16UC1; compressedDepth png', bytes(12) + encode_png(np.zeros((4, 4), np.uint8)),
     'one channel of 16 bits'),
    ('32FC1; compressedDepth png', encode_png(MILLIMETRES), 'no JPEG or PNG'),
    ('16UC1; compressedDepth lz4', bytes(200), "'lz4' is not supported"),
    ('8UC1; compressedDepth png', bytes(200), "'8UC1' is not supported"),
    ('16UC1; compressedDepth rvl', bytes(16), 'is cut off'),
    ('16UC1; compressedDepth rvl', bytes(24), 'claims 0x0'),
    ('16UC1; compressedDepth rvl', bytes(12) + b'\xff' * 40, 'not possible'),
    ('16UC1; compressedDepth rvl', bytes(12) + b'\x04\0\0\0\x04\0\0\0' + b'\xff' * 40, 'cut off'),
    ('16UC1; compressedDepth rvl', bytes(12) + b'\x04\0\0\0\x04\0\0\0' + bytes(40), 'empty run'),
    ('jpeg', b'', 'is no depth'),
    ('', b'', 'is no depth'),
    ('rgb8; png compressed bgr8', b'', 'is no depth'),
])
def test_what_is_no_depth_is_refused(text, data, reason):
    with pytest.raises(ImageError, match=reason):
        decode_depth(compressed(text, data))


def test_quantisation_must_be_finite(depth_header):
    data = depth_header(NAN, 0.0) + encode_png(MILLIMETRES)
    with pytest.raises(ImageError, match='not finite'):
        decode_depth(compressed('32FC1; compressedDepth png', data))


@pytest.mark.parametrize('encoding', ['rgb8', 'mono8', '64FC1', 'nonsense'])
def test_pictures_are_no_depth(image_message, encoding):
    message = image_message(np.zeros((2, 2), np.uint16), encoding)
    with pytest.raises(ImageError, match='is no depth; 16UC1 and 32FC1 are'):
        decode_depth(message)


def test_size_without_decoding(depth_header, rvl):
    stored = np.zeros((6, 9), np.uint16)
    for message in (compressed('16UC1; compressedDepth png', depth_header() + encode_png(stored)),
                    compressed('16UC1; compressedDepth png', encode_png(stored)),
                    compressed('32FC1; compressedDepth rvl', depth_header() + rvl(stored)),
                    compressed('png', encode_png(stored)), compressed('', encode_png(stored))):
        assert compressed_size(message) == (6, 9)
    with pytest.raises(ImageError, match='cut off'):
        compressed_size(compressed('32FC1; compressedDepth rvl', depth_header()))
