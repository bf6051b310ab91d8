"""Recording of a drive in a CARLA server: the same topics as of the embedded street."""

from __future__ import annotations

import argparse

from kd_perception.cli.carla_arguments import (
    add_carla_arguments,
    camera_values,
    carla_parameters,
)
from kd_perception.cli.progress import progress
from kd_perception.errors import ConfigError

_DURATION_S = 10.0
_TRUTH = {'instances'}
#: Options of the simulator that mean the same here.
SHARED = ('scenario', 'seed', 'rate', 'width', 'height', 'topic', 'encoding', 'no_labels', 'set',
          'truth')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which server, and what drives there."""
    group = parser.add_argument_group('CARLA')
    group.add_argument('--carla', nargs='?', const='localhost:2000', default=None,
                       metavar='HOST[:PORT]',
                       help='record a CARLA server (default: localhost:2000) with --scenario, '
                       '--seed, --rate, --width and --height of the simulator; a scenario may be '
                       'a weather preset of CARLA')
    add_carla_arguments(group)


def run(args: argparse.Namespace) -> int:
    """Record and say where the recording is."""
    from kd_perception.cli.recording_carla import record_carla
    from kd_perception.nodes.camera.carla_pictures import carla_spec
    from kd_perception.simulation.scenario import scenario_name

    duration = _DURATION_S if args.duration is None else args.duration
    if not 0 < duration < float('inf'):
        raise ConfigError(f'--duration {duration} must be finite and above zero')
    unknown = sorted(set(args.truth) - _TRUTH)
    if unknown:
        raise ConfigError(f'--truth {unknown[0]}: of CARLA {", ".join(sorted(_TRUTH))} can be '
                          'recorded')
    spec = carla_spec(camera_values(
        scenario=scenario_name(args.scenario, changes=tuple(args.set)), seed=args.seed,
        rate_hz=args.rate, width=args.width, height=args.height,
        carla_instances=bool(args.truth), **carla_parameters(args, args.carla)))
    with progress('record') as report:
        done = record_carla(args.out, spec, frames=max(1, round(duration * args.rate)),
                            topic=args.topic, encoding=args.encoding, labels=not args.no_labels,
                            overwrite=args.overwrite, progress=report)
    for note in done.notes:
        print(note)
    print(done.path)
    return 0
