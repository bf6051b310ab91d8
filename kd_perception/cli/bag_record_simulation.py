"""Recording of the simulator: the part of ``bag record`` without ROS."""

from __future__ import annotations

import argparse

from kd_perception.bags.importer import DEFAULT_TOPIC
from kd_perception.cli.progress import progress
from kd_perception.cli.world_arguments import add_world_arguments, scenario_of
from kd_perception.errors import ConfigError

_DURATION_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what is simulated."""
    group = parser.add_argument_group('simulator')
    group.add_argument('--scenario', default='clear', help='name or YAML path (%(default)s)')
    group.add_argument('--seed', type=int, default=0, help='which street (%(default)s)')
    group.add_argument('--rate', type=float, default=10.0, metavar='HZ',
                       help='frames per simulated second (%(default)s)')
    group.add_argument('--start', type=float, default=0.0, metavar='S',
                       help='simulated time to begin at (%(default)s)')
    group.add_argument('--width', type=int, default=640)
    group.add_argument('--height', type=int, default=360)
    group.add_argument('--topic', default=DEFAULT_TOPIC, help='image topic (%(default)s)')
    group.add_argument('--encoding', choices=('jpeg', 'png', 'rgb8'), default='jpeg')
    group.add_argument('--no-labels', action='store_true', help='pictures only')
    add_world_arguments(group)


def run(args: argparse.Namespace) -> int:
    """Record and say where the recording is."""
    # The simulator needs OpenGL, which the other actions can do without.
    from kd_perception.cli.recording import FASTEST_HZ, record_simulation
    from kd_perception.simulation.street import LONGEST_S

    duration = _DURATION_S if args.duration is None else args.duration
    if not (0 < args.rate <= FASTEST_HZ and 0 < duration <= LONGEST_S):
        raise ConfigError(f'--rate {args.rate} and --duration {duration} must be above zero, and '
                          f'at most {FASTEST_HZ:.0f} Hz and {LONGEST_S:.0f} s')
    with progress('record') as report:
        path = record_simulation(
            args.out, scenario=scenario_of(args), seed=args.seed, rate_hz=args.rate,
            frames=max(1, round(duration * args.rate)), start_s=args.start,
            width=args.width, height=args.height, topic=args.topic, encoding=args.encoding,
            labels=not args.no_labels, truth=args.truth, overwrite=args.overwrite,
            progress=report)
    print(path)
    return 0
