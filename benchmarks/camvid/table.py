"""What the runs have come to: mean and standard deviation over seeds."""

from __future__ import annotations

import json
from pathlib import Path
import statistics
from typing import Any

from plan import Run

# What a reader must know of who taught.
TEACHERS = {'none': 'labels alone', 'owned': 'teacher that saw all 367 labels',
            'semi': 'teacher that saw the same 92 labels'}
COLUMNS = (('val', 'mean_iou', 'val'), ('test', 'mean_iou', 'test'),
           ('test', 'mean_iou_with_void', 'test, void counted'),
           ('seq05vd', 'mean_iou', 'Seq05VD'))


def lines(out: Path, runs: list[Run]) -> list[str]:
    """Return a Markdown table of the runs that are measured."""
    head = ' | '.join(title for *_, title in COLUMNS)
    rows = [f'| setting | learns from | seeds | {head} | minutes |',
            '|---|---|---|' + '---|' * len(COLUMNS) + '---|']
    for (setting, method), group in _groups(runs).items():
        done = [r for r in group if _figures(out, r)]
        if not done:
            continue
        cells = [_spread([100 * _figures(out, r)[split][key] for r in done])
                 for split, key, _ in COLUMNS]
        minutes = _spread([_minutes(out, r) for r in done])
        rows.append(' | '.join([f'| {setting}', TEACHERS.get(method, method), str(len(done)),
                                *cells, f'{minutes} |']))
    return rows


def summary(out: Path, runs: list[Run]) -> dict[str, Any]:
    """Return gains over the baseline of each setting, in points of test mIoU."""
    scores: dict[tuple[str, str], list[float]] = {
        key: [100 * _figures(out, r)['test']['mean_iou'] for r in group if _figures(out, r)]
        for key, group in _groups(runs).items()}
    gains = {f'{setting}_{method}': statistics.mean(values) - statistics.mean(base)
             for (setting, method), values in scores.items()
             if values and method != 'none' and (base := scores.get((setting, 'none')))}
    spread = {f'{setting}_{method}': {'min': min(v), 'max': max(v), 'n': len(v)}
              for (setting, method), v in scores.items() if v}
    return {'gains': gains, 'spread': spread, 'test': {'_'.join(k): v for k, v in scores.items()}}


def _groups(runs: list[Run]) -> dict[tuple[str, str], list[Run]]:
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.setting, run.method), []).append(run)
    return groups


def _figures(out: Path, run: Run) -> dict[str, Any]:
    """Return the figures of a run by split; empty before it is measured."""
    files = {split: out / run.name / f'{split}.json' for split, *_ in COLUMNS}
    if not all(f.is_file() for f in files.values()):
        return {}
    return {split: json.loads(f.read_text()) for split, f in files.items()}


def _minutes(out: Path, run: Run) -> float:
    return float(json.loads((out / run.name / 'metrics.json').read_text())['training_minutes'])


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f'{values[0]:.1f}'
    return f'{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}'
