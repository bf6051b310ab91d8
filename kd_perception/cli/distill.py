"""
Distil a student from soft labels, or from a teacher in the loop.

The cache is what "label" wrote for the same teacher and recordings, or imported. Without one the
teacher looks at every view itself: --distillation.view online, exact and slower. Several teachers
teach together (--distillation.teachers.combine), each with its cache. A student can also be taught
by the average of its own weights (--distillation.ema_teacher true). Every key of the recipe can be
set on the command line, e.g. --distillation.losses.kl.temperature 4. An interrupted run goes on
when the same command is given again. --search N tries N settings and keeps the best.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kd_perception.bundle import find_bundle, ModelBundle
from kd_perception.cli.parser import Parser
from kd_perception.cli.progress import ProgressCallback
from kd_perception.cli.recipe_arguments import add_recipe_arguments, recipe_from_arguments
from kd_perception.cli.train import run_recipe
from kd_perception.distillation.recipe import Recipe


def add_arguments(parser: Parser) -> None:
    """Declare the arguments of ``distill``."""
    parser.add_argument('--teacher', metavar='BUNDLE', action='append', default=[],
                        help='path of a bundle, or its name in the models directory; may be '
                             'repeated; none for imported labels, and none for a student that '
                             'teaches itself (--distillation.ema_teacher true)')
    parser.add_argument('--cache', type=Path, action='append', default=[],
                        help='soft labels of the data, one for every teacher in the same order; '
                             'none for a teacher in the loop (--distillation.view online)')
    add_recipe_arguments(parser, '--teacher BUNDLE [--cache CACHE] ')


def run(args: argparse.Namespace) -> int:
    """Distil, or search, and say where the bundle is."""
    recipe = recipe_from_arguments(args)
    teachers = [find_bundle(name) for name in args.teacher]
    # torch takes seconds to import; a wrong recipe is told before.
    from kd_perception.distillation.trainer import distill, require_teachable

    def one(recipe: Recipe, out: Path, update: ProgressCallback, overwrite: bool) -> ModelBundle:
        return distill(recipe, out, teacher=teachers, cache_dir=args.cache, progress=update,
                       overwrite=overwrite)

    def check(recipe: Recipe) -> None:
        require_teachable(recipe, teacher=teachers, cache_dir=args.cache)

    identity: dict[str, Any] = {'teachers': [t.hash for t in teachers]}
    if args.search:
        from kd_perception.distillation.cache import SoftLabelCache
        identity['soft_labels'] = [SoftLabelCache(path).made_with for path in args.cache]
    run_recipe(args, recipe, one, doing='distilling', identity=identity, check=check)
    return 0
