"""
Make the shipped teacher of the demo: record, train, measure, ship.

    .venv/bin/python -m tools.street_teacher            # about an hour on two idle cores

Records labelled drives through streets that the demo never uses, trains by the recipe
``teacher_sim``, measures on streets that neither training nor validation has seen, and writes
``models/street_teacher`` with weights alone: graphs are made from them on the user's machine.
Resumes after Ctrl-C.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
import json
from pathlib import Path
import sys

from kd_perception.bags.source import open_source
from kd_perception.bundle import (
    METRICS,
    MODEL_CARD,
    ModelBundle,
    STATISTICS,
    WEIGHTS,
    write_bundle,
)
from kd_perception.cli.metrics_table import percent, print_metrics
from kd_perception.cli.progress import progress
from kd_perception.cli.recording import record_simulation
from kd_perception.distillation.recipe_file import load_recipe
from kd_perception.distillation.trainer import train
from kd_perception.errors import KdPerceptionError
from kd_perception.evaluation.evaluate import evaluate
from kd_perception.paths import share_directory
from kd_perception.tasks.metrics import ConfusionMatrix

SCENARIOS = ('clear', 'dense_fog')
STREETS = 12
NAME = 'street_teacher'


def main() -> int:
    """Run what is missing and ship the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').strip(),
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work', type=Path, default=Path('runs/street_teacher'),
                        help='recordings and the training run (%(default)s)')
    args = parser.parse_args()
    bags = args.work / 'bags'
    learn = [_recorded(bags / f'train_{scenario}_{i}', scenario, 1000 + 2 * i + j, frames=36,
                       rate_hz=0.7, start_s=2.0 + 3 * i)
             for i in range(STREETS) for j, scenario in enumerate(SCENARIOS)]
    validate = [_recorded(bags / f'val_{scenario}', scenario, 2000 + j, frames=40, rate_hz=1.0,
                          start_s=5.0) for j, scenario in enumerate(SCENARIOS)]
    test = [_recorded(bags / f'test_{scenario}', scenario, 2100 + j, frames=60, rate_hz=1.0,
                      start_s=5.0) for j, scenario in enumerate(SCENARIOS)]
    recipe = load_recipe('teacher_sim', train=learn, validation=validate)
    with progress('training') as update:
        trained = train(recipe, args.work / 'training', progress=update)
    ship(trained, test)
    return 0


def ship(trained: ModelBundle, test: list[Path]) -> None:
    """Measure ``trained`` on ``test`` and write what the repository carries of it."""
    matrix = ConfusionMatrix(len(trained.spec.classes))
    for bag in test:
        source = open_source(bag)
        with progress(f'measuring on {bag.name}') as update:
            matrix.merge(evaluate(trained, source, engine='onnxruntime', precision='fp32',
                                  progress=update).matrix)
        source.close()
    figures = matrix.to_dict(trained.spec.classes.names)
    print_metrics(figures, f'{NAME} on {", ".join(b.name for b in test)}')
    metrics = {**json.loads(trained.file(METRICS).read_text()), 'test': figures}
    card = trained.file(MODEL_CARD).read_text().rstrip().replace(trained.spec.name, NAME) + (
        f'\n\nMade by `python -m tools.street_teacher`: {metrics["steps"]} steps in '
        f'{metrics["training_minutes"]:.0f} minutes on labelled drives through {STREETS} '
        'simulated streets in clear weather and in dense fog. On two further streets of each: '
        f'{percent(figures["mean_iou_over_0.1_percent"])} mIoU over the classes of at least 0.1 % '
        'of pixels. It knows the embedded street and nothing else.\n')
    shipped = write_bundle(
        share_directory() / 'models' / NAME, replace(trained.spec, name=NAME),
        {**{name: trained.file(name) for name in (WEIGHTS, STATISTICS) if trained.has(name)},
         METRICS: json.dumps(metrics, indent=1).encode(), MODEL_CARD: card.encode()},
        overwrite=True)
    print(f'{shipped.path}: {shipped.file(WEIGHTS).stat().st_size / 1e6:.2f} MB of weights')


def _recorded(path: Path, scenario: str, seed: int, *, frames: int, rate_hz: float,
              start_s: float) -> Path:
    if not path.exists():
        with progress(path.name) as update:
            record_simulation(path, scenario=scenario, seed=seed, frames=frames, rate_hz=rate_hz,
                              start_s=start_s, progress=update)
    return path


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KdPerceptionError as error:
        print(f'street_teacher: {error}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print('\nstreet_teacher: the same command goes on where it stopped', file=sys.stderr)
        sys.exit(130)
