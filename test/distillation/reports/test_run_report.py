"""Reports of real runs, small ones: what they say is what can be measured otherwise."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
import json
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from kd_perception.bags.source import open_source
from kd_perception.bundle import load_bundle, ModelBundle, write_bundle
from kd_perception.classes import load_class_set
from kd_perception.cli.main import main
from kd_perception.distillation.frame_store import open_sources
from kd_perception.distillation.held_out import read_frames
from kd_perception.distillation.labelling import label
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.recipe_file import recipe_from_dict
from kd_perception.distillation.reports import run_report
from kd_perception.distillation.reports.report_frames import OtherData
from kd_perception.distillation.reports.run_report import (
    report_or_warn,
    ReportRequest,
    write_run_report,
)
from kd_perception.distillation.trainer import distill, train
from kd_perception.engines.loader import load_engine
from kd_perception.errors import TrainingError
from kd_perception.evaluation.evaluate import evaluate
from kd_perception.networks.deploy import load_module
from kd_perception.tasks.soft_labels import enlarge

QUICK = ReportRequest(engine='onnxruntime')
PLAIN = {
    'name': 'toy', 'network': {'builder': 'toy'}, 'input': {'height': 32, 'width': 48},
    'data': {'defaults': {'classes': 'driving'}, 'validation_share': 0.25},
    'augment': {'crop': [24, 32]},
    'optimization': {'steps': 12, 'batch_size': 4, 'precision': 'fp32', 'learning_rate': 0.02,
                     'validate_every': 6, 'ema_decay': 0.9, 'log_every': 1}}


class Page(HTMLParser):
    """Collects what a browser would load, and the text; checks that tags close."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        content = path.read_text()
        assert 'url(' not in content
        assert '@import' not in content
        self.feed(content)
        self.close()
        assert self.open == []
        assert all(s.startswith('data:image/') for s in self.sources)
        self.text = ' '.join(' '.join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ('script', 'link', 'iframe', 'a')
        self.sources += [v or '' for k, v in attrs if k in ('src', 'href')]
        if tag not in ('meta', 'img'):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def report(run: Path, request: ReportRequest = QUICK) -> tuple[dict, Page]:
    page = write_run_report(run, request)
    return json.loads((run / 'report.json').read_text()), Page(page)


def small_recipe(stripes: Path, **more: Any) -> Recipe:
    return recipe_from_dict({**PLAIN, **more}, train=[stripes])


@pytest.fixture(scope='module')
def world(teacher: ModelBundle, stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a training, a teacher, and a distillation from it."""
    folder = tmp_path_factory.mktemp('runs')
    train(small_recipe(stripes), folder / 'trained')
    shutil.copytree(teacher.path, folder / 'teacher')
    own = load_bundle(folder / 'teacher')
    label(own, open_source(stripes, classes='driving'), folder / 'cache', engine='onnxruntime',
          shard_size=10)
    losses = {'kl': {}, 'cross_entropy': {'weight': 0.5}}
    distill(small_recipe(stripes, distillation={'losses': losses}), folder / 'distilled',
            teacher=own, cache_dir=folder / 'cache')
    return folder


@pytest.fixture
def trained(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / 'trained', tmp_path / 'trained'))


@pytest.fixture
def distilled(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / 'distilled', tmp_path / 'distilled'))


def test_a_distillation_beside_its_teacher(distilled: Path, world: Path, stripes: Path) -> None:
    data, page = report(distilled)
    assert data['kind'] == 'distill'
    assert list(data['members']) == ['student', 'teacher']
    # The held-out tail of 24 frames, as the trainer found it.
    recipe = small_recipe(stripes)
    opened = open_sources(recipe.data.train, load_bundle(distilled / 'bundle').spec.classes)
    held = read_frames(recipe, opened, [], labels_only=False)[1]
    assert [f['name'] for f in data['frames']['by_frame']] == \
        [f'train #{key.index}' for key in held.keys]
    assert data['frames']['labelled'] == 6
    assert data['cost']['labelling']['frames'] == 24
    assert data['cost']['labelling']['seconds'] >= data['cost']['labelling']['teacher_s'] > 0
    assert data['cost']['labelling']['used_frames'] == 18
    assert data['cost']['views'] == 12 * 4
    assert set(data['curves']) >= {'loss', 'kl', 'cross_entropy', 'learning_rate'}
    assert data['validation']['mean_iou']['steps'] == [6, 12]
    student = data['members']['student']
    assert data['agreement']['frames'] == 6
    assert sum(data['agreement']['outcomes'].values()) == sum(map(sum, student['confusion']))
    assert 0 < data['attribution']['maps'] <= 18
    assert data['host']['python']
    for words in ('Curves', 'What the student takes for what', 'Expected calibration error',
                  'Where in the frame', 'What they look at', 'The worst frames', 'What it took',
                  'for 24 frames', 'wrong in the teacher', student['bundle_hash'][:16],
                  'last part of recordings'):
        assert words in page.text, words
    # The figures are those of ``evaluate`` on the same frames.
    other, page = report(distilled, replace(QUICK, data=OtherData((stripes,)), frames=0,
                                            attribution=False))
    for role, bundle in (('student', distilled / 'bundle'),
                         ('teacher', world / 'teacher')):
        alone = evaluate(load_bundle(bundle), open_source(stripes, classes='driving'),
                         engine='onnxruntime', precision='fp32')
        assert other['members'][role]['confusion'] == alone.matrix.counts.tolist()
    errors = [f['wrong'] for f in other['frames']['by_frame']]
    assert len(errors) == 24
    worst = other['frames']['by_frame'][int(np.argmax(errors))]
    assert f"{worst['name']}: {max(errors):.1%} of the pixels are wrong" in page.text
    network = load_module(load_bundle(distilled / 'bundle'))
    assert student['parameters'] == sum(p.numel() for p in network.parameters())


def test_a_teacher_behind_a_class_map_is_what_was_taught(world: Path, stripes: Path,
                                                         tmp_path: Path) -> None:
    teacher = load_bundle(world / 'teacher')
    names = teacher.spec.classes.names
    parts = {'ground': names[:3], 'things': names[3:7], 'far': names[7:]}
    for name, content in (
            ('three', {'name': 'three', 'classes': [{'name': n, 'color': [i, i, i]}
                                                    for i, n in enumerate(parts)]}),
            ('map', {'source': 'driving', 'target': 'three',
                     'map': {n: list(part) for n, part in parts.items()}})):
        (tmp_path / f'{name}.yaml').write_text(json.dumps(content))
    data = {**PLAIN['data'], 'defaults': {'classes': 'driving',
                                          'class_map': str(tmp_path / 'map.yaml')}}
    recipe = small_recipe(stripes, classes=str(tmp_path / 'three.yaml'), data=data, distillation={
        'view': 'online', 'class_map': str(tmp_path / 'map.yaml')})
    distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=None)
    opened = open_sources(recipe.data.train, load_class_set(recipe.classes))
    held = read_frames(recipe, opened, [], labels_only=False)[1]
    matrix = np.zeros((3, 3), np.int64)
    mapped = np.repeat([0, 1, 2], [3, 4, len(names) - 7])
    engine = load_engine(teacher, 'onnxruntime', graph='logits', precision='fp32')
    plain = 0
    for position in range(len(held)):
        sample = held[position]
        logits = enlarge(engine.infer(sample.image[None])['logits'][0], (32, 48))
        p = np.exp(logits.astype(np.float64))
        p = np.stack([p[mapped == c].sum(0) for c in range(3)])
        known = sample.labels != 255
        np.add.at(matrix, (sample.labels[known], p.argmax(0)[known]), 1)
        plain += int((mapped[logits.argmax(0)] != p.argmax(0))[known].sum())
    assert plain > 100, 'here it makes no difference'
    data, page = report(tmp_path / 'run', replace(QUICK, attribution=False))
    measured = np.array(data['members']['teacher']['confusion'])[:, :3]
    assert np.abs(measured - matrix).sum() <= 4  # other rounding
    assert 'no graph of logits' not in page.text
    bare = write_bundle(tmp_path / 'bare', teacher.spec,
                        {'deploy.onnx': teacher.file('deploy.onnx')})
    data, page = report(tmp_path / 'run', replace(QUICK, attribution=False, teacher=bare))
    assert 'has no graph of logits: its decisions are mapped' in page.text


def test_a_training_has_no_teacher_and_can_have_a_baseline(
        trained: Path, distilled: Path, bare_stripes: Path) -> None:
    data, page = report(trained)
    assert list(data['members']) == ['student']
    assert data['agreement'] is None
    for words in ('Agreement with the teacher', 'What they look at', 'against the teacher',
                  'wrong in the teacher'):
        assert words not in page.text
    assert 'What the model takes for what' in page.text
    assert 'student' not in page.text
    data, page = report(trained, replace(QUICK, baseline=distilled, frames=4))
    assert data['frames']['measured'] == 4
    assert list(data['members']) == ['student', 'baseline']
    assert 'against baseline' in page.text
    data, page = report(trained, replace(QUICK, data=OtherData((bare_stripes,)),
                                         baseline=distilled / 'bundle'))
    assert data['members']['student']['accuracy'] is None
    assert any('no ground truth' in c for c in data['cautions'])


def test_what_is_gone_is_said(distilled: Path, world: Path,
                              caplog: pytest.LogCaptureFixture) -> None:
    log = distilled / 'train.jsonl'
    log.write_text(log.read_text().replace(f'{world}/teacher', f'{world}/gone'))
    data, page = report(distilled)
    assert list(data['members']) == ['student']
    assert 'Nothing is compared with the teacher' in page.text
    before = (distilled / 'report.html').read_bytes()
    (distilled / 'report.json').unlink()
    (distilled / 'report.json').mkdir()
    assert report_or_warn(distilled) is None
    told = [r.getMessage() for r in caplog.records if 'no report' in r.getMessage()]
    assert len(told) == 1
    assert f'try again with: kd_perception report {distilled}' in told[0]
    assert (distilled / 'report.html').read_bytes() == before
    load_bundle(distilled / 'bundle').verify()


def test_old_logs_without_an_end_take_the_frames_from_data(trained: Path, stripes: Path) -> None:
    log = trained / 'train.jsonl'
    log.write_text(''.join(line + '\n' for line in log.read_text().splitlines()
                           if '"finished"' not in line))
    with pytest.raises(TrainingError, match='name recordings to look at with --data'):
        write_run_report(trained, QUICK)
    data, _ = report(trained, replace(QUICK, data=OtherData((stripes,)), frames=3))
    assert data['frames']['measured'] == 3


@pytest.mark.parametrize(('words', 'message'), [
    (['{here}/nothing'], 'is no run directory'),
    (['{here}/open'], 'the run is not finished'),
    (['{here}/open', '--teacher', 'nobody'], 'no model named'),
    (['{here}/open', '--frames', '-1'], '--frames -1')])
def test_wrong_calls_are_one_line(trained: Path, tmp_path: Path, words: list[str], message: str,
                                  capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(trained, tmp_path / 'open')
    shutil.rmtree(tmp_path / 'open' / 'bundle')
    assert main(['report', *(w.format(here=tmp_path) for w in words)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'open' / 'report.html').exists()


def test_the_verbs_make_one_unless_asked_not_to_and_never_lose_a_run(
        stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / 'recipe.yaml').write_text(json.dumps(PLAIN))

    def start(out: str, *more: str) -> int:
        return main(['train', str(tmp_path / 'recipe.yaml'), '--data', str(stripes), '--out',
                     str(tmp_path / out), *more])

    def run(out: str, *more: str) -> str:
        assert start(out, *more) == 0
        return capsys.readouterr().out

    assert str(tmp_path / 'one' / 'report.html') in run('one')
    Page(tmp_path / 'one' / 'report.html')
    assert 'report.html' not in run('two', '--no-report')
    assert not (tmp_path / 'two' / 'report.html').exists()

    def fail(*arguments: object, **more: object) -> None:
        raise RuntimeError('no such luck')

    monkeypatch.setattr(run_report, 'examine', fail)
    run('three')
    assert 'no such luck' in caplog.text
    load_bundle(tmp_path / 'three' / 'bundle').verify()
    assert not (tmp_path / 'three' / 'report.html').exists()

    def press(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_report, 'examine', press)
    assert start('four') == 130
    assert 'the run is whole; its report is made by: kd_pe' in capsys.readouterr().err
    load_bundle(tmp_path / 'four' / 'bundle').verify()
    monkeypatch.undo()
    assert main(['report', str(tmp_path / 'three'), '--engine', 'onnxruntime']) == 0
    assert (tmp_path / 'three' / 'report.json').is_file()
    run('one', '--overwrite', '--no-report')
    assert not (tmp_path / 'one' / 'report.html').exists(), 'a report of the run before'


def test_a_process_that_made_one_still_takes_signals(distilled: Path) -> None:
    pytest.importorskip('openvino')
    code = ('import os, runpy, signal, sys\n'
            f'runpy.run_path({str(Path(__file__).parents[1] / "conftest.py")!r})\n'
            'from kd_perception.cli.main import main\n'
            'main(["report", sys.argv[1], "--engine", "openvino", "--no-attribution"])\n'
            'signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n'
            'os.kill(os.getpid(), signal.SIGTERM)\n'
            'signal.pause()\n')
    done = subprocess.run([sys.executable, '-c', code, str(distilled)], capture_output=True,
                          text=True, timeout=120)
    assert (distilled / 'report.html').is_file(), done.stderr
    assert done.returncode == 7, done.stderr
