"""
A CARLA server that is none: the module ``carla`` as far as the client of this package uses it.

What can be made without a server (transforms, weather, settings, commands) is the real wheel's
where that is installed, else the same fields here; client, world and actors are always fakes.
Every call that would go to a server is numbered in ``FakeServer.calls`` and can be made to fail.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np

STEP_FIELDS = ('synchronous_mode', 'no_rendering_mode', 'fixed_delta_seconds', 'substepping',
               'max_substep_delta_time', 'max_substeps', 'deterministic_ragdolls')
WEATHER_FIELDS = ('cloudiness', 'precipitation', 'precipitation_deposits', 'wind_intensity',
                  'sun_azimuth_angle', 'sun_altitude_angle', 'fog_density', 'fog_distance',
                  'fog_falloff', 'wetness', 'scattering_intensity', 'mie_scattering_scale',
                  'rayleigh_scattering_scale', 'dust_storm')


class _Weather:
    def __init__(self, **values: float) -> None:
        assert set(values) <= set(WEATHER_FIELDS), values
        for name in WEATHER_FIELDS:
            setattr(self, name, float(values.get(name, 0.0)))

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


_Weather.Default = _Weather(cloudiness=-1.0)  # type: ignore[attr-defined]
_Weather.ClearNoon = _Weather(sun_altitude_angle=45.0)  # type: ignore[attr-defined]
_Weather.HardRainNight = _Weather(precipitation=100.0)  # type: ignore[attr-defined]


class _Settings:
    def __init__(self) -> None:
        self.synchronous_mode = self.no_rendering_mode = self.deterministic_ragdolls = False
        self.fixed_delta_seconds: float | None = None
        self.substepping, self.max_substep_delta_time, self.max_substeps = True, 0.01, 10


def _location(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Any:
    return SimpleNamespace(x=x, y=y, z=z)


def _rotation(pitch: float = 0.0, yaw: float = 0.0, roll: float = 0.0) -> Any:
    return SimpleNamespace(pitch=pitch, yaw=yaw, roll=roll)


def _transform(location: Any = None, rotation: Any = None) -> Any:
    return SimpleNamespace(location=location or _location(), rotation=rotation or _rotation())


def _types() -> dict[str, Any]:
    names = ('Location', 'Rotation', 'Transform', 'WeatherParameters', 'WorldSettings', 'command')
    if importlib.util.find_spec('carla') is not None:
        real = importlib.import_module('carla')
        if all(hasattr(real, name) for name in names):  # not the fake of ``install``
            return {name: getattr(real, name) for name in names}
    command = SimpleNamespace(DestroyActor=lambda i: SimpleNamespace(actor_id=i))
    return dict(zip(names, (_location, _rotation, _transform, _Weather, _Settings, command)))


TYPES = _types()


def image(number: int, pixels: np.ndarray, seconds: float) -> Any:
    """Return something like ``carla.Image``, whose bytes go bad when it is collected."""
    return _Image(number, pixels, seconds)


class _Image:
    def __init__(self, number: int, pixels: np.ndarray, seconds: float) -> None:
        self.height, self.width = pixels.shape[:2]
        self._data = bytearray(pixels.tobytes())
        self.frame, self.timestamp = number, seconds

    @property
    def raw_data(self) -> memoryview:
        return memoryview(self._data).toreadonly()

    def __del__(self) -> None:
        self._data[:] = b'\xee' * len(self._data)


class _Attribute:
    def __init__(self, values: list[str]) -> None:
        self.recommended_values = values


class _Blueprint:
    def __init__(self, kind: str) -> None:
        self.id = kind
        self.values: dict[str, str] = {}
        self._known = {'role_name': []}
        if kind.startswith('vehicle.'):
            self._known['color'] = ['1,2,3', '4,5,6']
        if kind.startswith('walker.'):
            self._known.update(speed=['0.0', '1.3', '2.5'], is_invincible=[])
        if kind.startswith('sensor.'):
            self._known.update(image_size_x=[], image_size_y=[], fov=[])

    def has_attribute(self, name: str) -> bool:
        return name in self._known

    def get_attribute(self, name: str) -> _Attribute:
        return _Attribute(self._known[name])

    def set_attribute(self, name: str, value: str) -> None:
        if name not in self._known:
            raise IndexError(f'blueprint {self.id}: no attribute {name}')
        assert isinstance(value, str)
        self.values[name] = value


class _Library:
    def __init__(self, kinds: list[str]) -> None:
        self._kinds = kinds

    def filter(self, pattern: str) -> list[_Blueprint]:
        stem = pattern.rstrip('*')
        # In no order that means anything, as from a server.
        return [_Blueprint(k) for k in reversed(self._kinds) if k.startswith(stem)]

    def find(self, kind: str) -> _Blueprint:
        if kind not in self._kinds:
            raise IndexError(f"blueprint '{kind}' not found")
        return _Blueprint(kind)


class _Actor:
    def __init__(self, server: FakeServer, blueprint: _Blueprint, place: Any,
                 parent: Any) -> None:
        self.id = server.new_id()
        self._server, self.blueprint, self.place, self.parent = server, blueprint, place, parent
        self.autopilot: int | None = None
        self.callback: Any = None
        self.started = False
        server.actors[self.id] = self

    def set_autopilot(self, enabled: bool, port: int) -> None:
        self._server.call('set_autopilot')
        self.autopilot = port if enabled else None

    def listen(self, callback: Any) -> None:
        self._server.call('listen')
        self.callback = callback

    def stop(self) -> None:
        self._server.call('stop')
        self.callback, self.started = None, False

    def destroy(self) -> bool:
        self._server.call('destroy')
        self._server.actors.pop(self.id, None)
        return True

    def start(self) -> None:
        self._server.call('start')
        self.started = True

    def go_to_location(self, place: Any) -> None:
        self._server.call('go_to_location')

    def set_max_speed(self, speed: float) -> None:
        self._server.call('set_max_speed')


class _Manager:
    def __init__(self, server: FakeServer, port: int) -> None:
        self._server, self._port = server, port
        self.seed: int | None = None

    def get_port(self) -> int:
        return self._port

    def set_synchronous_mode(self, mode: bool) -> None:
        self._server.call('traffic_manager.set_synchronous_mode')
        self._server.manager_synchronous = mode

    def set_random_device_seed(self, seed: int) -> None:
        self._server.call('set_random_device_seed')
        self.seed = seed

    def update_vehicle_lights(self, actor: _Actor, do_update: bool) -> None:
        self._server.call('update_vehicle_lights')


class _World:
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def get_settings(self) -> Any:
        self._server.call('get_settings')
        return self._server.copied_settings()

    def apply_settings(self, settings: Any) -> int:
        self._server.call('apply_settings')
        self._server.settings = settings
        return self._server.number

    def get_weather(self) -> Any:
        self._server.call('get_weather')
        return self._server.weather

    def set_weather(self, weather: Any) -> None:
        self._server.call('set_weather')
        self._server.weather = weather

    def get_map(self) -> Any:
        self._server.call('get_map')
        points = [TYPES['Transform'](TYPES['Location'](float(i), 0.0, 0.5))
                  for i in range(self._server.spawn_points)]
        return SimpleNamespace(name=f'Carla/Maps/{self._server.map}',
                               get_spawn_points=lambda: points)

    def get_actors(self) -> Any:
        self._server.call('get_actors')
        found = list(self._server.actors.values())
        return SimpleNamespace(filter=lambda pattern: [
            a for a in found if a.blueprint.id.startswith(pattern.rstrip('*'))])

    def get_blueprint_library(self) -> _Library:
        self._server.call('get_blueprint_library')
        return _Library(self._server.kinds)

    def get_random_location_from_navigation(self) -> Any:
        self._server.call('get_random_location')
        return TYPES['Location'](1.0, 2.0, 0.0) if self._server.pavements else None

    def reset_all_traffic_lights(self) -> None:
        self._server.call('reset_all_traffic_lights')

    def set_pedestrians_seed(self, seed: int) -> None:
        self._server.call('set_pedestrians_seed')
        self._server.pedestrians_seed = seed

    def set_pedestrians_cross_factor(self, share: float) -> None:
        self._server.call('set_pedestrians_cross_factor')

    def spawn_actor(self, blueprint: _Blueprint, place: Any, parent: Any = None) -> _Actor:
        self._server.call('spawn_actor')
        return _Actor(self._server, blueprint, place, parent)

    def try_spawn_actor(self, blueprint: _Blueprint, place: Any,
                        parent: Any = None) -> _Actor | None:
        self._server.call('try_spawn_actor')
        if blueprint.id.startswith('vehicle.') and place.location.x in self._server.taken:
            return None
        return _Actor(self._server, blueprint, place, parent)

    def tick(self, seconds: float) -> int:
        assert seconds > 0
        self._server.call('tick')
        return self._server.tick()


class _Client:
    def __init__(self, server: FakeServer, host: str, port: int) -> None:
        self._server = server
        server.asked = (host, port)

    def set_timeout(self, seconds: float) -> None:
        self._server.timeouts.append(seconds)

    def get_client_version(self) -> str:
        return '0.9.16'

    def get_server_version(self) -> str:
        self._server.call('get_server_version')
        return self._server.version

    def get_world(self) -> _World:
        self._server.call('get_world')
        return _World(self._server)

    def get_available_maps(self) -> list[str]:
        self._server.call('get_available_maps')
        return [f'/Game/Carla/Maps/{name}' for name in self._server.maps]

    def load_world(self, name: str, reset_settings: bool = True) -> _World:
        self._server.call('load_world')
        assert not reset_settings
        self._server.map = name
        self._server.actors.clear()
        return _World(self._server)

    def get_trafficmanager(self, port: int) -> _Manager:
        self._server.call('get_trafficmanager')
        self._server.managers.append(_Manager(self._server, port))
        return self._server.managers[-1]

    def apply_batch_sync(self, commands: list[Any], do_tick: bool = False) -> list[Any]:
        self._server.call('apply_batch_sync')
        self._server.batches.append([c.actor_id for c in commands])
        for command in commands:
            self._server.actors.pop(command.actor_id, None)
        return []


class FakeServer:
    """
    What a server holds, and how it misbehaves.

    :param fail: called with (number of the call, its name) before each call; may raise.
    :param silent: kinds of camera that give no images.
    :param stray_ticks: steps that somebody else makes before each of ours.
    """

    def __init__(self) -> None:
        self.version, self.map, self.maps = '0.9.16', 'Town10HD_Opt', ['Town10HD_Opt', 'Town03']
        self.settings = TYPES['WorldSettings']()
        self.weather = TYPES['WeatherParameters'](cloudiness=12.0)
        self.kinds = ['vehicle.tesla.model3', 'vehicle.audi.a2', 'vehicle.bh.crossbike',
                      'walker.pedestrian.0001', 'walker.pedestrian.0002', 'controller.ai.walker',
                      'sensor.camera.rgb', 'sensor.camera.semantic_segmentation',
                      'sensor.camera.instance_segmentation']
        self.spawn_points, self.pavements = 12, True
        self.taken: set[float] = set()
        self.actors: dict[int, Any] = {}
        self.managers: list[_Manager] = []
        self.manager_synchronous = False
        self.pedestrians_seed: int | None = None
        self.number, self.seconds = 1000, 50.0
        self.calls: list[str] = []
        self.batches: list[list[int]] = []
        self.timeouts: list[float] = []
        self.asked: tuple[str, int] | None = None
        self.fail: Any = None
        self.silent: set[str] = set()
        self.stale = self.stray_ticks = 0
        self.late_s = 0.0
        self._next_id = 100

    def module(self) -> Any:
        """Return what takes the place of the module ``carla``."""
        return SimpleNamespace(**TYPES, Client=lambda host, port: _Client(self, host, port))

    def call(self, name: str) -> None:
        """Put a call on record, and fail if it should."""
        number = len(self.calls)
        self.calls.append(name)
        if self.fail is not None:
            self.fail(number, name)

    def new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def copied_settings(self) -> Any:
        copy = TYPES['WorldSettings']()
        for name in STEP_FIELDS:
            setattr(copy, name, getattr(self.settings, name))
        return copy

    def tick(self) -> int:
        self.number += 1 + self.stray_ticks
        self.seconds += self.settings.fixed_delta_seconds or 0.0
        for actor in list(self.actors.values()):
            kind = actor.blueprint.id.rpartition('.')[2]
            if actor.callback is None or kind in self.silent:
                continue
            pictures = [self._picture(actor.blueprint.values, kind, self.number - back)
                        for back in range(self.stale, -1, -1)]
            if self.late_s:
                threading.Timer(self.late_s, self._deliver, (actor.callback, pictures)).start()
            else:
                self._deliver(actor.callback, pictures)
        return self.number

    @staticmethod
    def _deliver(callback: Any, pictures: list[Any]) -> None:
        for picture in pictures:
            callback(picture)

    def _picture(self, values: dict[str, str], kind: str, number: int) -> Any:
        width, height = int(values['image_size_x']), int(values['image_size_y'])
        pixels = np.zeros((height, width, 4), np.uint8)
        pixels[..., 3] = 255
        if kind == 'rgb':
            pixels[...] = (10, 20, number % 256, 255)
        else:
            pixels[..., 2] = np.arange(width) % 31  # tags 29 and 30 are none
        if kind == 'instance_segmentation':
            pixels[..., 0], pixels[..., 1] = 3, 7
        return image(number, pixels, self.seconds)


def install(folder: Path) -> tuple[dict[str, str], Path]:
    """
    Make a module ``carla`` with a server of its own for child processes.

    :returns: the variables that make them find it, and the file that names every call.
    """
    log = folder / 'calls.log'
    (folder / 'carla.py').write_text(f'''
import importlib.util
import sys

spec = importlib.util.spec_from_file_location('fake_carla', {str(Path(__file__).resolve())!r})
fake = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fake)
server = fake.FakeServer()

def record(number, name):
    with open({str(log)!r}, 'a') as stream:
        print(name, file=stream)

server.fail = record
globals().update(vars(server.module()))
''')
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get('PYTHONPATH')])])
    return {'PYTHONPATH': path}, log
