from __future__ import annotations

from collections.abc import Callable
from functools import partial
import json
from pathlib import Path

import pytest
import torch

from kd_perception.bundle import load_bundle, ModelBundle
from kd_perception.cli.main import main
from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.teachers.average import AverageTeacher
from kd_perception.distillation.trainer import distill
from kd_perception.errors import ConfigError, TrainingError

Make = Callable[..., Recipe]
OWN = {'ema_teacher': True, 'losses': {'cross_entropy': {}, 'kl': {'start': 0.25}}}


def test_the_average_sees_the_view_before_its_light_was_changed() -> None:
    network = torch.nn.Conv2d(3, 4, 1)
    shown = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    calm = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    theta = torch.eye(2, 3).repeat(2, 1, 1)
    batch = Batch(('a', 'b'), shown, shown[..., 0], theta, calm=calm)
    teacher = AverageTeacher()
    teacher.follow(network, lambda x: x.permute(0, 3, 1, 2) / 255)
    lesson = teacher.teach(batch, (1, 1))
    torch.testing.assert_close(lesson.logits, network(calm.permute(0, 3, 1, 2) / 255))
    assert not lesson.logits.requires_grad
    with torch.no_grad():
        network.weight.zero_()  # whatever the weights become
    assert float(teacher.teach(batch, (1, 1)).logits.std(0).max()) < 1e-6


def test_a_student_is_taught_by_its_own_average_and_resumes_to_the_bit(
        make_recipe: Make, tmp_path: Path, resumes: Callable[..., None]) -> None:
    recipe = make_recipe(distillation=OWN)
    resumes(partial(distill, recipe, teacher=None, cache_dir=None), at=7)
    whole = load_bundle(tmp_path / 'whole' / 'bundle')
    assert whole.spec.lineage.parents == ()
    lines = [json.loads(x) for x in (tmp_path / 'whole' / 'train.jsonl').read_text().splitlines()]
    terms = [x for x in lines if x['event'] == 'train']
    assert ['kl' in x for x in terms] == [False] * 3 + [True] * 9
    assert all(x['kl'] > 0 for x in terms[3:])


def test_what_a_student_alone_cannot_do_is_told(
        make_recipe: Make, teacher: ModelBundle, bare_stripes: Path, tmp_path: Path,
        capsys: pytest.CaptureFixture) -> None:
    def refused(match: str, recipe: Recipe, by: ModelBundle | None = None) -> None:
        with pytest.raises(TrainingError, match=match):
            distill(recipe, tmp_path / 'run', teacher=by, cache_dir=None)

    refused('leave --teacher and --cache out', make_recipe(distillation=OWN), teacher)
    refused('needs a loss on ground truth beside',
            make_recipe(distillation={'ema_teacher': True}))
    refused("loss 'hint' looks at layers of the teacher, which a student that teaches itself "
            r'.*: losses on outputs can be used .*; or give a finished bundle as --teacher',
            make_recipe(distillation={'ema_teacher': True, 'losses': {
                'cross_entropy': {}, 'hint': {'layers': {'0': '0'}}}}))
    refused('no labels', make_recipe(train=bare_stripes, distillation=OWN))
    with pytest.raises(ConfigError, match='set optimization.ema_decay above 0'):
        make_recipe(distillation=OWN, ema_decay=0)
    with pytest.raises(ConfigError, match='looks at the views of the student'):
        make_recipe(distillation={**OWN, 'view': 'online'})
    assert main(['distill', 'student_camvid', '--data', str(bare_stripes), '--out',
                 str(tmp_path / 'run'), '--distillation.ema_teacher', 'true']) == 2
    assert 'needs a loss on ground truth beside' in ' '.join(capsys.readouterr().err.split())
