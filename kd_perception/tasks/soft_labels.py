"""
Soft labels of segmentation: a teacher's logits made small, and back.

Softmax does not change when a number is taken from all logits of a pixel, and bilinear resizing
is linear. So the largest logit of every pixel is subtracted: what is stored is how far each class
lies below the winner, which needs few bits. ``decode`` returns these: the largest is 0. Losses
that compare one class over pixels need the logits themselves: ``offset`` keeps what was taken off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import Any

import cv2
import numpy as np

from kd_perception.classes import UNLABELLED
from kd_perception.errors import ConfigError
from kd_perception.tasks.label_packing import (
    pack_ids,
    pack_planes,
    unpack_ids,
    unpack_planes,
    winners,
)

CODECS = ('packed', 'fp16', 'u8', 'topk')

# Name of a plane, uint8 [h, w], that imported labels have: 0 where nothing is known.
VALID = 'valid'

_LEVELS = 255
# Temperatures at which a loss on decoded labels has nearly the gradient of one on the teacher's
# logits; measured, docs/losses.md.
_MIN_TEMPERATURE = 0.5
# What is cut off at a depth of 24 counts exp(-24 / temperature) of the winner.
PACKED_MAX_TEMPERATURE = 4.0
# Above, how the classes compare that are spread evenly is most of the lesson.
TOPK_MAX_TEMPERATURE = 1.0
# Six bits are enough: with 63 levels the divergence is that of 255 to the fourth digit.
_PACKED_LEVELS = 63
# exp(-24) of the winner's probability: nothing below it matters, and steps above get finer.
_PACKED_DEPTH = 24.0


@dataclass(frozen=True)
class SoftLabelCodec:
    """
    How logits are stored.

    - ``packed``: differences to the largest logit in 6 bits, losslessly compressed, and the winner
      of every pixel at the resolution of the logits where that is finer. What blurs when logits
      are kept at a stride is above all where one class ends and the next begins; that the winner
      keeps, at 0.03 bytes per pixel. 0.2 to 0.3 bytes per pixel at stride 4 with 11 classes.
    - ``fp16``: differences to the largest logit as float16; 2 bytes per class and cell.
    - ``u8``: the same in 8 bits on a quadratic scale per frame: steps are fine near the winner,
      where probabilities are large, and coarse far below. 1 byte per class and cell.
    - ``topk``: the ``k`` likeliest classes (index and 8-bit difference) and the probability of
      all others together, spread evenly; 2 k + 1 bytes per cell. True at one temperature only,
      of at most 1.

    ``offset`` adds 2 bytes per cell to all but ``topk``.

    :param name: ``packed``, ``fp16``, ``u8`` or ``topk``.
    :param stride: pixels of the logits' full-size grid per stored cell, in each direction.
    :param k: classes that ``topk`` keeps.
    :param temperature: at which ``topk`` preserves the probability of the rest.
    :param offset: also keep the largest logit of every cell, so that the logits themselves come
        back, not only their softmax; not with ``topk``.
    :raises ConfigError: for values that make no sense.
    """

    name: str = 'packed'
    stride: int = 4
    k: int = 3
    temperature: float = 1.0
    offset: bool = False

    def __post_init__(self) -> None:
        if self.name not in CODECS:
            raise ConfigError(f'no soft-label codec named {self.name!r}; choose '
                              f'{", ".join(CODECS)}')
        if not 1 <= self.stride <= 64 or not 1 <= self.k <= 255 or not self.temperature > 0:
            raise ConfigError(f'soft-label codec: stride {self.stride} (1 to 64), k {self.k} '
                              f'(1 to 255) or temperature {self.temperature} (> 0) is out of '
                              'range')
        if self.offset and self.name == 'topk':
            raise ConfigError('soft-label codec topk spreads what it leaves out evenly, so it '
                              'cannot keep the logits themselves; use another (--codec packed '
                              '--keep-logits)')

    @property
    def params(self) -> dict[str, Any]:
        """Return what this codec has besides name and stride."""
        if self.name == 'topk':
            return {'k': self.k, 'temperature': self.temperature}
        return {'offset': True} if self.offset else {}

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for a manifest."""
        return {'name': self.name, 'stride': self.stride, 'params': self.params}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SoftLabelCodec:
        """
        Build a codec from ``to_dict``'s form.

        :raises ConfigError: for unknown keys, names or values.
        """
        unknown = set(data) - {'name', 'stride', 'params'}
        params = data.get('params') or {}
        if unknown or not isinstance(params, Mapping) or set(params) - {
                'k', 'temperature', 'offset'}:
            raise ConfigError(f'soft-label codec {dict(data)}: keys are name, stride, params '
                              '(k, temperature, offset)')
        try:
            return cls(name=str(data['name']), stride=int(data['stride']), **params)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f'soft-label codec {dict(data)}: bad or missing value {error}') \
                from None

    def serves(self, looks_at: str, temperature: float) -> bool:
        """
        Return whether decoded labels are true enough for a loss at a temperature.

        :param looks_at: what the loss sees of the teacher. ``softmax``: the distribution of each
            pixel. ``relative logits``: how far the logits of a pixel lie apart, which ``topk``
            knows of the likeliest alone. ``logits``: these themselves, served with ``offset``
            alone, since one class cannot be compared over pixels once the largest logit of each
            is gone. ``the other classes``: how those besides the target compare among themselves,
            which ``packed`` cuts off where the teacher is sure. ``rest``: how the unlikely classes
            compare where a likely one is left out. ``features`` are never served.
        """
        if not temperature > 0:
            return False
        if looks_at == 'rest':
            return self.name == 'fp16'
        if looks_at == 'the other classes':
            return self.name in ('fp16', 'u8') and self._softens(temperature)
        if looks_at == 'relative logits':
            return self.name != 'topk'
        if looks_at == 'logits':
            return self.offset and (self.name != 'packed'
                                    or temperature <= PACKED_MAX_TEMPERATURE)
        return looks_at == 'softmax' and self._softens(temperature)

    def _softens(self, temperature: float) -> bool:
        """Return whether decoded distributions are true at a temperature."""
        if self.name == 'fp16':
            return True
        if self.name == 'topk':
            return temperature == self.temperature and temperature <= TOPK_MAX_TEMPERATURE
        most = PACKED_MAX_TEMPERATURE if self.name == 'packed' else math.inf
        return _MIN_TEMPERATURE <= temperature <= most

    def advice(self, looks_at: str, temperature: float) -> str:
        """Return what to do where :meth:`serves` says no."""
        if looks_at == 'features':
            return 'layers need the teacher in the loop: --distillation.view online'
        if looks_at == 'logits':
            soft = temperature > PACKED_MAX_TEMPERATURE and self.name in ('packed', 'topk')
            codec = '--codec u8 ' if soft else '--codec packed ' if self.name == 'topk' else ''
            return f'label again with {codec}--keep-logits'
        if looks_at == 'rest' or (temperature < _MIN_TEMPERATURE
                                  and looks_at in ('softmax', 'the other classes')):
            return 'label again with --codec fp16'
        if looks_at == 'the other classes' or (looks_at == 'softmax'
                                    and temperature > PACKED_MAX_TEMPERATURE):
            return 'label again with --codec u8'
        again = (f', or --codec topk --temperature {temperature:g}'
                 if looks_at == 'softmax' and temperature <= TOPK_MAX_TEMPERATURE else '')
        return f'label again with --codec packed{again}'

    def grid(self, size: tuple[int, int], full_size: tuple[int, int] | None = None,
             ) -> tuple[int, int]:
        """
        Return rows and columns that are stored for logits of ``size``.

        :param full_size: height and width to which ``stride`` refers (the network's input);
            default ``size`` itself. Logits coarser than the stride are stored as they are.
        """
        full = full_size or size
        rows, columns = (min(have, -(-whole // self.stride))
                         for have, whole in zip(size, full, strict=True))
        return rows, columns

    def encode(self, logits: np.ndarray,
               full_size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
        """
        Return the record of one frame.

        :param logits: float32 ``[K, h, w]``, any finite values.
        :param full_size: see :meth:`grid`.
        :raises ConfigError: when the logits are not finite or not of that shape.
        """
        if logits.ndim != 3 or not 1 <= len(logits) <= 255:
            raise ConfigError(f'soft labels need logits [K, h, w], not {list(logits.shape)}')
        small = _shrink(logits, self.grid((logits.shape[1], logits.shape[2]), full_size))
        largest = small.max(0, keepdims=True)
        below = small - largest
        if not np.isfinite(below).all():
            raise ConfigError('soft labels: logits hold values that are not finite')
        kept = {'largest': _half(largest[0])} if self.offset else {}
        if self.name == 'fp16':
            return {'logits': _half(below), **kept}
        if self.name == 'u8':
            levels, depth = _quantize(below)
            return {'levels': levels, 'depth': depth, **kept}
        if self.name == 'packed':
            return {**self._encode_packed(logits, below, full_size), **kept}
        return self._encode_top(below)

    def decode(self, record: Mapping[str, np.ndarray]) -> np.ndarray:
        """
        Return logits, float32 ``[K, h, w]``; NaN where nothing is known (``VALID`` in the
        record). The largest of every pixel is 0, or with ``offset`` what it was.

        :raises ConfigError: when the record is not of this codec.
        """
        try:
            logits = self._decode(record)
            if self.offset:
                logits += record['largest'].astype(np.float32)
            if VALID in record:
                logits[:, record[VALID] == 0] = np.nan
            return logits
        except KeyError as error:
            raise ConfigError(f'soft-label record has no {error}: it was not written by codec '
                              f'{self.name!r}') from None

    def winner(self, record: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """
        Return the teacher's decision at full size, uint8 ``[H, W]``; None where it is not kept.

        :raises ConfigError: when the record is damaged.
        """
        if 'winner' not in record:
            return None
        rows, columns = record['winner_shape'].tolist()
        return unpack_ids(record['winner'], (rows, columns))

    def _encode_packed(self, logits: np.ndarray, below: np.ndarray,
                       full_size: tuple[int, int] | None) -> dict[str, np.ndarray]:
        levels, depth = _quantize(np.maximum(below, -_PACKED_DEPTH), _PACKED_LEVELS)
        record = {'planes': pack_planes(levels), 'depth': depth,
                  'shape': np.array(levels.shape, np.uint16)}
        if logits.shape != below.shape:
            ids = winners(enlarge(logits, full_size or logits.shape[1:]))
            record |= {'winner': pack_ids(ids), 'winner_shape': np.array(ids.shape, np.uint16)}
        return record

    def _decode(self, record: Mapping[str, np.ndarray]) -> np.ndarray:
        if self.name == 'packed':
            classes, rows, columns = record['shape'].tolist()
            planes = unpack_planes(record['planes'], (classes, rows, columns))
            return _restore(planes, record['depth'], _PACKED_LEVELS)
        if self.name == 'fp16':
            return record['logits'].astype(np.float32)
        if self.name == 'u8':
            return _restore(record['levels'], record['depth'])
        return self._decode_top(record)

    def _encode_top(self, below: np.ndarray) -> dict[str, np.ndarray]:
        classes = len(below)
        k = min(self.k, classes)
        order = np.argsort(-below, axis=0, kind='stable')
        top = np.take_along_axis(below, order[:k], 0)
        others = classes - k
        if others:
            # The one value that gives the others their joint probability when all have it.
            rest = np.exp(np.take_along_axis(below, order[k:], 0) / self.temperature).sum(0)
            with np.errstate(divide='ignore'):
                even = np.log(rest / others) * self.temperature
            even = np.maximum(even, below.min())[None]
        else:
            even = np.zeros((0, *below.shape[1:]), np.float32)
        levels, depth = _quantize(np.concatenate([top, even]).astype(np.float32))
        return {'index': order[:k].astype(np.uint8), 'levels': levels, 'depth': depth,
                'classes': np.array([classes], np.uint8)}

    def _decode_top(self, record: Mapping[str, np.ndarray]) -> np.ndarray:
        index, classes = record['index'].astype(np.intp), int(record['classes'][0])
        values = _restore(record['levels'], record['depth'])
        k = len(index)
        logits = np.empty((classes, *values.shape[1:]), np.float32)
        if classes > k:
            logits[:] = values[k]
        np.put_along_axis(logits, index, values[:k], 0)
        return logits


def decided(logits: np.ndarray) -> np.ndarray:
    """Return uint8 ``[h, w]``: the likeliest class of decoded logits, 255 where none is known."""
    known = ~np.isnan(logits[0])
    return np.where(known, logits.argmax(0), UNLABELLED).astype(np.uint8)


def _half(values: np.ndarray) -> np.ndarray:
    """Return float16; what is out of its range becomes its end."""
    limits = np.finfo(np.float16)
    return np.clip(values, limits.min, limits.max).astype(np.float16)


def _shrink(logits: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return ``[K, *grid]`` by area averaging."""
    if logits.shape[1:] == grid:
        return logits.astype(np.float32, copy=False)
    small = np.empty((len(logits), *grid), np.float32)
    for plane, out in zip(logits, small, strict=True):
        # Plane by plane: OpenCV wants channels last, and a transposed copy costs more than this.
        cv2.resize(np.ascontiguousarray(plane, np.float32), (grid[1], grid[0]), dst=out,
                   interpolation=cv2.INTER_AREA)
    return small


def enlarge(logits: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return float32 ``[K, *size]``, bilinear."""
    if logits.shape[1:] == tuple(size):
        return logits
    return np.stack([cv2.resize(np.ascontiguousarray(plane, np.float32), (size[1], size[0]),
                                interpolation=cv2.INTER_LINEAR) for plane in logits])


def _quantize(below: np.ndarray, top: int = _LEVELS) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 levels of values <= 0 on a quadratic scale, and its depth float32 ``[1]``."""
    depth = max(float(-below.min()), 1e-6) if below.size else 1e-6
    levels = np.sqrt(below * np.float32(-1.0 / depth)) * np.float32(top)
    np.rint(levels, out=levels)
    return levels.astype(np.uint8), np.array([depth], np.float32)


def _restore(levels: np.ndarray, depth: np.ndarray, top: int = _LEVELS) -> np.ndarray:
    if levels.size and levels.max() > top:
        raise ConfigError(f'soft-label record: levels up to {levels.max()}, not {top}')
    steps = np.arange(top + 1, dtype=np.float32) / np.float32(top)
    return (-steps * steps * depth[0])[levels]
