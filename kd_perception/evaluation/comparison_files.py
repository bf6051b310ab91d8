"""
Comparisons on disk: a directory with ``run.json`` and ``pictures/*.png``.

In: a ``ComparisonRun``; out: the same run from ``load_run``. The monitor saves, others load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kd_perception.classes import ClassSet
from kd_perception.errors import ConfigError
from kd_perception.evaluation.comparison import (
    ArmInfo,
    ArmSpec,
    ComparisonRun,
    ComparisonSpec,
    FrameRow,
    ResourceUsage,
    SamplePicture,
)
from kd_perception.evaluation.metrics.frame_detail import FrameDetail
from kd_perception.imaging import encode_png
from kd_perception.paths import atomic_directory

SCHEMA_VERSION = 1
RECORDING = 'recording'  # where a run lies in the directory of its report
RUN_FILE = 'run.json'
PICTURES = 'pictures'


def save_run(run: ComparisonRun, folder: Path | str, *, overwrite: bool = True) -> Path:
    """
    Write ``run`` into the directory ``folder``, complete or not at all.

    :raises FileExistsError: when it exists and ``overwrite`` is false.
    :raises ConfigError: when something else is there, which is never removed.
    """
    folder = Path(folder)
    check_replaceable(folder)
    with atomic_directory(folder, overwrite=overwrite) as temporary:
        (temporary / PICTURES).mkdir()
        for picture in run.pictures:
            _save_picture(picture, temporary / PICTURES)
        text = json.dumps(run_to_dict(run), separators=(',', ':'), allow_nan=False)
        (temporary / RUN_FILE).write_text(text, encoding='utf-8')
    return folder


def check_replaceable(folder: Path) -> None:
    """
    Make sure that nothing foreign lies where a run will be saved.

    :raises ConfigError: when something else is there, which is never removed.
    """
    if folder.exists() and not (folder / RUN_FILE).is_file():
        raise ConfigError(f'{folder}: is no recorded comparison, so it is not overwritten; choose '
                          'another directory')


def load_run(folder: Path | str) -> ComparisonRun:
    """
    Read what ``save_run`` wrote.

    :raises ConfigError: when it is missing, damaged or of an unknown schema.
    """
    folder = Path(folder)
    path = folder / RUN_FILE
    if not path.is_file():
        raise ConfigError(f'{folder}: holds no comparison ({RUN_FILE} is missing); '
                          'the run may have been killed before it was saved')
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ConfigError(f'{path}: not readable as JSON: {error}') from None
    return run_from_dict(data, folder, str(path))


def run_to_dict(run: ComparisonRun) -> dict[str, Any]:
    """Return plain JSON types; of pictures only index and stamp, their pixels go apart."""
    return {
        'schema_version': SCHEMA_VERSION,
        'spec': asdict(run.spec),
        'arms': [asdict(arm) for arm in run.arms],
        'classes': run.classes.to_dict(),
        'rows': [_row_dict(row) for row in run.rows],
        'confusion': {k: v.tolist() for k, v in run.confusion.items()},
        'agreement': {k: v.tolist() for k, v in run.agreement.items()},
        'resources': {k: asdict(v) for k, v in run.resources.items()},
        'counters': {k: dict(v) for k, v in run.counters.items()},
        'host': dict(run.host),
        'versions': dict(run.versions),
        'pictures': [{'index': p.index, 'stamp_ns': p.stamp_ns, 'truth': p.truth is not None,
                      'image': p.image is not None, 'worst': p.worst,
                      'arms': sorted(p.masks)} for p in run.pictures],
        'notes': list(run.notes),
        'started': run.started,
        'interrupted': run.interrupted,
        'confidences': {k: v.tolist() for k, v in run.confidences.items()},
        'flicker_method': run.flicker_method,
    }


def run_from_dict(data: Any, folder: Path, where: str) -> ComparisonRun:
    """
    Return the run of ``run_to_dict``, with pictures read from ``folder``.

    :raises ConfigError: for an unknown schema or wrong or missing keys.
    """
    if not isinstance(data, Mapping) or data.get('schema_version') != SCHEMA_VERSION:
        version = data.get('schema_version') if isinstance(data, Mapping) else None
        raise ConfigError(f'{where}: schema_version {version!r} is unknown to this release, '
                          f'which reads {SCHEMA_VERSION}; update kd_perception')
    try:
        spec = dict(data['spec'])
        spec['arms'] = tuple(_section(ArmSpec, a, where) for a in spec['arms'])
        return ComparisonRun(
            spec=_section(ComparisonSpec, spec, where),
            arms=tuple(_section(ArmInfo, {**a, 'class_names': tuple(a['class_names'])}, where)
                       for a in data['arms']),
            rows=tuple(_row(r, where) for r in data['rows']),
            classes=ClassSet.from_dict(data['classes'], where),
            confusion=_matrices(data['confusion']),
            agreement=_matrices(data['agreement']),
            resources={k: _section(ResourceUsage, v, where)
                       for k, v in data['resources'].items()},
            counters={k: {n: int(c) for n, c in v.items()} for k, v in data['counters'].items()},
            host=dict(data['host']), versions=dict(data['versions']),
            pictures=tuple(_load_picture(p, folder / PICTURES) for p in data['pictures']),
            notes=tuple(data['notes']), started=str(data['started']),
            interrupted=bool(data['interrupted']),
            # Recordings of before these were measured do not have them.
            confidences=_matrices(data.get('confidences', {})),
            flicker_method=str(data.get('flicker_method', '')))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f'{where}: bad or missing entry: {error}') from None


def _row_dict(row: FrameRow) -> dict[str, Any]:
    # Not asdict: it would copy the arrays of the detail one by one.
    data = {f.name: getattr(row, f.name) for f in fields(row) if f.name != 'detail'}
    detail = {'detail': row.detail.to_dict()} if row.detail is not None else {}
    return {**data, 'stages': dict(row.stages), **detail}


def _row(data: Mapping[str, Any], where: str) -> FrameRow:
    counts, detail = data['counts'], data.get('detail')
    if counts is not None:
        counts = tuple((int(c), int(t), int(p)) for c, t, p in counts)
    return _section(FrameRow, {**data, 'counts': counts, 'detail': None if detail is None
                               else FrameDetail.from_dict(detail)}, where)


def _section(cls: Any, data: Mapping[str, Any], where: str) -> Any:
    unknown = set(data) - {f.name for f in fields(cls)}
    if unknown:
        raise ConfigError(f'{where}: {cls.__name__}: unknown keys {sorted(unknown)}')
    return cls(**data)


def _matrices(data: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {k: np.asarray(v, np.int64) for k, v in data.items()}


def _save_picture(picture: SamplePicture, folder: Path) -> None:
    stem = f'{picture.index:06d}'
    if picture.image is not None:
        (folder / f'{stem}_image.png').write_bytes(encode_png(picture.image))
    if picture.truth is not None:
        (folder / f'{stem}_truth.png').write_bytes(encode_png(picture.truth))
    for arm, mask in picture.masks.items():
        (folder / f'{stem}_arm_{arm}.png').write_bytes(encode_png(mask))


def _load_picture(entry: Mapping[str, Any], folder: Path) -> SamplePicture:
    stem = f'{int(entry["index"]):06d}'
    there = entry.get('image', True)  # runs of earlier releases do not say
    image = _read_png(folder / f'{stem}_image.png', cv2.IMREAD_COLOR) if there else None
    truth = folder / f'{stem}_truth.png'
    return SamplePicture(
        index=int(entry['index']), stamp_ns=int(entry['stamp_ns']),
        image=None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
        truth=_read_png(truth, cv2.IMREAD_UNCHANGED) if entry['truth'] else None,
        masks={arm: _read_png(folder / f'{stem}_arm_{arm}.png', cv2.IMREAD_UNCHANGED)
               for arm in entry['arms']}, worst=bool(entry.get('worst', False)))


def _read_png(path: Path, flags: int) -> np.ndarray:
    image = cv2.imread(str(path), flags)
    if image is None:
        raise ConfigError(f'{path}: is missing or no PNG; save the comparison again')
    return image
