"""The one way in which a benchmark states its figure: a JSON object on the last line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import platform
from typing import Any

from kd_perception.engines.machine import cores, cpu_model


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    out = argparse.ArgumentParser(description=description,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument('--json', type=Path, help='also keep all details in this file')
    return out


def host() -> dict[str, Any]:
    """Return what a reader must know of the machine to compare figures."""
    return {'cpu': cpu_model(), 'cores': cores(), 'system': platform.system(),
            'python': platform.python_version()}


def state(*, name: str, value: float, unit: str, workload: dict[str, Any],
          spread: dict[str, Any], also: dict[str, dict[str, Any]] | None = None,
          details: dict[str, Any] | None = None, json_file: Path | None = None) -> None:
    """
    Print the figure as the last line, and keep the details where asked.

    :param workload: data, resolution, bundle hashes, engine, precision that ran, n, repeats.
    :param spread: how far repeats lay apart, e.g. ``{'min': …, 'max': …}``.
    :param also: further figures of the same runs by name, each with ``value``, ``unit`` and
        ``spread``.
    """
    line = {'name': name, 'value': round(value, 4), 'unit': unit,
            'workload': {**workload, 'host': host()}, 'spread': spread,
            **({'also': also} if also else {})}
    if json_file is not None:
        json_file.write_text(json.dumps({**line, 'details': details or {}}, indent=2))
    print(json.dumps(line), flush=True)
