"""
The part of ``bag record`` that records or checks a whole robustness suite.

``bag record --suite OUT`` makes the standard train, validation and test drives, and goes on where
it stopped; ``--check`` says whether a suite is whole; ``--parts NAME`` prints paths for scripts.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

from kd_perception.cli.progress import progress
from kd_perception.errors import BagError, ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what concerns suites."""
    group = parser.add_argument_group('robustness suite (see docs/simulator.md)')
    group.add_argument('--suite', action='store_true',
                       help='record the standard train, validation and test drives into the '
                       'folder; the same command goes on where it stopped')
    group.add_argument('--size', default='standard', metavar='NAME',
                       help='standard, small (for tests), or a YAML like those in config/suites '
                       '(%(default)s)')
    group.add_argument('--check', action='store_true',
                       help='with --suite: only say whether the suite in the folder is whole')
    group.add_argument('--parts', action='append', default=[], metavar='NAME',
                       help='with --suite: only print the recordings of a role, group or part, '
                       'such as train or test_weather')


def run(args: argparse.Namespace) -> int:
    """Record, check or list a suite."""
    # The simulator needs OpenGL, which looking at a suite can do without.
    from kd_perception.cli.suite import check_suite, of_this_version, record_suite, suite_bags
    from kd_perception.cli.suite_plan import load_suite

    out: Path = args.out
    if args.parts and args.check:
        raise ConfigError('--check and --parts are two questions; ask one at a time')
    if args.parts:
        for path in suite_bags(out, args.parts):
            print(path)
        return 0
    plan = load_suite(args.size)
    if args.check:
        with progress('check') as update:
            state = check_suite(out, plan, progress=update)
        bad = [*(f'{p} is missing' for p in state.missing),
               *(f'{p} was changed' for p in state.changed)]
        if bad:
            raise BagError(f'{out}: {len(bad)} of {len(plan.parts)} parts are not whole, the '
                           f'first: {bad[0]}; mend it with: kd_perception bag record --suite '
                           f'{out} --size {args.size}')
        print(f'{out}: the suite {plan.name} is whole: {len(plan.parts)} recordings, '
              f'{plan.frames} frames')
        if not of_this_version(plan, out):
            print('another version of the simulator recorded it: compare it with suites of that '
                  'version only')
        return 0
    try:
        with progress(f'suite {plan.name}') as update:
            recorded = record_suite(plan, out, progress=update)
    except KeyboardInterrupt:
        print(f'\nthe same command goes on where it stopped (in {out})', file=sys.stderr)
        raise
    print(f'{out}: {len(plan.parts)} recordings, {plan.frames} frames; '
          f'{recorded} recorded now, {len(plan.parts) - recorded} were there')
    return 0
