"""
Strict reading of small groups of numbers from YAML: camera and content of a scenario, worlds.

Comes in: a file, or a mapping and the dataclass that it should fill. Goes out: the dataclass, or
one line that names key, value and range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, Field, field, fields
from pathlib import Path
import reprlib
from typing import Any, TypeVar

import yaml

from kd_perception.errors import ConfigError, first_line

T = TypeVar('T')


def ranged(default: float, low: float, high: float) -> Any:
    """Return a dataclass field for a number from ``low`` to ``high``."""
    return field(default=default, metadata={'range': (low, high)})


@dataclass(frozen=True)
class CameraSettings:
    """
    How the camera is mounted and what it does to the light. The defaults are a good one.

    :param fov_deg: horizontal field of view; ``height_m``: above the road; ``pitch_rad``: down.
    :param jitter: pitch and heave of a smooth road, 1 as usual; ``roughness``: pitch, roll and
        heave of a bad one, 0 … 1 for about a degree.
    :param auto_exposure: 0 fixed … 1 follows the light in full, ``exposure_lag_s`` behind it.
    :param shutter_s: exposure time, which smears what passes by.
    :param shot_noise: noise that grows with the root of the light; it is small beside ``grain``
        of the scenario in the dark.
    :param drops: rain drops on the lens, ``dirt``: smudges, ``flare``: stray light of the sun;
        each 0 … 1.
    """

    fov_deg: float = ranged(80., 20., 130.)
    height_m: float = ranged(1.55, .4, 4.)
    pitch_rad: float = ranged(.05, -.5, .7)
    jitter: float = ranged(1., 0., 10.)
    roughness: float = ranged(0., 0., 3.)
    auto_exposure: float = ranged(0., 0., 1.)
    exposure_lag_s: float = ranged(.7, 0., 10.)
    shutter_s: float = ranged(0., 0., .1)
    shot_noise: float = ranged(0., 0., 1.)
    drops: float = ranged(0., 0., 1.)
    dirt: float = ranged(0., 0., 1.)
    flare: float = ranged(0., 0., 1.)

    @property
    def ideal(self) -> bool:
        """Tell whether the picture needs no more than exposure, tone curve and grain."""
        return not (self.auto_exposure or self.shutter_s or self.shot_noise or self.drops
                    or self.dirt or self.flare)


@dataclass(frozen=True)
class Content:
    """
    Who is on the road, as factors on what the world brings; 1 as usual.

    :param people, traffic, parked: density of pedestrians, of moving and of parked cars.
    :param events: how often cars brake and cut in and people step out.
    :param lookalikes: how many posters, mannequins, statues and reflections.
    :param riders: how many people on bicycles; 0 as usual, 1 for one every 65 m and direction.
    :param headway_s: time gap that the own car keeps to the one before it; 0 for the usual.
    :param palette: 0 for the usual colours of houses, cars and clothes, 1 for others.
    """

    people: float = ranged(1., 0., 8.)
    traffic: float = ranged(1., 0., 2.)
    parked: float = ranged(1., 0., 1.)
    events: float = ranged(1., 0., 4.)
    lookalikes: float = ranged(1., 0., 3.)
    headway_s: float = ranged(0., 0., 20.)
    palette: float = ranged(0., 0., 1.)
    riders: float = ranged(0., 0., 8.)

    def __repr__(self) -> str:
        # Drives are told apart by this text, so those without riders keep the one they had.
        told = [f'{f.name}={getattr(self, f.name)!r}' for f in fields(self)
                if f.name != 'riders' or self.riders]
        return f'Content({", ".join(told)})'


def read_group(kind: type[T], data: Any, where: str) -> T:
    """
    Fill a dataclass of ranged numbers; what is left out keeps its default.

    :raises ConfigError: for an unknown key, a value that is no number, or one out of range.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f'{where}: needs keys and values, found {type(data).__name__}')
    known: dict[str, Field[Any]] = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(str(k) for k in data if k not in known)
    if unknown:
        raise ConfigError(f'{where}: unknown keys {unknown}; known: {", ".join(known)}')
    values = {}
    for name, value in data.items():
        number = read_number(value, f'{where}.{name}')
        low, high = known[name].metadata['range']
        if not low <= number <= high:
            raise ConfigError(f'{where}.{name}: {number:g} must be {low:g} to {high:g}')
        values[name] = number
    return kind(**values)


def read_number(value: Any, where: str) -> float:
    """
    Return a finite number below 1000.

    :raises ConfigError: when it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f'{where}: needs a number, found {told(value)}{_spelled(value)}')
    if not -1e3 < value < 1e3:
        raise ConfigError(f'{where}: {told(value)} is out of range')
    return float(value)


def read_text(value: Any, where: str) -> str:
    """
    Return a text.

    :raises ConfigError: when it is none.
    """
    if not isinstance(value, str):
        raise ConfigError(f'{where}: needs text (in quotes, if it is a number or a date), found '
                          f'{told(value)}')
    return value


def read_yaml(path: Path) -> Any:
    """
    Return what a YAML file holds.

    :raises ConfigError: when it cannot be read as such.
    """
    try:
        return yaml.safe_load(path.read_text())
    # The loader lets through what its constructors find: no such day, a number of 5000 digits.
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f'{path}: not readable as YAML: {first_line(error)}') from None


def told(value: Any) -> str:
    """Return a value for a message; short, for a few lines of YAML can stand for gigabytes."""
    short = reprlib.Repr()
    short.maxlevel = 1
    return short.repr(value)


def _spelled(value: Any) -> str:
    """Return a hint for numbers that YAML 1.1 takes for text, such as 1e-3 and -.5."""
    try:
        number = float(value) if isinstance(value, str) else None
    except ValueError:
        return ''
    return '' if number is None else f' (text to YAML; write {yaml.safe_dump(number).split()[0]})'
