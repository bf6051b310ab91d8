"""
What an unlabelled bag of fog and night is worth to a student that has labels of the day alone.

    python benchmarks/domain_shift.py --out runs/domain_shift --budget cpu

Simulated drives (config/suites/domain_shift.yaml, 640x360, 12 classes). The baseline learns from
labelled day. The student learns from the same labels and from an unlabelled bag of fog and night,
by soft labels of a teacher that knows both: it was trained on the same day drives and on labelled
fog and night drives of its own. Checkpoints of both are chosen on day drives. The recipe is the
one that comes with the package, the loss is that of the CamVid benchmark, with two choices beside,
made on the validation drives of the first seed: where there are labels they teach alone, since
this teacher, which divides its steps among day, fog and night, knows the day less well than they
do; and its word counts a quarter of theirs, for with equal weights the student fell behind the
baseline by day. Tests are drives that nobody has seen, the same by day as in fog and night.

Held equal are the network, the number of steps, which is the recipe's own, and how many labelled
views a step has: what is asked is what the bag adds to the same supervision. So a step of the
student has as many views again, of the bag, and costs twice as much. Fewer labelled views in a
batch of one size would take away by day what the bag is then blamed for, and passes of the
baseline over more copies of its own labels would be more steps.

The test scores of a student of that seed with equal weights had been read before: 16.8 points more
than its baseline in fog and night, 1.9 less by day.

With the budget of a CPU the teacher is a network of the student's family and four times its size,
which two cores can train; drives, tests, students and their steps are the same. A stopped call
goes on when it is given again.
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
from kd_perception.distillation.search_space import as_text
from kd_perception.distillation.strict import first_difference
from kd_perception.distillation.trainer import distill, train
from kd_perception.evaluation.evaluate import evaluate
from kd_perception.paths import atomic_file, config_file

TESTS = ('test_day', 'test_fog_night')
TEACHER, BASELINE, STUDENT = 'teacher', 'baseline', 'student'
# Rare classes weigh more in both terms.
DISTILLATION = {'losses': {'cross_entropy': {}, 'kl': {'temperature': 1, 'weight': 0.25}},
                'weighting': {'class_balance': 0.5, 'labelled': 0.0}}
# What the teacher has in place of its recipe's, by dotted key.
BUDGETS: dict[str, dict[str, Any]] = {
    'full': {},
    'cpu': {'network.builder': 'compact', 'network.arguments': {'width': 64},
            'optimization.learning_rate': 0.002}}
PLAN = 'plan.json'


def main() -> None:
    parser = result.parser(__doc__ or '')
    parser.add_argument('--out', type=Path, required=True, help='folder of drives and runs')
    parser.add_argument('--budget', choices=tuple(BUDGETS), default='cpu',
                        help='cpu: a teacher that two cores can train; full: the U-Net of its '
                             'recipe (a GPU)')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--suite', default='domain_shift', metavar='NAME',
                        help='drives of the same groups, to try it out with few')
    parser.add_argument('--steps', type=int, default=0, metavar='N',
                        help='of every network, to try it out (default: those of the recipes)')
    args = parser.parse_args()
    recipes = {name: recipe_of(name, args.budget, args.steps)
               for name in (TEACHER, BASELINE, STUDENT)}
    require_same_plan(parser, args.out, {'suite': args.suite, **recipes})
    bench = Bench(args.out.absolute(), args.suite, recipes)
    scores: dict[str, list[dict[str, float]]] = {TEACHER: [bench.teacher()], BASELINE: [],
                                                 STUDENT: []}
    for seed in range(1, args.seeds + 1):
        for name in (BASELINE, STUDENT):
            scores[name].append(bench.student(name, seed))
    state(args, recipes, scores)


def recipe_of(kind: str, budget: str, steps: int = 0) -> dict[str, Any]:
    """
    Return the recipe of a network, without its data, as plain types.

    :param steps: instead of those of the recipe; 0: none.
    """
    name = 'teacher_sim' if kind == TEACHER else 'student_sim'
    plain: dict[str, Any] = yaml.safe_load(config_file('recipes', name).read_text())
    plain['optimization']['class_weights'] = 'log'
    if kind == STUDENT:
        # As many labelled views in a step as the baseline has, and as many again of the bag.
        plain['optimization']['batch_size'] *= 2
        plain['data']['labelled_share'] = 0.5
        plain['distillation'] = DISTILLATION
    if steps:
        plain['optimization']['steps'] = steps
    chosen = BUDGETS[budget] if kind == TEACHER else {}
    return recipe_from_dict(plain, {k: as_text(v) for k, v in chosen.items()},
                            where=name).to_dict()


def require_same_plan(parser: argparse.ArgumentParser, out: Path, plan: dict[str, Any]) -> None:
    """Refuse a folder whose finished runs were made by another plan: nobody would notice."""
    if not (out / PLAN).is_file() and (out / TEACHER).exists():
        parser.error(f'{out}: holds runs of a plan that nobody knows; choose another --out')
    once(out / PLAN, lambda: plan)
    difference = first_difference(json.loads((out / PLAN).read_text()),
                                  json.loads(json.dumps(plan)))
    if difference:
        parser.error(f'{out}: holds runs of another plan ({difference}); choose another --out')


class Bench:
    """
    The folder of the benchmark and the steps that fill it.

    :param recipes: of teacher, baseline and student (``recipe_of``).
    """

    def __init__(self, out: Path, suite: str, recipes: dict[str, dict[str, Any]]) -> None:
        self.out = out
        self._recipes = recipes
        command = [sys.executable, '-m', 'kd_perception.cli.main', 'bag', 'record',
                   str(out / 'drives'), '--suite', '--size', suite]
        if subprocess.run([*command, '--check'], capture_output=True).returncode:
            subprocess.run(command, check=True)
        self.parts = {name: subprocess.run(
            [*command, '--parts', name], check=True, capture_output=True,
            text=True).stdout.split() for name in (
                'day', 'teacher_fog_night', 'unlabelled_fog_night', 'validation_day', *TESTS)}

    def teacher(self) -> dict[str, float]:
        """Train the teacher on labelled day, fog and night, and let it label what is learned."""
        folder = self.out / TEACHER
        if not (folder / 'bundle').is_dir():
            with progress(TEACHER) as update:
                train(self._recipe(TEACHER, 1, [*self.parts['day'],
                                                *self.parts['teacher_fog_night']]),
                      folder, progress=update)
        teacher = load_bundle(folder / 'bundle')
        for path in [*self.parts['day'], *self.parts['unlabelled_fog_night']]:
            with closing(open_source(path)) as source, \
                    progress(f'labelling {source.name}') as update:
                label(teacher, source, self.out / 'cache', engine='onnxruntime',
                      precision='fp32', progress=update)
        return self._scores(TEACHER)

    def student(self, kind: str, seed: int) -> dict[str, float]:
        """Train a baseline or distil a student and return its mean IoU by test."""
        name = f'{kind}_{seed}'
        folder = self.out / name
        if not (folder / 'bundle').is_dir():
            with progress(name) as update:
                if kind == BASELINE:
                    train(self._recipe(kind, seed, self.parts['day']), folder, progress=update)
                else:
                    distill(self._recipe(kind, seed, self.parts['day'],
                                         self.parts['unlabelled_fog_night']),
                            folder, teacher=load_bundle(self.out / TEACHER / 'bundle'),
                            cache_dir=self.out / 'cache', progress=update)
        return self._scores(name)

    def _recipe(self, kind: str, seed: int, labelled: Sequence[str],
                unlabelled: Sequence[str] = ()) -> Recipe:
        plain = self._recipes[kind]
        data = plain['data'] | {
            'train': [*({'path': p} for p in labelled),
                      *({'path': p, 'labels': False} for p in unlabelled)],
            'validation': [{'path': p} for p in self.parts['validation_day']]}
        return recipe_from_dict({**plain, 'seed': seed, 'data': data}, where=kind)

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


def state(args: argparse.Namespace, recipes: dict[str, dict[str, Any]],
          scores: dict[str, list[dict[str, float]]]) -> None:
    """Print the table and the figure."""
    print('| network | learns from | test by day | test in fog and night |\n|---|---|---|---|')
    data = {TEACHER: 'labelled day, fog and night', BASELINE: 'labelled day',
            STUDENT: 'labelled day, unlabelled fog and night'}
    for name, of_seeds in scores.items():
        cells = []
        for test in TESTS:
            numbers = [s[test] for s in of_seeds]
            spread = f' ± {statistics.stdev(numbers):.1f}' if len(numbers) > 1 else ''
            cells.append(f'{statistics.mean(numbers):.1f}{spread}')
        print(f'| {name} | {data[name]} | {cells[0]} | {cells[1]} |')
    gains = {test: [s[test] - b[test] for s, b in
                    zip(scores[STUDENT], scores[BASELINE], strict=True)] for test in TESTS}
    values, by_day = gains['test_fog_night'], gains['test_day']
    learning = {name: recipe['optimization'] for name, recipe in recipes.items()}
    result.state(
        name='domain_shift', value=statistics.mean(values), unit='mIoU gained in fog and night',
        workload={'suite': args.suite, 'width': 640, 'height': 360, 'budget': args.budget,
                  'steps': {name: one['steps'] for name, one in learning.items()},
                  'labelled_views_per_step': learning[BASELINE]['batch_size'],
                  'unlabelled_views_per_step': learning[STUDENT]['batch_size']
                  - learning[BASELINE]['batch_size'],
                  'seeds': args.seeds, 'engine': 'onnxruntime', 'precision': 'fp32',
                  'gain_by_day': round(statistics.mean(by_day), 2)},
        spread={'min': round(min(values), 2), 'max': round(max(values), 2),
                'min_by_day': round(min(by_day), 2), 'max_by_day': round(max(by_day), 2)},
        details={'scores': scores}, json_file=args.json)


if __name__ == '__main__':
    main()
