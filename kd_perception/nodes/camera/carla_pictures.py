"""
Where the camera node takes pictures of a CARLA server from.

Frames of CARLA go by once: the world cannot be set back, and a second drive of the same seed is
alike but not the same. What needs a frame twice plays a recording of the drive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kd_perception.classes import ClassSet, load_class_set
from kd_perception.errors import ConfigError, SimulationError
from kd_perception.nodes.camera.source import Intrinsics, Picture
from kd_perception.simulation.carla.session import CarlaSession
from kd_perception.simulation.carla.spec import CarlaSpec, ONCE
from kd_perception.simulation.scenario import scenario_sha256

# Parameters of the camera that are fields of the spec under another name.
_OWN = ('host', 'port', 'map', 'vehicles', 'walkers', 'instances', 'timeout_s')
_SHARED = ('scenario', 'seed', 'rate_hz', 'width', 'height')


def carla_spec(values: Mapping[str, Any]) -> CarlaSpec:
    """
    Return the drive that the camera's parameters ask for.

    :raises ConfigError: when it cannot be.
    """
    return CarlaSpec(**{name: values[name] for name in _SHARED},
                     **{name: values[f'carla_{name}'] for name in _OWN})


class CarlaPictures:
    """
    Pictures of one drive; must be used from one thread.

    :raises SimulationError: when the server cannot be driven.
    """

    def __init__(self, spec: CarlaSpec, *, frame_id: str) -> None:
        self._session = CarlaSession(spec)
        self._frame_id = frame_id
        self._last: tuple[int, Picture] | None = None
        self.name = f'carla:{self._session.map}:{spec.scenario}:{spec.seed}'
        self.identity: Mapping[str, str] = {
            'scenario_sha256': scenario_sha256(spec.scenario)}
        self.frames = self.round_ns = 0
        self.schedule_s = np.zeros(0)  # frames come when the server draws them
        self.classes: ClassSet | None = load_class_set('carla')
        model = self._session.camera
        self.intrinsics: Intrinsics | None = Intrinsics(model.fx, model.fy, model.cx, model.cy)
        self.notes = self._session.notes

    def picture(self, index: int) -> Picture:
        """
        Return frame ``index``: the last one again, or a later one.

        :raises SimulationError: for an earlier one, or when the server fails.
        """
        done = -1 if self._last is None else self._last[0]
        if index < done:
            raise SimulationError(f'frame {index} was asked for after frame {done}; {ONCE}')
        while self._last is None or self._last[0] < index:
            frame = self._session.frame()
            done += 1
            self._last = done, Picture(frame.image, frame.stamp_ns, self._frame_id, frame.labels,
                                       frame.instances)
        return self._last[1]

    def close(self) -> None:
        """Leave the server as it was found."""
        self._session.close()


def open_carla(values: Mapping[str, Any]) -> CarlaPictures:
    """
    Open the drive that the camera's parameters name.

    :raises KdPerceptionError: when it cannot be driven, or frames are wanted twice.
    """
    if values['placement'] == 'isolated' and len(values['arms']) > 1:
        raise ConfigError(f'placement isolated needs each frame more than once, and {ONCE}')
    return CarlaPictures(carla_spec(values), frame_id=values['frame_id'])
