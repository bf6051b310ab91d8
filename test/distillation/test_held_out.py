"""Nothing that a run learned from is what it is measured on, unless somebody says so."""

from __future__ import annotations

from collections.abc import Callable
import json
import logging
from pathlib import Path
import shutil

import pytest

from kd_perception.bags.source import open_source
from kd_perception.classes import ClassSet
from kd_perception.distillation.frame_store import FrameStore, open_sources
from kd_perception.distillation.held_out import hold_out
from kd_perception.distillation.recipe import Recipe, SourceRecipe
from kd_perception.distillation.trainer import distill, train
from kd_perception.errors import TrainingError
from kd_perception.evaluation.evaluate import evaluate

Make = Callable[..., Recipe]


def named(stripes: Path, folder: Path, names: dict[str, range]) -> Path:
    """Copy frames and labels under the names of drives."""
    for kind in ('', '_labels'):
        to = folder.with_name(folder.name + kind)
        to.mkdir(parents=True)
        for drive, frames in names.items():
            for n in frames:
                shutil.copy(stripes.with_name(stripes.name + kind) / f'{n:04}.png',
                            to / f'{drive}_{n:04}.png')
    return folder


@pytest.fixture
def folders(stripes: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return two folders without a common frame, which share a drive."""
    return (named(stripes, tmp_path / 'learn', {'0006R0': range(8), '0016E5': range(8, 12)}),
            named(stripes, tmp_path / 'check', {'0016E5': range(12, 15), 'Seq05VD': [15, 16]}))


def data(check: Path, **more: object) -> dict:
    return {'defaults': {'classes': 'driving'}, 'validation': [str(check)], **more}


def test_a_shared_drive_is_refused_by_name_and_leaves_nothing(
        make_recipe: Make, folders: tuple[Path, Path], tmp_path: Path) -> None:
    learn, check = folders
    with pytest.raises(TrainingError, match=r'^3 of 5 validation frames are of drive 0016E5 '
                       r'\(3 frames\), .*allow_shared_drives: true$'):
        train(make_recipe(train=learn, data=data(check)), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_it_is_allowed_when_asked_for_and_noted(
        make_recipe: Make, folders: tuple[Path, Path], tmp_path: Path,
        caplog: pytest.LogCaptureFixture) -> None:
    learn, check = folders
    bundle = train(make_recipe(train=learn, steps=1, data=data(check, allow_shared_drives=True)),
                   tmp_path / 'run')
    assert 'the score flatters' in caplog.text
    held = json.loads((tmp_path / 'run' / 'metrics.json').read_text())['held_out']
    assert held == {'by': 'data.validation', 'drives': ['0016E5', 'Seq05VD'],
                    'shared_drives': {'0016E5': 3}, 'shared_pictures': 0}
    # The bundle remembers, and evaluate says so.
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        result = evaluate(bundle, open_source(check, classes='driving'), engine='onnxruntime')
    assert result.to_dict()['trained_on'] == ['0016E5']
    assert '3 of 5 frames are of drives that toy was trained on (0016E5)' in caplog.text


def test_other_drives_pass_by_name_or_by_hand(make_recipe: Make, folders: tuple[Path, Path],
                                              tmp_path: Path) -> None:
    learn, check = folders
    recipe = make_recipe(train=learn, steps=1, data={
        'validation': [{'path': str(check), 'classes': 'driving', 'drive': 'sunday'}],
        'defaults': {'classes': 'driving'}})
    train(recipe, tmp_path / 'run')
    held = json.loads((tmp_path / 'run' / 'metrics.json').read_text())['held_out']
    assert held == {'by': 'data.validation', 'drives': ['sunday']}


def test_the_same_frames_and_the_same_pictures_are_refused(
        make_recipe: Make, stripes: Path, tmp_path: Path) -> None:
    copy = named(stripes, tmp_path / 'copy', {'Seq05VD': range(20, 24)})
    with pytest.raises(TrainingError, match='4 of 4 validation frames are the same pictures'):
        train(make_recipe(data=data(copy)), tmp_path / 'run')
    with pytest.raises(TrainingError, match=r'24 of 24 validation frames are of drive other'):
        train(make_recipe(data={'defaults': {'classes': 'driving'}, 'validation': [
            {'path': str(stripes), 'drive': 'other'}]}), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_shared_picture_that_is_seen_late_is_not_learned_from(
        make_recipe: Make, stripes: Path, tmp_path: Path,
        caplog: pytest.LogCaptureFixture) -> None:
    copy = named(stripes, tmp_path / 'copy', {'Seq05VD': range(20, 24)})
    recipe = make_recipe(steps=10, data={**data(copy), 'memory_gb': 0.0})
    train(recipe, tmp_path / 'run')
    told = {r.message.split(': ', 1)[1] for r in caplog.records if 'not learned from' in r.message}
    assert told == {f'frame {n} is the same picture as a validation frame, and is not learned '
                    'from' for n in range(20, 24)}
    caplog.clear()
    train(make_recipe(steps=10, data={**data(copy), 'memory_gb': 0.0,
                                      'allow_shared_drives': True}), tmp_path / 'allowed')
    assert 'not learned from' not in caplog.text


def test_whole_drives_are_held_out_where_there_are_enough(
        make_recipe: Make, stripes: Path, driving: ClassSet, tmp_path: Path) -> None:
    several = named(stripes, tmp_path / 'several',
                    {f'drive{n}x': range(4 * n, 4 * n + 4) for n in range(6)})
    frames = FrameStore(open_sources([SourceRecipe(str(several), classes='driving')], driving),
                        (32, 48))
    learn, held, how = hold_out(frames, 0.2)
    assert how.by == 'whole drives'
    assert how.drives == ('drive2x',)
    assert len(learn) == 20
    # Two of six, spread; never all, and never more than twice what was asked for.
    assert hold_out(frames, 0.3)[2].drives == ('drive1x', 'drive4x')
    one = frames.subset(range(8))
    assert hold_out(one, 0.2)[2].by == 'tail of each recording'
    train(make_recipe(train=several, steps=1), tmp_path / 'run')
    held_out = json.loads((tmp_path / 'run' / 'metrics.json').read_text())['held_out']
    assert held_out == {'by': 'whole drives', 'drives': ['drive1x', 'drive5x']}


def test_nothing_is_learned_of_a_drive_that_is_held_out(
        stripes: Path, driving: ClassSet, tmp_path: Path) -> None:
    several = named(stripes, tmp_path / 'several',
                    {f'drive{n}x': range(4 * n, 4 * n + 4) for n in range(6)})
    for n in (8, 9):  # of the drive that will be held out
        (tmp_path / 'several_labels' / f'drive2x_{n:04}.png').unlink()
    frames = FrameStore(open_sources([SourceRecipe(str(several), classes='driving')], driving),
                        (32, 48))
    learn, held, how = hold_out(frames, 0.15)
    assert all(held.has_labels)
    assert not {d.name for d in learn.drives} & set(how.drives)
    assert len(learn) + len(held) == (22 if 'drive2x' in how.drives else 24)


def test_what_a_teacher_knows_flatters_its_student_too(
        make_recipe: Make, folders: tuple[Path, Path], tmp_path: Path, bare_stripes: Path,
        caplog: pytest.LogCaptureFixture) -> None:
    learn, check = folders
    teacher = train(make_recipe(train=learn, data={'defaults': {'classes': 'driving'}},
                                steps=2), tmp_path / 'teacher')
    caplog.clear()
    student = distill(make_recipe(train=bare_stripes, data=data(check), steps=2,
                                  distillation={'view': 'online'}), tmp_path / 'student',
                      teacher=teacher, cache_dir=None)
    told = next(r.message for r in caplog.records if 'knows them' in r.message)
    assert 'teacher toy was trained on drive 0016E5 (3 frames) of the held-out frames' in told
    known = [d['name'] for d in student.spec.statistics['drives']]
    assert {'0006R0', '0016E5', 'bare'} <= set(known)
    caplog.clear()
    evaluate(student, open_source(check, classes='driving'), engine='onnxruntime')
    assert any('0016E5' in r.message and 'flatters' in r.message for r in caplog.records)
