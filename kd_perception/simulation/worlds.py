"""
Kinds of world: what a seed is made into. Files: ``config/worlds/<name>.yaml``.

Comes in: a name or a path. Goes out: a ``WorldSpec``, from which ``world.build_world`` builds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from kd_perception.errors import ConfigError
from kd_perception.paths import config_file
from kd_perception.simulation.plan import EGO_SPEED_MPS
from kd_perception.simulation.settings import (
    ranged,
    read_group,
    read_text,
    read_yaml,
    told,
)

LAYOUTS = ('street', 'intersection', 'highway', 'suburb')


@dataclass(frozen=True)
class Amounts:
    """
    Densities and speed of a world.

    :param speed_mps: what cars wish to drive; ``traffic``, ``people``, ``parked``: densities.
    :param events: how often cars brake and cut in and people step out; 0 for traffic that rolls
        round at a steady speed.
    :param lookalikes: how many posters, mannequins, statues and reflections.
    """

    speed_mps: float = ranged(7.5, 3., 40.)
    traffic: float = ranged(1., 0., 2.)
    people: float = ranged(1., 0., 4.)
    parked: float = ranged(1., 0., 1.)
    events: float = ranged(1., 0., 4.)
    lookalikes: float = ranged(1., 0., 3.)


@dataclass(frozen=True)
class WorldSpec:
    """
    A kind of world.

    :param layout: which generator: one of ``LAYOUTS``.
    :param alive: whether cars follow each other, brake and stop; else they roll at one speed.
    """

    name: str
    description: str
    layout: str
    alive: bool
    amounts: Amounts

    @classmethod
    def from_dict(cls, data: Any, where: str = 'world') -> WorldSpec:
        """
        Build a specification from the form of the YAML files.

        :raises ConfigError: when a key is missing, unknown or wrong.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f'{where}: needs keys and values, found {type(data).__name__}')
        names = [f.name for f in fields(cls)]
        unknown = sorted(str(k) for k in data if k not in names)
        missing = [n for n in names if n not in data]
        if unknown or missing:
            raise ConfigError(f'{where}: unknown keys {unknown}, missing keys {missing}')
        if data['layout'] not in LAYOUTS:
            raise ConfigError(f'{where}: layout {told(data["layout"])} is none of '
                              f'{", ".join(LAYOUTS)}')
        if not isinstance(data['alive'], bool):
            raise ConfigError(f'{where}: alive must be true or false, found '
                              f'{told(data["alive"])}')
        if not data['alive'] and data['layout'] != 'street':
            raise ConfigError(f'{where}: only the layout street can do without live traffic')
        amounts = read_group(Amounts, data['amounts'], f'{where}: amounts')
        if not data['alive'] and amounts.speed_mps != EGO_SPEED_MPS:
            raise ConfigError(f'{where}: without live traffic the own car drives '
                              f'{EGO_SPEED_MPS} m/s; set speed_mps to that')
        return cls(name=read_text(data['name'], f'{where}: name'),
                   description=read_text(data['description'], f'{where}: description'),
                   layout=data['layout'], alive=data['alive'], amounts=amounts)


def load_world(name: str) -> WorldSpec:
    """
    Load ``config/worlds/<name>.yaml``, or a path.

    :raises ConfigError: when it does not exist or is no world; known names are listed.
    """
    path = config_file('worlds', name)
    return WorldSpec.from_dict(read_yaml(path), str(path))
