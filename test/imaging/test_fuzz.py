"""
Mutated image messages: the right answer or one line, and never much memory.

``KD_PERCEPTION_FUZZ_MESSAGES`` says how many; the default is a short run for every day. They are
decoded in a process of their own, which has taken no memory for anything else before.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
import struct
import subprocess
import sys
from types import SimpleNamespace
import zlib

import numpy as np
import pytest

from kd_perception.errors import ImageError
from kd_perception.imaging import (
    compressed_size,
    decode_depth,
    decode_label_image,
    decode_message,
    encode_jpeg,
    encode_png,
    MAX_PIXELS,
)
from kd_perception.imaging.encodings import ENCODINGS

MESSAGES = int(os.environ.get('KD_PERCEPTION_FUZZ_MESSAGES', '2000'))
BATCH = 200
EXTREMES = (0, 1, 2, 3, 5, 255, 256, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
FORMATS = ('', 'jpeg', 'png', 'rgb8; jpeg compressed bgr8', 'mono16; png compressed ',
           'bayer_rggb8; png compressed', '16UC1; compressedDepth png', '32FC1; compressedDepth',
           '16UC1; compressedDepth rvl', '32FC1; compressedDepth rvl', '16UC1', ';', '\0', 'é;é é')
GROWTH_BYTES = 100 * 2**20


def raw(rng, name):
    encoding = ENCODINGS[name]
    height, width = (2 * int(n) for n in rng.integers(1, 20, 2))
    step = width * encoding.pixel_bytes + int(rng.integers(0, 9))
    rows = {'nv12': 1.5, 'nv21': 1.5, 'nv24': 3}.get(name, 1)
    data = rng.integers(0, 256, int(height * rows * step), np.uint8).tobytes()
    return SimpleNamespace(encoding=name, height=height, width=width, step=step,
                           is_bigendian=int(rng.integers(0, 2)), data=data)


def compressed(rng, depth_header, rvl):
    """Return a message and the picture in it where only that can come out, else None."""
    size = tuple(int(n) for n in rng.integers(1, 40, 2))
    colour = rng.integers(0, 256, (*size, 3), np.uint8)
    deep = rng.integers(0, 2000, size).astype(np.uint16)
    kinds = [
        ('jpeg', encode_jpeg(colour), None), ('png', encode_png(colour), colour),
        ('mono8; png compressed ', encode_png(colour[:, :, 0]),
         np.repeat(colour[:, :, :1], 3, axis=2)),
        ('mono16; png compressed ', encode_png(deep), None),
        ('16UC1; compressedDepth png', depth_header() + encode_png(deep), None),
        ('32FC1; compressedDepth png', depth_header(10100., -1009.) + encode_png(deep), None),
        ('16UC1; compressedDepth rvl', depth_header() + rvl(deep), None)]
    text, data, picture = kinds[rng.integers(len(kinds))]
    return SimpleNamespace(format=text, data=data), picture


def claiming(rng, data):
    """Let a picture claim another size, which decoders make room for; checksums are right."""
    width, height = (int(rng.choice((1, 300, 5000, 65535))) for _ in range(2))
    at = data.find(b'IHDR')
    if at >= 0:
        data[at + 4:at + 12] = struct.pack('>II', width, height)
        data[at + 17:at + 21] = struct.pack('>I', zlib.crc32(data[at:at + 17]))
    elif data.startswith(b'\xff\xd8'):
        at = data.find(b'\xff\xc0')  # baseline
        data[at + 5:at + 9] = struct.pack('>HH', height, width)
    else:  # RVL, behind the twelve bytes
        data[12:20] = struct.pack('<II', width, height)
    return data


def mutated(rng, message):
    """Change one to three things; return whether the data alone were changed."""
    only_data = True
    for _ in range(int(rng.integers(1, 4))):
        what = rng.integers(7)
        data = bytearray(message.data)
        if what == 0 and data:
            for place in rng.integers(0, len(data), int(rng.integers(1, 9))):
                data[place] ^= 1 << int(rng.integers(8))
        elif what == 1:
            data = data[:int(rng.integers(0, len(data) + 1))]
        elif what == 2:
            data += rng.integers(0, 256, int(rng.integers(0, 5000)), np.uint8).tobytes()
        elif what == 3 and data:
            start, size = int(rng.integers(len(data))), int(rng.integers(1, 40))
            data[start:start + size] = rng.integers(0, 256, size, np.uint8).tobytes()
        elif what == 4 and hasattr(message, 'format'):
            data = claiming(rng, data)
            only_data = False
        elif hasattr(message, 'format'):
            message.format = FORMATS[rng.integers(len(FORMATS))]
            only_data = False
        else:
            field = ('height', 'width', 'step', 'is_bigendian', 'encoding')[rng.integers(5)]
            value = int(rng.choice(EXTREMES)) if rng.random() < 0.5 else \
                max(0, message.step + int(rng.integers(-3, 4)))
            setattr(message, field, str(rng.choice(list(ENCODINGS))) if field == 'encoding'
                    else value)
        message.data = bytes(data)
    return only_data


def expected(message):
    """Return the picture of a raw message, None where it is not known here, or raise."""
    encoding = ENCODINGS[message.encoding]
    height, width, step = message.height, message.width, message.step
    if encoding.family == 'depth':
        raise ValueError('depth')
    if not 0 < height * width <= MAX_PIXELS or step < width * encoding.pixel_bytes:
        raise ValueError('size')
    if encoding.family == 'planar':
        chroma = height if message.encoding == 'nv24' else height // 2
        rows = 2 * step if message.encoding == 'nv24' else step
        row = 2 * width if message.encoding == 'nv24' else width
        if message.encoding != 'nv24' and (height % 2 or width % 2):
            raise ValueError('odd')
        if len(message.data) < height * step + (chroma - 1) * rows + row:
            raise ValueError('short')
        return None
    if len(message.data) < step * (height - 1) + width * encoding.pixel_bytes:
        raise ValueError('short')
    if encoding.family == 'yuv422':
        if width % 2:
            raise ValueError('odd')
        return None
    if encoding.family == 'bayer':
        if height < 2 or width < 2:
            raise ValueError('small')
        return None
    order = '>' if message.is_bigendian else '<'
    kind = encoding.dtype.newbyteorder(order)
    lines = [np.frombuffer(message.data, kind, width * encoding.channels, y * step)
             for y in range(height)]
    pixels = np.stack(lines).reshape(height, width, encoding.channels)
    if encoding.dtype == np.uint16:
        pixels = np.round(pixels / 257.0)
    if encoding.channels == 1:
        return np.repeat(pixels, 3, axis=2)
    return pixels[:, :, :3] if encoding.order.startswith('rgb') else pixels[:, :, 2::-1]


def attempt(function, *arguments):
    """Return the result, or None after an error of one line."""
    try:
        return function(*arguments)
    except ImageError as error:
        line = str(error)
    assert '\n' not in line
    assert 0 < len(line) < 500
    return None


def decode_batch(batch, depth_header, rvl):
    """Decode ``BATCH`` mutated messages; an AssertionError says which answer was wrong."""
    rng = np.random.default_rng(batch)
    answers = 0
    for number in range(BATCH):
        picture = None
        if number % 2:
            message, picture = compressed(rng, depth_header, rvl)
        else:
            message = raw(rng, list(ENCODINGS)[rng.integers(len(ENCODINGS))])
        only_data = mutated(rng, message)
        decoded = attempt(decode_message, message)
        answers += decoded is not None
        if decoded is not None:
            assert decoded.dtype == np.uint8
            assert decoded.ndim == 3
            assert decoded.shape[2] == 3
        if hasattr(message, 'encoding'):
            try:
                wanted = expected(message)
            except ValueError:
                assert decoded is None
            else:
                assert decoded.shape == (message.height, message.width, 3)
                if wanted is not None:
                    np.testing.assert_array_equal(decoded, wanted)
        elif decoded is not None:
            assert decoded.shape[:2] == compressed_size(message)
            if picture is not None and only_data:
                # A PNG carries checksums: whatever comes out is what went in.
                np.testing.assert_array_equal(decoded, picture)
        depth = attempt(decode_depth, message)
        if depth is not None:
            answers += 1
            assert depth.dtype == np.float32
            assert depth.ndim == 2
            assert not (depth <= 0).any()
            assert not np.isinf(depth).any()
        labels = attempt(decode_label_image, message)
        assert labels is None or (labels.dtype, labels.ndim) == (np.uint8, 2)
    assert answers > BATCH // 10  # the mutations must leave something to decode


def memory_bytes(name):
    """Return what the kernel counts; the peak of ``resource`` begins at that of the parent."""
    status = Path('/proc/self/status').read_text().split()
    return int(status[status.index(name) + 1]) * 1024


def main(batches):
    """Decode so many batches, and print by how much memory has grown at most."""
    from conftest import _depth_header, _rvl  # what the fixtures give

    attempt(decode_message, compressed(np.random.default_rng(0), _depth_header, _rvl)[0])
    before = memory_bytes('VmRSS:')
    for batch in range(batches):
        try:
            decode_batch(batch, _depth_header, _rvl)
        except Exception:
            print(f'batch {batch}:', file=sys.stderr)
            raise
    print(json.dumps({'grown_bytes': memory_bytes('VmHWM:') - before}))


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs Linux')
def test_mutated_messages():
    batches = (MESSAGES + BATCH - 1) // BATCH
    done = subprocess.run([sys.executable, __file__, str(batches)], capture_output=True, text=True,
                          timeout=120 + 2 * batches)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)['grown_bytes'] < GROWTH_BYTES


if __name__ == '__main__':
    main(int(sys.argv[1]))
