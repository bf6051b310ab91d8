"""Arguments that name a CARLA server and what drives there."""

from __future__ import annotations

import argparse
from typing import Any

from kd_perception.errors import ConfigError
from kd_perception.nodes.parameters import TABLES
from kd_perception.simulation.carla.spec import parse_server

_DEFAULTS: dict[str, Any] = {s.name: s.default for s in TABLES['camera']}


def add_carla_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare ``--carla-map`` and its like; the server itself is the caller's argument."""
    parser.add_argument('--carla-map', default='', metavar='NAME',
                        help='map to load, e.g. Town03 (default: the one that is loaded)')
    for name, what in (('vehicles', 'cars beside the own one'), ('walkers', 'pedestrians')):
        parser.add_argument(f'--carla-{name}', type=int, metavar='N',
                            default=_DEFAULTS[f'carla_{name}'], help=f'{what} (%(default)s)')
    parser.add_argument('--carla-timeout', type=float, default=_DEFAULTS['carla_timeout_s'],
                        metavar='S', help='how long the server may take to answer (%(default)s)')


def carla_parameters(args: argparse.Namespace, server: str) -> dict[str, Any]:
    """
    Return what the arguments say, by parameter of the camera node.

    :raises ConfigError: when ``server`` is no ``host`` or ``host:port``.
    """
    host, port = parse_server(server)
    return {'carla_host': host, 'carla_port': port, 'carla_map': args.carla_map,
            'carla_vehicles': args.carla_vehicles, 'carla_walkers': args.carla_walkers,
            'carla_timeout_s': args.carla_timeout}


def refuse_carla_arguments(args: argparse.Namespace) -> None:
    """
    Refuse what would be ignored without a word, since the source is another one.

    :raises ConfigError: for the first such argument.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_carla_arguments(parser)
    defaults = {'carla': '', **vars(parser.parse_args([]))}
    for name, default in defaults.items():
        if getattr(args, name) != default:
            raise ConfigError(f'--{name.replace("_", "-")} needs --source carla')


def camera_values(**values: Any) -> dict[str, Any]:
    """Return all parameters of the camera node, the given ones in place of their defaults."""
    return {**_DEFAULTS, **values}
