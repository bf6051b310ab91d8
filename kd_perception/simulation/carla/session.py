"""
A drive in a CARLA server, step by step.

``CarlaSession`` connects, puts the server into synchronous mode as its only ticker, sets weather,
traffic and cameras up, and gives one ``CarlaFrame`` per call. Whatever ends it, also in the middle
of its set-up, cameras and actors are removed and the settings of the server put back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import socket
from typing import Any
import weakref

from kd_perception.errors import first_line, SimulationError, some
from kd_perception.simulation.camera import CameraModel
from kd_perception.simulation.carla.cameras import Cameras, CarlaFrame
from kd_perception.simulation.carla.spec import CarlaSpec
from kd_perception.simulation.carla.traffic import Traffic
from kd_perception.simulation.carla.undo import Undo
from kd_perception.simulation.carla.weather import load_scene, parameters
from kd_perception.simulation.carla.wheel import import_carla, release, WHEEL

_LOADING_S = 120.0
# Vehicles are spawned above the road and fall; until they stand, the picture sways.
_SETTLING_S = 0.5
# A camera's exposure begins anywhere and follows what it sees.
_EXPOSURE_FRAMES = 10
_SUBSTEP_S, _SUBSTEPS = 0.01, 10


class CarlaSession:
    """
    A context manager; must be used from one thread.

    It is closed as well when it is collected or the process ends, because a server left in
    synchronous mode stands still for everybody.

    :raises SimulationError: when the server does not answer, is of another version, is ticked by
        somebody else, or does not do what it was asked for.
    """

    def __init__(self, spec: CarlaSpec) -> None:
        self.spec = spec
        #: What a reader of results must know of this drive.
        self.notes: tuple[str, ...] = ()
        self._api, self._client, self._world = connect(spec)
        self._scene = load_scene(spec.scenario, self._api)
        #: Intrinsics, which the field of view decides.
        self.camera = CameraModel.from_fov(spec.width, spec.height, self._scene.camera.fov_deg)
        self._number = 0
        self._undo = Undo(spec.server, self._client)
        self._closing = weakref.finalize(self, self._undo.run)
        try:
            with _answering(spec.server):
                self._load_map()
                self.map = str(self._world.get_map().name).rpartition('/')[2]
                self._set_up()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> CarlaSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the server as it was found; may be called again."""
        self._closing()

    def frame(self) -> CarlaFrame:
        """
        Advance the world by one frame and return what the cameras saw.

        :raises SimulationError: when the server does not answer in time, or somebody else ticks.
        """
        with _answering(self.spec.server):
            for _ in range(self.spec.ticks):
                self._tick()
        return self._cameras.collect(self._number)

    def _load_map(self) -> None:
        spec, here = self.spec, self._world.get_map().name
        if not spec.map or str(here).rpartition('/')[2] == spec.map:
            return
        self._client.set_timeout(max(spec.timeout_s, _LOADING_S))
        self._world = self._client.load_world(spec.map, False)
        self._client.set_timeout(spec.timeout_s)

    def _set_up(self) -> None:
        spec, scene, world, undo = self.spec, self._scene, self._world, self._undo
        others = len(world.get_actors().filter('vehicle.*'))
        weather = world.get_weather()
        undo.add('weather', lambda: world.set_weather(weather))
        world.set_weather(parameters(scene, self._api))
        # A port of its own: on one that is taken, another client's manager would answer.
        manager = self._client.get_trafficmanager(_free_port())
        undo.add('traffic manager', lambda: manager.set_synchronous_mode(False))
        manager.set_synchronous_mode(True)
        manager.set_random_device_seed(spec.seed)
        found = world.get_settings()
        undo.add('settings of the world', lambda: world.apply_settings(found))
        world.apply_settings(_synchronous(world.get_settings(), spec.step_s))
        traffic = Traffic(self._api, self._client, world, manager, spec, undo)
        ego = traffic.spawn_ego()
        wanted = (round(spec.vehicles * scene.content.traffic),
                  round(spec.walkers * scene.content.people))
        there = traffic.spawn_vehicles(wanted[0]), traffic.spawn_walkers(wanted[1])
        self._tick()
        traffic.start_walkers()
        for _ in range(round(_SETTLING_S / spec.step_s)):
            self._tick()
        self._cameras = Cameras(self._api, world, ego, spec, scene, undo)
        for _ in range(_EXPOSURE_FRAMES):
            self.frame()
        self.notes = _notes(others, wanted, there)

    def _tick(self) -> None:
        number = int(self._world.tick(self.spec.timeout_s))
        if self._number and number != self._number + 1:
            raise SimulationError(
                f'CARLA at {self.spec.server}: frame {number} came after {self._number}: another '
                'client ticks this server; only one may')
        self._number = number


def connect(spec: CarlaSpec) -> tuple[Any, Any, Any]:
    """
    Return the module ``carla``, a client and the world of a server that can be driven.

    Nothing is changed, so this serves as a check before a run too.

    :raises ConfigError: for a scenario that is unknown.
    :raises SimulationError: when the client is missing; when the server does not answer, is of
        another version, has no such map, or is in synchronous mode already.
    """
    api = import_carla()
    load_scene(spec.scenario, api)
    with _answering(spec.server):
        client = api.Client(spec.host, spec.port)
        client.set_timeout(spec.timeout_s)
        try:
            server = client.get_server_version()
        except RuntimeError as error:
            reason = first_line(error)
            told = '' if reason.startswith('time-out') else f' ({reason})'
            raise SimulationError(
                f'no CARLA server answers at {spec.server} within {spec.timeout_s:g} s{told}; '
                'start it (./CarlaUE4.sh -RenderOffScreen), or give another host and port') \
                from None
        own = client.get_client_version()
        if release(own) != release(server):
            raise SimulationError(
                f'CARLA at {spec.server} is version {server}, the client here is {own}; they do '
                f'not fit: start a server {own}, or pip install carla=='
                f'{".".join(map(str, release(server))) or WHEEL}')
        world = client.get_world()
        if world.get_settings().synchronous_mode:
            raise SimulationError(
                f'CARLA at {spec.server} is in synchronous mode already: another client (a ROS '
                'bridge, a traffic script, another camera) ticks it, or one died; end that '
                "client, or free the server by CARLA's PythonAPI/util/config.py --no-sync")
        if spec.map:
            maps = sorted(str(m).rpartition('/')[2] for m in client.get_available_maps())
            if spec.map not in maps:
                raise SimulationError(f'CARLA at {spec.server} has no map {spec.map!r}; it has '
                                      f'{some(maps, 30)}')
    return api, client, world


@contextmanager
def _answering(server: str) -> Iterator[None]:
    """Turn what the client raises (RuntimeError, for all it knows) into one line."""
    try:
        yield
    except (RuntimeError, IndexError, OverflowError) as error:
        raise SimulationError(f'CARLA at {server}: {first_line(error)}') from None


def _synchronous(settings: Any, step_s: float) -> Any:
    """Return ``settings`` changed for a client that ticks."""
    settings.synchronous_mode = True
    settings.fixed_delta_seconds = step_s
    settings.no_rendering_mode = False  # cameras would see nothing
    settings.deterministic_ragdolls = True
    settings.substepping = True
    if settings.max_substep_delta_time * settings.max_substeps < step_s:
        settings.max_substep_delta_time, settings.max_substeps = _SUBSTEP_S, _SUBSTEPS
    return settings


def _notes(others: int, wanted: tuple[int, int], there: tuple[int, int]) -> tuple[str, ...]:
    notes = []
    if others:
        notes.append(f'The CARLA world held {others} vehicles of others when the drive began.')
    for name, asked, done in zip(('vehicles', 'pedestrians'), wanted, there):
        if done < asked:
            notes.append(f'There was place for {done} of {asked} {name} in the CARLA world.')
    return tuple(notes)


def _free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('', 0))
        return int(probe.getsockname()[1])
