"""What the figure of the data loop holds equal."""

from __future__ import annotations

from pathlib import Path
import runpy

import pytest

from kd_perception.cli.suite_plan import load_suite
from kd_perception.distillation.recipe_file import recipe_from_dict

FOLDER = Path(__file__).resolve().parents[2] / 'benchmarks'


@pytest.fixture(scope='module')
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))           # it imports ``result`` beside it
        return runpy.run_path(str(FOLDER / 'data_loop.py'))


def test_mined_and_random_differ_in_the_frames_alone(script, tmp_path):
    bench = object.__new__(script['Bench'])
    bench._recipe = script['recipe_of']('cpu')
    bench.parts = {'validation_day': ['v'], 'day': ['d']}
    mined = bench._recipe_with(2, [{'path': 'd'}, {'path': 'kept'}]).to_dict()
    drawn = bench._recipe_with(2, [{'path': 'd'}, {'path': 'fog', 'selection': 'r'}]).to_dict()
    for recipe in (mined, drawn):
        assert all(not e['labels'] for e in recipe['data']['train'])
        del recipe['data']['train']
    assert mined == drawn


def test_a_budget_changes_steps_and_views_alone(script):
    cpu, full = (recipe_from_dict(script['recipe_of'](b)) for b in ('cpu', 'full'))
    assert cpu.network == full.network
    assert cpu.distillation == full.distillation
    assert cpu.optimization.steps < full.optimization.steps
    assert script['recipe_of']('full', 7)['optimization']['steps'] == 7


def test_what_is_left_counts_fog_and_night(script):
    def scores(fog, night):
        return {'test_day': {'kl': 9.0}, 'test_fog': {'kl': fog}, 'test_night': {'kl': night}}

    assert script['left'](scores(0.1, 0.3), scores(0.4, 1.2), 'kl') == pytest.approx(0.25)


def test_no_street_of_the_test_was_driven_before(script):
    suite = load_suite('data_loop')
    seeds = {role: {d.seed for d in suite.parts if d.role == role}
             for role in ('train', 'validation', 'test')}
    assert all(seeds.values())
    assert not seeds['test'] & (seeds['train'] | seeds['validation'])
    assert min(min(s) for s in seeds.values()) > 2101       # the shipped teacher's
