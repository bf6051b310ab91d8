"""
Scenarios: the weather and light in which a world is drawn, the camera, and who is on the road.

A weather changes light, air and sensor only: ``clear``, ``sunset``, ``overcast``, ``dense_fog``,
``rain``, ``night``, ``night_rain`` and ``glare`` of one world, seed and time share labels,
instance ids and depth. ``crowd``, ``cyclists`` and ``far_small`` change the content. Files:
``config/scenarios/<name>.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
import hashlib
import math
from typing import Any

import yaml

from kd_perception.errors import ConfigError
from kd_perception.paths import config_file, share_directory
from kd_perception.simulation.settings import (
    CameraSettings,
    Content,
    read_group,
    read_number,
    read_text,
    read_yaml,
    told,
)

Color = tuple[float, float, float]
_UNIT = (0., 1.)
# Without exposure or a gain a picture is black, and pictures are kept in 16 bits while they are
# drawn, so that a light of hundreds is infinite.
_RANGES = {**dict.fromkeys(('clouds', 'wet', 'rain', 'night', 'fog', 'grain'), _UNIT),
           'exposure': (.01, 20.), 'balance': (.01, 20.), 'sun': (-1e3, 1e3)}
_LIGHT = (0., 20.)


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
    :param world: name of a world or path of its YAML; ``camera``, ``content``: see settings.
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
    world: str = 'street'
    camera: CameraSettings = field(default_factory=CameraSettings)
    content: Content = field(default_factory=Content)

    @property
    def casts_shadows(self) -> bool:
        """Tell whether the sun is strong enough for shadows; as in ``common.glsl``."""
        return self.sun_color[0] + self.sun_color[2] > .1

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
        missing = [n for n in names if n not in data and n not in ('world', 'camera', 'content')]
        if unknown or missing:
            raise ConfigError(f'{where}: unknown keys {unknown}, missing keys {missing}')
        values: dict[str, Any] = {
            'camera': read_group(CameraSettings, data.get('camera', {}), f'{where}: camera'),
            'content': read_group(Content, data.get('content', {}), f'{where}: content')}
        for item in fields(cls):
            path = f'{where}: {item.name}'
            span = _RANGES.get(item.name, _LIGHT)
            if item.type == 'Color':
                values[item.name] = _color(data[item.name], path, span)
            elif item.type == 'float':
                values[item.name] = _within(read_number(data[item.name], path), path, span)
            elif item.type == 'str' and item.name in data:
                values[item.name] = read_text(data[item.name], path)
        if values['sun'][2] <= 0:
            raise ConfigError(f'{where}: sun must stand above the horizon (third value > 0)')
        if math.hypot(*values['sun']) < .01:
            raise ConfigError(f'{where}: sun {told(data["sun"])} is too short for a direction; '
                              'give it a length of about 1')
        return cls(**values)


def load_scenario(name: str) -> Scenario:
    """
    Load ``config/scenarios/<name>.yaml``, or a path, with changes behind commas.

    ``'night,world=highway,camera.fov_deg=60,fog=0.01'`` is the night with another world, lens and
    air, wherever the name of a scenario is asked for.

    :raises ConfigError: when it does not exist or is not a scenario; known names are listed.
    """
    base, *changes = name.split(',')
    path = config_file('scenarios', base)
    data = read_yaml(path)
    if not changes:
        return Scenario.from_dict(data, str(path))
    return Scenario.from_dict(_changed(data, changes, name), f'scenario {name!r}')


def scenario_sha256(name: str) -> str:
    """Return the digest of a scenario's file in hex; empty for those of this package."""
    base = name.partition(',')[0]
    try:
        path = config_file('scenarios', base)
    except ConfigError:
        return ''  # a preset of CARLA
    own = path != share_directory() / 'config' / 'scenarios' / f'{base}.yaml'
    return hashlib.sha256(path.read_bytes()).hexdigest() if own else ''


def scenario_name(base: str, *, world: str = '', changes: tuple[str, ...] = ()) -> str:
    """Return the name with ``world`` and ``KEY=VALUE`` changes, for ``load_scenario``."""
    return ','.join([base, *([f'world={world}'] if world else []), *changes])


def _changed(data: Any, changes: list[str], where: str) -> dict[str, Any]:
    """Return ``data`` with ``a=1`` and ``a.b=2`` applied; values are read as YAML."""
    if not isinstance(data, Mapping):
        raise ConfigError(f'{where}: is no scenario that could be changed')
    out = dict(data)
    for change in changes:
        key, equals, text = change.strip().partition('=')
        if not equals or not key:
            raise ConfigError(f'scenario {where!r}: {change!r} must read key=value, '
                              'as in night,world=highway,camera.fov_deg=60')
        try:
            # Commas separate changes, so triples are given as 1/2/3.
            value = ([yaml.safe_load(t) for t in text.split('/')] if text.count('/') == 2
                     and key != 'world' else yaml.safe_load(text))
        except (yaml.YAMLError, ValueError, RecursionError):
            raise ConfigError(f'scenario {where!r}: the value of {change!r} is not readable') \
                from None
        group, dot, inner = key.partition('.')
        if dot:
            known = out.get(group, {})
            out[group] = {**(known if isinstance(known, Mapping) else {}), inner: value}
        else:
            out[group] = value
    return out


def _color(value: Any, path: str, span: tuple[float, float]) -> Color:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise ConfigError(f'{path}: needs three numbers, found {told(value)}')
    x, y, z = (_within(read_number(v, f'{path}[{i}]'), f'{path}[{i}]', span)
               for i, v in enumerate(value))
    return x, y, z


def _within(number: float, path: str, span: tuple[float, float]) -> float:
    low, high = span
    if not low <= number <= high:
        raise ConfigError(f'{path}: {number:g} must be {low:g} to {high:g}')
    return number
