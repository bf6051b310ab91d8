"""What benchmarks of nodes share: a private room, students, cameras that time their answers."""

from __future__ import annotations

import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
import json
import os
from pathlib import Path
import tempfile
import time
from typing import Any

import numpy as np

from kd_perception.bundle import BundleSpec, InputSpec, NetworkSpec
from kd_perception.classes import load_class_set
from kd_perception.nodes.environment import isolation, reserved_domain, tuning

HEIGHT, WIDTH, RATE_HZ = 360, 640, 30.0
STUDENT = NetworkSpec('compact', {})
_START_S = 60.0


@contextmanager
def private_room() -> Iterator[Path]:
    """
    Yield an empty folder for models, artefacts and logs.

    This process and its children talk in a DDS domain of their own meanwhile.
    """
    with tempfile.TemporaryDirectory() as name, reserved_domain() as domain:
        os.environ.update({**isolation(domain), **tuning(), 'XDG_CACHE_HOME': f'{name}/cache'})
        yield Path(name)


def make_student(folder: Path, network: NetworkSpec = STUDENT, *, name: str = 'student',
                 seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    """Write a student with random weights, which cost the same time."""
    import torch

    from kd_perception.networks.deploy import save_bundle
    from kd_perception.networks.registry import build

    torch.manual_seed(seed)
    spec = BundleSpec(name=name, task='segmentation', role='student',
                      classes=load_class_set('driving'), input=InputSpec(*size), network=network)
    save_bundle(folder / name, build(spec.network, len(spec.classes)).eval(), spec)


def jpeg_message(pixels: np.ndarray) -> Any:
    """Return a picture as ``CompressedImage``, without a header."""
    from sensor_msgs.msg import CompressedImage

    from kd_perception.imaging import encode_jpeg

    return CompressedImage(format='jpeg', data=array.array('B', encode_jpeg(pixels)))


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return a picture uint8 ``[H, W, 3]`` with edges and noise, which a JPEG does not shrink."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 20 + 1, width // 20 + 1, 3), np.uint8)
    large = np.repeat(np.repeat(coarse, 20, 0), 20, 1)[:height, :width]
    return large // 2 + rng.integers(0, 32, (height, width, 3), np.uint8)


@dataclass(frozen=True)
class Line:
    """Topics of one camera, and the message that it sends (``Image`` or ``CompressedImage``)."""

    images: str
    masks: str
    message: Any


@dataclass
class Trip:
    """One frame: when it was sent and answered, on the steady clock; 0 for never."""

    line: str
    sent_ns: int
    answered_ns: int = 0

    @property
    def latency_ms(self) -> float:
        """Return the time from the call of publish to the mask."""
        return (self.answered_ns - self.sent_ns) / 1e6


class Cameras:
    """
    Publishes at a fixed rate and takes the time until each answer is back.

    :param lines: cameras by name.
    :param depth: how many frames the middleware keeps for a node that is late.
    """

    def __init__(self, lines: Mapping[str, Line], depth: int = 2) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import Image

        from kd_perception.nodes import qos

        rclpy.init()
        self.node = rclpy.create_node('bench')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._lines = dict(lines)
        self._stamp = 0
        self._trips: dict[tuple[str, int], Trip] = {}
        self._publishers = {}
        for name, line in self._lines.items():
            self._publishers[name] = self.node.create_publisher(
                type(line.message), line.images, qos.stream(depth))
            self.node.create_subscription(
                Image, line.masks, partial(self._on_mask, name), qos.stream(5))

    def wait(self, settle_s: float = 1.0) -> None:
        """Wait until somebody listens to every camera, and ``settle_s`` more."""
        if not self.spin_until(lambda: all(p.get_subscription_count()
                                           for p in self._publishers.values()), _START_S):
            raise SystemExit('the nodes did not start')
        self.spin_for(settle_s)

    def send(self, name: str, message: Any = None) -> None:
        """Publish one frame of a camera, or another message in its place."""
        from kd_perception.nodes.conversion import header

        self._stamp = max(self._stamp + 1, time.time_ns())
        message = self._lines[name].message if message is None else message
        message.header = header(self._stamp, 'c')
        self._trips[name, self._stamp] = Trip(name, time.monotonic_ns())
        self._publishers[name].publish(message)

    def show(self, message: Any) -> None:
        """Let every camera send this message from now on."""
        self._lines = {n: replace(line, message=message) for n, line in self._lines.items()}

    def run(self, names: Sequence[str], frames: int, rate_hz: float = RATE_HZ, *,
            drain_s: float = 0.5) -> list[Trip]:
        """
        Publish ``frames`` frames of each named camera at the same instants.

        :param drain_s: how long the last answers are waited for.
        """
        self._trips.clear()
        begin = time.monotonic()
        for number in range(frames):
            self.spin_for(begin + number / rate_hz - time.monotonic())
            for name in names:
                self.send(name)
        self.spin_for(drain_s)
        return list(self._trips.values())

    def trips(self) -> list[Trip]:
        """Return the frames since the last ``run`` began or ``forget`` was called."""
        return list(self._trips.values())

    def forget(self) -> None:
        """Begin to count anew."""
        self._trips.clear()

    def spin_for(self, seconds: float) -> None:
        """Take answers for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(left, 0.02))

    def spin_until(self, condition: Callable[[], Any], timeout_s: float) -> Any:
        """Take answers until ``condition`` holds; return its value, or None after the timeout."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                return None
            self._executor.spin_once(timeout_sec=0.02)
        return value

    def close(self) -> None:
        """End the node."""
        import rclpy

        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown()

    def _on_mask(self, name: str, message: Any) -> None:
        now, stamp = time.monotonic_ns(), message.header.stamp
        trip = self._trips.get((name, stamp.sec * 1_000_000_000 + stamp.nanosec))
        if trip is not None:
            trip.answered_ns = now


class PerceptionProbe:
    """What a perception node says of itself, and its parameters, from outside."""

    def __init__(self, node: Any, name: str = '/perception') -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from rcl_interfaces.srv import SetParameters
        from std_msgs.msg import String

        from kd_perception.nodes import qos

        self.states: list[dict[str, str]] = []
        self.models: list[str] = []
        self._name = name
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_state, qos.stream(50))
        node.create_subscription(
            String, f'{name}/active_model',
            lambda m: self.models.append(json.loads(m.data)['model']), qos.latched())
        self._client = node.create_client(SetParameters, f'{name}/set_parameters')

    @property
    def model(self) -> str:
        """Return the model that serves, as the parameter named it."""
        return self.models[-1] if self.models else ''

    def set(self, **values: Any) -> Any:
        """Ask for parameters; return the future of the results, without waiting."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        return self._client.call_async(SetParameters.Request(parameters=[
            Parameter(k, value=v).to_parameter_msg() for k, v in values.items()]))

    def _on_state(self, message: Any) -> None:
        from kd_perception.nodes.conversion import values_of

        for status in message.status:
            if status.name == f'{self._name}: perception':
                self.states.append({'message': status.message, **values_of(status)})
