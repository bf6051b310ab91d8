"""
Accuracy of a classification bundle on a folder with one folder of pictures per class.

The same engine and preprocessing as everywhere. Serving classifications is a later piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.bundle import ModelBundle
from kd_perception.classes import ClassSet
from kd_perception.engines.loader import load_engine
from kd_perception.errors import BagError, ConfigError, EngineError, ImageError
from kd_perception.frames import Progress
from kd_perception.imaging import decode_compressed
from kd_perception.tasks.placement import network_input

_SUFFIXES = ('.jpg', '.jpeg', '.png')


@dataclass(frozen=True)
class ClassificationResult:
    """
    What was measured.

    :param counts: int64 ``[K, K]``, pictures by true and predicted class.
    """

    bundle: str
    bundle_hash: str
    source: str
    classes: ClassSet
    counts: np.ndarray
    bad_frames: int
    engine: str
    device: str
    precision: str

    @property
    def accuracy(self) -> float:
        """Return the share of pictures whose likeliest class is the true one (top-1)."""
        return float(np.trace(self.counts) / self.counts.sum())

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON; a class without pictures has recall None."""
        total = self.counts.sum(1)
        recall = {name: float(self.counts[i, i] / total[i]) if total[i] else None
                  for i, name in enumerate(self.classes.names)}
        return {'bundle': self.bundle, 'bundle_hash': self.bundle_hash, 'source': self.source,
                'class_set': self.classes.name, 'top1': self.accuracy,
                'frames': int(self.counts.sum()), 'bad_frames': self.bad_frames,
                'engine': self.engine, 'device': self.device, 'precision': self.precision,
                'recall': recall, 'confusion': self.counts.tolist()}


def evaluate_classification(bundle: ModelBundle, folder: Path | str, *, engine: str = 'auto',
                            device: str = 'cpu', precision: str = 'auto', threads: int = 0,
                            limit: int = 0, progress: Progress | None = None,
                            ) -> ClassificationResult:
    """
    Measure a classification on ``folder/<class>/*.jpg``.

    :param folder: its folders are named like the bundle's classes, or their ids.
    :param limit: the first so many pictures of each class; 0: all.
    :raises KdPerceptionError: when folders do not fit the classes or nothing can be read.
    """
    folder = Path(folder)
    if bundle.spec.task != 'classification':
        raise ConfigError(f'{bundle.path}: is of task {bundle.spec.task!r}, no classification')
    pictures = _pictures(folder, bundle.spec.classes, limit)
    counts = np.zeros((len(bundle.spec.classes),) * 2, np.int64)
    bad = 0
    model = load_engine(bundle, engine, device=device, precision=precision, threads=threads)
    try:
        for done, (truth, file) in enumerate(pictures):
            try:
                image = decode_compressed(file.read_bytes())
            except (ImageError, OSError):
                bad += 1
                continue
            outputs = model.infer(network_input(image, bundle.spec.input)[None])
            if 'probabilities' not in outputs:
                raise EngineError(f'outputs {sorted(outputs)} lack probabilities: is this the '
                                  'deploy graph of a classification?')
            counts[truth, int(outputs['probabilities'][0].argmax())] += 1
            if progress is not None:
                progress(done + 1, len(pictures),
                         f'top-1 {100 * np.trace(counts) / counts.sum():.1f} %')
        if not counts.sum():
            raise BagError(f'{folder}: not one of {len(pictures)} pictures can be decoded')
        return ClassificationResult(
            bundle.spec.name, bundle.hash, str(folder), bundle.spec.classes, counts, bad,
            model.name, model.device, model.precision)
    finally:
        model.close()


def _pictures(folder: Path, classes: ClassSet, limit: int) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        raise BagError(f'{folder}: no such folder; a classification is measured on a folder with '
                       'one folder of pictures per class')
    ids = {name: i for i, name in enumerate(classes.names)}
    pictures, strange = [], []
    for sub in sorted(p for p in folder.iterdir() if p.is_dir()):
        number = int(sub.name) if sub.name.isascii() and sub.name.isdecimal() else len(classes)
        truth = ids.get(sub.name, number if number < len(classes) else -1)
        if truth < 0:
            strange.append(sub.name)
            continue
        files = sorted(f for f in sub.iterdir() if f.suffix.lower() in _SUFFIXES)
        pictures += [(truth, f) for f in (files[:limit] if limit else files)]
    if strange:
        raise ConfigError(f'{folder}: {len(strange)} folders are no classes of {classes.name!r} '
                          f'({", ".join(strange[:4])}); name them like the classes, or by id')
    if not pictures:
        raise BagError(f'{folder}: holds no folders of pictures named like the classes of '
                       f'{classes.name!r}')
    return pictures
