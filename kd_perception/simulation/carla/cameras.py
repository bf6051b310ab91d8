"""
The cameras of a drive: same pose, size and lens, and one frame of all of them per step.

Goes out: ``CarlaFrame``. Images come in threads of the client, each into the queue of its camera;
a frame is put together from those that bear the number of the step that was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
import math
import queue
import time
from typing import Any

import numpy as np

from kd_perception.classes import load_class_set
from kd_perception.errors import SimulationError
from kd_perception.simulation.carla import images
from kd_perception.simulation.carla.spec import CarlaSpec
from kd_perception.simulation.carla.undo import spawn_into, Undo
from kd_perception.simulation.carla.weather import Scene

COLOUR, SEMANTIC, INSTANCE = 'rgb', 'semantic_segmentation', 'instance_segmentation'
# Above the bonnet of a passenger car, whose origin is between its wheels.
_FORWARD_M = 2.0


@dataclass(frozen=True, eq=False)
class CarlaFrame:
    """
    One step as all cameras saw it.

    :param image: uint8 ``[H, W, 3]`` RGB.
    :param labels: uint8 ``[H, W]`` tags of CARLA, 255 for those that are unknown here.
    :param instances: uint16 ``[H, W]``, or None without that camera.
    :param stamp_ns: simulated time.
    :param number: of the frame, as the server counts.
    """

    image: np.ndarray
    labels: np.ndarray
    instances: np.ndarray | None
    stamp_ns: int
    number: int


class Cameras:
    """
    The cameras on the own vehicle.

    :param api: the module ``carla``.
    :param undo: gets what stops and removes them.
    """

    def __init__(self, api: Any, world: Any, ego: Any, spec: CarlaSpec, scene: Scene,
                 undo: Undo) -> None:
        self._spec = spec
        self._lookup = load_class_set('carla').lookup()
        self._queues: dict[str, queue.SimpleQueue[Any]] = {}
        mount = api.Transform(api.Location(x=_FORWARD_M, z=scene.camera.height_m),
                              api.Rotation(pitch=-math.degrees(scene.camera.pitch_rad)))
        library = world.get_blueprint_library()
        for kind in (COLOUR, SEMANTIC, *([INSTANCE] if spec.instances else [])):
            blueprint = library.find(f'sensor.camera.{kind}')
            for name, value in (('image_size_x', spec.width), ('image_size_y', spec.height),
                                ('fov', scene.camera.fov_deg)):
                blueprint.set_attribute(name, str(value))
            own: list[Any] = []
            undo.add(f'camera {kind}', partial(_each, own, 'destroy'))
            undo.add(f'images of camera {kind}', partial(_each, own, 'stop'))
            sensor = spawn_into(own, world.spawn_actor, blueprint, mount, ego)
            self._queues[kind] = queue.SimpleQueue()
            sensor.listen(self._queues[kind].put)

    def collect(self, number: int) -> CarlaFrame:
        """
        Return the frame of step ``number``; older images are dropped.

        :raises SimulationError: when a camera gives no image of it in time, or one of another
            size or of a later step.
        """
        deadline = time.monotonic() + self._spec.timeout_s
        found = {kind: self._image(kind, number, deadline) for kind in self._queues}
        return CarlaFrame(
            image=images.rgb(found[COLOUR]),
            labels=images.tags(found[SEMANTIC], self._lookup),
            instances=images.instance_ids(found[INSTANCE]) if INSTANCE in found else None,
            stamp_ns=round(found[COLOUR].timestamp * 1e9), number=number)

    def _image(self, kind: str, number: int, deadline: float) -> Any:
        spec = self._spec
        while True:
            try:
                image = self._queues[kind].get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise SimulationError(
                    f'CARLA at {spec.server}: camera {kind} gave no image of frame {number} '
                    f'within {spec.timeout_s:g} s; is the server alive, and does it render (no '
                    '-nullrhi)? A slow one needs a larger carla_timeout_s') from None
            if image.frame < number:
                continue
            if image.frame > number:
                raise SimulationError(f'CARLA at {spec.server}: camera {kind} is at frame '
                                      f'{image.frame} already where {number} was asked for; '
                                      'another client ticks this server')
            if (image.width, image.height) != (spec.width, spec.height):
                raise SimulationError(f'CARLA at {spec.server}: camera {kind} gives '
                                      f'{image.width}x{image.height} where {spec.width}x'
                                      f'{spec.height} was asked for')
            return image


def _each(sensors: list[Any], method: str) -> None:
    for sensor in sensors:
        getattr(sensor, method)()
