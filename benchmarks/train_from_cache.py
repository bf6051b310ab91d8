"""
Time of a training step from the cache over the same step without distillation.

Both are runs of the verbs, ``train`` and ``distill``, on the same labelled frames with the same
views: cross-entropy, and cross-entropy with the divergence from cached soft labels. Loading,
augmenting and decoding of soft labels is within the time, since threads prepare batches on the
same cores. Beside it: how much faster a step from the cache is than one with the teacher in the
loop. Runs alternate; the time of a step is from its log line to the next.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
import json
from pathlib import Path
import statistics
import tempfile

import cv2
import numpy as np
import result

from kd_perception.bags.source import open_source
from kd_perception.bundle import BundleSpec, InputSpec, ModelBundle, NetworkSpec
from kd_perception.classes import load_class_set
from kd_perception.distillation.labelling import label
from kd_perception.distillation.recipe_file import load_recipe
from kd_perception.distillation.trainer import distill, train
from kd_perception.networks.deploy import save_bundle
from kd_perception.networks.registry import build

HEIGHT, WIDTH = 360, 480
FRAMES, STEPS, SKIP, REPEATS = 48, 30, 6, 5


def main() -> None:
    args = result.parser(__doc__ or '').parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        write_frames(world / 'drive')
        teacher = make_teacher(world)
        with closing(open_source(world / 'drive')) as source:
            label(teacher, source, world / 'cache', engine='onnxruntime')
        recipe = load_recipe('student_camvid', {
            'optimization.steps': str(STEPS), 'optimization.epochs': '0',
            'optimization.log_every': '1', 'optimization.validate_every': str(STEPS),
            'optimization.validation_frames': '1',
            'distillation.losses.cross_entropy': '{}'}, train=[world / 'drive'])
        online = replace(recipe, distillation=replace(recipe.distillation, view='online'))
        times: dict[str, list[float]] = {'plain': [], 'cache': [], 'online': []}
        for repeat in range(REPEATS + 1):
            for name, seconds in (
                    ('plain', step_time(world, lambda out: train(recipe, out))),
                    ('cache', step_time(world, lambda out: distill(
                        recipe, out, teacher=teacher, cache_dir=world / 'cache'))),
                    ('online', step_time(world, lambda out: distill(
                        online, out, teacher=teacher, cache_dir=None)))):
                if repeat:  # the first warms up
                    times[name].append(seconds)
        ratios = [c / p for c, p in zip(times['cache'], times['plain'], strict=True)]
        faster = [o / c for o, c in zip(times['online'], times['cache'], strict=True)]
        result.state(
            name='train_from_cache', value=statistics.median(ratios),
            unit='times the step without distillation',
            workload={'student': 'compact', 'teacher': 'Unet-ResNet18', 'width': WIDTH,
                      'height': HEIGHT, 'crop': list(recipe.crop), 'batch': 8, 'n': STEPS - SKIP,
                      'repeats': REPEATS,
                      'ms': {n: round(1e3 * statistics.median(t), 1) for n, t in times.items()}},
            spread={'min': round(min(ratios), 3), 'max': round(max(ratios), 3)},
            also={'faster_than_online': {
                'value': round(statistics.median(faster), 2),
                'unit': 'times as fast as with the teacher in the loop',
                'spread': {'min': round(min(faster), 2), 'max': round(max(faster), 2)}}},
            details={'seconds': times}, json_file=args.json)


def step_time(world: Path, run: object) -> float:
    """Return the median seconds from one step to the next."""
    with tempfile.TemporaryDirectory(dir=world) as folder:
        run(Path(folder) / 'run')  # type: ignore[operator]
        lines = (Path(folder) / 'run' / 'train.jsonl').read_text().splitlines()
    stamps = [e['time'] for e in map(json.loads, lines) if e['event'] == 'train'][SKIP:]
    return statistics.median(np.diff(stamps).tolist())


def write_frames(folder: Path) -> None:
    """Write labelled pictures with shapes of a street's size."""
    rng = np.random.default_rng(0)
    for name in (folder, folder.with_name(f'{folder.name}_labels')):
        name.mkdir()
    for index in range(FRAMES):
        coarse = rng.integers(0, 11, (12, 16), np.uint8)
        ids = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
        image = cv2.resize(rng.integers(0, 256, (24, 32, 3), np.uint8), (WIDTH, HEIGHT))
        cv2.imwrite(str(folder / f'{index:03d}.jpg'), image // 2 + 10 * ids[..., None])
        cv2.imwrite(str(folder.with_name(f'{folder.name}_labels') / f'{index:03d}.png'), ids)


def make_teacher(folder: Path) -> ModelBundle:
    """Return a bundle of the network of ``teacher_camvid`` with random weights."""
    classes = load_class_set('camvid')
    network = load_recipe('teacher_camvid').network
    spec = BundleSpec(name='teacher', task='segmentation', role='teacher', classes=classes,
                      input=InputSpec(HEIGHT, WIDTH),
                      network=NetworkSpec(network.builder, network.arguments))
    return save_bundle(folder / 'teacher', build(spec.network, len(classes)), spec)


if __name__ == '__main__':
    main()
