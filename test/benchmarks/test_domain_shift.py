"""What the figure of the domain shift holds equal."""

from __future__ import annotations

import argparse
from pathlib import Path
import runpy

import pytest
import yaml

from kd_perception.distillation.recipe_file import recipe_from_dict
from kd_perception.paths import config_file

FOLDER = Path(__file__).resolve().parents[2] / 'benchmarks'


@pytest.fixture(scope='module')
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))           # it imports ``result`` beside it
        return runpy.run_path(str(FOLDER / 'domain_shift.py'))


@pytest.mark.parametrize('budget', ['cpu', 'full'])
def test_steps_and_labelled_views_are_the_same_for_both(script, budget):
    baseline, student = (recipe_from_dict(script['recipe_of'](kind, budget))
                         for kind in ('baseline', 'student'))
    plain = yaml.safe_load(config_file('recipes', 'student_sim').read_text())
    assert baseline.optimization.steps == student.optimization.steps
    assert baseline.optimization.steps == plain['optimization']['steps']
    labelled = student.optimization.batch_size * student.data.labelled_share
    assert labelled == baseline.optimization.batch_size
    assert baseline.data.labelled_share == 0
    for name in ('network', 'input', 'augment'):
        assert getattr(baseline, name) == getattr(student, name)
    assert {'cross_entropy', 'kl'} == set(student.distillation.losses)


def test_a_budget_changes_the_teacher_alone(script):
    one, two = ({kind: script['recipe_of'](kind, budget)
                 for kind in ('teacher', 'baseline', 'student')} for budget in ('cpu', 'full'))
    assert one['teacher']['network'] == {
        **one['teacher']['network'], 'builder': 'compact', 'arguments': {'width': 64}}
    assert two['teacher']['network']['builder'] == 'smp'
    assert one['teacher']['optimization']['steps'] == two['teacher']['optimization']['steps']
    for kind in ('baseline', 'student'):
        assert one[kind] == two[kind]


def test_runs_of_another_plan_are_not_taken_for_these(script, tmp_path, capsys):
    parser, check = argparse.ArgumentParser(), script['require_same_plan']
    plan = {'suite': 'x', 'student': script['recipe_of']('student', 'cpu')}
    check(parser, tmp_path / 'new', plan)
    check(parser, tmp_path / 'new', plan)
    with pytest.raises(SystemExit):
        check(parser, tmp_path / 'new',
              {**plan, 'student': script['recipe_of']('student', 'cpu', 7)})
    assert 'student.optimization.steps: 3000 -> 7' in capsys.readouterr().err
    (tmp_path / 'old' / 'teacher').mkdir(parents=True)
    with pytest.raises(SystemExit):
        check(parser, tmp_path / 'old', plan)
