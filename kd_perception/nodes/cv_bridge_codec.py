"""
``cv_bridge`` as the codec of raw images, where it is installed and proves itself.

Its builds are made for one numpy and one OpenCV, and with others they fail at the import, at the
first image, or by a signal. So a child process decodes every encoding with it and with our own
codec before it is imported here. What it does not do, or does otherwise, stays with our own codec:
planar YUV, generic types, rows whose padding is no whole pixel, everything compressed.
"""

from __future__ import annotations

from functools import lru_cache
import importlib.util
import json
import logging
import os
import subprocess
from types import SimpleNamespace
from typing import Any

import numpy as np

from kd_perception.errors import ImageError
from kd_perception.imaging import (
    ChannelOrder,
    decode_image,
    decode_message,
    ImageCodec,
    OWN_CODEC,
    raw_view,
)
from kd_perception.imaging.encodings import ENCODINGS
from kd_perception.paths import child_environment, code_command

_log = logging.getLogger(__name__)

# 'own' keeps cv_bridge out of it.
VARIABLE = 'KD_PERCEPTION_IMAGE_CODEC'
_CANDIDATES = tuple(name for name, encoding in ENCODINGS.items()
                    if encoding.family in ('grey', 'colour', 'bayer', 'yuv422')
                    and not name.startswith('8U'))
# Without these there is no point in using it.
_CORE = ('rgb8', 'bgr8', 'mono8')
_PROBE_TIMEOUT_S = 60.0
_TOLERANCE = 2  # rounding of 16 bits to 8 before or after the mosaic is developed


class CvBridgeCodec:
    """
    Decodes raw images with ``cv_bridge``.

    :param encodings: those that it decodes as our own codec does; others are left to that.
    :raises ImportError: when there is no ``cv_bridge``.
    """

    def __init__(self, encodings: frozenset[str] = frozenset(_CANDIDATES)) -> None:
        from cv_bridge import CvBridge
        self._bridge = CvBridge()
        self._encodings = encodings

    def decode(self, msg: Any, order: ChannelOrder = 'rgb') -> np.ndarray:
        """Return a message as a colour picture; as ``imaging.decode_message``."""
        encoding = getattr(msg, 'encoding', '')
        if encoding not in self._encodings or encoding == f'{order}8':
            return decode_message(msg, order)  # the second is a view of the message
        raw_view(msg)  # refuses what does not fit together, which cv_bridge may read beyond
        whole = int(msg.step) % ENCODINGS[encoding].pixel_bytes == 0
        if not whole or msg.is_bigendian or len(msg.data) < int(msg.step) * int(msg.height):
            return decode_image(msg, order)
        try:
            return self._bridge.imgmsg_to_cv2(msg, f'{order}8')
        except Exception as error:  # a boost type, TypeError, cv2.error: by version
            raise ImageError(f'cv_bridge cannot decode {encoding}: {error}') from None


def choose_codec() -> ImageCodec:
    """Return the codec for image messages; the first call may take a second where ROS is."""
    encodings, _ = probe_cv_bridge()
    return ImageCodec('cv_bridge', CvBridgeCodec(encodings).decode) if encodings else OWN_CODEC


@lru_cache(maxsize=1)
def probe_cv_bridge() -> tuple[frozenset[str], str]:
    """
    Return the encodings to decode with ``cv_bridge``, and why these; none if it is not used.

    Nothing of ROS is imported by it into this process.
    """
    none: frozenset[str] = frozenset()
    if os.environ.get(VARIABLE, '') == 'own':
        return none, f'{VARIABLE} asks for it'
    if importlib.util.find_spec('cv_bridge') is None:
        return none, 'cv_bridge is not installed and not needed'
    same, reason = _ask_child()
    if not same.issuperset(_CORE):
        _log.info('cv_bridge fails its self-test: %s', reason)
        return none, (f'cv_bridge is installed but fails its self-test ({reason}), often because '
                      'it was built for another numpy')
    return same, (f'cv_bridge passes its self-test for {len(same)} of {len(_CANDIDATES)} '
                  'encodings; our own codec does the rest')


def self_test() -> dict[str, str]:
    """Return, for each encoding that ``cv_bridge`` might decode, '' or what is wrong with it."""
    codec = CvBridgeCodec()
    return {name: _difference(codec, name) for name in _CANDIDATES}


def _difference(codec: CvBridgeCodec, name: str) -> str:
    encoding = ENCODINGS[name]
    rng = np.random.default_rng(0)
    for padding in (0, 2 * encoding.pixel_bytes):
        step = 8 * encoding.pixel_bytes + padding
        msg = SimpleNamespace(encoding=name, height=6, width=8, step=step, is_bigendian=0,
                              data=rng.integers(0, 256, 6 * step, np.uint8).tobytes())
        orders: tuple[ChannelOrder, ...] = ('rgb', 'bgr')
        for order in orders:
            try:
                found = codec.decode(msg, order)
            except Exception as error:
                return f'{type(error).__name__}: {error}'
            wanted = decode_image(msg, order)
            if found.shape != wanted.shape or found.dtype != wanted.dtype:
                return f'gives {found.dtype} {found.shape}'
            if np.abs(found.astype(int) - wanted).max() > _TOLERANCE:
                return 'gives other pixels'
    return ''


def _ask_child() -> tuple[frozenset[str], str]:
    """Return the encodings that ``cv_bridge`` decodes as we do, and the first reason if any."""
    code = ('import json; from kd_perception.nodes.cv_bridge_codec import self_test; '
            'print(json.dumps(self_test()))')
    try:
        done = subprocess.run(code_command(code), capture_output=True, text=True,
                              env=child_environment(), timeout=_PROBE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return frozenset(), f'no answer within {_PROBE_TIMEOUT_S:.0f} s'
    if done.returncode < 0:
        return frozenset(), f'crashed by signal {-done.returncode}'
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        lines = done.stderr.strip().splitlines()
        return frozenset(), lines[-1] if lines else 'no answer'
    reasons = [f'{name}: {found[name]}' for name in (*_CORE, *found) if found.get(name)]
    return frozenset(n for n, reason in found.items() if not reason), ', '.join(reasons[:1])
