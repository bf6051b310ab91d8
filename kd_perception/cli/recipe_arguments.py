"""Command-line arguments of the verbs that follow a recipe: every key of it, dotted."""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_perception.cli.parser import at_least_one, Parser
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.recipe_file import load_recipe
from kd_perception.distillation.strict import dotted_keys
from kd_perception.errors import ConfigError

_PREFIX = 'recipe:'
_PATHS = {'data.train': '--data', 'data.validation': '--validation'}
_LENGTHS = ('optimization.steps', 'optimization.epochs')


def add_recipe_arguments(parser: Parser, required: str = '') -> None:
    """
    Declare the recipe, its data, the output and one option per key of a recipe.

    :param required: what the verb needs besides, for the usage line.
    """
    # Fifty options in the usage line would hide the five that matter.
    parser.usage = (f'%(prog)s RECIPE {required}--data PATH ... --out DIR [--validation PATH ...] '
                    '[--overwrite] [--search N] [--key.of.recipe VALUE ...]')
    parser.add_argument('recipe', help='name in config/recipes, or a path')
    parser.add_argument('--out', type=Path, required=True, help='run directory')
    parser.add_argument('--data', nargs='+', type=Path, default=(), metavar='PATH',
                        help='recordings to learn from: bags, image folders, videos')
    parser.add_argument('--validation', nargs='+', type=Path, default=(), metavar='PATH',
                        help='labelled recordings to choose the best checkpoint with '
                             '(default: some whole drives of the data, or its tail)')
    parser.add_argument('--overwrite', action='store_true',
                        help='remove the run that is in --out first')
    parser.add_argument('--no-report', action='store_true',
                        help='leave report.html out, which is made at the end on up to 200 '
                             'held-out frames (kd_perception report)')
    group = parser.add_argument_group(
        'search', 'What may change stands in the recipe (search:), or here:\n'
        "  --search.optimization.learning_rate '{low: 1.0e-4, high: 1.0e-2, log: true}'\n"
        "  --search.distillation.losses.kl.temperature '{choices: [1, 2, 4]}'\n"
        'The same command goes on, and several at once share the trials (OUT/trials).')
    group.add_argument('--search', type=at_least_one, default=0, metavar='N',
                       help='try N settings, the recipe as it is first, and keep the one with the '
                            'best validation mIoU')
    group.add_argument('--prune', action='store_true',
                       help='stop trials that are worse than the median at the same validation')
    group = parser.add_argument_group(
        'keys of the recipe (values are YAML)',
        'Mappings can be entered: --distillation.losses.kl.temperature 4. Losses and their '
        'settings: docs/losses.md.')
    parser.mappings = tuple(k for k, default in dotted_keys(Recipe) if isinstance(default, dict))
    for key, default in dotted_keys(Recipe):
        if key != 'search':
            shown = '' if default in (None, '', (), {}) else f'default {default}'
            if key in _PATHS:
                shown = f'entries with keys of their own; {_PATHS[key]} is short for paths'
            group.add_argument(f'--{key}', dest=f'{_PREFIX}{key}', metavar='VALUE', help=shown)


def recipe_from_arguments(args: argparse.Namespace) -> Recipe:
    """
    Load the recipe with what the command line says.

    :raises ConfigError: one line with the dotted path of what is wrong.
    """
    overrides = {key[len(_PREFIX):]: value for key, value in vars(args).items()
                 if key.startswith(_PREFIX) and value is not None} | args.below
    for key, paths in (('data.train', args.data), ('data.validation', args.validation)):
        if paths and key in overrides:
            raise ConfigError(f'--{key}: {_PATHS[key]} names recordings, too; give one of them')
    # They exclude each other: who asks for one takes leave of the recipe's other.
    for asked, other in (_LENGTHS, _LENGTHS[::-1]):
        if overrides.get(asked, '0') != '0':
            overrides.setdefault(other, '0')
    return load_recipe(args.recipe, overrides, train=args.data, validation=args.validation)
