from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
import json
import os
from pathlib import Path
import shutil
import signal
import threading
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
import torch

from kd_perception.bags.source import open_source
from kd_perception.bundle import load_bundle, ModelBundle
from kd_perception.distillation import held_out, trainer
from kd_perception.distillation.frame_store import FrameStore
from kd_perception.distillation.labelling import label
from kd_perception.distillation.loop import Loop
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.trainer import distill, train
from kd_perception.errors import TrainingError
from kd_perception.frames import Progress
from kd_perception.tasks.soft_labels import SoftLabelCodec

Make = Callable[..., Recipe]
Same = Callable[[ModelBundle, ModelBundle], bool]


def events(run: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (run / 'train.jsonl').read_text().splitlines()]
    return [line for line in lines if line['event'] == kind]


def weights(bundle: ModelBundle) -> dict[str, torch.Tensor]:
    return load_file(bundle.file('weights.safetensors'))


def test_learns_and_leaves_everything_that_was_promised(make_recipe: Make,
                                                        tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    recipe = make_recipe(steps=200, validate_every=50, augment={'crop': [24, 32], 'noise': 5})
    bundle = train(recipe, tmp_path / 'run', progress=lambda *a: seen.append(a))
    metrics = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    # Stripes in the colour of their class: chance would be 4 %.
    assert metrics['validation']['mean_iou'] > 0.5
    assert metrics['steps'] == 200
    assert metrics['validation_against'] == 'ground truth'
    assert 'best mIoU ' in seen[-1][2]
    assert metrics['validation']['pixels'] == 6 * 30 * 48
    assert load_bundle(bundle.path).hash == bundle.hash
    assert bundle.spec.lineage.recipe == recipe.hash()
    assert len(bundle.spec.lineage.data) == 1
    assert bundle.spec.statistics['frames'] == 18
    assert bundle.has('metrics.json')
    scores = [e['mean_iou'] for e in events(tmp_path / 'run', 'validation')]
    assert len(scores) == 4
    assert max(scores) == pytest.approx(metrics['validation']['mean_iou'], abs=0.02)
    steps = events(tmp_path / 'run', 'train')
    assert {'loss', 'cross_entropy', 'learning_rate', 'gradient', 'step_s',
            'wait_s'} <= steps[0].keys()
    assert steps[-1]['learning_rate'] < 1e-3 < steps[50]['learning_rate']
    assert seen[-1][:2] == (200, 200)
    assert (24, 24, 'reading frames') in seen
    assert list((tmp_path / 'run' / 'tensorboard').iterdir())


def test_a_stopped_run_goes_on_to_the_same_weights_to_the_bit(
        make_recipe: Make, tmp_path: Path, stopped_at: Callable[..., Progress],
        same_weights: Same) -> None:
    recipe = make_recipe()
    whole = train(recipe, tmp_path / 'whole')
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / 'run', progress=stopped_at(8))
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / 'run' / 'bundle').exists()
    resumed = train(recipe, tmp_path / 'run')
    assert [e['step'] for e in events(tmp_path / 'run', 'resumed')] == [8]
    assert [e['step'] for e in events(tmp_path / 'run', 'train')] == list(range(1, 13))
    assert same_weights(whole, resumed)


def test_what_does_not_fit_into_memory_teaches_the_same(
        make_recipe: Make, stripes: Path, tmp_path: Path, stopped_at: Callable[..., Progress],
        same_weights: Same, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(make_recipe(augment={'focus': 0.5}), tmp_path / 'whole')
    data = {'memory_gb': 0.0, 'defaults': {'classes': 'driving'}, 'validation_share': 0.25}
    recipe = make_recipe(augment={'focus': 0.5}, loader_threads=2, data=data)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / 'run', progress=stopped_at(5))
    # Labels are counted once in a run.
    monkeypatch.setattr(FrameStore, '_counted', None)
    assert same_weights(whole, train(recipe, tmp_path / 'run'))
    told = json.loads((tmp_path / 'run' / 'frames.json').read_text())['labelled_pixels']
    assert sum(told[:12]) == 18 * 30 * 48


def test_frames_that_turn_out_to_be_damaged_change_nothing_on_a_resume(
        make_recipe: Make, stripes: Path, tmp_path: Path, resumes: Callable[..., None]) -> None:
    for kind in ('', '_labels'):
        shutil.copytree(stripes.with_name(stripes.name + kind), tmp_path / f'drive{kind}')
    for place in (2, 9, 20):  # the last one is held out
        (tmp_path / 'drive' / f'{place:04}.png').write_bytes(b'no picture')
    data = {'memory_gb': 0.0, 'defaults': {'classes': 'driving'}, 'validation_share': 0.25}
    resumes(partial(train, make_recipe(train=tmp_path / 'drive', data=data, steps=20)), at=9)
    metrics = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    assert metrics['validation']['pixels'] == 5 * 30 * 48


def test_frames_that_the_teacher_could_not_see_are_left_out_beforehand(
        make_recipe: Make, teacher: ModelBundle, bare_stripes: Path, tmp_path: Path) -> None:
    shutil.copytree(bare_stripes, tmp_path / 'drive')
    (tmp_path / 'drive' / '0004.png').write_bytes(b'no picture')
    with closing(open_source(tmp_path / 'drive')) as source:
        label(teacher, source, tmp_path / 'cache', engine='onnxruntime')
    data = {'memory_gb': 0.0, 'validation_share': 0.25}
    bundles = [distill(make_recipe(train=tmp_path / 'drive', data={**data, **more}, steps=4),
                       tmp_path / name, teacher=teacher, cache_dir=tmp_path / 'cache')
               for name, more in (('late', {}), ('soon', {'memory_gb': 4.0}))]
    late, soon = map(weights, bundles)
    assert all(torch.equal(late[name], soon[name]) for name in soon)
    assert bundles[0].spec.statistics['frames'] == 8


def test_ctrl_c_in_a_validation_stops_it_and_resumes_with_it(
        make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        same_weights: Same) -> None:
    recipe = make_recipe()
    whole = train(recipe, tmp_path / 'whole')
    truth = trainer._truth

    def interrupted(store: object) -> Callable:
        frames = truth(store)  # type: ignore[arg-type]

        def one_frame_and_a_signal(processes):  # noqa: ANN001, ANN202
            for index, pair in enumerate(frames(processes)):
                yield pair
                if index == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
        return one_frame_and_a_signal

    with monkeypatch.context() as patch:
        patch.setattr(trainer, '_truth', interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / 'run')
    resumed = train(recipe, tmp_path / 'run')
    assert [e['step'] for e in events(tmp_path / 'run', 'resumed')] == [6]
    assert [e['step'] for e in events(tmp_path / 'run', 'validation')] == [6, 12]
    assert same_weights(whole, resumed)


def test_a_signal_while_processes_agree_counts_before_the_next_step(
        monkeypatch: pytest.MonkeyPatch) -> None:
    loop, stop = object.__new__(Loop), threading.Event()
    loop.__dict__.update(_accelerator=SimpleNamespace(num_processes=2), _device='cpu',
                         _run=SimpleNamespace(main=True))
    # The other process was not asked to stop, and has not heard that this one was.
    monkeypatch.setattr(torch.distributed, 'all_reduce', lambda said, how: stop.set())
    assert loop._agreed(0.25, stop) == (0.25, False)
    assert loop._agreed(0.25, stop) == (0.25, True)

    def gone(said: torch.Tensor, how: object) -> None:
        raise RuntimeError('Connection closed by peer')

    monkeypatch.setattr(torch.distributed, 'all_reduce', gone)
    assert loop._agreed(0.5, stop) == (0.5, True)
    stop.clear()
    with pytest.raises(RuntimeError, match='by peer'):
        loop._agreed(0.5, stop)


def test_trains_outside_of_the_main_thread(make_recipe: Make, tmp_path: Path) -> None:
    done: list[ModelBundle] = []
    thread = threading.Thread(target=lambda: done.append(train(make_recipe(steps=2), tmp_path)))
    thread.start()
    thread.join()
    assert done


def test_a_time_budget_ends_the_run_with_the_rate_at_its_end(make_recipe: Make,
                                                             tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    train(make_recipe(steps=0, budget_minutes=2 / 60, validate_every=0), tmp_path,
          progress=lambda *a: seen.append(a))
    steps = events(tmp_path, 'train')
    assert len(steps) > 20
    assert steps[-1]['learning_rate'] < 0.002
    assert max(s['learning_rate'] for s in steps) > 0.015
    assert 9 <= len(events(tmp_path, 'validation')) <= 11
    assert all(total in (24, 1000) for _, total, _ in seen)


def test_a_finished_run_is_not_touched(make_recipe: Make, tmp_path: Path) -> None:
    bundle = train(make_recipe(steps=2), tmp_path)
    with pytest.raises(TrainingError, match='is finished already'):
        train(make_recipe(steps=2), tmp_path)
    with pytest.raises(TrainingError, match='another recipe .recipe.optimization.steps: 2 -> 3'):
        train(make_recipe(steps=3), tmp_path)
    assert load_bundle(tmp_path / 'bundle').hash == bundle.hash
    train(make_recipe(steps=3), tmp_path, overwrite=True)


def test_data_without_labels_is_refused_before_anything_is_written(
        make_recipe: Make, bare_stripes: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match='has no labels to learn from'):
        train(make_recipe(train=bare_stripes), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('options', [
    {'optimizer': 'momentum', 'schedule': 'poly', 'class_weights': 'median'},
    {'schedule': 'cosine', 'class_weights': 'log', 'ema_decay': 0, 'precision': 'bf16'},
    {'epochs': 0.5, 'steps': 0, 'channels_last': False, 'gradient_clip': 0,
     'validation_frames': 2, 'loader_threads': 2}])
def test_other_settings_run_to_the_end(make_recipe: Make, tmp_path: Path, options: dict) -> None:
    train(make_recipe(**options), tmp_path)
    expected = 3 if 'epochs' in options else 12
    assert len(events(tmp_path, 'train')) == expected


@pytest.fixture
def cache(teacher: ModelBundle, bare_stripes: Path, stripes: Path, tmp_path: Path) -> Path:
    for folder in (bare_stripes, stripes):
        source = open_source(folder, classes='driving' if folder == stripes else '')
        label(teacher, source, tmp_path / 'cache', engine='onnxruntime',
              codec=SoftLabelCodec(stride=2))
    return tmp_path / 'cache'


def test_a_student_comes_to_agree_with_its_teacher_without_labels(
        make_recipe: Make, teacher: ModelBundle, bare_stripes: Path, cache: Path,
        tmp_path: Path) -> None:
    recipe = make_recipe(train=bare_stripes, steps=250, validate_every=50, seed=1,
                         network={'builder': 'toy', 'arguments': {'width': 16}},
                         augment={'focus': 0.5})
    notes: list[str] = []
    bundle = distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=cache,
                     progress=lambda done, total, note: notes.append(note))
    divergence = [e['kl'] for e in events(tmp_path / 'run', 'train')]
    assert sum(divergence[-10:]) < 0.3 * sum(divergence[:10])
    metrics = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    assert metrics['validation']['pixel_accuracy'] > 0.6
    assert metrics['validation_against'] == 'teacher'
    assert 'best mIoU against the teacher' in notes[-1]
    assert bundle.spec.lineage.parents == (teacher.hash,)
    assert bundle.spec.statistics['labelled_frames'] == 0


def test_ground_truth_is_used_beside_soft_labels(make_recipe: Make, teacher: ModelBundle,
                                                 cache: Path, tmp_path: Path) -> None:
    recipe = make_recipe(distillation={'losses': {
        'cross_entropy': {'weight': 0.5}, 'kl': {'temperature': 4}}})
    distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=cache)
    terms = events(tmp_path / 'run', 'train')[0]
    assert terms['loss'] == pytest.approx(terms['kl'] + terms['cross_entropy'], rel=1e-4)


def test_a_distillation_resumes_to_the_bit(make_recipe: Make, teacher: ModelBundle, cache: Path,
                                           bare_stripes: Path,
                                           resumes: Callable[..., None]) -> None:
    recipe = make_recipe(train=bare_stripes)
    resumes(partial(distill, recipe, teacher=teacher, cache_dir=cache))


def test_a_run_does_not_go_on_with_other_soft_labels(make_recipe: Make, teacher: ModelBundle,
                                                     cache: Path, bare_stripes: Path,
                                                     tmp_path: Path,
                                                     stopped_at: Callable[..., Progress]) -> None:
    recipe = make_recipe(train=bare_stripes)
    with pytest.raises(KeyboardInterrupt):
        distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=cache,
                progress=stopped_at(5))
    label(teacher, open_source(bare_stripes), tmp_path / 'finer', engine='onnxruntime',
          codec=SoftLabelCodec(name='fp16', stride=1))
    with pytest.raises(TrainingError, match='another recipe .identity.soft_labels.codec'):
        distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=tmp_path / 'finer')


def test_what_does_not_fit_the_cache_is_refused(make_recipe: Make, teacher: ModelBundle,
                                                bare_stripes: Path, stripes: Path,
                                                tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    label(teacher, open_source(bare_stripes, limit=9), tmp_path / 'cache', engine='onnxruntime')

    def refused(match: str, recipe: Recipe, by: ModelBundle = teacher) -> None:
        with pytest.raises(TrainingError, match=match):
            distill(recipe, tmp_path / 'run', teacher=by, cache_dir=tmp_path / 'cache')

    with monkeypatch.context() as patch:  # before a frame is decoded, which may take hours
        patch.setattr(held_out, 'FrameStore', None)
        refused('3 of 12 frames have no soft labels.*learn from the frames that were labelled: '
                'set rate_hz', make_recipe(train=bare_stripes))
    # Held-out frames with ground truth need none.
    label(teacher, open_source(stripes, limit=18), tmp_path / 'cache', engine='onnxruntime')
    distill(make_recipe(steps=1), tmp_path / 'tail', teacher=teacher,
            cache_dir=tmp_path / 'cache')
    refused("no labels, which loss 'cross_entropy' learns from",
            make_recipe(train=bare_stripes, distillation={'losses': {'cross_entropy': {}}}))
    refused("the teacher predicts 'driving', the recipe asks for 'camvid'",
            make_recipe(train=bare_stripes, classes='camvid'))
    refused('was labelled by', make_recipe(train=bare_stripes),
            ModelBundle(teacher.path, teacher.spec, teacher.files, 'f' * 64))
