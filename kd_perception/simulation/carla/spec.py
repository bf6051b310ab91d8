"""What is wanted of a CARLA server: plain values, checked before anything is connected."""

from __future__ import annotations

from dataclasses import dataclass
import math

from kd_perception.errors import ConfigError
from kd_perception.simulation.camera import CameraModel

DEFAULT_HOST = 'localhost'
DEFAULT_PORT = 2000
#: CARLA's physics takes up to ten substeps of 10 ms, so a step must stay below 0.1 s.
LONGEST_STEP_S = 0.1
_WANTED_STEP_S = 0.09
#: Why nothing can be served a second time, and what to do.
ONCE = ('frames of CARLA go by once; record the drive (kd_perception bag record --carla) and '
        'compare on the recording')


@dataclass(frozen=True)
class CarlaSpec:
    """
    One drive in a CARLA world.

    :param map: name of a map; empty for the one that is loaded. Loading another one removes what
        other clients have in the world.
    :param scenario: a scenario of this package, or a weather preset of CARLA; see ``weather``.
    :param seed: of spawn points, models, traffic and pedestrians.
    :param rate_hz: frames per simulated second.
    :param vehicles: moving cars beside the own one, before the scenario's ``content.traffic``.
    :param walkers: pedestrians, before the scenario's ``content.people``.
    :param instances: also have a camera of instance ids.
    :param timeout_s: how long the server may take to answer, and to draw a frame.
    :raises ConfigError: for impossible values.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    map: str = ''
    scenario: str = 'clear'
    seed: int = 0
    rate_hz: float = 30.0
    width: int = 640
    height: int = 360
    vehicles: int = 30
    walkers: int = 20
    instances: bool = False
    timeout_s: float = 20.0

    def __post_init__(self) -> None:
        if not self.host or not 1 <= self.port <= 65535:
            raise ConfigError(f'CARLA server {self.host!r}, port {self.port}: needs a host name '
                              'and a port from 1 to 65535')
        if not 0 < self.rate_hz <= 1000:
            raise ConfigError(f'a rate of {self.rate_hz} Hz: must be above 0 and at most 1000')
        if not 0 <= self.seed < 2**31 or self.vehicles < 0 or self.walkers < 0:
            raise ConfigError(f'seed {self.seed}, {self.vehicles} vehicles, {self.walkers} '
                              'walkers: must not be negative, and the seed below 2^31')
        if not 0 < self.timeout_s < math.inf:
            raise ConfigError(f'timeout_s {self.timeout_s}: must be above 0')
        CameraModel.from_fov(self.width, self.height)

    @property
    def server(self) -> str:
        """Return host and port for messages."""
        return f'{self.host}:{self.port}'

    @property
    def ticks(self) -> int:
        """Return the simulated steps per frame: more than one below some 11 Hz."""
        return math.ceil(1.0 / self.rate_hz / _WANTED_STEP_S)

    @property
    def step_s(self) -> float:
        """Return the length of a step; always below ``LONGEST_STEP_S``."""
        return 1.0 / self.rate_hz / self.ticks


def parse_server(text: str) -> tuple[str, int]:
    """
    Return host and port of ``host``, ``host:port`` or ``:port``.

    :raises ConfigError: when the port is no number.
    """
    host, colon, port = text.strip().rpartition(':')
    if not colon:
        host, port = port, str(DEFAULT_PORT)
    if not port.isdecimal():
        raise ConfigError(f'CARLA server {text!r}: give it as host or host:port')
    spec = CarlaSpec(host=host or DEFAULT_HOST, port=int(port))
    return spec.host, spec.port
