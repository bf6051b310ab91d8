"""
Train a network on labelled recordings.

The recipe is the name of a file in config/recipes or a path. Every key of it can be set on the
command line, e.g. --optimization.steps 2000. An interrupted run goes on when the same command is
given again. --search N tries N settings and keeps the best.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
import json
import logging
from pathlib import Path
import sys
from typing import Any

from kd_perception.bundle import ModelBundle
from kd_perception.cli.metrics_table import print_metrics
from kd_perception.cli.parser import Parser
from kd_perception.cli.processes import process_rank
from kd_perception.cli.progress import progress, ProgressCallback
from kd_perception.cli.recipe_arguments import add_recipe_arguments, recipe_from_arguments
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.recipe_checks import idle_settings
from kd_perception.errors import ConfigError

log = logging.getLogger(__name__)
# Trains one recipe: recipe, directory, progress, overwrite.
OneRun = Callable[[Recipe, Path, ProgressCallback, bool], ModelBundle]


def add_arguments(parser: Parser) -> None:
    """Declare the arguments of ``train``."""
    add_recipe_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Train, or search, and say where the bundle is."""
    recipe = recipe_from_arguments(args)
    # torch takes seconds to import; a wrong recipe is told before.
    from kd_perception.distillation.trainer import train

    def one(recipe: Recipe, out: Path, update: ProgressCallback, overwrite: bool) -> ModelBundle:
        return train(recipe, out, progress=update, overwrite=overwrite)

    run_recipe(args, recipe, one, doing='training')
    return 0


def run_recipe(args: argparse.Namespace, recipe: Recipe, one: OneRun, *, doing: str,
               identity: Mapping[str, Any] | None = None,
               check: Callable[[Recipe], None] | None = None) -> None:
    """
    Run a recipe into ``--out``, or search with ``--search``, and print what came out.

    :param one: trains one recipe.
    :param doing: for the progress bar.
    :param identity: what else than the recipe must agree when a search goes on.
    :param check: as ``search`` takes it.
    :raises ConfigError: for ``--prune`` without ``--search``.
    """
    if args.prune and not args.search:
        raise ConfigError('--prune is of a search; give --search N')
    if process_rank()[0]:
        # All processes of a training see the same; the first one tells it.
        logging.getLogger('kd_perception.distillation').setLevel(logging.ERROR)
    else:
        for line in idle_settings(recipe):
            log.warning('%s', line)
    try:
        if args.search:
            from kd_perception.distillation.search import search
            with progress(f'searching {recipe.name}') as update:
                bundle = search(recipe, args.out, args.search,
                                lambda r, out, told: one(r, out, told, False), kind=args.verb,
                                identity=identity, prune=args.prune, overwrite=args.overwrite,
                                progress=update, check=check)
        else:
            with progress(f'{doing} {recipe.name}') as update:
                bundle = one(recipe, args.out, update, args.overwrite)
    except KeyboardInterrupt:
        without = ' without --overwrite' if args.overwrite else ''
        if not process_rank()[0]:
            print(f'\nthe same command{without} resumes the run in {args.out}', file=sys.stderr)
        raise
    run = _show_search(args.out) if args.search else args.out
    if not args.search:
        show_result(args.out, bundle.path)
    if not args.no_report:
        _make_report(run)


def _make_report(run: Path) -> None:
    """Write the report of a run that has ended, once where torchrun started several processes."""
    if process_rank()[0] or not (run / 'bundle').is_dir():
        return
    try:
        from kd_perception.distillation.reports.run_report import report_or_warn
        with progress('report') as update:
            page = report_or_warn(run, progress=update)
    except KeyboardInterrupt:
        # Who presses Ctrl-C wants all to stop, also what was to come behind the run.
        print(f'\nthe run is whole; its report is made by: kd_perception report {run}',
              file=sys.stderr)
        raise
    if page is not None:
        print(page)


def _show_search(out: Path) -> Path:
    """Print the best trial of a search and how it was found; return its directory."""
    found = json.loads((out / 'search.json').read_text())
    best = found['best']
    run = out / 'trials' / f'{best["number"]:04}'
    show_result(run, out / 'bundle')
    print(f'{out / "best_recipe.yaml"}: trial {best["number"]} of {found["trials"]} '
          f'({found["pruned"]} pruned, {found["failed"]} failed): '
          + ', '.join(f'{key} {value:.6g}' if isinstance(value, float) else f'{key} {value}'
                      for key, value in best['values'].items()))
    return run


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
