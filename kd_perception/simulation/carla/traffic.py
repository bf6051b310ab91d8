"""
Who is on the road in CARLA: the own vehicle, cars and pedestrians, all chosen by one seed.

Cars are driven by a traffic manager of our own; pedestrians by CARLA's walker controllers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kd_perception.errors import SimulationError
from kd_perception.simulation.carla.spec import CarlaSpec
from kd_perception.simulation.carla.undo import spawn_into, Undo

# A passenger car that every 0.9 release has, else any.
_EGO = 'vehicle.tesla.model3'
_CROSSING_SHARE = 0.1
_WALKING = 1  # of the speeds that a pedestrian recommends: standing, walking, running


class Traffic:
    """
    Actors of a drive.

    :param api: the module ``carla``.
    :param manager: traffic manager that drives the vehicles.
    :param undo: gets what removes all actors in one batch.
    """

    def __init__(self, api: Any, client: Any, world: Any, manager: Any, spec: CarlaSpec,
                 undo: Undo) -> None:
        self._api, self._client, self._world, self._manager = api, client, world, manager
        self._server = spec.server
        self._draw = np.random.default_rng(spec.seed)
        self._library = world.get_blueprint_library()
        self._points = self._shuffled(world.get_map().get_spawn_points())
        self._actors: list[Any] = []
        self._controllers: list[Any] = []
        undo.add('vehicles and walkers', self._destroy)
        undo.add('walker controllers', self._stop_walkers)
        world.reset_all_traffic_lights()  # wherever in their cycle they are
        world.set_pedestrians_seed(spec.seed)
        world.set_pedestrians_cross_factor(_CROSSING_SHARE)

    def spawn_ego(self) -> Any:
        """
        Return the own vehicle, driven like the others.

        :raises SimulationError: when there is no place for it.
        """
        models = self._library.filter(_EGO) or self._library.filter('vehicle.*')
        if not models:
            raise SimulationError(f'CARLA at {self._server}: has no vehicles')
        ego = self._vehicle(min(models, key=lambda m: str(m.id)), 'hero')
        if ego is None:
            raise SimulationError(
                f'CARLA at {self._server}: no free place for the own vehicle on '
                f'{self._world.get_map().name}; other vehicles stand on its spawn points: end '
                'their clients, or load the map anew with carla_map')
        return ego

    def spawn_vehicles(self, wanted: int) -> int:
        """Spawn up to ``wanted`` vehicles; return how many there was place for."""
        models = sorted(self._library.filter('vehicle.*'), key=lambda m: str(m.id))
        done = 0
        while done < wanted and self._points and models:
            model = models[int(self._draw.integers(len(models)))]
            if self._vehicle(model, 'autopilot') is None:
                break
            done += 1
        return done

    def spawn_walkers(self, wanted: int) -> int:
        """
        Spawn up to ``wanted`` pedestrians; return how many there was place for.

        They stand until ``start_walkers``, since their controllers need a step to find them.
        """
        models = sorted(self._library.filter('walker.pedestrian.*'), key=lambda m: str(m.id))
        if not models:
            return 0
        for _ in range(wanted):
            model = models[int(self._draw.integers(len(models)))]
            place = self._world.get_random_location_from_navigation()
            if place is None:  # a map without pavements
                break
            if model.has_attribute('is_invincible'):
                model.set_attribute('is_invincible', 'false')
            # None where somebody stands there already.
            walker = self._spawn(model, self._api.Transform(place))
            if walker is None:
                continue
            control = self._library.find('controller.ai.walker')
            controller = self._spawn(control, self._api.Transform(), walker)
            if controller is not None:
                self._controllers.append((controller, _speed(model)))
        return len(self._controllers)

    def start_walkers(self) -> None:
        """Send everybody to some place."""
        for controller, speed in self._controllers:
            controller.start()
            place = self._world.get_random_location_from_navigation()
            if place is not None:
                controller.go_to_location(place)
            controller.set_max_speed(speed)

    def _vehicle(self, model: Any, role: str) -> Any:
        """Return a vehicle at the next free spawn point, or None where there is none left."""
        if model.has_attribute('color'):
            colors = list(model.get_attribute('color').recommended_values)
            if colors:
                model.set_attribute('color', colors[int(self._draw.integers(len(colors)))])
        model.set_attribute('role_name', role)
        while self._points:
            vehicle = self._spawn(model, self._points.pop())
            if vehicle is not None:
                vehicle.set_autopilot(True, self._manager.get_port())
                # Headlights by night and in fog.
                self._manager.update_vehicle_lights(vehicle, True)
                return vehicle
        return None

    def _spawn(self, model: Any, place: Any, parent: Any = None) -> Any:
        return spawn_into(self._actors, self._world.try_spawn_actor, model, place,
                          *([] if parent is None else [parent]))

    def _shuffled(self, points: Any) -> list[Any]:
        points = list(points)
        return [points[i] for i in self._draw.permutation(len(points))]

    def _stop_walkers(self) -> None:
        for controller, _ in self._controllers:
            controller.stop()

    def _destroy(self) -> None:
        # Controllers before their pedestrians, and the own vehicle last.
        actors = [actor for actor in self._actors[::-1] if actor is not None]
        if actors:
            self._client.apply_batch_sync(
                [self._api.command.DestroyActor(actor.id) for actor in actors], False)


def _speed(model: Any) -> float:
    """Return the walking speed that a pedestrian recommends, in m/s."""
    if model.has_attribute('speed'):
        speeds = list(model.get_attribute('speed').recommended_values)
        if len(speeds) > _WALKING:
            return float(speeds[_WALKING])
    return 1.4
