"""Which pictures the published speed of the simulator is of."""

from __future__ import annotations

from pathlib import Path
import runpy

import pytest

FOLDER = Path(__file__).resolve().parents[2] / 'benchmarks'


@pytest.fixture(scope='module')
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))           # it imports ``result`` beside it
        return runpy.run_path(str(FOLDER / 'simulator.py'))


def test_the_slowest_of_all_are_measured_and_the_slowest_with_shadows_too(script):
    wall_ms = {('clear', 'a'): 30., ('rain', 'a'): 50., ('rain', 'b'): 45., ('night', 'a'): 44.,
               ('clear', 'b'): 40., ('glare', 'a'): 43., ('glare', 'b'): 10.}
    shadowed = [p for p in wall_ms if p[0] in ('clear', 'glare')]
    assert script['finalists_of'](wall_ms, shadowed) == [
        ('rain', 'a'), ('rain', 'b'), ('night', 'a'),
        ('glare', 'a'), ('clear', 'b'), ('clear', 'a')]
    assert script['finalists_of'](wall_ms, list(wall_ms)) == [
        ('rain', 'a'), ('rain', 'b'), ('night', 'a')]


def test_every_shipped_scenario_is_met_in_every_world(script):
    assert {'clear', 'night_rain', 'crowd'} <= set(script['names']('scenarios'))
    assert {'street', 'highway'} <= set(script['names']('worlds'))
