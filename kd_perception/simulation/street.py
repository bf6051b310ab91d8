"""
The embedded street: ``StreetSimulator`` turns (scenario, seed, time) into a labelled picture.

The same three give the same bytes on one machine, in whatever order times are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import logging
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from kd_perception.errors import SimulationError
from kd_perception.frames import InstanceTable, KnownTruth
from kd_perception.simulation.camera import CameraModel
from kd_perception.simulation.exposure import exposure_gain
from kd_perception.simulation.instances import InstanceRows, SceneGeometry, tabulate
from kd_perception.simulation.scenario import load_scenario, Scenario
from kd_perception.simulation.view import visible
from kd_perception.simulation.world import build_world, World
from kd_perception.simulation.worlds import load_world

if TYPE_CHECKING:
    from kd_perception.simulation.renderer import Renderer

FRAME_ID = 'camera'
LONGEST_S = 86_400.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SimulatedFrame:
    """
    One picture with its ground truth.

    :param image: uint8 ``[H, W, 3]``, RGB.
    :param labels: uint8 ``[H, W]`` CARLA tags.
    :param instances: uint16 ``[H, W]``; an id of its own for each car, pedestrian, rider, bicycle,
        sign, light and pole of the street, 0 for everything else.
    :param stamp_ns: simulated time in nanoseconds.
    :param depth: float32 ``[H, W]`` metres along the optical axis, infinite for the sky; None
        where it was not asked for.
    """

    image: np.ndarray
    labels: np.ndarray
    instances: np.ndarray
    stamp_ns: int
    frame_id: str
    depth: np.ndarray | None = None
    scene: SceneGeometry | None = field(default=None, repr=False, compare=False)

    def known_truth(self) -> KnownTruth:
        """Return what is known beside labels; it includes the work of ``instances_table``."""
        rows = self.instances_table()
        scene = self.scene
        assert scene is not None  # the table is made of it
        lens = scene.camera
        return KnownTruth(
            instances=self.instances,
            table=InstanceTable(rows.ids, rows.tags, rows.visible, rows.positions, rows.boxes,
                                rows.roles),
            depth=self.depth, place=scene.pose.place(), lens=(lens.fx, lens.fy, lens.cx, lens.cy))

    def instances_table(self) -> InstanceRows:
        """
        Return class, distance, visible share and 2-D box of every instance in the picture.

        Worked out when asked for, from the shapes of what was drawn; some 10 ms at 640x360.
        """
        if self.scene is None:
            raise SimulationError('this frame came without its geometry; use render()')
        return tabulate(self.scene, self.labels, self.instances)


class StreetSimulator:
    """
    A drive along a street; a context manager that lives in one thread.

    :param scenario: a scenario or the name of one.
    :param seed: which street, 0 … 2**32 - 1; ``width``, ``height``: picture size in pixels.
    :param world: kind of world, instead of the scenario's own.
    :raises SimulationError: when OpenGL is missing or the arguments are impossible.
    """

    def __init__(self, scenario: Scenario | str, *, seed: int, width: int = 640,
                 height: int = 360, world: str = '') -> None:
        self.scenario = load_scenario(scenario) if isinstance(scenario, str) else scenario
        if not 0 <= seed < 2**32:
            raise SimulationError(f'seed {seed}: must be 0 to {2**32 - 1}')
        self.seed = seed
        self.spec = load_world(world or self.scenario.world)
        self.camera = CameraModel.from_fov(width, height, self.scenario.camera.fov_deg)
        self._world = build_world(seed, self.spec, self.scenario.content)
        self._renderer = _renderer(self._world, self.scenario, self.camera)
        self.drawn = 0
        _log.info('%s seed %d, %s, %dx%d on %s', self.spec.name, seed, self.scenario.name, width,
                  height, self._renderer.description)

    def __enter__(self) -> StreetSimulator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the OpenGL context; harmless when done twice."""
        self._renderer.close()

    @property
    def renderer(self) -> str:
        """Return the name of the OpenGL implementation that draws."""
        return self._renderer.description

    def render(self, time_s: float, *, depth: bool = False) -> SimulatedFrame:
        """
        Return the picture at ``time_s`` seconds into the drive.

        :param depth: whether to read depth back as well (1 ms at 640x360).
        :raises SimulationError: when closed, in a foreign thread, or for an impossible time.
        """
        if not 0 <= time_s <= LONGEST_S:
            raise SimulationError(f'time {time_s} s: must be 0 to {LONGEST_S:.0f}')
        stamp_ns = round(time_s * 1e9)
        settings = self.scenario.camera
        pose = self._world.camera(time_s, settings)
        batches = visible(self._world, self._world.poses(time_s), self.camera, pose)
        self.drawn = sum(len(b.near) + len(b.far) for b in batches)
        noise = np.random.default_rng([self.seed, stamp_ns]).uniform(0., 500., 2)
        before = self._world.camera(max(time_s - settings.shutter_s, 0.), settings) \
            if settings.shutter_s else None
        drawn = self._renderer.draw(
            batches, pose, time_s, (float(noise[0]), float(noise[1])), depth=depth,
            gain=exposure_gain(self._world, self.scenario, time_s), before=before)
        return SimulatedFrame(drawn.image, drawn.tags, drawn.instances, stamp_ns, FRAME_ID,
                              drawn.depth, SceneGeometry(batches, self.camera, pose,
                                                         self._world.roles))


def _renderer(world: World, scenario: Scenario, camera: CameraModel) -> Renderer:
    """Import the renderer late: the rest of the package does without moderngl."""
    try:
        from kd_perception.simulation.renderer import Renderer
    except ImportError as error:
        raise SimulationError(f'the simulator needs moderngl ({error}); '
                              "install it with: pip install 'kd_perception[sim]'") from None
    return Renderer(world.plan, scenario, camera)
