"""The verbs ``train``, ``label``, ``distill`` and ``evaluate``, as one types them."""

from __future__ import annotations

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from safetensors.torch import load_file
import torch
import yaml

from kd_perception.classes import load_class_set
from kd_perception.cli.main import main

RECIPE = {
    'name': 'small', 'classes': 'driving', 'input': {'height': 32, 'width': 48},
    'network': {'builder': 'compact', 'arguments': {'width': 8}},
    'data': {'defaults': {'classes': 'driving'}}, 'augment': {'crop': [32, 32]},
    'optimization': {'steps': 4, 'batch_size': 2, 'precision': 'fp32', 'log_every': 1,
                     'validate_every': 10 ** 6, 'checkpoint_minutes': 0.0001}}


@pytest.fixture(scope='module')
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe, labelled frames and unlabelled ones."""
    folder = tmp_path_factory.mktemp('world')
    (folder / 'recipe.yaml').write_text(yaml.safe_dump(RECIPE))
    palette = load_class_set('driving').palette()
    rng = np.random.default_rng(0)
    for name in ('drive', 'drive_labels', 'bare'):
        (folder / name).mkdir()
    for index in range(12):
        ids = cv2.resize(rng.integers(0, 12, (4, 6)).astype(np.uint8), (48, 32),
                         interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / 'drive' / f'{index:02}.png'), palette[ids][..., ::-1])
        cv2.imwrite(str(folder / 'drive_labels' / f'{index:02}.png'), ids)
        cv2.imwrite(str(folder / 'bare' / f'{index:02}.png'), palette[ids][:, ::-1, ::-1])
    return folder


def command(*words: object) -> list[str]:
    return [sys.executable, '-m', 'kd_perception.cli.main', *map(str, words)]


def test_the_whole_path(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture,
                        caplog: pytest.LogCaptureFixture) -> None:
    recipe, teacher = world / 'recipe.yaml', tmp_path / 'teacher' / 'bundle'

    def run(*words: object) -> str:
        assert main([str(w) for w in words]) == 0
        return capsys.readouterr().out

    out = run('train', recipe, '--data', world / 'drive', '--out', tmp_path / 'teacher',
              '--name', 'the_teacher', '--no-report', '--optimization.momentum', '0.5')
    assert 'optimization.momentum: 0.5 does nothing without' in caplog.text
    assert 'validation against the ground truth; step' in ' '.join(out.split())
    assert 'mIoU' in out
    label = ('label', '--teacher', teacher, world / 'bare', '--out', tmp_path / 'cache',
             '--engine', 'onnxruntime', '--shard-size', 5)
    assert '12 frames labelled, 0 were already' in run(*label)
    assert '0 frames labelled, 12 were already' in run(*label)
    assert 'arg-max agreement' in run(*label, '--check', 3)
    out = run('distill', recipe, '--teacher', teacher, '--cache', tmp_path / 'cache', '--data',
              world / 'bare', '--out', tmp_path / 'student',
              '--distillation.losses.kl.temperature', '3', '--optimization.steps=3',
              '--distillation.losses.dist.gamma', '2', '--distillation.weighting.boundary', '2')
    assert str(tmp_path / 'student' / 'bundle') in out
    assert str(tmp_path / 'student' / 'report.html') in out
    assert 'against the teacher: agreement, not accuracy; step' in ' '.join(out.split())
    resolved = yaml.safe_load((tmp_path / 'student' / 'recipe.yaml').read_text())['recipe']
    assert resolved['distillation']['losses']['kl']['temperature'] == 3
    assert resolved['distillation']['losses']['dist']['gamma'] == 2
    assert resolved['distillation']['weighting']['boundary'] == 2
    assert resolved['optimization']['steps'] == 3
    figures = tmp_path / 'figures.json'
    evaluate = ('evaluate', tmp_path / 'student' / 'bundle', world / 'drive', '--classes',
                'driving', '--engine', 'onnxruntime', '--json', figures)
    shown = run(*evaluate)
    assert 'pixel accuracy' in shown
    assert 'boundary F-score' in shown
    assert 'calibration error' in shown
    assert json.loads(figures.read_text())['frames'] == 12
    assert json.loads(figures.read_text())['boundary']['n'] == 12
    before = figures.read_bytes()
    assert main([str(w) for w in evaluate]) == 2
    assert figures.read_bytes() == before
    assert main([*map(str, evaluate), '--overwrite', '--measures', 'speed']) == 2
    run(*evaluate, '--overwrite', '--limit', 3, '--measures', 'none')
    assert json.loads(figures.read_text())['boundary'] is None
    assert json.loads(figures.read_text())['frames'] == 3


def test_a_student_made_of_its_teacher_by_way_of_an_assistant(
        world: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def run(*words: object) -> None:
        assert main([str(w) for w in words]) == 0

    teacher = tmp_path / 'teacher' / 'bundle'
    run('train', world / 'recipe.yaml', '--data', world / 'drive', '--out', tmp_path / 'teacher',
        '--network.arguments', '{width: 24}', '--no-report')
    run('label', '--teacher', teacher, world / 'bare', '--out', tmp_path / 'cache')
    run('distill', world / 'recipe.yaml', '--teacher', teacher, '--cache', tmp_path / 'cache',
        '--data', world / 'bare', '--out', tmp_path / 'student', '--no-report',
        '--optimization.steps', 2, '--distillation.student.from_teacher', 'both',
        '--distillation.student.ratio', 0.5,
        '--distillation.assistants',
        '[{student: {from_teacher: both, ratio: 0.75}, optimization: {steps: 3}}]')
    for folder, width in (('student/assistants/1', 16), ('student', 8)):
        recipe = yaml.safe_load((tmp_path / folder / 'recipe.yaml').read_text())['recipe']
        assert recipe['network']['arguments'] == {'width': width}
        metrics = json.loads((tmp_path / folder / 'metrics.json').read_text())
        assert metrics['from_teacher']['share_of_parameters'] == 1
        assert metrics['steps'] == (3 if 'assistants' in folder else 2)
    shown = capsys.readouterr().out
    assert str(tmp_path / 'student' / 'bundle') in shown


@pytest.mark.parametrize(('words', 'message'), [
    (['train', 'nothing', '--out', 'o'], "no recipes named 'nothing'"),
    (['train', '{recipe}', '--out', 'o'], 'no training data'),
    (['train', '{recipe}', '--out', 'o', '--data', 'gone'], 'gone'),
    (['train', '{recipe}', '--out', 'o', '--data', '{world}/bare'], 'has no labels to learn from'),
    (['train', '{recipe}', '--out', 'o', '--data', '{world}/drive', '--network.builder', 'smq'],
     'no network builder'),
    (['train', '{recipe}', '--out', 'o', '--optimization.steps', 'many'],
     'optimization.steps: must be int'),
    (['label', '--teacher', 'nobody', '{world}/bare', '--out', 'o'], 'no model named'),
    (['distill', '{recipe}', '--teacher', 'nobody', '--cache', 'c', '--out', 'o'],
     'no model named'),
    (['distill', '{recipe}', '--teacher', 'nobody', '--cache', 'c', '--out', 'o',
      '--distillation.student.ratio', '3'], 'distillation.student.ratio: 3 is not within'),
    (['evaluate', 'nobody', '{world}/drive'], 'no model named')])
def test_bad_input_is_one_line_and_leaves_nothing(
        world: Path, tmp_path: Path, capsys: pytest.CaptureFixture,
        monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [w.format(recipe=world / 'recipe.yaml', world=world) for w in words]
    assert main(filled) == 2
    lines = [line for line in capsys.readouterr().err.splitlines()
             if line.startswith('kd_perception')]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / 'o').exists()


def test_an_unknown_key_is_refused_by_name(world: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(['train', str(world / 'recipe.yaml'), '--out', 'o', '--optimization.stepz', '3'])
    assert stop.value.code == 2
    assert 'stepz' in capsys.readouterr().err


def test_a_killed_and_an_interrupted_training_go_on_to_the_same_weights(
        world: Path, tmp_path: Path) -> None:
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}

    def words(out: str) -> list[str]:
        return [str(w) for w in (
            'train', world / 'recipe.yaml', '--data', world / 'drive', '--out', tmp_path / out,
            '--optimization.steps', 60, '--no-report')]

    def start(out: str) -> subprocess.Popen:
        return subprocess.Popen(command(*words(out)), env=environment, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def wait_for(steps: int, process: subprocess.Popen, *, resumed: bool) -> None:
        log = tmp_path / 'run' / 'train.jsonl'

        def seen() -> int:
            before, _, after = log.read_text().partition('"event": "resumed"')
            return (after if resumed else before).count('"event": "train"')

        while not (log.is_file() and seen() >= steps):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)

    killed = start('run')
    wait_for(5, killed, resumed=False)
    killed.kill()
    killed.communicate()
    interrupted = start('run')
    wait_for(5, interrupted, resumed=True)
    interrupted.send_signal(signal.SIGINT)
    _, errors = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130, errors
    assert f'the same command resumes the run in {tmp_path / "run"}' in errors
    # Here, not in two more processes: torch takes seconds to import.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(words('run')) == 0
        assert main(words('whole')) == 0
    finally:
        torch.set_num_threads(threads)
    one, two = (load_file(tmp_path / n / 'bundle' / 'weights.safetensors')
                for n in ('whole', 'run'))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_student_is_taught_on_numbered_views_with_the_codec_that_its_loss_needs(
        world: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    recipe = world / 'recipe.yaml'

    def run(*words: object) -> tuple[int, str]:
        code = main([str(w) for w in words])
        told = capsys.readouterr()
        return code, told.out + told.err

    assert run('train', recipe, '--data', world / 'drive', '--out', tmp_path / 't',
               '--no-report')[0] == 0
    teacher = tmp_path / 't' / 'bundle'
    label = ('label', '--teacher', teacher, world / 'bare', '--out', tmp_path / 'c', '--views', 2)
    assert '--views needs --recipe' in run(*label)[1]
    label = (*label, '--recipe', recipe, '--set', 'augment.flip=0', '--precision', 'fp32')
    assert '12 frames labelled' in run(*label, '--keep-logits')[1]
    assert '--k is of --codec topk, the codec is u8' in run(*label, '--codec', 'u8', '--k', 2)[1]
    assert '--temperature 4: topk serves no temperature above 1; take --codec packed (up to 4)' \
        in run(*label, '--codec', 'topk', '--temperature', 4)[1]
    assert '--set augment: must be KEY=VALUE' in run(*label, '--set', 'augment')[1]
    distill = ('distill', recipe, '--teacher', teacher, '--cache', tmp_path / 'c', '--data',
               world / 'bare', '--out', tmp_path / 's', '--distillation.view', 'views',
               '--distillation.losses', '{kl: null, cwd: {}}')
    code, told = run(*distill)
    assert code == 2
    assert 'drawn differently (augment.flip: 0.0 -> 0.5)' in ' '.join(told.split())
    assert run(*distill, '--augment.flip', '0', '--no-report')[0] == 0
    assert (tmp_path / 's' / 'bundle').is_dir()
    again = ('label', '--teacher', teacher, world / 'bare', '--out', tmp_path / 'p')
    assert run(*again)[0] == 0
    code, told = run('distill', recipe, '--teacher', teacher, '--cache', tmp_path / 'p', '--data',
                     world / 'bare', '--out', tmp_path / 'q', '--distillation.losses',
                     '{kl: null, cwd: {}}')
    assert code == 2
    assert 'label again with --keep-logits' in ' '.join(told.split())
