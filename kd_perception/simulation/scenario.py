"""
Scenarios: the weather and light in which the street is drawn.

A scenario changes light, air and sensor only, never what stands where: labels and instance ids of
one seed and time are the same in all scenarios. Files: ``config/scenarios/<name>.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import yaml

from kd_perception.errors import ConfigError
from kd_perception.paths import config_file

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Scenario:
    """
    Light, air and sensor; colours are linear RGB about 0 … 1.

    :param sun: direction to the sun (forward, left, up) before the seed turns it about z.
    :param fog: extinction per metre at short range.
    :param clouds: share of sky covered, 0 … 1.
    :param wet: wetness of the road, 0 … 1; ``rain``: streaks in the air, 0 … 1.
    :param night: strength of lamps, headlights and lit windows, 0 … 1.
    :param grain: amplitude of sensor noise; ``balance``: white balance gains.
    """

    name: str
    description: str
    sun: Color
    sun_color: Color
    ambient: Color
    fog_color: Color
    zenith: Color
    horizon: Color
    balance: Color
    fog: float
    clouds: float
    wet: float
    rain: float
    night: float
    grain: float
    exposure: float

    @classmethod
    def from_dict(cls, data: Any, where: str = 'scenario') -> Scenario:
        """
        Build a scenario from the form of the YAML files.

        :raises ConfigError: when a key is missing, unknown, of a wrong type or out of range.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f'{where}: needs keys and values, found {type(data).__name__}')
        names = [f.name for f in fields(cls)]
        unknown = sorted(str(k) for k in data if k not in names)
        missing = [n for n in names if n not in data]
        if unknown or missing:
            raise ConfigError(f'{where}: unknown keys {unknown}, missing keys {missing}')
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = data[field.name]
            path = f'{where}: {field.name}'
            if field.type == 'Color':
                values[field.name] = _color(value, path, signed=field.name == 'sun')
            elif field.type == 'float':
                values[field.name] = _number(value, path)
            else:
                values[field.name] = str(value)
        for name in ('clouds', 'wet', 'rain', 'night', 'fog', 'grain'):
            if not 0 <= values[name] <= 1:
                raise ConfigError(f'{where}: {name} is {values[name]}, must be 0 to 1')
        if values['sun'][2] <= 0:
            raise ConfigError(f'{where}: sun must stand above the horizon (third value > 0)')
        return cls(**values)


def load_scenario(name: str) -> Scenario:
    """
    Load ``config/scenarios/<name>.yaml``, or a path.

    :raises ConfigError: when it does not exist or is not a scenario; known names are listed.
    """
    path = config_file('scenarios', name)
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f'{path}: not readable as YAML: {str(error).splitlines()[0]}') from None
    return Scenario.from_dict(data, str(path))


def _number(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f'{path}: needs a number, found {value!r}')
    if not -1e3 < value < 1e3:
        raise ConfigError(f'{path}: {value} is out of range')
    return float(value)


def _color(value: Any, path: str, signed: bool) -> Color:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise ConfigError(f'{path}: needs three numbers, found {value!r}')
    x, y, z = (_number(v, path) for v in value)
    if not signed and min(x, y, z) < 0:
        raise ConfigError(f'{path}: colours are not negative, found {value!r}')
    return x, y, z
