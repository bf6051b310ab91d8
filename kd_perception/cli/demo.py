"""
The whole path in one go: record, label, distil, evaluate, compare.

A drive through the embedded street is recorded to rosbags; the shipped teacher labels the
unlabelled ones; a student is distilled from its soft labels; both are measured on drives that
neither has seen; and both run as ROS 2 nodes on the same camera frames. Needs no ROS
installation, no GPU and no data. Ctrl-C is safe: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
import json
from pathlib import Path
import sys
import time

from rich.console import Console
from rich.table import Table

from kd_perception.bags.source import open_source
from kd_perception.bundle import load_bundle, ModelBundle
from kd_perception.cli.comparison import ComparisonRequest, run_comparison
from kd_perception.cli.metrics_table import percent
from kd_perception.cli.progress import progress
from kd_perception.cli.recording import record_simulation
from kd_perception.cli.tables import print_comparison
from kd_perception.errors import ConfigError
from kd_perception.evaluation.analysis import analyse, Analysis
from kd_perception.evaluation.comparison import ArmSpec
from kd_perception.evaluation.comparison_files import load_run
from kd_perception.evaluation.evaluate import evaluate
from kd_perception.evaluation.reports.report import HTML_FILE, JSON_FILE
from kd_perception.paths import atomic_file, share_directory
from kd_perception.tasks.metrics import ConfusionMatrix
from kd_perception.tasks.soft_labels import SoftLabelCodec

TEACHER = 'street_teacher'
STUDENT_RECIPE = 'demo_student'
ENGINE, PRECISION = 'onnxruntime', 'fp32'
SCENARIOS = ('clear', 'dense_fog')

# What the demo promises; it fails when one is missed.
TEACHER_MIOU = 0.70
MIOU_LOSS = 0.06
SPEEDUP = 8.0


@dataclass(frozen=True)
class Drive:
    """One recording: a street that no other recording of the project uses."""

    name: str
    scenario: str
    seed: int
    frames: int
    rate_hz: float
    labels: bool


@dataclass(frozen=True)
class Size:
    """How much is driven, learned and compared."""

    drives: int
    drive_frames: int
    held_out_frames: int
    compared_frames: int
    steps: int


FULL = Size(drives=24, drive_frames=50, held_out_frames=60, compared_frames=150, steps=0)
QUICK = Size(drives=2, drive_frames=26, held_out_frames=4, compared_frames=8, steps=6)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``demo``."""
    parser.add_argument('--out', type=Path, default=Path('demo_run'), metavar='DIR',
                        help='where everything goes (%(default)s)')
    parser.add_argument('--quick', action='store_true',
                        help='a rehearsal of two minutes: the student learns next to nothing and '
                        'the promises are not checked')


def run(args: argparse.Namespace) -> int:
    """Run what is missing of the path and show the results."""
    size = QUICK if args.quick else FULL
    out = args.out
    _claim(out, args.quick)
    try:
        return _run(out, size, check=not args.quick)
    except KeyboardInterrupt:
        print(f'\nthe same command goes on where it stopped (in {out})', file=sys.stderr)
        raise


def drives(size: Size) -> tuple[list[Drive], list[Drive]]:
    """Return the unlabelled drives to learn from, and the labelled ones that are held out."""
    unlabelled = [Drive(f'drive_{i:02d}', SCENARIOS[i % 2], 3000 + i, size.drive_frames,
                        rate_hz=0.7, labels=False) for i in range(size.drives)]
    held_out = [Drive(f'held_out_{scenario}', scenario, 4000 + i, size.held_out_frames,
                      rate_hz=1.0, labels=True) for i, scenario in enumerate(SCENARIOS)]
    return unlabelled, held_out


def _run(out: Path, size: Size, *, check: bool) -> int:
    started = time.monotonic()
    console = Console()
    unlabelled, held_out = drives(size)
    console.rule('1/6  record drives through the embedded street')
    for i, drive in enumerate([*unlabelled, *held_out]):
        _record(out / 'bags', drive, i + 1, len(unlabelled) + len(held_out))
    bags = [out / 'bags' / d.name for d in unlabelled]
    held_out_bags = [out / 'bags' / d.name for d in held_out]
    console.rule('2/6  export the teacher')
    teacher = _teacher(out / 'models' / 'teacher')
    console.rule('3/6  the teacher labels the unlabelled drives')
    _label(teacher, bags, out / 'soft_labels')
    console.rule('4/6  distil the student from the soft labels')
    student = _distill(teacher, bags, out, size.steps)
    named = out / 'models' / 'student'
    if not named.exists():
        named.symlink_to(Path('..') / 'student' / 'bundle', target_is_directory=True)
    console.rule('5/6  measure both on held-out drives')
    scores = {b.spec.role: _score(b, held_out_bags, out) for b in (teacher, student)}
    _print_scores(console, scores)
    console.rule('6/6  both as ROS 2 nodes on the same camera frames')
    analysis = _compare(teacher, student, out / 'comparison', size.compared_frames)
    print_comparison(analysis, out / 'comparison' / HTML_FILE)
    console.print(f'\n{time.monotonic() - started:.0f} s; all of it is in {out}. Beside ROS 2:')
    console.print(f'  ros2 launch kd_perception perception.launch.py model:=student '
                  f'models_dir:={named.parent.resolve()}', soft_wrap=True)
    return _check(console, scores, analysis) if check else 0


def _claim(out: Path, quick: bool) -> None:
    """Make ``out`` ours, or refuse a directory that is something else."""
    mark = out / 'demo.json'
    mine = {'quick': quick}
    if mark.is_file():
        try:
            known = json.loads(mark.read_text())
        except ValueError:
            raise ConfigError(f'{mark}: is damaged; remove {out} or choose another --out') \
                from None
        if known != mine:
            raise ConfigError(f'{out}: holds a run of the other size; choose another --out')
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f'{out}: exists and is no run of the demo; choose another --out')
    with atomic_file(mark) as temporary:
        temporary.write_text(json.dumps(mine))


def _record(folder: Path, drive: Drive, number: int, total: int) -> None:
    path = folder / drive.name
    if path.exists():
        return
    with progress(f'{drive.name} ({number}/{total}, {drive.scenario})') as update:
        record_simulation(path, scenario=drive.scenario, seed=drive.seed, frames=drive.frames,
                          rate_hz=drive.rate_hz, start_s=3.0, labels=drive.labels,
                          progress=update)


def _teacher(path: Path) -> ModelBundle:
    """Return the shipped teacher with its graphs, which are made here from the weights."""
    if path.exists():
        return load_bundle(path)
    shipped = load_bundle(share_directory() / 'models' / TEACHER)
    # torch takes seconds to import, and a finished demo does not need it.
    from kd_perception.networks.deploy import load_module, save_bundle
    with progress('exporting') as update:
        bundle = save_bundle(path, load_module(shipped), shipped.spec)
        update(1, 1, '')
    return bundle


def _label(teacher: ModelBundle, bags: list[Path], cache: Path) -> None:
    done = cache / 'done.json'
    if done.is_file():
        return
    from kd_perception.distillation.labelling import label
    # Thin things fill few cells of a coarse grid: poles and lights need this one.
    codec = SoftLabelCodec('u8', stride=2)
    for i, bag in enumerate(bags):
        source = open_source(bag)
        try:
            with progress(f'{bag.name} ({i + 1}/{len(bags)})') as update:
                label(teacher, source, cache, codec=codec, progress=update)
        finally:
            source.close()
    with atomic_file(done) as temporary:
        temporary.write_text(json.dumps({'recordings': [b.name for b in bags]}))


def _distill(teacher: ModelBundle, bags: list[Path], out: Path, steps: int) -> ModelBundle:
    finished = out / 'student' / 'bundle'
    if finished.exists():
        return load_bundle(finished)
    from kd_perception.distillation.recipe_file import load_recipe
    from kd_perception.distillation.trainer import distill
    overrides = {'optimization.steps': str(steps)} if steps else {}
    recipe = load_recipe(STUDENT_RECIPE, overrides, train=bags)
    with progress('distilling') as update:
        return distill(recipe, out / 'student', teacher=teacher, cache_dir=out / 'soft_labels',
                       progress=update)


def _score(bundle: ModelBundle, bags: list[Path], out: Path) -> dict:
    """Return the metrics of ``bundle`` over all held-out drives together."""
    path = out / 'evaluation' / f'{bundle.spec.role}.json'
    if path.is_file():
        known: dict = json.loads(path.read_text())
        if known['bundle_hash'] == bundle.hash:
            return known
    matrix = ConfusionMatrix(len(bundle.spec.classes))
    for bag in bags:
        source = open_source(bag)
        try:
            with progress(f'{bundle.spec.role} on {bag.name}') as update:
                result = evaluate(bundle, source, engine=ENGINE, precision=PRECISION,
                                  measures=(), progress=update)
        finally:
            source.close()
        matrix.merge(result.matrix)
    scores = {'bundle_hash': bundle.hash, **matrix.to_dict(bundle.spec.classes.names)}
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(scores, indent=1))
    return scores


def _compare(teacher: ModelBundle, student: ModelBundle, out: Path, frames: int) -> Analysis:
    if (out / JSON_FILE).is_file() and (out / 'recording').is_dir():
        run = load_run(out / 'recording')
        if not run.interrupted and [a.bundle_hash for a in run.arms] == [teacher.hash,
                                                                          student.hash]:
            return analyse(run)
    arms = tuple(ArmSpec(name, str(bundle.path), ENGINE, 'cpu', PRECISION)
                 for name, bundle in (('a', teacher), ('b', student)))
    request = ComparisonRequest(arms=arms, scenario='clear', seed=5000, frames=frames,
                                warmup=10 if frames > 10 else 2, rate_hz=5.0,
                                margin_miou=100 * MIOU_LOSS)
    with progress('comparing') as update:
        return run_comparison(request, out, update).analysis


def _print_scores(console: Console, scores: dict[str, dict]) -> None:
    table = Table(title='IoU on held-out drives, clear and fog', title_justify='left')
    table.add_column('class')
    for column in ('share %', *scores):
        table.add_column(column, justify='right')
    first = next(iter(scores.values()))
    for name, values in first['classes'].items():
        table.add_row(name, percent(values['share']),
                      *(percent(s['classes'][name]['iou']) for s in scores.values()))
    table.add_section()
    table.add_row('mean over >= 0.1 %', '', *(percent(_miou(s)) for s in scores.values()))
    console.print(table)


def _miou(scores: dict) -> float:
    return float(scores['mean_iou_over_0.1_percent'])


def _check(console: Console, scores: dict[str, dict], analysis: Analysis) -> int:
    """Hold the results against what the demo promises."""
    teacher, student = _miou(scores['teacher']), _miou(scores['student'])
    latency = analysis.comparisons[0].latency
    ratio = latency.median_ratio.estimate if latency is not None else 0.0
    promises = (
        (f'teacher at least {100 * TEACHER_MIOU:.0f} mIoU', f'{100 * teacher:.1f}',
         teacher >= TEACHER_MIOU),
        (f'student within {100 * MIOU_LOSS:.0f} points of it', f'{100 * student:.1f}',
         teacher - student <= MIOU_LOSS),
        (f'student at least {SPEEDUP:.0f} times faster, camera to result', f'{ratio:.1f}',
         ratio >= SPEEDUP))
    console.print('')
    for text, value, kept in promises:
        console.print(f'{"kept  " if kept else "MISSED"}  {text}: {value}')
    return 0 if all(kept for _, _, kept in promises) else 1
