"""Arguments that change a scenario of the simulator: its world, and any value of its YAML."""

from __future__ import annotations

import argparse

from kd_perception.simulation.scenario import scenario_name


def add_world_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare ``--world``, ``--set`` and ``--truth``."""
    parser.add_argument('--world', default='', metavar='NAME',
                        help='street, downtown, intersection, highway, suburb, or a YAML path '
                        "(default: the scenario's own)")
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                        help='change a value of the scenario, such as camera.fov_deg=60, '
                        'camera.drops=0.5, content.people=3 or fog=0.01; again for more')
    parser.add_argument('--truth', action='append', default=[], metavar='KIND',
                        choices=('instances', 'depth', 'pose', 'detections'),
                        help='also record instances, depth, pose (of the camera) or '
                        'detections; again for more')


def scenario_of(args: argparse.Namespace) -> str:
    """Return the scenario with the changes that the arguments ask for."""
    return scenario_name(args.scenario, world=args.world, changes=tuple(args.set))
