"""Labelled and unlabelled recordings in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
import json
from pathlib import Path

import numpy as np
import pytest

from kd_perception.bags.source import open_source
from kd_perception.bundle import ModelBundle
from kd_perception.classes import ClassSet
from kd_perception.distillation import trainer
from kd_perception.distillation.dataset import Batches
from kd_perception.distillation.frame_store import FrameStore, open_sources
from kd_perception.distillation.labelling import label
from kd_perception.distillation.recipe import AugmentRecipe, Recipe, SourceRecipe
from kd_perception.distillation.recipe_file import recipe_from_dict
from kd_perception.distillation.trainer import distill, train
from kd_perception.errors import ConfigError, TrainingError
from kd_perception.tasks.soft_labels import SoftLabelCodec

Make = Callable[..., Recipe]
BOTH = {'losses': {'kl': {}, 'cross_entropy': {'weight': 0.5}}}


@pytest.fixture(scope='module')
def mixed(stripes: Path, bare_stripes: Path, driving: ClassSet) -> FrameStore:
    """Return 24 labelled frames and 12 without labels."""
    return FrameStore(open_sources([SourceRecipe(str(stripes), classes='driving'),
                                    SourceRecipe(str(bare_stripes))], driving), (32, 48))


def drawn(frames: FrameStore, steps: range, **options: object) -> list[tuple[str, ...]]:
    batches = Batches(frames, AugmentRecipe(), crop=(16, 16), seed=3,
                      **{'batch_size': 8, **options})  # type: ignore[arg-type]
    return [batches.batch(step).keys for step in steps]


def test_each_batch_has_its_share_of_labelled_frames(mixed: FrameStore) -> None:
    labelled = {str(k) for k, has in zip(mixed.keys, mixed.has_labels, strict=True) if has}
    for share in (0.25, 0.3, 1.0):
        batches = drawn(mixed, range(30), labelled_share=share)
        counts = np.array([sum(k in labelled for k in keys) for keys in batches])
        assert abs(counts - 8 * share).max() < 1
        assert counts.sum() == pytest.approx(30 * 8 * share, abs=1)
        # Each kind goes through all of its frames before one comes again.
        for kind in (True, False):
            own = [k for keys in batches for k in keys if (k in labelled) == kind]
            size = 24 if kind else 12
            for first in range(0, len(own) - size, size):
                assert len(set(own[first:first + size])) == size


def test_the_share_is_the_same_for_any_number_of_ranks_and_after_any_stop(
        mixed: FrameStore) -> None:
    alone = drawn(mixed, range(7), labelled_share=0.3)
    ranks = [drawn(mixed, range(7), labelled_share=0.3, batch_size=4, rank=r, world=2)
             for r in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == alone
    assert drawn(mixed, range(4, 7), labelled_share=0.3) == alone[4:]


def test_without_a_share_frames_come_as_they_did(mixed: FrameStore) -> None:
    order = np.random.default_rng((3, 0, 0)).permutation(36)
    assert drawn(mixed, range(1))[0] == tuple(str(mixed.keys[p]) for p in order[:8])


def test_a_share_of_nothing_is_refused(mixed: FrameStore, make_recipe: Make,
                                       tmp_path: Path) -> None:
    for part, kind in ((range(24), 'without'), (range(24, 36), 'with')):
        with pytest.raises(TrainingError, match=f'there are no frames {kind} labels'):
            drawn(mixed.subset(part), range(1), labelled_share=0.5)
    with pytest.raises(TrainingError, match=r'labelled_share 0.5: there are no frames without'):
        train(make_recipe(data={'defaults': {'classes': 'driving'}, 'labelled_share': 0.5}),
              tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
    with pytest.raises(ConfigError, match=r'data.labelled_share: 1.5 is not within 0 to 1'):
        make_recipe(data={'labelled_share': 1.5})


@pytest.fixture(scope='module')
def cache(teacher: ModelBundle, bare_stripes: Path, stripes: Path,
          tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('mixed') / 'cache'
    for folder in (bare_stripes, stripes):
        label(teacher, open_source(folder, classes='driving'), path, engine='onnxruntime',
              codec=SoftLabelCodec(stride=2))
    return path


def mixture(make_recipe: Make, folders: list[Path], share: float, **options: object) -> Recipe:
    """Return a recipe on several folders, with both losses."""
    plain = make_recipe(**{'distillation': BOTH, **options}).to_dict()
    plain['data'] |= {'train': [{'path': str(f), 'classes': 'driving'} for f in folders],
                      'labelled_share': share}
    return recipe_from_dict(plain)


def test_a_share_of_nothing_is_refused_before_frames_are_read(
        make_recipe: Make, teacher: ModelBundle, cache: Path, stripes: Path, bare_stripes: Path,
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*given: object, **more: object) -> None:
        raise AssertionError('read')

    monkeypatch.setattr(trainer, 'read_frames', read)
    with pytest.raises(TrainingError, match='there are no frames without labels'):
        train(mixture(make_recipe, [stripes], 0.5), tmp_path / 'run')
    recipe = mixture(make_recipe, [bare_stripes], 0.5)
    recipe = replace(recipe, distillation=replace(recipe.distillation, losses={'kl': {}}))
    with pytest.raises(TrainingError, match='there are no frames with labels'):
        distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=cache)


def test_kl_counts_everywhere_and_cross_entropy_where_there_is_truth(
        make_recipe: Make, teacher: ModelBundle, cache: Path, stripes: Path, bare_stripes: Path,
        tmp_path: Path) -> None:
    recipe = mixture(make_recipe, [stripes, bare_stripes], 0.125, steps=6)
    distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=cache)
    metrics = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    assert metrics['validation_against'] == 'ground truth'
    assert metrics['validation']['pixels'] == 6 * 30 * 48
    events = [e for line in (tmp_path / 'run' / 'train.jsonl').read_text().splitlines()
              if (e := json.loads(line))['event'] == 'train']
    # A share of 1/8 gives every second batch of four no labelled frame at all.
    assert all(e['kl'] > 0 for e in events)
    assert [e['cross_entropy'] > 0 for e in events] == [False, True] * 3


def test_a_teacher_that_has_no_say_anywhere_is_told(
        make_recipe: Make, teacher: ModelBundle, cache: Path, stripes: Path, bare_stripes: Path,
        tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    silent = {**BOTH, 'weighting': {'labelled': 0.0}}
    for name, unlabelled, told in (('all', [], True), ('some', [bare_stripes], False)):
        caplog.clear()
        recipe = mixture(make_recipe, [stripes, *unlabelled], 0.0, steps=2, distillation=silent)
        with caplog.at_level('WARNING'):
            distill(recipe, tmp_path / name, teacher=teacher, cache_dir=cache)
        assert ('nothing is learned from what the teacher decides' in caplog.text) == told


def test_labels_false_leaves_labels_unused(make_recipe: Make, stripes: Path, driving: ClassSet,
                                           teacher: ModelBundle, cache: Path,
                                           tmp_path: Path) -> None:
    entry = SourceRecipe(str(stripes), classes='driving', labels=False)
    frames = FrameStore(open_sources([entry], driving), (32, 48))
    assert not any(frames.has_labels)
    data = {'defaults': {'classes': 'driving', 'labels': False}}
    with pytest.raises(TrainingError, match='has no labels to learn from'):
        train(make_recipe(data=data), tmp_path / 'run')
    distill(make_recipe(data=data, steps=1), tmp_path / 'run', teacher=teacher, cache_dir=cache)
    metrics = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    assert metrics['validation_against'] == 'teacher'


def test_a_mixture_resumes_to_the_bit(make_recipe: Make, teacher: ModelBundle, cache: Path,
                                      stripes: Path, bare_stripes: Path,
                                      resumes: Callable[..., None]) -> None:
    recipe = mixture(make_recipe, [stripes, bare_stripes], 0.4)

    resumes(partial(distill, recipe, teacher=teacher, cache_dir=cache))
