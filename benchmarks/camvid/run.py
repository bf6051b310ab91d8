"""
The CamVid table: students with and without a teacher, from scratch, several seeds.

    python benchmarks/camvid/run.py --data camvid --out runs/camvid --budget cpu

480x360, 11 classes, single scale, SegNet's split (367 / 101 / 233 frames, whose drives overlap;
Seq05VD of the test frames shares none). The checkpoint is chosen on ``val``; ``test`` is measured
once, in the end, with void ignored and with void counted in the union, and on Seq05VD alone. A
stopped call goes on when it is given again; what is finished is not repeated. A GPU is used where
there is one.

``all``: baseline and student learn from all 367 labels; the teacher has seen the same. ``few``:
92 labels for the baseline; the student learns from the 367 pictures without any label, by a
teacher that was trained on all 367 labels (``owned``) or on the same 92 (``semi``). ``weights``:
the same, and the student begins with the weights of some of the teacher's channels. ``slim``: so
it does in another network, the teacher's own with a third of its channels, which the baseline has,
too, with weights of its own.

The full budget searches the settings of every method first, those of the baselines in as many
trials; the score is that of ``val``. What was tried stands in ``search/*/search.json``. With the
budget of a CPU nothing is searched, and the teacher is a network that it can train.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
import json
from pathlib import Path
import shutil
import sys
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from plan import Budget, BUDGETS, FEW, FRAMES, plan, Run
import result
from table import lines, summary
import yaml

from kd_perception.bags.source import open_source
from kd_perception.bundle import load_bundle, ModelBundle
from kd_perception.cli.progress import progress
from kd_perception.distillation.initialise import resolve_networks
from kd_perception.distillation.labelling import check, label
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.recipe_file import recipe_from_dict
from kd_perception.distillation.search import search
from kd_perception.distillation.search_space import as_text
from kd_perception.distillation.trainer import distill, train
from kd_perception.evaluation.evaluate import evaluate
from kd_perception.frames import Progress
from kd_perception.paths import atomic_file, config_file
from kd_perception.tasks.soft_labels import SoftLabelCodec

DRIVE_APART = 'Seq05VD'


class Bench:
    """The folder of the benchmark and the steps that fill it."""

    def __init__(self, data: Path, out: Path, budget: Budget, teacher: Path | None) -> None:
        self.data, self.out = data.absolute(), out.absolute()
        self._budget = budget
        # Losses that compare one class over all pixels need the logits themselves.
        self._codec = SoftLabelCodec(offset='cwd' in budget.methods)
        if teacher is not None and not (self.out / 'teacher' / 'bundle').is_dir():
            load_bundle(teacher)  # a wrong one is told before anything is copied
            shutil.copytree(teacher.parent, self.out / 'teacher',
                            ignore=shutil.ignore_patterns('checkpoints', 'tensorboard'))
        self._link('unlabelled', 'train', labels=False)
        self._link('seq05vd', 'test', labels=True, prefix=DRIVE_APART)

    def run(self, run: Run) -> None:
        """Train or distil one network and measure it; what is there already stays."""
        folder = self.out / run.name
        if not (folder / 'bundle').is_dir():
            recipe = self._recipe(run, run.epochs, self._best_values(run))
            with progress(f'{run.name}') as update:
                self._learn(run, recipe, folder, update)
        for split in ('val', 'test', 'seq05vd'):
            self._once(folder / f'{split}.json', partial(self._measure, run.name, split))

    def _learn(self, run: Run, recipe: Recipe, folder: Path, update: Progress) -> ModelBundle:
        if not run.teacher:
            return train(recipe, folder, progress=update)
        return distill(recipe, folder, teacher=self._bundle(run.teacher),
                       cache_dir=self._cache(run.teacher), progress=update)

    def _best_values(self, run: Run) -> dict[str, Any]:
        """Return what the search has found for a run, by dotted key; search if nobody has."""
        if not run.tuned_as:
            return {}
        folder = self.out / 'search' / run.tuned_as
        if not (folder / 'search.json').is_file():
            recipe = replace(self._recipe(run, self._budget.trial_epochs, {}), search=run.space)
            with progress(f'searching {run.tuned_as}') as update:
                search(recipe, folder, self._budget.trials, partial(self._learn, run),
                       kind=run.tuned_as, progress=update)
        return dict(json.loads((folder / 'search.json').read_text())['best']['values'])

    def _recipe(self, run: Run, epochs: int, values: dict[str, Any]) -> Recipe:
        plain = yaml.safe_load(config_file('recipes', run.recipe).read_text())
        source: dict[str, Any] = {'path': str(self._frames(run))}
        if run.frames == 'few':
            source['count'] = FEW
        plain['data'] |= {'train': [source], 'validation': [str(self.data / 'val')]}
        plain['seed'] = run.seed
        chosen = self._budget.views | values
        if run.setting == 'teacher':
            chosen |= self._budget.teacher
        batch = chosen.get('optimization.batch_size', plain['optimization']['batch_size'])
        # As many steps for few frames as for all, or less data had less of them.
        plain['optimization'] |= {'steps': epochs * FRAMES // batch, 'epochs': 0,
                                  'class_weights': 'log', 'validate_every': 0}
        if run.teacher or run.student:
            plain['distillation'] = {**run.distillation, 'student': run.student}
        if 'ratio' in run.student:
            plain['network'] = {'builder': ''}
        recipe = recipe_from_dict(plain, {k: as_text(v) for k, v in chosen.items()},
                                  where=run.name)
        if 'ratio' in run.student and not run.teacher:
            recipe = resolve_networks(recipe, self._bundle('teacher'))
        return recipe

    def _frames(self, run: Run) -> Path:
        return self.out / 'unlabelled' if run.frames == 'unlabelled' else self.data / 'train'

    def _bundle(self, name: str) -> Any:
        return load_bundle(self.out / name / 'bundle')

    def _cache(self, teacher: str) -> Path:
        """Let a teacher label all pictures, once, and check what the cache keeps of it."""
        path = self.out / f'{teacher}_cache'
        bundle = self._bundle(teacher)
        with closing(open_source(self.out / 'unlabelled')) as source:
            with progress(f'labelling by {teacher}') as update:
                label(bundle, source, path, codec=self._codec, engine='onnxruntime',
                      precision='fp32', progress=update)
            self._once(self.out / f'{teacher}_cache_check.json', lambda: vars(
                check(bundle, source, path, engine='onnxruntime', precision='fp32')))
        return path

    def _measure(self, name: str, split: str) -> dict[str, Any]:
        folder = self.out if split == 'seq05vd' else self.data
        with closing(open_source(folder / split, classes='camvid')) as source:
            return evaluate(self._bundle(name), source, engine='onnxruntime',
                            precision='fp32').to_dict()

    def _link(self, name: str, split: str, *, labels: bool, prefix: str = '') -> None:
        """Make a folder of links to some of the pictures, with or without their labels."""
        kinds = ('', '_labels') if labels else ('',)
        for kind in kinds:
            folder = self.out / f'{name}{kind}'
            folder.mkdir(parents=True, exist_ok=True)
            for file in sorted((self.data / f'{split}{kind}').iterdir()):
                link = folder / file.name
                if file.name.startswith(prefix) and not link.exists():
                    link.symlink_to(file)

    @staticmethod
    def _once(path: Path, make: Callable[[], dict[str, Any]]) -> None:
        if not path.is_file():
            with atomic_file(path) as temporary:
                temporary.write_text(json.dumps(make(), indent=1) + '\n')


def main() -> None:
    parser = result.parser(__doc__ or '')
    parser.add_argument('--data', type=Path, required=True,
                        help='folder with train, val, test and their _labels')
    parser.add_argument('--out', type=Path, required=True, help='folder of all runs')
    parser.add_argument('--budget', choices=tuple(BUDGETS), default='cpu',
                        help='cpu: 20 epochs, without and with a teacher; full: 600 epochs, all '
                             'methods (a GPU)')
    parser.add_argument('--teacher', type=Path, metavar='BUNDLE',
                        help='take the bundle of a finished run as the teacher of all labels, '
                             'instead of training one')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--table', action='store_true',
                        help='run nothing: the table of what is there')
    args = parser.parse_args()
    for split in ('train', 'val', 'test'):
        if not (args.data / f'{split}_labels').is_dir():
            parser.error(f'{args.data}: has no folder {split}_labels')
    runs = plan(BUDGETS[args.budget], args.seeds)
    if not args.table:
        bench = Bench(args.data, args.out, BUDGETS[args.budget], args.teacher)
        for run in runs:
            bench.run(run)
    report(args, runs)


def report(args: argparse.Namespace, runs: list[Run]) -> None:
    """Print the table of all runs that are measured, and the line of the benchmark."""
    print('\n'.join(lines(args.out, runs)))
    figures = summary(args.out, runs)
    gains = figures.get('gains', {})
    few = BUDGETS[args.budget].few[0]
    result.state(
        name='camvid', value=gains.get(f'{few}_owned', float('nan')),
        unit='mIoU gained from a teacher that saw all labels',
        workload={'data': 'CamVid 480x360, JPEG q82, SegNet split', 'budget': args.budget,
                  'engine': 'onnxruntime', 'precision': 'fp32', 'seeds': args.seeds},
        spread=figures.get('spread', {}), details=figures, json_file=args.json)


if __name__ == '__main__':
    main()
