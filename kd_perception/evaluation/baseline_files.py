"""
Where the older report of a comparison comes from, checked before anything is measured.

In: a path to ``report.json`` or to the directory it lies in; out: its content, with the recording
beside it where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

from kd_perception.errors import ConfigError
from kd_perception.evaluation.comparison import ComparisonRun
from kd_perception.evaluation.comparison_files import load_run, RECORDING, RUN_FILE
from kd_perception.evaluation.reports.report import JSON_FILE, SCHEMA_VERSION


@dataclass(frozen=True, eq=False)
class Baseline:
    """
    An older report.

    :param path: of its ``report.json``.
    :param data: its content.
    :param run: the recording beside it, or None.
    """

    path: Path
    data: Mapping[str, Any]
    run: ComparisonRun | None


def load_baseline(path: Path | str) -> Baseline:
    """
    Read a report that others are held against.

    :raises ConfigError: when it is missing, no report of a comparison, or of another schema.
    """
    path = Path(path).expanduser()
    file = path / JSON_FILE if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f'{file}: no such report; name the report.json of a comparison, or the '
                          'directory it lies in')
    try:
        data = json.loads(file.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ConfigError(f'{file}: not readable as JSON: {error}') from None
    if not isinstance(data, dict) or data.get('kind') != 'comparison':
        raise ConfigError(f'{file}: is no report of a comparison')
    if data.get('schema_version') != SCHEMA_VERSION:
        raise ConfigError(f'{file}: schema_version {data.get("schema_version")!r} is unknown to '
                          f'this release, which reads {SCHEMA_VERSION}')
    try:
        known = all('p50' in arm['intervals'] and arm['info'] and 'miou' in (
            arm['accuracy'] or {'miou': None}) for arm in data['arms'].values())
        known = known and all(data[k] is not None for k in ('spec', 'host', 'classes',
                                                            'min_share'))
    except (AttributeError, KeyError, TypeError):
        known = False
    if not known:
        raise ConfigError(f'{file}: made by an early release, without the intervals that are '
                          f'needed; make it anew from its recording: kd_perception report '
                          f'{file.parent}')
    recording = file.parent / RECORDING
    return Baseline(file, data,
                    load_run(recording) if (recording / RUN_FILE).is_file() else None)
