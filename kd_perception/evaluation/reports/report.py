"""
The report of a comparison: ``report.json``, ``frames.csv`` and ``report.html``.

In: a ``ComparisonRun``; out: three files, each complete or absent. All are rendered before the
first is written, so that a failure leaves an older report as it was. ``docs/report.md`` describes
the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
import csv
from dataclasses import asdict, dataclass
import io
import json
from pathlib import Path
from typing import Any

from kd_perception.evaluation.accuracy import MIN_SHARE
from kd_perception.evaluation.analysis import analyse, Analysis, ArmComparison
from kd_perception.evaluation.baseline import BaselineComparison
from kd_perception.evaluation.comparison import ComparisonRun, FrameRow, STAGES
from kd_perception.evaluation.joining import reordered_rows
from kd_perception.evaluation.metrics.frame_accuracy import frame_miou, frame_pixel_accuracy
from kd_perception.evaluation.metrics.frame_figures import FRAME_FIGURES, frame_figures
from kd_perception.evaluation.plain import plain
from kd_perception.evaluation.reports.report_html import render
from kd_perception.paths import atomic_file

SCHEMA_VERSION = 1
JSON_FILE = 'report.json'
CSV_FILE = 'frames.csv'
HTML_FILE = 'report.html'


@dataclass(frozen=True)
class Report:
    """Where a report lies, and what it says."""

    analysis: Analysis
    json: Path
    csv: Path
    html: Path


def write_report(run: ComparisonRun, out_dir: Path | str, *, seed: int = 0) -> Report:
    """
    Write the report of ``run`` into ``out_dir``; other files there stay.

    :param seed: of the bootstrap.
    :raises ConfigError: when the run holds no measured frames.
    """
    return write_analysis(analyse(run, seed=seed), out_dir)


def write_analysis(analysis: Analysis, out_dir: Path | str,
                   baseline: BaselineComparison | None = None) -> Report:
    """
    Write the report of what was computed; see ``write_report``.

    :param baseline: what came of it against an older report.
    """
    folder = Path(out_dir)
    texts = {
        JSON_FILE: json.dumps(report_dict(analysis, baseline), indent=1, allow_nan=False,
                              ensure_ascii=False) + '\n',
        CSV_FILE: frames_csv(analysis.run), HTML_FILE: render(analysis, baseline)}
    for name, text in texts.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text, encoding='utf-8', newline='')
    return Report(analysis, folder / JSON_FILE, folder / CSV_FILE, folder / HTML_FILE)


def report_dict(analysis: Analysis,
                baseline: BaselineComparison | None = None) -> dict[str, Any]:
    """Return the content of ``report.json``: plain types, NaN as null."""
    run = analysis.run
    return plain({
        'schema_version': SCHEMA_VERSION,
        'kind': 'comparison',
        'started': run.started,
        'interrupted': run.interrupted,
        'headline': analysis.headline,
        'cautions': analysis.cautions,
        'spec': asdict(run.spec),
        'classes': run.classes.names,
        'min_share': MIN_SHARE,
        'arms': {arm.name: _arm(analysis, arm.name) for arm in run.arms},
        'comparisons': [_comparison(c) for c in analysis.comparisons],
        'baseline': asdict(baseline) if baseline else None,
        'host': dict(run.host),
        'versions': dict(run.versions),
    })


def frames_csv(run: ComparisonRun) -> str:
    """Return one line per row, warm-up included; an empty cell is "not known"."""
    extra = sorted({s for r in run.rows for s in r.stages} - set(STAGES))
    stages = (*STAGES, *extra)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator='\n')
    writer.writerow([
        'arm', 'index', 'warmup', 'stamp_ns', 'frame_id', 'status', 'turn', 'published_ns',
        'received_ns', 'latency_ms', *(f'{s}_ms' for s in stages), 'pixel_accuracy', 'miou',
        'reordered', 'block', 'swapping', *FRAME_FIGURES])
    overtaken = {id(row) for row in reordered_rows(run.rows)}
    for row in run.rows:
        latency = row.latency_ms
        writer.writerow([
            row.arm, row.index, int(0 <= row.index < run.spec.warmup), row.stamp_ns,
            row.frame_id, row.status, row.turn, _cell(row.published_ns), _cell(row.received_ns),
            '' if latency is None else f'{latency:.6f}',
            *(f'{row.stages[s]:.6f}' if s in row.stages else '' for s in stages),
            *_frame_accuracy(row), int(id(row) in overtaken),
            row.block if row.block >= 0 else '', int(row.swapping),
            *(_figure(v) for v in frame_figures(row.detail))])
    return stream.getvalue()


def _arm(analysis: Analysis, arm: str) -> dict[str, Any]:
    run = analysis.run
    accuracy = analysis.accuracies.get(arm)
    confusion = run.confusion.get(arm)
    usage = run.resources.get(arm)
    return {
        'label': analysis.labels[arm],
        'info': next(asdict(a) for a in run.arms if a.name == arm),
        'statistics': asdict(analysis.statistics[arm]),
        'intervals': asdict(analysis.intervals[arm]),
        'accuracy': asdict(accuracy) if accuracy else None,
        'confusion': confusion.tolist() if confusion is not None else None,
        **{name: _of_arm(getattr(analysis, name), arm)
           for name in ('boundary', 'objects', 'flicker', 'calibration')},
        'resources': asdict(usage) if usage else None,
        'counters': dict(run.counters.get(arm, {})),
        'swap': asdict(analysis.swaps[arm]) if arm in analysis.swaps else None,
    }


def _of_arm(found: Mapping[str, Any] | None, arm: str) -> dict[str, Any] | None:
    measured = (found or {}).get(arm)
    return asdict(measured) if measured is not None else None


def _comparison(comparison: ArmComparison) -> dict[str, Any]:
    out = asdict(comparison)
    out['verdict'] = asdict(comparison.verdict)
    return out


def _frame_accuracy(row: FrameRow) -> tuple[str, str]:
    """Return pixel accuracy and mean IoU of this one frame, the latter as the page shows it."""
    counts = row.counts or ()
    return _figure(frame_pixel_accuracy(counts)), _figure(frame_miou(counts))


def _figure(value: float | None) -> str:
    return '' if value is None else f'{value:.6f}'


def _cell(value: int | None) -> str:
    return '' if value is None else str(value)
