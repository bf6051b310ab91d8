"""
What a robustness suite consists of. Files: ``config/suites/<name>.yaml``.

Comes in: a name or a path. Goes out: a ``SuitePlan``, the list of drives that belong to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
import re
from typing import Any

from kd_perception.cli.recording import check_times, TRUTH
from kd_perception.errors import ConfigError, SimulationError
from kd_perception.paths import config_file
from kd_perception.simulation.camera import CameraModel
from kd_perception.simulation.scenario import load_scenario
from kd_perception.simulation.settings import read_text, read_yaml, told
from kd_perception.simulation.worlds import load_world

ROLES = ('train', 'validation', 'test')
# More is a slip of the finger, and a plan is a list in memory.
_MOST_DRIVES = 10_000
_LAST_SEED = 2**32 - 1


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
    data = read_yaml(path)
    wanted = {'name', 'width', 'height', 'truth', 'groups'}
    if not isinstance(data, Mapping) or set(data) != wanted:
        raise ConfigError(f'{path}: a suite has exactly the keys {", ".join(sorted(wanted))}')
    if not isinstance(data['groups'], Mapping) or not data['groups']:
        raise ConfigError(f'{path}: groups needs at least one group of drives')
    name = read_text(data['name'], f'{path}: name')
    for side in ('width', 'height'):
        _whole(data[side], f'{path}: {side}', 1, 2**16)
    try:
        CameraModel.from_fov(data['width'], data['height'])
    except SimulationError as error:
        raise ConfigError(f'{path}: {error}') from None
    truth = data['truth'] or []
    _check_names(truth, f'{path}: truth')
    unknown = sorted(set(truth) - set(TRUTH))
    if unknown:
        raise ConfigError(f'{path}: truth {unknown[0]!r}: known are {", ".join(TRUTH)}')
    parts = [p for key, value in data['groups'].items()
             for p in _parts(str(key), _group(value, f'{path}: {key}'), f'{path}: {key}')]
    roles: dict[int, str] = {}
    for part in parts:
        if roles.setdefault(part.seed, part.role) != part.role:
            raise ConfigError(f'{path}: seed {part.seed} is in {roles[part.seed]} and in '
                              f'{part.role}; drives must not be shared')
    return SuitePlan(name, data['width'], data['height'], tuple(truth), tuple(parts))


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
        raise ConfigError(f'{where}: role {told(group.role)} is none of {", ".join(ROLES)}')
    if not re.fullmatch(r'[a-z0-9_]+', where.rpartition(' ')[2]):
        raise ConfigError(f'{where}: a group is named with small letters, digits and _')
    if not group.scenarios:
        raise ConfigError(f'{where}: scenarios needs at least one name')
    if not isinstance(group.same_seeds, bool):
        raise ConfigError(f'{where}: same_seeds must be true or false, found '
                          f'{told(group.same_seeds)}')
    _whole(group.drives, f'{where}: drives', 1, _MOST_DRIVES)
    drives = group.drives * len(group.scenarios) * max(len(group.worlds), 1)
    _whole(group.first_seed, f'{where}: first_seed', 0, _LAST_SEED - drives)
    _whole(group.frames, f'{where}: frames', 1, 10**9)
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) or v > 1e9
           for v in (group.rate_hz, group.start_s)):
        raise ConfigError(f'{where}: rate_hz and start_s must be numbers')
    try:
        check_times(group.frames, group.rate_hz, group.start_s)
    except ConfigError as error:
        raise ConfigError(f'{where}: {error}') from None
    return group


def _whole(value: Any, where: str, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f'{where}: {told(value)} must be a whole number, {low} to {high}')


def _check_names(data: Any, where: str) -> None:
    if not isinstance(data, list) or not all(isinstance(n, str) for n in data):
        raise ConfigError(f'{where}: {told(data)} is no list of names, such as [a, b]')
    if len(set(data)) != len(data):
        raise ConfigError(f'{where}: {told(data)} has a name twice')


def _parts(name: str, group: _Group, where: str) -> list[Part]:
    out: list[Part] = []
    seed = group.first_seed
    for scenario in group.scenarios:
        own = load_scenario(scenario).world
        if group.same_seeds:
            seed = group.first_seed
        for world in group.worlds or [own]:
            load_world(world)
            for drive in range(group.drives):
                label = re.sub('[^a-z0-9]+', '_', f'{scenario}_{world}'.lower())
                out.append(Part(name, f'{label}_{drive}', group.role, scenario, world, seed,
                                group.frames, float(group.rate_hz), float(group.start_s)))
                seed += 1
    if len({p.name for p in out}) != len(out):
        raise ConfigError(f'{where}: two drives have the same name')
    return out
