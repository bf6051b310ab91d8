"""The page of figures: what a benchmark states beside its figure has a row and a bar, too."""

from __future__ import annotations

from pathlib import Path
import runpy

FOLDER = Path(__file__).resolve().parents[2] / 'benchmarks'


def test_further_figures_have_rows_and_bars_of_their_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    script = runpy.run_path(str(FOLDER / 'run_all.py'))
    also = {'faster_than_online': {'value': 4.2, 'unit': 'times', 'spread': {'min': 4, 'max': 5}}}
    row = {'name': 'train_from_cache', 'value': 1.05, 'unit': 'times', 'workload': {},
           'spread': {'min': 1, 'max': 1.1}, 'also': also}
    script['write_page']([(row, 3.0)], tmp_path / 'page.md')
    lines = (tmp_path / 'page.md').read_text().splitlines()
    assert '| `train_from_cache` | 1.05 times | min 1, max 1.1 | at most 1.1 |' in lines
    assert ('| `train_from_cache`, faster than online | 4.2 times | min 4, max 5 | at least 3 |'
            in lines)


def test_every_bar_is_of_a_benchmark_and_none_is_run_twice(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    script = runpy.run_path(str(FOLDER / 'run_all.py'))
    there = {p.name for p in FOLDER.glob('*.py')}
    assert {f'{bar.split(".")[0]}.py' for bar in script['BARS']} <= there
    assert script['ON_THEIR_OWN'] <= there
    assert {'student_speedup.py', 'domain_shift.py'} <= script['ON_THEIR_OWN']
