"""
The same comparison under many conditions, for ``compare --scenario all`` or a list of scenarios.

One directory per scenario, each a whole comparison with its report; the table over all of them is
written anew after each. Scenarios that are finished are not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
import json
from pathlib import Path
import re
import shutil
from typing import Any

from kd_perception import __version__
from kd_perception.bundle import find_bundle
from kd_perception.cli.comparison import ComparisonRequest, plan, run_comparison
from kd_perception.errors import ConfigError
from kd_perception.evaluation.analysis import analyse, Analysis
from kd_perception.evaluation.comparison_files import load_run, RECORDING, RUN_FILE
from kd_perception.evaluation.reports.report import HTML_FILE
from kd_perception.evaluation.reports.robustness_report import write_robustness
from kd_perception.evaluation.robustness import BASELINE, Robustness, robustness
from kd_perception.paths import atomic_file, share_directory

ALL = 'all'
REQUEST_FILE = 'request.json'
Tell = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False)
class RobustnessResult:
    """What came of it, and where its page lies."""

    table: Robustness
    html: Path


def scenarios_of(text: str) -> tuple[str, ...]:
    """
    Return the scenarios that ``--scenario`` names.

    ``all`` are those of ``config/scenarios``, the baseline first. Commas part scenarios, but what
    has an equals sign is a change of the scenario before it: ``clear,night,fog=0.01`` are two.

    :raises ConfigError: when one is named twice.
    """
    if text.strip() == ALL:
        names = sorted(p.stem for p in (share_directory() / 'config' / 'scenarios').glob('*.yaml'))
        return tuple(sorted(names, key=lambda n: n != BASELINE))
    out: list[str] = []
    for part in (p.strip() for p in text.split(',')):
        if '=' in part and out:
            out[-1] += f',{part}'
        else:
            out.append(part)
    if len(set(out)) != len(out):
        raise ConfigError(f'--scenario {text}: names a scenario twice')
    return tuple(out)


def run_robustness(request: ComparisonRequest, scenarios: Sequence[str], out: Path, *,
                   overwrite: bool = False,
                   progress: Tell | None = None) -> RobustnessResult:
    """
    Run what is not finished yet, and return the table.

    :param out: goes on there where a comparison with the same settings was begun.
    :param overwrite: begin anew.
    :param progress: called with (frames done, frames in all, note).
    :raises KdPerceptionError: before anything starts, or when a node dies.
    :raises KeyboardInterrupt: when interrupted; the table of what was measured is there.
    """
    if request.source != 'sim':
        raise ConfigError('several scenarios need --source sim: only the embedded street can be '
                          'driven again in another weather')
    folders = {s: out / folder_of(s) for s in scenarios}
    if len(set(folders.values())) != len(folders):
        raise ConfigError('two scenarios would share a directory; change one of their names')
    # All that can be wrong is said before the first scenario has taken its time.
    for scenario, folder in folders.items():
        plan(replace(request, scenario=scenario), folder)
    done = {} if overwrite else _finished(request, folders, out)
    _claim(request, out, overwrite=overwrite)
    each = request.frames + request.warmup
    for number, (scenario, folder) in enumerate(folders.items()):
        if scenario in done:
            continue

        def tell(now: int, total: int, note: str, number: int = number,
                 scenario: str = scenario) -> None:
            if progress is not None:
                share = now / total if total else 0.0
                progress(round((number + share) * each), each * len(folders),
                         f'{scenario}: {note}')

        try:
            done[scenario] = run_comparison(replace(request, scenario=scenario), folder,
                                            tell).analysis
        except KeyboardInterrupt:
            # What was measured of this one is told too; it is run again when this goes on.
            if (folder / RECORDING / RUN_FILE).is_file():
                done[scenario] = analyse(load_run(folder / RECORDING))
            if done:
                _write(done, folders, scenarios, out)
            raise
        _write(done, folders, scenarios, out)
    return _write(done, folders, scenarios, out)


def folder_of(scenario: str) -> str:
    """Return the name of the directory of a scenario."""
    return re.sub(r'[^A-Za-z0-9._=-]+', '_', Path(scenario).stem
                  if scenario.endswith('.yaml') else scenario)


def _write(done: dict[str, Analysis], folders: dict[str, Path], scenarios: Sequence[str],
           out: Path) -> RobustnessResult:
    found = robustness({s: done[s] for s in scenarios if s in done}, wanted=tuple(scenarios))
    reports = {s: f'{folders[s].name}/{HTML_FILE}' for s in scenarios if s in done}
    return RobustnessResult(found, write_robustness(found, out, reports))


def _finished(request: ComparisonRequest, folders: dict[str, Path],
              out: Path) -> dict[str, Analysis]:
    """Return what was run to its end in ``out`` by the same request."""
    path = out / REQUEST_FILE
    if not path.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise ConfigError(f'{out}: holds something else than comparisons under many '
                              'scenarios; choose another --out')
        return {}
    if path.read_text(encoding='utf-8') != _told(request):
        raise ConfigError(f'{out}: holds comparisons with other settings; choose another --out, '
                          'or pass --overwrite to run them anew')
    done = {}
    for scenario, folder in folders.items():
        if (folder / RECORDING / RUN_FILE).is_file():
            run = load_run(folder / RECORDING)
            if not run.interrupted and not _changed(scenario, folder):
                done[scenario] = analyse(run)
    return done


def _changed(scenario: str, folder: Path) -> bool:
    """Return whether a scenario is a file that was written after it was run."""
    own = Path(scenario.partition(',')[0]).expanduser()
    return own.suffix in ('.yaml', '.yml') and own.is_file() and (
        own.stat().st_mtime_ns > (folder / RECORDING / RUN_FILE).stat().st_mtime_ns)


def _claim(request: ComparisonRequest, out: Path, *, overwrite: bool) -> None:
    if overwrite and out.is_dir() and any(out.iterdir()) and not (out / REQUEST_FILE).is_file():
        raise ConfigError(f'{out}: holds something else than comparisons under many scenarios; '
                          'it is not overwritten')
    if overwrite:
        # Of the older settings nothing may be left that a later call would take for finished.
        for recording in sorted(out.glob(f'*/{RECORDING}')):
            if (recording / RUN_FILE).is_file():
                shutil.rmtree(recording)
    with atomic_file(out / REQUEST_FILE) as temporary:
        temporary.write_text(_told(request), encoding='utf-8')


def _told(request: ComparisonRequest) -> str:
    """Return all that decides what is measured but the scenario, models by their hash."""
    data: dict[str, Any] = asdict(replace(request, scenario=''))
    for arm in data['arms']:
        arm['model'] = find_bundle(arm['model'], request.models_dir or None).hash
    return json.dumps({**data, 'version': __version__}, indent=1, sort_keys=True) + '\n'
