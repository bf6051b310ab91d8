"""
Record the simulator with its ground truth, a robustness suite, CARLA, or live topics.

The simulator is recorded unless --live, --suite or --carla is given. A live recording takes the
quality of service that the publishers offer, and ends with Ctrl-C or after --duration; what is
recorded by then is a whole recording.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from kd_perception.errors import ConfigError

# What is recorded: option that asks for it, and its module with add_arguments(parser) and
# run(args). The first that is asked for runs; the last one is recorded when none is. SHARED of a
# module names options of others that it takes too.
KINDS: tuple[tuple[str, str], ...] = (
    ('live', 'kd_perception.cli.bag_record_live'),
    ('suite', 'kd_perception.cli.bag_suite'),
    ('carla', 'kd_perception.cli.bag_record_carla'),
    ('', 'kd_perception.cli.bag_record_simulation'),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``bag record``."""
    parser.add_argument('out', type=Path, help='rosbag2 folder to write')
    parser.add_argument('--duration', type=float, default=None, metavar='S',
                        help='seconds: of simulated time (default 10), or live (default: until '
                             'Ctrl-C)')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing recording')
    for _, module in KINDS:
        importlib.import_module(module).add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Record what is asked for."""
    _refuse_foreign_options(args)
    for option, module in KINDS:
        if not option or getattr(args, option) not in (None, False):
            return int(importlib.import_module(module).run(args))
    raise AssertionError('the last kind has no option')


def _refuse_foreign_options(args: argparse.Namespace) -> None:
    """Refuse what another kind of recording would take: it would be ignored without a word."""
    kinds = [k for k, _ in KINDS if k and getattr(args, k) not in (None, False)]
    if len(kinds) > 1:
        raise ConfigError(f'--{kinds[0]} and --{kinds[1]} are different recordings; give one')
    own = dict(KINDS)[kinds[0] if kinds else '']
    shared = getattr(importlib.import_module(own), 'SHARED', ())
    for kind, module in KINDS:
        if module == own:
            continue
        parser = argparse.ArgumentParser(add_help=False)
        importlib.import_module(module).add_arguments(parser)
        for name, default in vars(parser.parse_args([])).items():
            if name not in (kind, *shared) and getattr(args, name) != default:
                option = '--' + name.replace('_', '-')
                raise ConfigError(f'{option} is for bag record --{kind}' if kind else
                                  f'{option} is for the simulator; --{kinds[0]} ignores it')
    if kinds == ['suite'] and (args.overwrite or args.duration is not None):
        option = '--overwrite' if args.overwrite else '--duration'
        raise ConfigError(f'{option} is of no use with --suite: the suite says what is recorded, '
                          'and what is whole stays; for a new one choose another directory')
