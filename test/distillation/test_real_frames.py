"""The whole path on real frames: a teacher, a bag without labels, a student, a labelled bag."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kd_perception.bags.importer import import_recording
from kd_perception.bags.source import open_source
from kd_perception.distillation.labelling import check, label
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.recipe_file import load_recipe
from kd_perception.distillation.trainer import distill, train
from kd_perception.evaluation.evaluate import evaluate

FRAMES = 40


def small(recipe: str, *, train: Path, validation: Path, **keys: object) -> Recipe:
    """Return a shipped recipe at a quarter of the size for 160 steps."""
    overrides = {
        'network.builder': 'compact', 'optimization.epochs': '0', 'optimization.steps': '160',
        'input.height': '90', 'input.width': '120', 'augment.crop': '[80, 96]',
        'optimization.learning_rate': '0.004', 'optimization.ema_decay': '0.95',
        'optimization.validate_every': '80', 'optimization.label_smoothing': '0',
        'data.defaults': f'{{classes: camvid, limit: {FRAMES}}}'}
    overrides |= {k: str(v) for k, v in keys.items()}
    overrides['network.arguments'] = '{width: 16}'
    return load_recipe(recipe, overrides, train=[train], validation=[validation])


@pytest.mark.slow
@pytest.mark.timeout(300)  # ten seconds on an idle core
def test_a_student_learns_real_streets_from_a_bag_without_labels(test_data: Path,
                                                                 tmp_path: Path) -> None:
    camvid = test_data / 'camvid'
    frames = tmp_path / 'frames'
    frames.mkdir()
    for file in sorted((camvid / 'train').iterdir())[:FRAMES]:
        (frames / file.name).symlink_to(file)
    drive = import_recording(frames, tmp_path / 'drive')
    clip = import_recording(camvid / 'val', tmp_path / 'val', classes='camvid', limit=FRAMES)

    recipe = small('student_camvid', train=camvid / 'train', validation=clip)
    teacher = train(recipe, tmp_path / 'teacher')
    report = label(teacher, open_source(drive), tmp_path / 'cache')
    assert report.labelled == FRAMES
    found = check(teacher, open_source(drive), tmp_path / 'cache', samples=5)
    assert found.agreement > 0.97
    assert found.divergence[1.0] < 0.01

    student = distill(small('student_camvid', train=drive, validation=clip),
                      tmp_path / 'student', teacher=teacher, cache_dir=tmp_path / 'cache')
    results = {b.path.parent.name: evaluate(b, open_source(clip), precision='fp32')
               for b in (teacher, student)}
    for name, result in results.items():
        metrics = json.loads((tmp_path / name / 'metrics.json').read_text())
        # Always the largest class would be 31 %.
        assert result.matrix.pixel_accuracy() > 0.45
        # The engine measures at 360x480 what the trainer measured at 90x120.
        assert result.mean_iou == pytest.approx(metrics['validation']['mean_iou'], abs=0.04)
    assert results['student'].mean_iou > results['teacher'].mean_iou - 0.06
