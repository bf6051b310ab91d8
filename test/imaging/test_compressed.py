"""JPEG and PNG of every kind that compressors write, under every name the format has had."""

from __future__ import annotations

import struct
from types import SimpleNamespace
import zlib

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.errors import ImageError
from kd_perception.imaging import (
    decode_compressed,
    decode_image,
    decode_label_image,
    decode_message,
    encode_jpeg,
    encode_png,
    parse_format,
    picture_header,
)
from kd_perception.imaging.compressed import CompressedFormat

CONTAINERS = ['array', 'bytearray', 'bytes', 'memoryview', 'numpy']
FLAT = np.full((16, 24, 3), (200, 100, 20), np.uint8)  # RGB


def png(pixels, colour_type, bits, *, palette=b'', transparency=b''):
    """Write a PNG by hand: ``pixels`` are samples, ``[H, W]`` or ``[H, W, C]``."""
    def chunk(name, data):
        return (struct.pack('>I', len(data)) + name + data
                + struct.pack('>I', zlib.crc32(name + data)))

    height, width = pixels.shape[:2]
    stored = pixels.astype('>u2' if bits == 16 else np.uint8)
    if bits < 8:
        # Samples of 1, 2 or 4 bits, packed from the highest down.
        digits = (stored[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        stored = np.packbits(digits.reshape(height, -1).astype(np.uint8), axis=1)
    rows = b''.join(b'\0' + stored[y].tobytes() for y in range(height))
    out = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, bits,
                                                           colour_type, 0, 0, 0))
    out += chunk(b'PLTE', palette) if palette else b''
    out += chunk(b'tRNS', transparency) if transparency else b''
    return out + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


@pytest.mark.parametrize(('text', 'expected'), [
    ('', CompressedFormat()),
    ('jpeg', CompressedFormat(codec='jpeg')),
    ('jpg', CompressedFormat(codec='jpeg')),
    ('JPEG', CompressedFormat(codec='jpeg')),
    ('png', CompressedFormat(codec='png')),
    ('rgb8; jpeg compressed bgr8', CompressedFormat('rgb8', 'jpeg', 'bgr8')),
    ('bgr8; jpeg compressed bgr8', CompressedFormat('bgr8', 'jpeg', 'bgr8')),
    ('rgb8; jpeg compressed', CompressedFormat('rgb8', 'jpeg')),
    ('rgb8;jpeg compressed rgb8', CompressedFormat('rgb8', 'jpeg', 'rgb8')),
    ('bgr8; jpg compressed bgr8', CompressedFormat('bgr8', 'jpeg', 'bgr8')),
    ('mono8; png compressed mono8', CompressedFormat('mono8', 'png', 'mono8')),
    ('mono16; png compressed ', CompressedFormat('mono16', 'png')),
    ('bayer_rggb8; png compressed', CompressedFormat('bayer_rggb8', 'png')),
    ('rgb8; tiff compressed bgr8', CompressedFormat('rgb8', 'tiff', 'bgr8')),
    ('16UC1; compressedDepth', CompressedFormat('16UC1', 'png', depth=True)),
    ('16UC1; compressedDepth png', CompressedFormat('16UC1', 'png', depth=True)),
    ('32FC1; compressedDepth rvl', CompressedFormat('32FC1', 'rvl', depth=True)),
    ('32FC1', CompressedFormat('32FC1', 'png', depth=True)),
    ('mono8', CompressedFormat('mono8', 'png')),
    ('; ;;', CompressedFormat(codec=';;')),
])
def test_spellings_of_the_format(text, expected):
    assert parse_format(text) == expected


@pytest.mark.parametrize('order', ['rgb', 'bgr'])
@pytest.mark.parametrize('container', CONTAINERS)
def test_compressed_pictures(containers, order, container):
    expected = FLAT if order == 'rgb' else FLAT[:, :, ::-1]
    decoded = decode_compressed(containers[container](encode_png(FLAT)), order)
    np.testing.assert_array_equal(decoded, expected)
    jpeg = decode_compressed(containers[container](encode_jpeg(FLAT)), order)
    assert np.abs(jpeg.astype(int) - expected).max() <= 3


@pytest.mark.parametrize('encode', [encode_jpeg, encode_png])
@pytest.mark.parametrize('text', ['', 'jpeg', 'png', 'rgb8; jpeg compressed bgr8', 'nonsense',
                                  'bgr8; jpeg compressed bgr8', 'rgb8; jpeg compressed ',
                                  'bgr8; png compressed bgr8',
                                  'bayer_rggb8; jpeg compressed bgr8'])
@pytest.mark.parametrize('order', ['rgb', 'bgr'])
def test_the_colours_are_those_of_the_file(encode, text, order):
    """Whatever the format says of the picture before: a reader of files would see the same."""
    decoded = decode_message(SimpleNamespace(format=text, data=encode(FLAT)), order)
    expected = FLAT if order == 'rgb' else FLAT[:, :, ::-1]
    assert np.abs(decoded.astype(int) - expected).max() <= 3


@pytest.mark.parametrize('encode', [encode_jpeg, encode_png])
@pytest.mark.parametrize('text', ['rgb8; jpeg compressed rgb8', 'bgr8; jpeg compressed rgb8'])
def test_a_compressor_that_was_handed_rgb_says_so(encode, text):
    swapped = encode(np.ascontiguousarray(FLAT[:, :, ::-1]))  # as imencode does it with RGB
    decoded = decode_message(SimpleNamespace(format=text, data=swapped))
    assert np.abs(decoded.astype(int) - FLAT).max() <= 3


@pytest.mark.parametrize('bits', [8, 16])
def test_a_mosaic_in_a_png_is_developed(image_message, picture, bits):
    mosaic = picture(8, 10, 1, np.uint8 if bits == 8 else np.uint16, 0)
    raw = image_message(mosaic, f'bayer_grbg{bits}')
    message = SimpleNamespace(format=f'bayer_grbg{bits}; png compressed ', data=encode_png(mosaic))
    np.testing.assert_array_equal(decode_message(message), decode_image(raw))
    # Made grey before compression, as newer transports do.
    message.format = f'bayer_grbg{bits}; png compressed mono{bits}'
    np.testing.assert_array_equal(decode_message(message),
                                  decode_image(image_message(mosaic, f'mono{bits}')))


@pytest.mark.parametrize(('kind', 'bits', 'channels'), [
    (0, 1, 1), (0, 2, 1), (0, 4, 1), (0, 8, 1), (0, 16, 1), (2, 8, 3), (2, 16, 3), (3, 1, 1),
    (3, 4, 1), (3, 8, 1), (4, 8, 2), (4, 16, 2), (6, 8, 4), (6, 16, 4)])
@pytest.mark.parametrize('order', ['rgb', 'bgr'])
def test_every_kind_of_png(kind, bits, channels, order):
    """Colour types 0 grey, 2 colour, 3 palette, 4 grey with alpha, 6 colour with alpha."""
    rng = np.random.default_rng(bits)
    shape = (5, 7, channels) if channels > 1 else (5, 7)
    samples = rng.integers(0, 1 << bits, shape)
    palette = rng.integers(0, 256, (1 << bits if kind == 3 else 0, 3), np.uint8)
    data = png(samples, kind, bits, palette=palette.tobytes())
    top = (1 << bits) - 1
    if kind == 3:
        expected = palette[samples]
    elif kind in (0, 4):
        grey = samples if samples.ndim == 2 else samples[:, :, 0]
        expected = np.stack([np.round(grey * 255.0 / top)] * 3, axis=-1)
    else:
        expected = np.round(samples[:, :, :3] * 255.0 / top)
    expected = expected if order == 'rgb' else expected[:, :, ::-1]
    np.testing.assert_array_equal(decode_compressed(data, order), expected)
    header = picture_header(data)
    assert (header.width, header.height, header.bits) == (7, 5, bits)


def test_transparency_is_left_out():
    palette = np.random.default_rng(0).integers(0, 256, (16, 3), np.uint8)
    samples = np.arange(16).reshape(4, 4)
    data = png(samples, 3, 4, palette=palette.tobytes(), transparency=bytes(range(16)))
    np.testing.assert_array_equal(decode_compressed(data), palette[samples])


def test_grey_jpegs_get_three_channels():
    grey = np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))
    data = cv2.imencode('.jpg', grey, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    decoded = decode_compressed(data)
    assert decoded.shape == (16, 16, 3)
    assert np.abs(decoded[:, :, 1].astype(int) - grey).max() <= 4


@pytest.mark.parametrize('options', [
    [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 3],
    [cv2.IMWRITE_JPEG_OPTIMIZE, 1]])
@pytest.mark.parametrize('zeros', [0, 1, 5000])
def test_every_kind_of_jpeg_with_zeros_behind(options, zeros, picture):
    noise = picture(33, 41, 3, np.uint8, 0)
    data = cv2.imencode('.jpg', noise, options)[1].tobytes()
    header = picture_header(data + bytes(zeros))
    assert (header.kind, header.width, header.height, header.bits) == ('jpeg', 41, 33, 8)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decode_compressed(data + bytes(zeros), 'bgr'), expected)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture(picture):
    data = encode_jpeg(picture(32, 32, 3, np.uint8, 0))
    thumbnail = encode_jpeg(FLAT)
    app1 = b'\xff\xe1' + struct.pack('>H', len(thumbnail) + 2) + thumbnail
    whole = data[:2] + app1 + data[2:]
    np.testing.assert_array_equal(decode_compressed(whole), decode_compressed(data))
    with pytest.raises(ImageError, match='is cut off'):
        decode_compressed(whole[:-100])
    with pytest.raises(ImageError, match='is cut off'):
        decode_compressed(whole[:-100] + bytes(2000))


@pytest.mark.parametrize('encode', [encode_jpeg, encode_png])
def test_cut_off_anywhere_is_refused(encode, capfd, picture):
    data = encode(picture(16, 16, 3, np.uint8, 0))
    for size in range(len(data) - 1):
        with pytest.raises(ImageError):
            decode_compressed(data[:size])
    # The decoders below would print about it.
    assert capfd.readouterr().err == ''


@pytest.mark.parametrize('data', [b'', b'\x00', b'GIF89a', bytes(1000), b'\xff\xd8\xff\xd9',
                                  b'II*\0' + bytes(100), b'RIFF....WEBPVP8 ' + bytes(50)])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(ImageError, match='compressed image'):
        decode_compressed(data)


@pytest.mark.parametrize(('width', 'height'), [(65535, 65535), (65535, 2000), (0, 16), (16, 0)])
def test_a_jpeg_that_claims_too_much_is_refused(width, height):
    data = bytearray(encode_jpeg(FLAT))
    at = bytes(data).index(b'\xff\xc0') + 5
    data[at:at + 4] = struct.pack('>HH', height, width)
    with pytest.raises(ImageError, match=f'claims {width}x{height}, which is not possible'):
        decode_compressed(bytes(data))


@pytest.mark.parametrize(('width', 'height'), [(2**31 - 1, 2**31 - 1), (40000, 40000), (0, 5),
                                               (9000, 9000)])
def test_a_png_that_claims_too_much_is_refused(width, height):
    data = bytearray(encode_png(FLAT))
    data[16:24] = struct.pack('>II', width, height)
    data[29:33] = struct.pack('>I', zlib.crc32(bytes(data[12:29])))
    with pytest.raises(ImageError, match=f'claims {width}x{height}, which is not possible'):
        decode_compressed(bytes(data))


@pytest.mark.parametrize('encode', [encode_jpeg, encode_png])
def test_flat_pictures_are_not_taken_for_bombs(encode):
    black = np.zeros((2160, 3840, 3), np.uint8)
    assert decode_compressed(encode(black)).shape == black.shape


@settings(max_examples=60)
@given(st.sampled_from(['jpeg', 'png']), st.integers(0, 10**6), st.integers(1, 255))
def test_a_flipped_byte_never_escapes_as_another_error(picture, kind, place, flip):
    image = picture(12, 12, 3, np.uint8, 5)
    data = bytearray(encode_jpeg(image) if kind == 'jpeg' else encode_png(image))
    data[place % len(data)] ^= flip
    try:
        decoded = decode_compressed(bytes(data))
    except ImageError:
        return
    assert decoded.dtype == np.uint8
    assert decoded.ndim == 3


def test_label_images(image_message, picture):
    ids = picture(6, 7, 1, np.uint8, 2)
    np.testing.assert_array_equal(decode_label_image(image_message(ids, 'mono8', padding=3)), ids)
    for text in ('png', '', 'mono8; png compressed ', 'mono8; png compressed mono8'):
        message = SimpleNamespace(format=text, data=encode_png(ids))
        np.testing.assert_array_equal(decode_label_image(message), ids)


@pytest.mark.parametrize('bits', [1, 2, 4, 8])
@pytest.mark.parametrize('grey', [True, False])
def test_labels_with_a_palette_are_its_indices(bits, grey):
    rng = np.random.default_rng(bits)
    ids = rng.integers(0, 1 << bits, (6, 8), np.uint8)
    palette = rng.integers(0, 256, (1 << bits, 3), np.uint8)
    if grey:
        palette[:] = palette[:, :1]
    for transparency in (b'', bytes(1 << bits)):
        data = png(ids, 3, bits, palette=palette.tobytes(), transparency=transparency)
        message = SimpleNamespace(format='png', data=data)
        np.testing.assert_array_equal(decode_label_image(message), ids)


@pytest.mark.parametrize(('text', 'data', 'reason'), [
    ('jpeg', b'', 'must not be JPEG'),
    ('mono8; jpg compressed', b'', 'must not be JPEG'),
    ('png', encode_jpeg(FLAT), 'must not be JPEG'),
    ('png', encode_png(FLAT), 'one channel'),
    ('png', encode_png(np.zeros((2, 2), np.uint16)), '8 bits'),
])
def test_what_is_no_label_image_is_refused(text, data, reason):
    with pytest.raises(ImageError, match=reason):
        decode_label_image(SimpleNamespace(format=text, data=data))


@pytest.mark.parametrize('encoding', ['rgb8', 'mono16', 'bayer_rggb8', '16UC1'])
def test_raw_images_that_are_no_labels(image_message, picture, encoding):
    channels = 3 if encoding == 'rgb8' else 1
    with pytest.raises(ImageError, match='must be mono8'):
        decode_label_image(image_message(picture(2, 2, channels, np.uint8, 0), encoding))


@pytest.mark.parametrize('text', ['16UC1; compressedDepth png', '32FC1; compressedDepth', '16UC1',
                                  '16UC1; png compressed '])
def test_compressed_depth_is_no_picture(text):
    message = SimpleNamespace(format=text, data=encode_png(np.zeros((4, 4), np.uint16)))
    with pytest.raises(ImageError, match=f"^format '{text}' is depth, no picture; decode_depth "
                                         'reads it$'):
        decode_message(message)


def test_what_is_no_image_message_is_refused():
    with pytest.raises(ImageError, match='SimpleNamespace is no image message'):
        decode_message(SimpleNamespace(data=b''))


def test_sixteen_bit_png_survives(picture):
    deep = picture(5, 6, 1, np.uint16, 3)
    np.testing.assert_array_equal(
        cv2.imdecode(np.frombuffer(encode_png(deep), np.uint8), cv2.IMREAD_UNCHANGED), deep)
