"""Messages as drivers make them, built without the code under test."""

from __future__ import annotations

import array
import struct
from types import SimpleNamespace

import numpy as np
import pytest

CONTAINERS = {
    'bytes': bytes, 'bytearray': bytearray, 'memoryview': memoryview,
    'array': lambda data: array.array('B', data),
    'numpy': lambda data: np.frombuffer(data, np.uint8),
}


def _image_message(pixels, encoding, *, padding=0, container='bytes', bigendian=False, tail=b''):
    """Pack ``[H, W]`` or ``[H, W, C]`` into a message whose rows end with ``padding`` bytes."""
    height, width = pixels.shape[:2]
    stored = pixels.astype(pixels.dtype.newbyteorder('>' if bigendian else '<'))
    rows = np.frombuffer(stored.tobytes(), np.uint8).reshape(height, -1)
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAB).tobytes() + tail
    return SimpleNamespace(encoding=encoding, height=height, width=width,
                           step=rows.shape[1] + padding, is_bigendian=int(bigendian),
                           data=CONTAINERS[container](data))


def _picture(height, width, channels, dtype, seed):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def _depth_header(scale=0.0, offset=0.0):
    return struct.pack('<iff', 0, scale, offset)


def _rvl(values):
    """Encode uint16 ``[H, W]`` as the paper describes it, nibble by nibble."""
    nibbles = []

    def put(number):
        while True:
            number, low = number >> 3, number & 7
            nibbles.append(low | (8 if number else 0))
            if not number:
                return

    flat, at, last = values.reshape(-1).tolist(), 0, 0
    while at < len(flat):
        start = at
        while at < len(flat) and flat[at] == 0:
            at += 1
        put(at - start)
        start = at
        while at < len(flat) and flat[at] != 0:
            at += 1
        put(at - start)
        for value in flat[start:at]:
            delta = value - last
            put(2 * delta if delta >= 0 else -2 * delta - 1)
            last = value
    nibbles += [0] * (-len(nibbles) % 8)
    words = [sum(n << (28 - 4 * k) for k, n in enumerate(nibbles[i:i + 8]))
             for i in range(0, len(nibbles), 8)]
    return struct.pack(f'<II{len(words)}I', values.shape[1], values.shape[0], *words)


# Of the session: hypothesis runs many examples within one test.
@pytest.fixture(scope='session')
def image_message():
    """Return the function that packs pixels into a message."""
    return _image_message


@pytest.fixture(scope='session')
def picture():
    """Return the function that makes a random picture."""
    return _picture


@pytest.fixture(scope='session')
def depth_header():
    """Return the function that makes the twelve bytes before a compressed depth image."""
    return _depth_header


@pytest.fixture(scope='session')
def rvl():
    """Return an RVL encoder."""
    return _rvl


@pytest.fixture(scope='session')
def containers():
    """Return what ``data`` may be held in, by name."""
    return CONTAINERS
