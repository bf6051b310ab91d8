"""What a run took is its own training and what its teachers did for it, no more and no less."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
import json
from pathlib import Path
import shutil

import pytest

from kd_perception.bags.source import open_source
from kd_perception.bundle import METRICS, ModelBundle
from kd_perception.distillation.labelling import label
from kd_perception.distillation.labelling_log import read_cost
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.reports.run_cost import run_cost
from kd_perception.distillation.reports.run_log import read_log
from kd_perception.distillation.reports.run_page import _chain, _taught
from kd_perception.distillation.trainer import distill
from kd_perception.frames import Progress

Make = Callable[..., Recipe]


def cost(run: Path, recipe: Recipe, bundle: ModelBundle) -> dict:
    return run_cost(run, recipe, bundle, json.loads((run / METRICS).read_text()), read_log(run))


def test_a_teacher_in_the_loop_is_counted_over_a_stop(
        make_recipe: Make, teacher: ModelBundle, bare_stripes: Path, tmp_path: Path,
        stopped_at: Callable[..., Progress]) -> None:
    recipe = make_recipe(train=bare_stripes, distillation={'view': 'online'})
    with pytest.raises(KeyboardInterrupt):
        distill(recipe, tmp_path, teacher=teacher, cache_dir=None, progress=stopped_at(5))
    bundle = distill(recipe, tmp_path, teacher=teacher, cache_dir=None)
    told, log = cost(tmp_path, recipe, bundle), read_log(tmp_path)
    each = log.scalars['teacher_s'].values
    assert len(each) == 12
    assert (each > 0).all()
    assert (each < log.scalars['step_s'].values).all()
    assert 'teacher_s' not in log.terms
    assert told['teacher_in_loop_s'] == pytest.approx(each.sum(), abs=2e-3)
    assert told['labelling'] is None
    assert 'in the loop' in _taught(told)


def test_of_a_cache_that_others_use_the_part_counts_that_was_used(
        make_recipe: Make, teacher: ModelBundle, bare_stripes: Path, stripes: Path,
        tmp_path: Path) -> None:
    for folder in (stripes, bare_stripes):
        with closing(open_source(folder, labels=False)) as source:
            label(teacher, source, tmp_path / 'cache', engine='onnxruntime')
    recipe = make_recipe(train=bare_stripes, steps=1)
    bundle = distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=tmp_path / 'cache')
    told, whole = cost(tmp_path / 'run', recipe, bundle), read_cost([tmp_path / 'cache'])
    assert whole is not None
    assert (whole.frames, told['labelling']['frames']) == (36, 36)
    # Without ground truth the held-out frames are taught, too.
    assert told['labelling']['used_frames'] == 12
    assert told['labelling']['used_teacher_s'] == pytest.approx(whole.teacher_s / 3, abs=1e-3)
    assert told['labelling']['used_seconds'] == pytest.approx(whole.seconds / 3, abs=1e-3)
    assert 'the part of the 12 frames that the run used is' in _taught(told)


def test_assistants_are_added_up_along_the_chain(
        make_recipe: Make, teacher: ModelBundle, bare_stripes: Path, tmp_path: Path) -> None:
    with closing(open_source(bare_stripes)) as source:
        label(teacher, source, tmp_path / 'cache', engine='onnxruntime')
    recipe = make_recipe(train=bare_stripes, steps=2, distillation={'assistants': [
        {'network': {'builder': 'toy', 'arguments': {'width': 12}}},
        {'network': {'builder': 'toy', 'arguments': {'width': 10}}}]})
    bundle = distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=tmp_path / 'cache')
    assistants = tmp_path / 'run' / 'assistants'
    told = cost(tmp_path / 'run', recipe, bundle)
    asked = [read_cost([c]) for c in (tmp_path / 'cache', assistants / '1_cache',
                                      assistants / '2_cache')]
    seconds = [one['labelling']['teacher_s'] for one in (*told['assistants'], told)]
    assert seconds == pytest.approx([a.teacher_s for a in asked if a], abs=1e-3)
    assert told['altogether']['teacher_s'] == pytest.approx(sum(seconds), abs=2e-3)
    minutes = [json.loads((run / METRICS).read_text())['training_minutes'] for run in
               (assistants / '1', assistants / '2', tmp_path / 'run')]
    assert told['altogether']['training_minutes'] == pytest.approx(sum(minutes))
    assert _chain(told).startswith('2 of them, ')
    shutil.rmtree(assistants / '1')
    told = cost(tmp_path / 'run', recipe, bundle)
    assert told['altogether'] is None
    assert 'not there any more' in _chain(told)
