"""Choosing frames with networks, on the toy world."""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
import shutil

import cv2
import numpy as np
import pytest

from kd_perception.bags.sampling import Sampling
from kd_perception.bags.selection import load_selection, Selection
from kd_perception.bags.source import open_one, open_source
from kd_perception.bundle import BundleSpec, InputSpec, ModelBundle, NetworkSpec
from kd_perception.classes import ClassSet, load_class_set
from kd_perception.cli.main import main
from kd_perception.distillation import selection as selecting
from kd_perception.distillation.cache import SoftLabelCache
from kd_perception.distillation.labelling import label
from kd_perception.distillation.pooled_features import PooledFeatures
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.recipe_file import recipe_from_dict
from kd_perception.distillation.selection import Models, select
from kd_perception.distillation.trainer import distill
from kd_perception.errors import ConfigError, TrainingError
from kd_perception.networks.deploy import load_module, save_bundle
from kd_perception.networks.registry import build
from kd_perception.tasks.soft_labels import SoftLabelCodec

Make = Callable[..., Recipe]


@pytest.fixture(scope='module')
def cache(teacher: ModelBundle, stripes: Path, bare_stripes: Path,
          tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the exact soft labels of all frames."""
    path = tmp_path_factory.mktemp('selecting') / 'cache'
    for folder in (stripes, bare_stripes):
        label(teacher, open_source(folder), path, engine='onnxruntime',
              codec=SoftLabelCodec(name='fp16', stride=1))
    return path


@pytest.fixture(scope='module')
def student(tmp_path_factory: pytest.TempPathFactory, driving: ClassSet) -> ModelBundle:
    spec = BundleSpec(name='toy_student', task='segmentation', role='student', classes=driving,
                      input=InputSpec(32, 48), network=NetworkSpec('toy', {'width': 4}))
    return save_bundle(tmp_path_factory.mktemp('bundles') / 'student',
                       build(spec.network, len(driving)), spec)


def both(*folders: Path) -> list:
    return [open_one(f) for f in folders]


def taken(selection: Selection) -> list[tuple[int, ...]]:
    return [r.indices for r in selection.recordings]


def test_uniform_and_motion_need_no_network(stripes: Path, bare_stripes: Path) -> None:
    sources = both(stripes, bare_stripes)
    assert taken(select(sources, 'uniform', 4)) == [(0, 12, 23), (11,)]
    seen: list[tuple[int, int, str]] = []
    moved = select(sources, 'motion', 7, progress=lambda *a: seen.append(a))
    assert len(moved) == 7
    assert seen[-1] == (36, 36, 'looking for motion')
    assert taken(moved) == taken(select(sources, 'motion', 7))


@pytest.mark.parametrize('measure', ['entropy', 'margin'])
def test_uncertainty_from_the_cache_is_that_of_the_running_teacher(
        teacher: ModelBundle, cache: Path, stripes: Path, bare_stripes: Path,
        measure: str) -> None:
    sources = both(stripes, bare_stripes)
    stored = SoftLabelCache(cache)
    one = select(sources, 'uncertainty', 9, models=Models(cache=stored), measure=measure)
    two = select(sources, 'uncertainty', 9, models=Models(teacher, engine='onnxruntime'),
                 measure=measure)
    assert taken(one) == taken(two)
    assert one.made_with['measure'] == measure
    # A second computation, over all frames.
    scores = {}
    for key in stored.keys:
        logits = stored[key].astype(np.float64)
        p = np.exp(logits) / np.exp(logits).sum(0)
        ordered = np.sort(p, 0)
        scores[key] = {'entropy': -(p * np.log(p)).sum(0).mean(),
                       'margin': 1 - (ordered[-1] - ordered[-2]).mean()}[measure]
    best = sorted(scores, key=scores.__getitem__)[-9:]
    assert {(r.fingerprint, i) for r in one.recordings for i in r.indices} == \
        {(k.fingerprint, k.index) for k in best}
    told = [s for r in one.recordings for s in r.scores]
    assert sorted(told) == pytest.approx(sorted(scores.values())[-9:], rel=1e-4)


def test_disagreement_finds_where_the_student_decides_otherwise(
        teacher: ModelBundle, student: ModelBundle, cache: Path, stripes: Path) -> None:
    sources = both(stripes)
    for measure in ('argmax', 'kl'):
        run = select(sources, 'disagreement', 5, measure=measure,
                     models=Models(teacher, None, student, 'onnxruntime'))
        stored = select(sources, 'disagreement', 5, measure=measure,
                        models=Models(None, SoftLabelCache(cache), student, 'onnxruntime'))
        assert taken(run) == taken(stored)
        assert min(run.recordings[0].scores) > 0
    # Who is his own student never disagrees.
    same = select(sources, 'disagreement', 5, models=Models(teacher, None, teacher,
                                                            'onnxruntime'))
    assert same.recordings[0].scores == (0,) * 5


def test_k_center_spreads_in_the_features_of_the_teacher(
        teacher: ModelBundle, cache: Path, stripes: Path, tmp_path: Path) -> None:
    # Twenty copies of one picture and four others: all four are found.
    folder = tmp_path / 'mostly_one'
    folder.mkdir()
    for n in range(24):
        shutil.copy(stripes / f'{n if n % 6 == 5 else 0:04}.png', folder / f'{n:04}.png')
    source = open_one(folder)
    found = select([source], 'k-center', 5, models=Models(teacher), seed=2)
    assert {5, 11, 17, 23} < set(found.recordings[0].indices)
    assert found.made_with['features'] not in ('', 'soft labels')
    label(teacher, source, tmp_path / 'cache', engine='onnxruntime')
    stored = select([source], 'k-center', 5, models=Models(cache=SoftLabelCache(
        tmp_path / 'cache')), seed=2)
    assert {5, 11, 17, 23} < set(stored.recordings[0].indices)
    assert stored.made_with['features'] == 'soft labels'
    assert taken(select([source], 'k-center', 5, models=Models(teacher), seed=2)) == taken(found)


def test_pooled_features_are_the_mean_of_the_deepest_layer(teacher: ModelBundle) -> None:
    import torch

    features = PooledFeatures(teacher)
    image = np.random.default_rng(0).integers(0, 255, (32, 48, 3)).astype(np.uint8)
    module = load_module(teacher).eval()
    spec = teacher.spec.input
    x = (image / 255.0 - np.array(spec.mean)) / np.array(spec.std)
    with torch.no_grad():
        inner = module[:3](torch.from_numpy(x.transpose(2, 0, 1)[None].astype(np.float32)))
    assert features(image) == pytest.approx(inner.mean((0, 2, 3)).numpy(), abs=1e-5)
    assert features(image).shape == (16,)


def test_what_was_seen_is_kept_when_it_is_stopped(teacher: ModelBundle, stripes: Path,
                                                  bare_stripes: Path, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    models, kept_in = Models(teacher, engine='onnxruntime'), tmp_path / 'seen'
    sources = both(stripes, bare_stripes)
    whole = select(sources, 'uncertainty', 9, models=models)

    def stop(done: int, total: int, note: str) -> None:
        if done == 29:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        select(sources, 'uncertainty', 9, models=models, kept_in=kept_in, progress=stop)
    looked: list[int] = []
    entropy = selecting.choice.mean_entropy
    monkeypatch.setattr(selecting.choice, 'mean_entropy',
                        lambda logits: looked.append(1) or entropy(logits))
    assert taken(select(sources, 'uncertainty', 9, models=models, kept_in=kept_in)) == \
        taken(whole)
    assert len(looked) == 7
    # Another number is another choice of the same; other frames are looked at anew.
    looked.clear()
    select(sources, 'uncertainty', 3, models=models, kept_in=kept_in)
    assert len(looked) == 7
    looked.clear()
    select(sources[:1], 'uncertainty', 3, models=models, kept_in=kept_in)
    assert len(looked) == 24
    kept_in.write_bytes(b'damaged')
    select(sources, 'uncertainty', 3, models=models, kept_in=kept_in)


def test_damaged_pictures_are_never_chosen(teacher: ModelBundle, stripes: Path,
                                           tmp_path: Path) -> None:
    folder = Path(shutil.copytree(stripes, tmp_path / 'damaged'))
    for n in (3, 4):
        (folder / f'{n:04}.png').write_bytes(b'no picture')
    source = open_one(folder)
    for by in ('uncertainty', 'k-center'):
        found = select([source], by, 22, models=Models(teacher, engine='onnxruntime'))
        assert found.recordings[0].indices == (*range(3), *range(5, 24))
    with pytest.raises(TrainingError, match='only 22 of 24 frames can be decoded and are known; '
                       'choose --count 22'):
        select([source], 'uncertainty', 23, models=Models(teacher, engine='onnxruntime'))


def test_what_does_not_fit_together_is_refused(teacher: ModelBundle, student: ModelBundle,
                                               cache: Path, stripes: Path,
                                               tmp_path: Path) -> None:
    def refused(match: str, by: str, models: Models | None = None, count: int = 2,
                **more: str) -> None:
        with pytest.raises((ConfigError, TrainingError), match=match):
            select(both(stripes), by, count, models=models, **more)  # type: ignore[arg-type]

    refused('no way to select named .best.; choose uniform', 'best')
    refused('count 25: there are 24 frames to choose from', 'uniform', count=25)
    refused('uncertainty needs a teacher', 'uncertainty')
    refused('is not measured by .kl.; choose entropy, margin', 'uncertainty', Models(teacher),
            measure='kl')
    refused('disagreement needs --student', 'disagreement', Models(teacher))
    refused('disagreement needs --student BUNDLE, and nothing else does', 'k-center',
            Models(teacher, None, student))
    refused('was labelled by', 'uncertainty', Models(student, SoftLabelCache(cache)))
    spec = BundleSpec(name='other', task='segmentation', role='student',
                      classes=load_class_set('camvid'), input=InputSpec(32, 48),
                      network=NetworkSpec('toy'))
    other = save_bundle(tmp_path / 'other', build(spec.network, 11), spec)
    refused('predicts other classes than the teacher', 'disagreement', Models(teacher, None,
                                                                              other))


def test_from_the_command_line_to_a_student(
        teacher: ModelBundle, stripes: Path, bare_stripes: Path, make_recipe: Make,
        tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def run(*words: object) -> int:
        return main([str(w) for w in words])

    out, labels = tmp_path / 'frames.json', tmp_path / 'labels'
    words = ('select', stripes, bare_stripes, '--by', 'uncertainty', '--teacher', teacher.path,
             '--count', 12, '--out', out, '--engine', 'onnxruntime')
    assert run(*words) == 0
    assert f'of 24 frames\nbare: {len(load_selection(out).recordings[1].indices)} of 12' in \
        capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ['frames.json']
    assert run(*words) == 2
    assert 'exists; choose another --out' in capsys.readouterr().err
    assert run('label', '--teacher', teacher.path, stripes, bare_stripes, '--out', labels,
               '--selection', out, '--engine', 'onnxruntime') == 0
    assert len(SoftLabelCache(labels)) == 12
    plain = make_recipe(train=stripes, steps=2).to_dict()
    plain['data'] |= {'train': [str(stripes), str(bare_stripes)],
                      'defaults': {'classes': 'driving', 'selection': str(out)}}
    recipe = recipe_from_dict(plain)
    distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=labels)
    stored = json.loads((tmp_path / 'run' / 'bundle' / 'metrics.json').read_text())
    assert stored['steps'] == 2
    # The recording that it was not made of is refused in a line.
    (tmp_path / 'other').mkdir()
    cv2.imwrite(str(tmp_path / 'other' / '0.png'), np.zeros((32, 48, 3), np.uint8))
    capsys.readouterr()
    assert run('label', '--teacher', teacher.path, tmp_path / 'other', '--out', tmp_path / 'no',
               '--selection', out) == 2
    assert 'selects frames of train' in capsys.readouterr().err
    assert not (tmp_path / 'no').exists()


def test_a_run_does_not_go_on_with_another_selection(
        make_recipe: Make, teacher: ModelBundle, cache: Path, stripes: Path,
        tmp_path: Path) -> None:
    source = open_one(stripes)
    out = tmp_path / 'frames.json'
    select([source], 'uniform', 12).save(out)
    recipe = make_recipe(data={'defaults': {'classes': 'driving', 'selection': str(out)},
                               'validation_share': 0.25})

    def stop(done: int, total: int, note: str) -> None:
        if (done, total) == (5, 12) and 'loss' in note:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=cache, progress=stop)
    select([open_one(stripes, sampling=Sampling(limit=20))], 'uniform', 12).save(out,
                                                                                 overwrite=True)
    with pytest.raises(TrainingError, match='another recipe .identity.data'):
        distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=cache)
