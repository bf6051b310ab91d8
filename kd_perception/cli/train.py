"""
Train a network on labelled recordings.

The recipe is the name of a file in config/recipes or a path. Every key of it can be set on the
command line, e.g. --optimization.steps 2000. An interrupted run goes on when the same command is
given again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys

from kd_perception.cli.metrics_table import print_metrics
from kd_perception.cli.parser import Parser
from kd_perception.cli.processes import process_rank
from kd_perception.cli.progress import progress
from kd_perception.cli.recipe_arguments import add_recipe_arguments, recipe_from_arguments


def add_arguments(parser: Parser) -> None:
    """Declare the arguments of ``train``."""
    add_recipe_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Train and say where the bundle is."""
    recipe = recipe_from_arguments(args)
    # torch takes seconds to import; a wrong recipe is told before.
    from kd_perception.distillation.trainer import train
    try:
        with progress(f'training {recipe.name}') as update:
            bundle = train(recipe, args.out, progress=update, overwrite=args.overwrite)
    except KeyboardInterrupt:
        print_how_to_resume(args)
        raise
    show_result(args.out, bundle.path)
    return 0


def print_how_to_resume(args: argparse.Namespace) -> None:
    """Say on standard error how an interrupted run goes on."""
    without = ' without --overwrite' if args.overwrite else ''
    print(f'\nthe same command{without} resumes the run in {args.out}', file=sys.stderr)


def show_result(out: Path, bundle: Path) -> None:
    """Print the validation metrics of a finished run, once where torchrun started several."""
    if process_rank()[0]:
        return
    metrics = json.loads((out / 'metrics.json').read_text())
    against = metrics['validation_against']
    agreement = '' if against == 'ground truth' else ': agreement, not accuracy'
    print_metrics(metrics['validation'],
                  title=f'validation against the {against}{agreement}; step '
                        f'{metrics["best_step"]} of {metrics["steps"]}')
    print(f'{bundle}')
