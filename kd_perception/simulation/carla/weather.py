"""
From a scenario of this package to CARLA's weather, or one of CARLA's own presets by name.

Goes out: weather by the fields of ``carla.WeatherParameters``, the camera's mount and lens, and
how much traffic there is. The mapping keeps the meaning of the values (share of clouds, of wet
road, strength of the rain, height of the sun); no picture of a server was held against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import Any

from kd_perception.errors import ConfigError
from kd_perception.simulation.scenario import load_scenario, Scenario
from kd_perception.simulation.settings import CameraSettings, Content

# Extinction per metre at which the mapped density reaches 63 of 100; 0.028 (dense_fog) becomes 75.
_FOG_SCALE = 0.02
_CHANGES = ('camera.', 'content.')


@dataclass(frozen=True)
class Scene:
    """
    Weather, camera and traffic of a drive.

    :param preset: name of a preset of CARLA; empty where ``weather`` counts.
    :param weather: values by field of ``carla.WeatherParameters``.
    """

    preset: str
    weather: Mapping[str, float]
    camera: CameraSettings
    content: Content


def load_scene(name: str, api: Any) -> Scene:
    """
    Return the scene that a scenario's name stands for.

    :param name: as for ``load_scenario``; or a preset such as ``HardRainNoon``, behind which only
        ``camera.*`` and ``content.*`` may be changed.
    :param api: the module ``carla``.
    :raises ConfigError: when it is neither, or asks for another world of the embedded street.
    """
    base, *changes = name.split(',')
    if any(change.strip().startswith('world=') for change in changes):
        raise ConfigError(f'scenario {name!r}: CARLA has maps, no worlds; choose one by '
                          'carla_map')
    known = presets(api)
    if base in known:
        foreign = [c for c in changes if not c.strip().startswith(_CHANGES)]
        if foreign:
            raise ConfigError(f'scenario {name!r}: {foreign[0]!r} cannot change a preset of '
                              'CARLA; only camera.* and content.* can')
        plain = load_scenario(','.join(['clear', *changes]))
        return Scene(base, {}, plain.camera, plain.content)
    try:
        scenario = load_scenario(name)
    except ConfigError as error:
        raise ConfigError(f'{error}; or a preset of CARLA: {", ".join(known)}') from None
    return Scene('', weather_of(scenario), scenario.camera, scenario.content)


def presets(api: Any) -> tuple[str, ...]:
    """Return the names of CARLA's presets; its ``Default`` leaves the weather to the map."""
    kind = api.WeatherParameters
    return tuple(n for n in sorted(vars(kind))
                 if n[:1].isupper() and isinstance(getattr(kind, n), kind))


def parameters(scene: Scene, api: Any) -> Any:
    """Return ``carla.WeatherParameters`` of a scene."""
    if scene.preset:
        return getattr(api.WeatherParameters, scene.preset)
    return api.WeatherParameters(**scene.weather)


def weather_of(scenario: Scenario) -> dict[str, float]:
    """
    Return CARLA's weather of a scenario.

    The sun's height is the scenario's by day and midnight in full ``night``; on which side it
    stands is left to CARLA, whose origin of the azimuth depends on the map.
    """
    forward, left, up = scenario.sun
    elevation = math.degrees(math.atan2(up, math.hypot(forward, left)))
    return {
        'cloudiness': 100.0 * scenario.clouds,
        'precipitation': 100.0 * scenario.rain,
        'precipitation_deposits': 100.0 * scenario.wet,
        'wetness': 100.0 * scenario.wet,
        'wind_intensity': 10.0 + 90.0 * scenario.rain,
        'sun_altitude_angle': (1.0 - scenario.night) * elevation - 90.0 * scenario.night,
        'fog_density': 100.0 * -math.expm1(-scenario.fog / _FOG_SCALE),
        # From here on as in CARLA's own presets for the day.
        'sun_azimuth_angle': -1.0, 'fog_distance': 0.75, 'fog_falloff': 0.1,
        'scattering_intensity': 1.0, 'mie_scattering_scale': 0.03,
        'rayleigh_scattering_scale': 0.0331, 'dust_storm': 0.0,
    }
