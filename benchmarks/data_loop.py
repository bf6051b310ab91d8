"""
Does the data loop close: a student of the day, fog and night in shadow mode, distilled again.

    python benchmarks/data_loop.py --out runs/data_loop --budget cpu

Simulated drives (config/suites/data_loop.yaml, 640x360, 12 classes). Ground truth serves to choose
checkpoints, on day drives, and to score, and teaches nobody. A student is distilled from a
teacher's soft labels of day drives. It then meets fog and night with the teacher as its shadow,
and at most a tenth of these frames is kept, by the scoring and choice of the shadow node, offline
(``kd_perception mine``, context 0). From the day drives and these frames it is distilled again:
anew, by the same recipe, with the same number of steps. The baseline is the same with equally many
frames of fog and night drawn at random.

The figure is what is left of the student's divergence from its teacher in fog and night, mean over
seeds; the bar is a half. The teacher knows what it knows: the shipped one was trained in clear
weather and dense fog and has never seen a night, so its own mIoU stands beside every figure
(``--teacher`` takes another, such as that of benchmarks/domain_shift.py, which knows both). A
student can only come as near to the truth as its teacher. A stopped call goes on when it is given
again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing, ExitStack
from functools import partial
import json
from pathlib import Path
import shutil
import statistics
import subprocess
import sys
import time
from typing import Any

from domain_shift import once, require_same_plan
import numpy as np
import result
import yaml

from kd_perception.bags.selection import SelectedRecording, Selection
from kd_perception.bags.source import open_source
from kd_perception.bundle import find_bundle, load_bundle, ModelBundle
from kd_perception.cli.progress import progress
from kd_perception.distillation import choice
from kd_perception.distillation.labelling import label
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.recipe_file import recipe_from_dict
from kd_perception.distillation.search_space import as_text
from kd_perception.distillation.trainer import distill
from kd_perception.engines.loader import load_engine
from kd_perception.evaluation.evaluate import evaluate
from kd_perception.evaluation.mine import mine, MineOptions
from kd_perception.evaluation.mining import MiningOptions
from kd_perception.frames import FrameSource
from kd_perception.networks.deploy import load_module, save_bundle
from kd_perception.paths import config_file, share_directory
from kd_perception.tasks.placement import network_input, place

TESTS = ('test_day', 'test_fog', 'test_night')
HARD = ('test_fog', 'test_night')
BEFORE, MINED, RANDOM = 'before', 'mined', 'random'
SHARE = 0.1
# What every student has in place of its recipe's, by dotted key.
BUDGETS: dict[str, dict[str, Any]] = {
    'full': {},
    'cpu': {'optimization.steps': 1200, 'optimization.batch_size': 6, 'augment.crop': [192, 320],
            'optimization.validation_frames': 20}}


def main() -> None:
    parser = result.parser(__doc__ or '')
    parser.add_argument('--out', type=Path, required=True, help='folder of drives and runs')
    parser.add_argument('--budget', choices=tuple(BUDGETS), default='cpu',
                        help='cpu: fewer steps on smaller views, for two cores; full: the recipe')
    parser.add_argument('--teacher', default='', metavar='BUNDLE',
                        help='with graphs; the shipped street_teacher by default')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--suite', default='data_loop', metavar='NAME',
                        help='drives of the same groups, to try it out with few')
    parser.add_argument('--steps', type=int, default=0, metavar='N',
                        help='of every student, to try it out (default: those of the budget)')
    args = parser.parse_args()
    out = args.out.absolute()
    teacher = teacher_of(args.teacher, out / 'teacher_graphs')
    recipe = recipe_of(args.budget, args.steps)
    require_same_plan(parser, out, {'suite': args.suite, 'teacher': teacher.hash,
                                    'share': SHARE, 'recipe': recipe})
    bench = Bench(out, args.suite, teacher, recipe)
    scores: dict[str, list[dict[str, dict[str, float]]]] = {
        'teacher': [bench.scores('teacher', teacher)], BEFORE: [], RANDOM: [], MINED: []}
    kept = []
    for seed in range(1, args.seeds + 1):
        for kind in (BEFORE, MINED, RANDOM):
            scores[kind].append(bench.student(kind, seed))
        kept.append(bench.kept(seed))
    state(args, recipe, teacher, scores, kept)


def teacher_of(name: str, folder: Path) -> ModelBundle:
    """Return the teacher; of the shipped one, the graphs are made here from its weights."""
    if name:
        return find_bundle(name)
    if not folder.exists():
        shipped = load_bundle(share_directory() / 'models' / 'street_teacher')
        save_bundle(folder, load_module(shipped), shipped.spec)
    return load_bundle(folder)


def recipe_of(budget: str, steps: int = 0) -> dict[str, Any]:
    """
    Return the recipe of all students, without data, as plain types.

    :param steps: instead of those of the budget; 0: none.
    """
    plain: dict[str, Any] = yaml.safe_load(config_file('recipes', 'student_sim').read_text())
    chosen = BUDGETS[budget] | ({'optimization.steps': steps} if steps else {})
    return recipe_from_dict(plain, {k: as_text(v) for k, v in chosen.items()},
                            where='student_sim').to_dict()


class Bench:
    """
    The folder of the benchmark and the steps that fill it.

    :param recipe: of all students (``recipe_of``).
    """

    def __init__(self, out: Path, suite: str, teacher: ModelBundle,
                 recipe: dict[str, Any]) -> None:
        self.out, self._teacher, self._recipe = out, teacher, recipe
        command = [sys.executable, '-m', 'kd_perception.cli.main', 'bag', 'record',
                   str(out / 'drives'), '--suite', '--size', suite]
        if subprocess.run([*command, '--check'], capture_output=True).returncode:
            subprocess.run(command, check=True)
        self.parts = {name: subprocess.run(
            [*command, '--parts', name], check=True, capture_output=True,
            text=True).stdout.split() for name in ('day', 'shadow_fog_night', 'validation_day',
                                                   *TESTS)}

    def student(self, kind: str, seed: int) -> dict[str, dict[str, float]]:
        """Distil a student and return its scores by test."""
        name = f'{kind}_{seed}'
        folder = self.out / name
        if not (folder / 'bundle').is_dir():
            more = {BEFORE: lambda seed: [], MINED: self._mined, RANDOM: self._random}[kind](seed)
            recipe = self._recipe_with(seed, [{'path': p} for p in self.parts['day']] + more)
            for entry in recipe.data.train:
                self._label(entry.path, str(entry.selection or ''))
            with progress(name) as update:
                distill(recipe, folder, teacher=self._teacher, cache_dir=self.out / 'cache',
                        progress=update)
        return self.scores(name, load_bundle(folder / 'bundle'))

    def kept(self, seed: int) -> dict[str, Any]:
        """Return how many frames of fog and night were kept, and for what."""
        told: dict[str, Any] = json.loads((self.out / f'kept_{seed}.json').read_text())
        return told

    def _mined(self, seed: int) -> list[dict[str, Any]]:
        """Let the first student meet fog and night, the teacher beside it."""
        path = self.out / f'kept_{seed}'
        if not path.with_suffix('.json').is_file():
            shutil.rmtree(path, ignore_errors=True)  # stopped just before it was told of
            student = load_bundle(self.out / f'{BEFORE}_{seed}' / 'bundle')
            began = time.monotonic()
            with progress(f'shadow mode of seed {seed}') as update:
                report = mine(self.parts['shadow_fog_night'], student, self._teacher, path,
                              MineOptions(MiningOptions(SHARE, context=0), masks=False),
                              engine='onnxruntime', precision='fp32', progress=update)
            once(path.with_suffix('.json'), lambda: {
                'frames': report.frames, 'kept': report.written, 'reasons': dict(report.reasons),
                'disagreement': report.disagreement, 'seconds': time.monotonic() - began})
        return [{'path': str(path)}]

    def _random(self, seed: int) -> list[dict[str, Any]]:
        """Draw as many frames of fog and night as were mined."""
        with ExitStack() as stack:
            sources = [stack.enter_context(closing(open_source(p, labels=False)))
                       for p in self.parts['shadow_fog_night']]
            ends = np.cumsum([len(s) for s in sources])
            drawn = np.sort(np.random.default_rng(seed).choice(
                int(ends[-1]), self.kept(seed)['kept'], replace=False))
            recordings = []
            for source, end in zip(sources, ends, strict=True):
                own = drawn[(drawn < end) & (drawn >= end - len(source))] - (end - len(source))
                if len(own):
                    recordings.append((source, SelectedRecording(
                        source.name, source.fingerprint, source.topic, len(source),
                        tuple(int(i) for i in own))))
        file = self.out / f'random_{seed}.json'
        if not file.is_file():
            Selection('random', tuple(r for _, r in recordings), {'seed': seed}).save(file)
        names = {r.name for _, r in recordings}
        return [{'path': p, 'selection': str(file)} for p in self.parts['shadow_fog_night']
                if Path(p).name in names]

    def _label(self, path: str, selection: str) -> None:
        with closing(open_source(path, selection=selection, labels=False)) as source, \
                progress(f'labelling {source.name}') as update:
            label(self._teacher, source, self.out / 'cache', engine='onnxruntime',
                  precision='fp32', progress=update)

    def _recipe_with(self, seed: int, train: Sequence[dict[str, Any]]) -> Recipe:
        data = self._recipe['data'] | {
            'train': [{**entry, 'labels': False} for entry in train],
            'validation': [{'path': p} for p in self.parts['validation_day']]}
        return recipe_from_dict({**self._recipe, 'seed': seed, 'data': data}, where='student')

    def scores(self, name: str, bundle: ModelBundle) -> dict[str, dict[str, float]]:
        """Return, by test, divergence from the teacher, agreement with it, and mIoU."""
        out = {}
        for test in TESTS:
            path = self.out / 'scores' / f'{name}_{test}.json'
            once(path, partial(self._measure, bundle, test))
            out[test] = json.loads(path.read_text())
        return out

    def _measure(self, bundle: ModelBundle, test: str) -> dict[str, float]:
        with closing(open_source(self.parts[test])) as source:
            truth = evaluate(bundle, source, engine='onnxruntime', precision='fp32')
            told = {'miou': 100 * truth.mean_iou}
            if bundle.hash != self._teacher.hash:
                told |= against(self._teacher, bundle, source)
        return told


def against(teacher: ModelBundle, student: ModelBundle, source: FrameSource) -> dict[str, float]:
    """Return mean KL(teacher ‖ student) in nats and the share of cells where they differ."""
    with ExitStack() as stack:
        asked = [(b.spec.input, stack.enter_context(closing(load_engine(
            b, 'onnxruntime', precision='fp32', graph='logits')))) for b in (teacher, student)]
        rows = []
        for frame in source:
            size = (frame.image.shape[0], frame.image.shape[1])
            one, other = (place(size, spec).crop_grid(
                engine.infer(network_input(frame.image, spec)[None])['logits'][0])
                for spec, engine in asked)
            rows.append((choice.divergence(one, other), choice.disagreement(one, other)))
    kl, differs = np.mean(rows, axis=0)
    return {'kl': float(kl), 'disagreement': float(differs)}


def left(after: dict[str, dict[str, float]], before: dict[str, dict[str, float]],
         what: str) -> float:
    """Return what is left of a loss in fog and night, as a share of what it was."""
    return sum(after[t][what] for t in HARD) / sum(before[t][what] for t in HARD)


def state(args: argparse.Namespace, recipe: dict[str, Any], teacher: ModelBundle,
          scores: dict[str, list[dict[str, dict[str, float]]]],
          kept: Sequence[dict[str, Any]]) -> None:
    """Print the table and the figure."""
    print(f'{kept[0]["kept"]} of {kept[0]["frames"]} frames of fog and night were kept '
          f'({", ".join(f"{n} for {w}" for w, n in kept[0]["reasons"].items())}); seed 1')
    print('| network | ' + ' | '.join(f'{t}: KL | differs | mIoU' for t in TESTS) + ' |')
    print('|---' * (1 + 3 * len(TESTS)) + '|')
    for name, of_seeds in scores.items():
        cells = []
        for test in TESTS:
            for what, scale in (('kl', 1), ('disagreement', 100), ('miou', 1)):
                numbers = [scale * s[test][what] for s in of_seeds if what in s[test]]
                cells.append(_told(numbers, 3 if what == 'kl' else 1))
        print(f'| {name} | ' + ' | '.join(cells) + ' |')
    shares = {kind: {what: [left(a, b, what) for a, b in
                            zip(scores[kind], scores[BEFORE], strict=True)]
                     for what in ('kl', 'disagreement')} for kind in (MINED, RANDOM)}
    values = shares[MINED]['kl']
    result.state(
        name='data_loop', value=statistics.mean(values),
        unit='of the KL from the teacher in fog and night is left',
        workload={'suite': args.suite, 'budget': args.budget, 'teacher': teacher.spec.name,
                  'teacher_hash': teacher.hash[:12], 'seeds': args.seeds,
                  'steps': recipe['optimization']['steps'],
                  'kept': [k['kept'] for k in kept], 'of': kept[0]['frames'],
                  'left_random': round(statistics.mean(shares[RANDOM]['kl']), 4),
                  'left_disagreement': round(statistics.mean(shares[MINED]['disagreement']), 4),
                  'left_disagreement_random':
                      round(statistics.mean(shares[RANDOM]['disagreement']), 4),
                  'teacher_miou': {t: round(scores['teacher'][0][t]['miou'], 1) for t in TESTS},
                  'engine': 'onnxruntime', 'precision': 'fp32', 'bar': 0.5},
        spread={'min': round(min(values), 4), 'max': round(max(values), 4)},
        details={'scores': scores, 'kept': list(kept)}, json_file=args.json)


def _told(numbers: Sequence[float], digits: int) -> str:
    if not numbers:
        return '–'
    spread = f' ± {statistics.stdev(numbers):.{digits}f}' if len(numbers) > 1 else ''
    return f'{statistics.mean(numbers):.{digits}f}{spread}'


if __name__ == '__main__':
    main()
