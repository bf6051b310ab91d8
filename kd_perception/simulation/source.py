"""
The street as a recording: ``SimulatorSource`` is a ``FrameSource`` with labels.

Frames are drawn when asked for; the context is made by the first use and belongs to that thread.
"""

from __future__ import annotations

from collections.abc import Iterator
import hashlib

from kd_perception.classes import ClassSet, load_class_set
from kd_perception.errors import SimulationError
from kd_perception.frames import Frame, FrameKey, KnownTruth
from kd_perception.simulation.camera import CameraModel
from kd_perception.simulation.scenario import load_scenario, Scenario
from kd_perception.simulation.street import SimulatedFrame, StreetSimulator
from kd_perception.simulation.worlds import load_world

TOPIC = 'camera/image'


class SimulatorSource:
    """
    ``frames`` pictures of one drive at ``rate_hz``, from ``start_s`` on.

    :param world: kind of world, instead of the scenario's own.
    :raises SimulationError: for no frames or an impossible rate.
    """

    def __init__(self, scenario: Scenario | str, *, seed: int, frames: int,
                 rate_hz: float = 30.0, start_s: float = 0.0, width: int = 640,
                 height: int = 360, world: str = '') -> None:
        if frames < 1 or not 0 < rate_hz <= 1000 or not start_s >= 0:
            raise SimulationError(f'{frames} frames at {rate_hz} Hz from {start_s} s: needs at '
                                  'least one frame, a rate up to 1000 Hz and a start from 0')
        self.scenario = load_scenario(scenario) if isinstance(scenario, str) else scenario
        self.seed, self.rate_hz, self.start_s = seed, rate_hz, start_s
        self._frames = frames
        self.world = load_world(world or self.scenario.world)
        #: The intrinsics, which the scenario's field of view decides.
        self.camera = CameraModel.from_fov(width, height, self.scenario.camera.fov_deg)
        self._world = world
        self._simulator: StreetSimulator | None = None
        self._last: tuple[int, SimulatedFrame] | None = None
        self.name = f'simulator:{self.scenario.name}:{seed}'
        if self.world.name != 'street':
            self.name = f'simulator:{self.scenario.name}:{self.world.name}:{seed}'
        self.label_classes: ClassSet | None = load_class_set('carla')
        self.has_labels = True
        self.bad_frames = 0
        self.topic = self.chosen = ''
        told = repr((self.scenario, self.world, seed, rate_hz, start_s, width, height))
        self.fingerprint = hashlib.sha256(told.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self._frames

    def __getitem__(self, index: int) -> Frame:
        if not -self._frames <= index < self._frames:
            raise IndexError(f'frame {index} of {self._frames}')
        index %= self._frames
        shot = self.simulated(index)
        return Frame(image=shot.image, stamp_ns=shot.stamp_ns, log_ns=shot.stamp_ns,
                     key=FrameKey(self.fingerprint, TOPIC, index), frame_id=shot.frame_id,
                     labels=shot.labels)

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._frames):
            yield self[index]

    def simulated(self, index: int, *, depth: bool = False) -> SimulatedFrame:
        """Return frame ``index`` with its instance ids and table, and ``depth`` if wanted."""
        if self._last is not None and self._last[0] == index and (
                not depth or self._last[1].depth is not None):
            return self._last[1]
        if self._simulator is None:
            self._simulator = StreetSimulator(
                self.scenario, seed=self.seed, width=self.camera.width,
                height=self.camera.height, world=self._world)
        shot = self._simulator.render(self.start_s + index / self.rate_hz, depth=depth)
        self._last = index, shot
        return shot

    def known_truth(self, index: int) -> KnownTruth | None:
        """Return what is known of a frame beside its labels; asked before it, drawn once."""
        return self.simulated(index, depth=True).known_truth()

    def close(self) -> None:
        """Free the OpenGL context; a later use makes a new one."""
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = self._last = None
