from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kd_perception.bundle import (
    BundleSpec,
    DEPLOY,
    InputSpec,
    LOGITS,
    ModelBundle,
    NetworkSpec,
    write_bundle,
)
from kd_perception.classes import ClassSet
from kd_perception.cli.main import main
from kd_perception.distillation.augmentation import View
from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.teachers.online import OnlineTeacher
from kd_perception.distillation.trainer import distill
from kd_perception.engines.loader import load_engine
from kd_perception.errors import ConfigError, TrainingError
from kd_perception.networks.deploy import export_graphs, load_module, save_bundle
from kd_perception.networks.registry import build

Make = Callable[..., Recipe]
ONLINE = {'view': 'online'}


def batch(height: int = 32, width: int = 48, view: View | None = None) -> Batch:
    images = torch.randint(0, 256, (3, height, width, 3), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(0))
    view = view or View(0, 0, 32, 48)
    theta = torch.from_numpy(view.theta(32, 48)).repeat(3, 1, 1)
    return Batch(('a', 'b', 'c'), images, torch.full((3, height, width), 255, dtype=torch.uint8),
                 theta)


def variant(teacher: ModelBundle, path: Path, **changes: object) -> ModelBundle:
    """Return the teacher's network with another input."""
    spec = replace(teacher.spec, input=InputSpec(**{  # type: ignore[arg-type]
        'height': 32, 'width': 48, **changes}))
    return save_bundle(path, load_module(teacher), spec)


def foreign(teacher: ModelBundle, path: Path, height: int, width: int) -> ModelBundle:
    spec = replace(teacher.spec, input=InputSpec(height, width), network=NetworkSpec())
    return write_bundle(path, spec, export_graphs(load_module(teacher), spec))


@pytest.mark.parametrize('changes', [
    {}, {'channel_order': 'bgr', 'mean': (0.1, 0.2, 0.3), 'std': (0.5, 0.6, 0.7)}])
def test_says_what_the_engine_says_of_the_same_picture(teacher: ModelBundle, tmp_path: Path,
                                                       changes: dict) -> None:
    bundle = variant(teacher, tmp_path / 'b', **changes)
    views = batch()
    lesson = OnlineTeacher(bundle).teach(views, (1, 1))
    given = views.images.numpy()[..., ::-1] if changes else views.images.numpy()
    engine = load_engine(bundle, 'onnxruntime', graph='logits')
    expected = engine.infer(np.ascontiguousarray(given))['logits']
    np.testing.assert_allclose(lesson.logits, expected, atol=1e-4)
    assert lesson.valid.all()
    assert not lesson.logits.requires_grad


def test_lessons_are_on_the_finer_grid_and_know_where_the_frame_ends(
        teacher: ModelBundle) -> None:
    taught = OnlineTeacher(teacher).teach(batch(view=View(-32, 0, 96, 48)), (32, 48))
    assert taught.logits.shape == (3, 12, 32, 48)
    assert taught.valid.shape == (3, 32, 48)
    rows = taught.valid.all(2)[0]
    assert rows.nonzero().flatten().tolist() == list(range(11, 21))


def test_views_are_scaled_to_the_size_that_the_teacher_knows(teacher: ModelBundle,
                                                             tmp_path: Path) -> None:
    larger = variant(teacher, tmp_path / 'b', height=64, width=96)
    scaled = OnlineTeacher(larger, frame=(32, 48)).teach(batch(16, 24), (1, 1))
    assert scaled.logits.shape[2:] == (16, 24)  # stride 2 of 32x48
    plain = OnlineTeacher(larger).teach(batch(16, 24), (1, 1))
    assert plain.logits.shape[2:] == (8, 12)


def test_layers_are_given_by_name_and_unknown_ones_refused(teacher: ModelBundle) -> None:
    lesson = OnlineTeacher(teacher, layers=('0', '2')).teach(batch(), (1, 1))
    assert {n: tuple(t.shape) for n, t in lesson.features.items()} == {
        '0': (3, 16, 16, 24), '2': (3, 16, 16, 24)}
    assert float(lesson.features['2'].min()) == 0.0  # behind the ReLU
    inside = OnlineTeacher(teacher, layers=('0', '2')).look_inside(batch())
    assert all(torch.equal(inside[n], lesson.features[n]) for n in ('0', '2'))
    with pytest.raises(ConfigError, match=r"no layer 'relu'; the outermost are 0, 1, 2"):
        OnlineTeacher(teacher, layers=('relu',))


def test_a_foreign_graph_teaches_views_of_its_own_size_alone(teacher: ModelBundle,
                                                             tmp_path: Path) -> None:
    graph = foreign(teacher, tmp_path / 'f', 32, 48)
    own, other = OnlineTeacher(teacher), OnlineTeacher(graph, crop=(32, 48))
    torch.testing.assert_close(own.teach(batch(), (1, 1)).logits,
                               other.teach(batch(), (1, 1)).logits, atol=0.05, rtol=0.05)
    with pytest.raises(TrainingError, match=r'takes 48x32 alone, views are 32x24: set '
                       r'augment.crop to \[32, 48\]'):
        OnlineTeacher(graph, crop=(24, 32))
    with pytest.raises(TrainingError, match="layers .here 'x'. cannot be looked at"):
        OnlineTeacher(graph, crop=(32, 48), layers=('x',))


def test_what_gives_no_logits_is_refused(teacher: ModelBundle, tmp_path: Path) -> None:
    spec = replace(teacher.spec, network=NetworkSpec())
    graphs = export_graphs(load_module(teacher), spec)
    ids = write_bundle(tmp_path / 'i', spec, {DEPLOY: graphs[DEPLOY]})
    assert LOGITS in graphs
    with pytest.raises(TrainingError, match='gives ids alone'):
        OnlineTeacher(ids)


def test_a_network_that_pads_by_itself_teaches_views_of_any_size(driving: ClassSet,
                                                                 tmp_path: Path) -> None:
    network = NetworkSpec('smp', {'architecture': 'Unet', 'encoder': 'resnet18'})
    spec = BundleSpec(name='unet', task='segmentation', role='teacher', classes=driving,
                      input=InputSpec(32, 64), network=network)
    bundle = save_bundle(tmp_path / 'b', build(network, len(driving)), spec)
    # It pads by itself; the lesson is about the view all the same.
    lesson = OnlineTeacher(bundle).teach(batch(24, 36), (1, 1))
    assert lesson.logits.shape[-2:] == (24, 36)


def test_a_student_learns_from_a_teacher_in_the_loop_without_a_cache(
        make_recipe: Make, teacher: ModelBundle, bare_stripes: Path, tmp_path: Path) -> None:
    recipe = make_recipe(train=bare_stripes, steps=150, distillation=ONLINE,
                         network={'builder': 'toy', 'arguments': {'width': 16}})
    bundle = distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=None)
    lines = [json.loads(x) for x in (tmp_path / 'run' / 'train.jsonl').read_text().splitlines()]
    divergence = [x['kl'] for x in lines if x['event'] == 'train']
    assert sum(divergence[-10:]) < 0.3 * sum(divergence[:10])
    metrics = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    assert metrics['validation_against'] == 'teacher'
    assert metrics['validation']['pixel_accuracy'] > 0.5
    assert bundle.spec.lineage.parents == (teacher.hash,)


def test_an_online_run_resumes_to_the_bit(make_recipe: Make, teacher: ModelBundle,
                                          bare_stripes: Path,
                                          resumes: Callable[..., None]) -> None:
    recipe = make_recipe(train=bare_stripes, distillation=ONLINE)
    resumes(partial(distill, recipe, teacher=teacher, cache_dir=None))


def test_the_wrong_combination_is_told_in_one_line(
        make_recipe: Make, teacher: ModelBundle, bare_stripes: Path, tmp_path: Path,
        capsys: pytest.CaptureFixture) -> None:
    def refused(match: str, recipe: Recipe, by: ModelBundle | None, cache: Path | None) -> None:
        with pytest.raises(TrainingError, match=match):
            distill(recipe, tmp_path / 'run', teacher=by, cache_dir=cache)

    online = make_recipe(train=bare_stripes, distillation=ONLINE)
    refused('a cache is not looked at with distillation.view online', online, teacher, tmp_path)
    refused('needs a teacher in the loop', online, None, None)
    refused('give --cache DIR', make_recipe(train=bare_stripes), teacher, None)
    refused("the teacher predicts 'driving', the recipe asks for 'camvid'",
            make_recipe(train=bare_stripes, distillation=ONLINE, classes='camvid'), teacher, None)
    assert not (tmp_path / 'run').exists()
    assert main(['distill', 'student_camvid', '--teacher', str(teacher.path), '--data',
                 str(bare_stripes), '--out', str(tmp_path / 'run'), '--classes', 'driving']) == 2
    told = capsys.readouterr().err.strip()
    assert 'give --cache DIR' in told
    assert '\n' not in told
