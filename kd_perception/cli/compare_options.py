"""
Options of ``compare`` that mean nothing beside others are refused: ignored, they would mislead.

In: parsed arguments; out: nothing, or an error in one line before anything starts. An option
counts as given when it differs from its default.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

from kd_perception.cli.gate import LIMITS
from kd_perception.errors import ConfigError

_SOURCES = {
    'scenario': ('sim', 'carla'), 'width': ('sim', 'carla'), 'height': ('sim', 'carla'),
    'rate': ('sim', 'carla', 'bag'), 'image_topic': ('bag',), 'label_topic': ('bag', 'topic'),
    'label_dir': ('bag',), 'classes': ('bag', 'topic')}
_PEAK_RATE = ('max_loss', 'max_age_ms', 'start_hz', 'probe_s')
_NOT_PEAK_RATE = ('baseline', 'frames', 'duration', 'warmup', 'loop', 'require_truth', 'placement',
                  'pacing', 'timeout', 'start_timeout', 'margin_miou', 'margin_ms', 'measures')
# Each follows an arm from frame to frame, or a topic of its own, which one node for all has not.
_NOT_ALTERNATE = ('flicker', 'calibration')

Declare = Callable[[argparse.ArgumentParser], None]


def check_options(args: argparse.Namespace, source: str, declare: Declare) -> None:
    """
    Refuse what would be ignored without a word.

    :param source: where frames come from.
    :param declare: declares all arguments of the verb, for their defaults.
    :raises ConfigError: for the first such option.
    """
    parser = argparse.ArgumentParser(add_help=False)
    declare(parser)
    for name, known in _SOURCES.items():
        if source not in known:
            _refuse(args, parser, (name,), f'is of no use with --source {source}; it is for '
                                           f'{" and ".join(known)}')
    if args.peak_rate:
        _refuse(args, parser, _NOT_PEAK_RATE, 'has no part in --peak-rate')
    else:
        _refuse(args, parser, _PEAK_RATE, 'needs --peak-rate')
    if not args.baseline:
        _refuse(args, parser, LIMITS, 'needs --baseline')
    if args.placement != 'alternate':
        _refuse(args, parser, ('swap_every',), 'needs --placement alternate')
        return
    if args.swap_every < 2:
        raise ConfigError(f'--swap-every {args.swap_every}: 2 frames or more')
    for name in _NOT_ALTERNATE:
        if name in args.measures.split(','):
            raise ConfigError(f'--measures {name} cannot be had with --placement alternate')


def _refuse(args: argparse.Namespace, parser: argparse.ArgumentParser, names: Iterable[str],
            why: str) -> None:
    for name in names:
        if getattr(args, name) != parser.get_default(name):
            raise ConfigError(f'--{name.replace("_", "-")} {why}')
