"""
What ``doctor`` looks at of CARLA: the client, a server, and the topics of its ROS interfaces.

Nobody needs CARLA, so what is absent is no fault unless a server was asked for. Client and ROS
are tried in children.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata
import json
import os
import socket
import sys

from kd_perception.cli.checks import Check, installed, OK, probe, WARN
from kd_perception.errors import ConfigError
from kd_perception.nodes.carla_topics import CarlaTopics
from kd_perception.simulation.carla.spec import parse_server
from kd_perception.simulation.carla.wheel import INSTALL, PYTHONS, told_pythons, WHEEL

_TOPIC = 'CARLA'
_KNOCK_S = 0.5
_ANSWER_S = 8.0
_OWN = 'or let our camera node drive CARLA: simulation.launch.py source:=carla (docs/carla.md)'


def carla_checks(server: str = '', environment: Mapping[str, str] | None = None) -> list[Check]:
    """
    Return all checks of this module, in reading order.

    :param server: ``host:port`` that was asked for; empty looks at the usual place.
    """
    environment = os.environ if environment is None else environment
    try:
        host, port = parse_server(server)
    except ConfigError as error:
        return [Check(_TOPIC, 'server', WARN, str(error), 'kd_perception doctor --carla '
                      'localhost:2000')]
    there = answers(host, port)
    found = [client(wanted=there or bool(server)), *_server(host, port, there, bool(server))]
    if there and installed('rclpy'):
        found += _topics(environment)
    return found


def answers(host: str, port: int) -> bool:
    """Return whether somebody listens there."""
    try:
        with socket.create_connection((host, port), timeout=_KNOCK_S):
            return True
    except OSError:
        return False


def client(*, wanted: bool, python: tuple[int, int] | None = None) -> Check:
    """
    Check the client.

    :param wanted: there is a server, or one was asked for.
    """
    version = python or (sys.version_info[0], sys.version_info[1])
    state = WARN if wanted else OK
    if not installed('carla'):
        detail = 'not installed; the source carla alone needs it'
        fix = INSTALL
        if version not in PYTHONS:
            detail += f'; it is built for Python {told_pythons()}, this is ' \
                      f'{".".join(map(str, version))}'
            fix = f'make an environment of Python {told_pythons()}, and {INSTALL} in it'
        return Check(_TOPIC, 'client', state, detail, fix if wanted else '')
    try:
        found = metadata.version('carla')
    except metadata.PackageNotFoundError:
        return Check(_TOPIC, 'client', WARN, 'a module or folder named carla that pip has not '
                     'installed comes first', f'{INSTALL}, and take the other off PYTHONPATH')
    if found != WHEEL:
        return Check(_TOPIC, 'client', OK, f'{found}; this package was written for {WHEEL}')
    return Check(_TOPIC, 'client', OK, found)


def _server(host: str, port: int, there: bool, asked: bool) -> Iterable[Check]:
    where = f'{host}:{port}'
    if not there:
        yield Check(_TOPIC, 'server', WARN if asked else OK, f'none answers at {where}',
                    'start it (./CarlaUE4.sh -RenderOffScreen), open the port and the one after '
                    'it in the firewall' if asked else '')
    elif not installed('carla'):
        yield Check(_TOPIC, 'server', OK, f'somebody listens at {where}; without the client its '
                    'version is unknown')
    else:
        works, answer = probe(_connecting(host, port), _ANSWER_S + 22)
        yield Check(_TOPIC, 'server', OK if works else WARN, answer,
                    '' if works else 'see docs/carla.md')


def _connecting(host: str, port: int) -> str:
    """Return code that connects and prints one line; exit code 1 where it cannot be driven."""
    return ('import sys\n'
            'from kd_perception.errors import KdPerceptionError\n'
            'from kd_perception.simulation.carla.session import connect\n'
            'from kd_perception.simulation.carla.spec import CarlaSpec\n'
            'try:\n'
            f'    _, client, world = connect(CarlaSpec(host={host!r}, port={port}, '
            f'timeout_s={_ANSWER_S}))\n'
            '    print(f"{client.get_server_version()}, map {world.get_map().name}")\n'
            'except KdPerceptionError as error:\n'
            '    sys.exit(str(error))\n')


def _topics(environment: Mapping[str, str]) -> Iterable[Check]:
    works, answer = probe('from kd_perception.nodes.carla_topics import main; main()', 20.0)
    if not works:
        yield Check(_TOPIC, 'ROS topics', WARN, f'could not look for them: {answer}',
                    'see what doctor says of ROS')
        return
    found = json.loads(answer)
    sizes = {name: (size[0], size[1]) for name, size in found['sizes'].items()}
    yield from topic_checks(CarlaTopics(tuple(found['names']), found['bridge'], sizes),
                            environment.get('ROS_DISTRO', ''))


def topic_checks(found: CarlaTopics, distro: str) -> Iterable[Check]:
    """
    Explain what is known to go wrong with the topics that CARLA's ROS interfaces publish.

    :param distro: of ROS, e.g. ``humble``; empty for the wheels, which are Jazzy's.
    """
    name = 'ROS topics'
    if not found.names:
        yield Check(_TOPIC, name, OK, 'none below /carla; the source carla needs none')
        return
    unnamed = [n for n in found.names if '//' in n]
    kind = 'the ROS bridge' if found.bridge else 'native ROS 2'
    if unnamed:
        yield Check(_TOPIC, name, WARN, f'{unnamed[0]} has an empty part, so nobody can subscribe '
                    'to it: CARLA 0.9.16 leaves it empty where the vehicle has no ros_name',
                    "set_attribute('ros_name', …) on the blueprint of the vehicle and of the "
                    f'sensor, {_OWN}')
    else:
        yield Check(_TOPIC, name, OK, f'{len(found.names)} below /carla, by {kind}')
    if not found.bridge and distro != 'humble':
        yield Check(_TOPIC, 'native ROS 2', WARN, 'CARLA 0.9.16 carries Fast DDS 2.11; with '
                    'subscribers of Jazzy (2.14) it was seen to stall the whole simulation',
                    f'use Humble for what subscribes, {_OWN}')
    for sensor, size in sorted(found.sizes.items()):
        vehicle = sensor.rpartition('/')[0]
        pictures = {found.sizes[s] for s in found.sizes
                    if s.rpartition('/')[0] == vehicle and 'rgb' in s.rpartition('/')[2]}
        if 'semantic' in sensor and pictures and size not in pictures:
            other = ' and '.join(f'{w}x{h}' for w, h in sorted(pictures))
            yield Check(_TOPIC, 'label camera', WARN, f'{sensor} is {size[0]}x{size[1]}, its '
                        f'pictures are {other}: labels must have the size of their picture',
                        'give both cameras the same image_size_x, image_size_y, fov and '
                        "spawn_point in the bridge's objects file (the stock one does not)")
