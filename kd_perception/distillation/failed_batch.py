"""What a batch looked like when training failed on it, as files that people can look at."""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path
import shutil
from typing import Any

import cv2
import numpy as np

from kd_perception.distillation.dataset import Batch
from kd_perception.errors import first_line


def save_failed_batch(folder: Path, batch: Batch, facts: Mapping[str, Any]) -> str:
    """
    Write a batch and say where, for the end of a message.

    Contents: ``00.png`` … the views as the network saw them, ``00_labels.png`` … ids of the ground
    truth of those that have some (255 elsewhere), ``soft_labels.npz`` (``soft``: float32
    ``[N, K, h, w]``, the teacher's logits of the whole frames, ``winners``: its decisions where
    they are kept finer, ``soft_1`` … those of further teachers, and ``theta``: float32
    ``[N, 2, 3]``, view to whole frame), ``batch.json`` (frames by key and by
    name, and ``facts``).

    :param folder: replaced when it exists; an incomplete one never stays.
    :returns: where it lies, or why it could not be written: the first error must still be told.
    """
    temporary = folder.with_name(f'.{folder.name}.tmp')
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write(temporary, batch, facts)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        return f'its pictures could not be saved ({first_line(error)})'
    return f'its pictures and labels are in {folder}'


def _write(folder: Path, batch: Batch, facts: Mapping[str, Any]) -> None:
    images, labels = batch.images.cpu().numpy(), batch.labels.cpu().numpy()
    for index, (image, ids) in enumerate(zip(images, labels, strict=True)):
        _write_png(folder / f'{index:02d}.png', image[..., ::-1])
        if (ids != 255).any():
            _write_png(folder / f'{index:02d}_labels.png', ids)
    if batch.soft is not None:
        arrays = {'theta': batch.theta, 'soft': batch.soft, 'winners': batch.winners}
        for number, (soft, winners) in enumerate(batch.further, 1):
            arrays |= {f'soft_{number}': soft, f'winners_{number}': winners}
        there: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in arrays.items()
                                 if tensor is not None}
        np.savez_compressed(folder / 'soft_labels.npz', **there)
    # NaN is no JSON: values that are not finite are written as words.
    told: dict[str, Any] = {k: v if np.isfinite(v) else str(v) for k, v in facts.items()}
    told |= {'frames': list(batch.keys), 'names': list(batch.names)}
    (folder / 'batch.json').write_text(json.dumps(told, indent=2, ensure_ascii=False))


def _write_png(path: Path, pixels: np.ndarray) -> None:
    if not cv2.imwrite(str(path), np.ascontiguousarray(pixels)):
        raise OSError(f'{path.name} could not be written')
