"""The report of a comparison made again from its recording, or judged by its report alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from kd_perception.cli.gate import judged, limits_of, print_changes, REGRESSION, tell
from kd_perception.evaluation.analysis import analyse
from kd_perception.evaluation.baseline import compare_reports
from kd_perception.evaluation.baseline_files import load_baseline
from kd_perception.evaluation.comparison_files import load_run, RECORDING, RUN_FILE
from kd_perception.evaluation.reports.report import JSON_FILE, write_analysis


def is_comparison(path: Path) -> bool:
    """Return whether ``path`` is the directory of a comparison, or a report of one."""
    return path.suffix == '.json' or (path / RECORDING / RUN_FILE).is_file()


def report_again(args: argparse.Namespace) -> int:
    """
    Write the report anew; of a bare ``report.json`` there is nothing to write, only to judge.

    :returns: 0, or 3 for a regression against ``--baseline``.
    :raises ConfigError: for what is no report.
    """
    limits = limits_of(args)
    path: Path = args.run_directory
    baseline = load_baseline(args.baseline) if args.baseline else None
    folder = path.parent if path.name == JSON_FILE else path
    if (folder / RECORDING / RUN_FILE).is_file():
        analysis = analyse(load_run(folder / RECORDING))
        found = judged(analysis, baseline, limits) if baseline else None
        page = write_analysis(analysis, folder, found).html
        code = tell(found, analysis) if found else 0
        print(page)
        return code
    new = load_baseline(path)  # also says in one line what is wrong with it
    if baseline is None:
        return 0
    found = compare_reports(baseline.data, new.data, limits, source=str(baseline.path))
    labels = {name: str(arm['label']) for name, arm in new.data['arms'].items()}
    print_changes(found, labels, Console())
    return REGRESSION if found.failed else 0
