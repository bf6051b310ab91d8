"""
What an unlabelled bag of fog and night is worth to a student that has labels of the day alone.

    python benchmarks/domain_shift.py --out runs/domain_shift

Simulated drives (config/suites/domain_shift.yaml, 640x360, 12 classes). The baseline learns from
labelled day. The student learns from the same labels and from an unlabelled bag of fog and night,
by soft labels of a teacher that knows both: it was trained on the same day drives and on labelled
fog and night drives of its own. Both have the same network, recipe and number of steps, and their
checkpoint is chosen on day drives. Nothing was tuned on these drives: the recipe is the one that
comes with the package, the loss is that of the CamVid benchmark. Tests are drives that nobody has
seen, the same by day as in fog and night. A stopped call goes on when it is given again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
import json
from pathlib import Path
import statistics
import subprocess
import sys
from typing import Any

import result
import yaml

from kd_perception.bags.source import open_source
from kd_perception.bundle import load_bundle
from kd_perception.cli.progress import progress
from kd_perception.distillation.labelling import label
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.recipe_file import recipe_from_dict
from kd_perception.distillation.trainer import distill, train
from kd_perception.evaluation.evaluate import evaluate
from kd_perception.paths import atomic_file, config_file

TESTS = ('test_day', 'test_fog_night')
STUDENT_STEPS = 1500
# Rare classes weigh more in both terms.
DISTILLATION = {'losses': {'cross_entropy': {}, 'kl': {'temperature': 1}},
                'weighting': {'class_balance': 0.5}}


def main() -> None:
    parser = result.parser(__doc__ or '')
    parser.add_argument('--out', type=Path, required=True, help='folder of drives and runs')
    parser.add_argument('--seeds', type=int, default=3)
    args = parser.parse_args()
    bench = Bench(args.out.absolute())
    bench.teacher()
    scores: dict[str, list[dict[str, float]]] = {'baseline': [], 'student': []}
    for seed in range(1, args.seeds + 1):
        for name, values in scores.items():
            values.append(bench.student(name, seed))
    state(args, bench, scores)


class Bench:
    """The folder of the benchmark and the steps that fill it."""

    def __init__(self, out: Path) -> None:
        self.out = out
        suite = out / 'drives'
        command = [sys.executable, '-m', 'kd_perception.cli.main', 'bag', 'record', str(suite),
                   '--suite', '--size', 'domain_shift']
        if subprocess.run([*command, '--check'], capture_output=True).returncode:
            subprocess.run(command, check=True)
        self.parts = {name: subprocess.run(
            [*command, '--parts', name], check=True, capture_output=True,
            text=True).stdout.split() for name in (
                'day', 'teacher_fog_night', 'unlabelled_fog_night', 'validation_day', *TESTS)}

    def teacher(self) -> dict[str, float]:
        """Train the teacher on labelled day, fog and night, and let it label what is learned."""
        folder = self.out / 'teacher'
        if not (folder / 'bundle').is_dir():
            with progress('teacher') as update:
                train(self._recipe('teacher_sim', 1, [*self.parts['day'],
                                                      *self.parts['teacher_fog_night']]),
                      folder, progress=update)
        teacher = load_bundle(folder / 'bundle')
        for path in [*self.parts['day'], *self.parts['unlabelled_fog_night']]:
            with closing(open_source(path)) as source, \
                    progress(f'labelling {source.name}') as update:
                label(teacher, source, self.out / 'cache', engine='onnxruntime',
                      precision='fp32', progress=update)
        return self._scores('teacher')

    def student(self, kind: str, seed: int) -> dict[str, float]:
        """Train a baseline or distil a student and return its mean IoU by test."""
        name = f'{kind}_{seed}'
        folder = self.out / name
        if not (folder / 'bundle').is_dir():
            with progress(name) as update:
                if kind == 'baseline':
                    train(self._recipe('student_sim', seed, self.parts['day']), folder,
                          progress=update)
                else:
                    distill(self._recipe('student_sim', seed, self.parts['day'],
                                         self.parts['unlabelled_fog_night']),
                            folder, teacher=load_bundle(self.out / 'teacher' / 'bundle'),
                            cache_dir=self.out / 'cache', progress=update)
        return self._scores(name)

    def _recipe(self, name: str, seed: int, labelled: Sequence[str],
                unlabelled: Sequence[str] = ()) -> Recipe:
        plain = yaml.safe_load(config_file('recipes', name).read_text())
        plain['seed'] = seed
        plain['data'] |= {
            'train': [*({'path': p} for p in labelled),
                      *({'path': p, 'labels': False} for p in unlabelled)],
            'validation': [{'path': p} for p in self.parts['validation_day']]}
        plain['optimization']['class_weights'] = 'log'
        if name == 'student_sim':
            plain['optimization']['steps'] = STUDENT_STEPS
            plain['distillation'] = DISTILLATION
        return recipe_from_dict(plain, where=name)

    def _scores(self, name: str) -> dict[str, float]:
        bundle = load_bundle(self.out / name / 'bundle')
        scores = {}
        for test in TESTS:
            path = self.out / name / f'{test}.json'
            once(path, partial(self._measure, bundle, test))
            scores[test] = 100 * json.loads(path.read_text())['mean_iou']
        return scores

    def _measure(self, bundle: Any, test: str) -> dict[str, Any]:
        with closing(open_source(self.parts[test])) as source:
            return evaluate(bundle, source, engine='onnxruntime', precision='fp32').to_dict()


def once(path: Path, make: Callable[[], dict[str, Any]]) -> None:
    """Write what ``make`` returns, unless the file is there."""
    if not path.is_file():
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(make(), indent=1) + '\n')


def state(args: argparse.Namespace, bench: Bench,
          scores: dict[str, list[dict[str, float]]]) -> None:
    """Print the table and the figure."""
    rows: dict[str, Any] = {'teacher': [bench.teacher()], **scores}
    print('| network | learns from | test by day | test in fog and night |\n|---|---|---|---|')
    data = {'teacher': 'labelled day, fog and night', 'baseline': 'labelled day',
            'student': 'labelled day, unlabelled fog and night'}
    for name, values in rows.items():
        cells = []
        for test in TESTS:
            numbers = [v[test] for v in values]
            spread = f' ± {statistics.stdev(numbers):.1f}' if len(numbers) > 1 else ''
            cells.append(f'{statistics.mean(numbers):.1f}{spread}')
        print(f'| {name} | {data[name]} | {cells[0]} | {cells[1]} |')
    gains = {test: [s[test] - b[test] for s, b in
                    zip(scores['student'], scores['baseline'], strict=True)] for test in TESTS}
    values = gains['test_fog_night']
    result.state(
        name='domain_shift', value=statistics.mean(values), unit='mIoU gained in fog and night',
        workload={'suite': 'domain_shift', 'width': 640, 'height': 360, 'steps': STUDENT_STEPS,
                  'seeds': args.seeds, 'engine': 'onnxruntime', 'precision': 'fp32',
                  'gain_by_day': round(statistics.mean(gains['test_day']), 2)},
        spread={'min': round(min(values), 2), 'max': round(max(values), 2)},
        details={'scores': rows}, json_file=args.json)


if __name__ == '__main__':
    main()
