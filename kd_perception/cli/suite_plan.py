"""
What a robustness suite consists of. Files: ``config/suites/<name>.yaml``.

Comes in: a name or a path. Goes out: a ``SuitePlan``, the list of drives that belong to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
import re
from typing import Any

import yaml

from kd_perception.cli.recording import TRUTH
from kd_perception.errors import ConfigError, first_line
from kd_perception.paths import config_file
from kd_perception.simulation.scenario import load_scenario
from kd_perception.simulation.worlds import load_world

ROLES = ('train', 'validation', 'test')


@dataclass(frozen=True)
class Part:
    """
    One drive of a suite, a recording at ``<suite>/<group>/<name>``.

    :param role: what it may be used for: one of ``ROLES``.
    """

    group: str
    name: str
    role: str
    scenario: str
    world: str
    seed: int
    frames: int
    rate_hz: float
    start_s: float

    @property
    def path(self) -> str:
        """Return where it lies in the suite."""
        return f'{self.group}/{self.name}'


@dataclass(frozen=True)
class SuitePlan:
    """All drives of a suite; ``truth`` is what is recorded beside labels."""

    name: str
    width: int
    height: int
    truth: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def frames(self) -> int:
        """Return the number of frames of all parts."""
        return sum(p.frames for p in self.parts)


@dataclass(frozen=True)
class _Group:
    """Drives through each of ``worlds`` (the scenario's own if empty) in each scenario."""

    role: str
    scenarios: list[str]
    first_seed: int
    drives: int
    frames: int
    rate_hz: float
    worlds: list[str] = field(default_factory=list)
    start_s: float = 3.0
    same_seeds: bool = False


def load_suite(name: str) -> SuitePlan:
    """
    Load ``config/suites/<name>.yaml``, or a path.

    :raises ConfigError: when it is not there, is no suite, or has a seed in two roles.
    """
    path = config_file('suites', name)
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f'{path}: not readable as YAML: {first_line(error)}') from None
    wanted = {'name', 'width', 'height', 'truth', 'groups'}
    if not isinstance(data, Mapping) or set(data) != wanted:
        raise ConfigError(f'{path}: a suite has exactly the keys {", ".join(sorted(wanted))}')
    if not isinstance(data['groups'], Mapping) or not data['groups']:
        raise ConfigError(f'{path}: groups needs at least one group of drives')
    for side in ('width', 'height'):
        if type(data[side]) is not int or data[side] < 1:
            raise ConfigError(f'{path}: {side} {data[side]!r} must be a whole number of pixels '
                              'above zero')
    _check_names(data['truth'] or [], f'{path}: truth')
    unknown = sorted(set(data['truth'] or ()) - set(TRUTH))
    if unknown:
        raise ConfigError(f'{path}: truth {unknown[0]!r}: known are {", ".join(TRUTH)}')
    parts = [p for key, value in data['groups'].items()
             for p in _parts(str(key), _group(value, f'{path}: {key}'), f'{path}: {key}')]
    roles: dict[int, str] = {}
    for part in parts:
        if roles.setdefault(part.seed, part.role) != part.role:
            raise ConfigError(f'{path}: seed {part.seed} is in {roles[part.seed]} and in '
                              f'{part.role}; drives must not be shared')
    return SuitePlan(str(data['name']), data['width'], data['height'],
                     tuple(data['truth'] or ()), tuple(parts))


def _group(data: Any, where: str) -> _Group:
    known = {f.name: f for f in fields(_Group)}
    if not isinstance(data, Mapping) or set(data) - set(known):
        raise ConfigError(f'{where}: a group has the keys {", ".join(known)}')
    try:
        group = _Group(**data)
    except TypeError:
        raise ConfigError(f'{where}: needs role, scenarios, first_seed, drives, frames and '
                          'rate_hz') from None
    _check_names(group.scenarios, f'{where}: scenarios')
    _check_names(group.worlds, f'{where}: worlds')
    if group.role not in ROLES:
        raise ConfigError(f'{where}: role {group.role!r} is none of {", ".join(ROLES)}')
    if not re.fullmatch(r'[a-z0-9_]+', where.rpartition(' ')[2]):
        raise ConfigError(f'{where}: a group is named with small letters, digits and _')
    numbers = (group.first_seed, group.drives, group.frames, group.rate_hz, group.start_s)
    if any(isinstance(n, bool) or not isinstance(n, (int, float)) or n < 0 for n in numbers) or (
            group.drives < 1 or group.frames < 1 or not group.rate_hz > 0):
        raise ConfigError(f'{where}: drives, frames and rate_hz must be above zero, seed and '
                          'start not below')
    return group


def _check_names(data: Any, where: str) -> None:
    if not isinstance(data, list) or not all(isinstance(n, str) for n in data):
        raise ConfigError(f'{where}: {data!r} is no list of names, such as [a, b]')


def _parts(name: str, group: _Group, where: str) -> list[Part]:
    out: list[Part] = []
    seed = int(group.first_seed)
    for scenario in group.scenarios:
        own = load_scenario(str(scenario)).world
        if group.same_seeds:
            seed = int(group.first_seed)
        for world in group.worlds or [own]:
            load_world(str(world))
            for drive in range(int(group.drives)):
                label = re.sub('[^a-z0-9]+', '_', f'{scenario}_{world}'.lower())
                out.append(Part(name, f'{label}_{drive}', group.role, str(scenario), str(world),
                                seed, int(group.frames), float(group.rate_hz),
                                float(group.start_s)))
                seed += 1
    if len({p.name for p in out}) != len(out):
        raise ConfigError(f'{where}: two drives have the same name')
    return out
