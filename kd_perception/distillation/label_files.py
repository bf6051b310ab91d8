"""
Labels that a team already has: which file belongs to which frame, and what is in it.

A folder of ``.npz``, ``.npy`` or ``.png`` files, one per frame, or one ``.npz`` with an array per
frame. Names say the frame: its header stamp (``1712345678901234567``, ``1712345678.901234567`` or
``1712345678_901234567``), its index, or the name of its picture in an image folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math
from pathlib import Path
import re
from typing import IO
import zipfile

import cv2
import numpy as np

from kd_perception.classes import ClassSet, UNLABELLED
from kd_perception.errors import ConfigError, first_line, ImageError, TrainingError
from kd_perception.imaging import decode_label_png

KINDS = ('probabilities', 'logits', 'ids')
MATCHES = ('stamp', 'index', 'name')
_SUFFIXES = ('.npz', '.npy', '.png')
_STAMP = re.compile(r'(\d{9,10})[._](\d{1,9})')
# Later than 2001, in nanoseconds: no frame has such an index.
_FIRST_STAMP_NS = 10**18
# What one label may take in memory. More is a damaged header, or made to fill the memory.
_MAX_BYTES = 1 << 30
_SMALLEST = 1e-7


@dataclass(frozen=True)
class LabelFile:
    """One label: its name without suffix, what to call it in messages, and how to read it."""

    stem: str
    where: str
    read: Callable[[], np.ndarray]


def label_files(path: Path) -> list[LabelFile]:
    """
    Return the labels of a folder or of one ``.npz``, by name.

    :raises TrainingError: when there are none.
    """
    if path.is_file() and path.suffix == '.npz':
        with _npz(path) as archive:
            names = sorted(archive.files)
        found = [LabelFile(n, f'{path}[{n}]', lambda n=n: _member(path, n))  # type: ignore[misc]
                 for n in names]
    elif path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in _SUFFIXES)
        found = [LabelFile(f.stem, str(f), lambda f=f: _file(f))  # type: ignore[misc]
                 for f in files]
    else:
        raise TrainingError(f'{path}: no such folder of labels or .npz file')
    if not found:
        raise TrainingError(f'{path}: holds no labels ({", ".join(_SUFFIXES)})')
    return found


def key_of(stem: str) -> int | None:
    """Return the stamp in nanoseconds or the index that a name says; None where it is neither."""
    split = _STAMP.fullmatch(stem)
    if split:
        return int(split[1]) * 10**9 + int(split[2].ljust(9, '0'))
    return int(stem) if stem.isascii() and stem.isdecimal() else None


def guess_match(files: Sequence[LabelFile], names: set[str]) -> str:
    """
    Return by what labels and frames belong together.

    :param names: names of the pictures, where the frames have some.
    :raises ConfigError: when the names say nothing of the kind.
    """
    if any(f.stem in names for f in files):
        return 'name'
    keys = [key_of(f.stem) for f in files]
    strange = [f for f, k in zip(files, keys, strict=True) if k is None]
    if strange:
        raise ConfigError(f'{strange[0].where}: its name is neither a stamp, nor an index, nor '
                          f'that of a picture ({len(strange)} of {len(files)} labels)')
    return 'stamp' if max(k or 0 for k in keys) >= _FIRST_STAMP_NS else 'index'


def guess_kind(array: np.ndarray, where: str) -> str:
    """
    Return what an array holds.

    :raises ConfigError: when that cannot be told.
    """
    if array.ndim == 2:
        return 'ids'
    if array.ndim == 3 and array.dtype.kind in 'fu':
        values = array.astype(np.float32)
        if values.min() < -1e-3 or (array.dtype.kind == 'f' and values.max() > 1.001):
            return 'logits'
        total = 255.0 if array.dtype.kind == 'u' else 1.0
        if any(np.abs(values.sum(a) / total - 1).mean() < 0.05 for a in (0, 2)):
            return 'probabilities'
    raise ConfigError(f'{where}: what is {array.dtype}{list(array.shape)}? Say --kind '
                      f'{", ".join(KINDS)}')


def scores(array: np.ndarray, classes: ClassSet, kind: str) -> np.ndarray:
    """
    Return float32 logits ``[K, h, w]`` of an array of scores.

    :raises ConfigError: with the reason, when it holds none of these classes.
    """
    if array.ndim != 3 or array.dtype.kind not in 'fiu':
        raise ConfigError(f'{array.dtype}{list(array.shape)} holds no {kind} [K, h, w]')
    if array.shape[0] != len(classes):
        if array.shape[2] != len(classes):
            raise ConfigError(f'{list(array.shape)} does not have the {len(classes)} classes of '
                              f'{classes.name!r} on an axis')
        array = np.moveaxis(array, 2, 0)
    values = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(values).all():
        raise ConfigError('holds values that are not finite')
    if kind == 'logits':
        return values
    if array.dtype.kind == 'u':
        values /= 255.0
    if values.min() < -1e-3:
        raise ConfigError(f'holds {values.min():.3g}, which is no probability; say --kind logits')
    total = values.sum(0)
    if abs(float(np.median(total)) - 1) > 0.05:
        raise ConfigError(f'adds up to {float(np.median(total)):.3g} per pixel, not to 1: no '
                          'probabilities; say --kind logits')
    return np.log(np.maximum(values, _SMALLEST))


def shares(ids: np.ndarray, classes: ClassSet, grid: tuple[int, int],
           smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    """
    Return logits of ids, and where they are known.

    A cell's distribution is the share of its labelled pixels per class, of which ``smoothing`` is
    spread over all classes: ``p = (1 - s) * share + s / K``. A cell of which less than half is
    labelled is unknown.

    :param ids: uint8 ``[h, w]``; void ids and 255 are unlabelled.
    :returns: float32 ``[K, *grid]`` and uint8 ``[*grid]``.
    :raises ConfigError: with the reason, for ids that are no classes.
    """
    if ids.ndim != 2 or ids.dtype.kind not in 'iu' or ids.min() < 0 or ids.max() > UNLABELLED:
        raise ConfigError(f'{ids.dtype}{list(ids.shape)} is no map of ids from 0 to 255')
    ids = ids.astype(np.uint8)
    unknown = classes.unknown_ids(ids)
    if unknown:
        raise ConfigError(f'holds ids {unknown[:8]}, which class set {classes.name!r} does not '
                          'know')
    ids = classes.lookup()[ids]
    size = (grid[1], grid[0])

    def share(mask: np.ndarray) -> np.ndarray:
        return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)

    known = share(ids != UNLABELLED)
    count = len(classes)
    weight = np.maximum(known, 1e-6)
    planes = np.stack([share(ids == i) / weight for i in range(count)])
    smooth = (1 - smoothing) * planes + smoothing / count
    return np.log(np.maximum(smooth, _SMALLEST)), (known >= 0.5).astype(np.uint8)


def _npz(path: Path) -> np.lib.npyio.NpzFile:
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(f'{path}: is no .npz of arrays or is damaged: '
                            f'{first_line(error)}') from None
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise TrainingError(f'{path}: is no .npz of arrays')
    return loaded


def _member(path: Path, name: str) -> np.ndarray:
    with _npz(path) as archive:
        try:
            return _array(archive, name)
        except ConfigError:
            raise
        except Exception as error:  # zip, zlib and numpy each raise their own
            raise ConfigError(f'is damaged: {first_line(error)}') from None


def _file(file: Path) -> np.ndarray:
    try:
        if file.suffix.lower() == '.png':
            image = decode_label_png(file.read_bytes())
            if image.ndim == 3 and (image == image[..., :1]).all():
                image = image[..., 0]
            return image
        if file.suffix.lower() == '.npy':
            with file.open('rb') as stream:
                _check_size(stream)
            return np.load(file, allow_pickle=False)
        with _npz(file) as archive:
            if len(archive.files) != 1:
                raise ConfigError(f'holds {len(archive.files)} arrays; one per file')
            return _array(archive, archive.files[0])
    except (ConfigError, TrainingError):
        raise
    except ImageError as error:
        raise ConfigError(str(error)) from None
    except Exception as error:
        raise ConfigError(f'is damaged: {first_line(error)}') from None


def _array(archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    names = archive.zip.namelist()  # type: ignore[union-attr]
    with archive.zip.open(name if name in names else f'{name}.npy') as stream:  # type: ignore
        _check_size(stream)
    return archive[name]


def _check_size(stream: IO[bytes]) -> None:
    """Read what an ``.npy`` claims, before anything of that size is made or unpacked."""
    version = np.lib.format.read_magic(stream)
    read = (np.lib.format.read_array_header_1_0 if version == (1, 0)
            else np.lib.format.read_array_header_2_0)
    shape, _, dtype = read(stream)
    if math.prod(shape) * dtype.itemsize > _MAX_BYTES:
        raise ConfigError(f'{dtype}{list(shape)} is too large for a label')
