"""A private DDS domain, tiny real bundles, and nodes that run beside the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
import os
from pathlib import Path
import threading
import time
from typing import Any

import numpy as np
import pytest

from kd_perception.bundle import BundleSpec, InputSpec, NetworkSpec
from kd_perception.classes import load_class_set
from kd_perception.nodes.environment import isolation, reserved_domain, tuning

HEIGHT, WIDTH = 64, 96


@pytest.fixture(scope='session')
def ros_environment() -> Iterator[dict[str, str]]:
    """Hold a private domain for this test process; return the variables that say so."""
    with reserved_domain() as domain:
        variables = {**isolation(domain), **tuning()}
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        yield variables
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@pytest.fixture(scope='session')
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a models directory with the bundles ``one`` and ``two`` (random weights)."""
    torch = pytest.importorskip('torch')
    from kd_perception.networks.deploy import save_bundle
    from kd_perception.networks.registry import build

    folder = tmp_path_factory.mktemp('models')
    classes = load_class_set('driving')
    network = NetworkSpec('compact', {'width': 8})
    for seed, name in enumerate(('one', 'two')):
        torch.manual_seed(seed)
        spec = BundleSpec(name=name, task='segmentation', role='student', classes=classes,
                          input=InputSpec(HEIGHT, WIDTH), network=network)
        save_bundle(folder / name, build(network, len(classes)).eval(), spec)
    return folder


class Bench:
    """A context with an observing node, and nodes under test in threads of their own."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor

        self.context = Context()
        rclpy.init(context=self.context, args=['--ros-args', '--disable-external-lib-logs',
                                               '--log-level', 'fatal'])
        self.node = rclpy.create_node('observer', context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)

    def spin_until(self, condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
        """Spin the observer until ``condition`` holds; return its value or fail."""
        deadline = time.monotonic() + timeout_s
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                pytest.fail(f'timed out after {timeout_s} s')
            self._executor.spin_once(timeout_sec=0.02)

    def spin_for(self, seconds: float) -> None:
        """Spin the observer for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.02)

    def call(self, kind: Any, name: str, request: Any, timeout_s: float = 20.0) -> Any:
        """Call a service and return its answer."""
        client = self.node.create_client(kind, name)
        try:
            self.spin_until(client.service_is_ready, timeout_s)
            future = client.call_async(request)
            self.spin_until(future.done, timeout_s)
            return future.result()
        finally:
            self.node.destroy_client(client)

    def collect(self, kind: Any, topic: str, profile: Any) -> list[Any]:
        """Subscribe; return the list that messages are appended to."""
        found: list[Any] = []
        self.node.create_subscription(kind, topic, found.append, profile)
        return found

    def set_parameters(self, name: str, **values: Any) -> list[Any]:
        """Set parameters of a node one by one; return the results."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        request = SetParameters.Request(parameters=[
            Parameter(k, value=v).to_parameter_msg() for k, v in values.items()])
        return list(self.call(SetParameters, f'{name}/set_parameters', request).results)

    def set_together(self, name: str, **values: Any) -> Any:
        """Set parameters of a node in one call; return the result."""
        from rcl_interfaces.srv import SetParametersAtomically
        from rclpy.parameter import Parameter

        request = SetParametersAtomically.Request(parameters=[
            Parameter(k, value=v).to_parameter_msg() for k, v in values.items()])
        return self.call(SetParametersAtomically, f'{name}/set_parameters_atomically',
                         request).result

    def get_parameter(self, name: str, parameter: str) -> Any:
        """Return the value of one parameter of a node."""
        from rcl_interfaces.srv import GetParameters
        from rclpy.parameter import parameter_value_to_python

        answer = self.call(GetParameters, f'{name}/get_parameters',
                           GetParameters.Request(names=[parameter]))
        return parameter_value_to_python(answer.values[0])

    @contextmanager
    def running(self, make: Callable[..., Any], namespace: str = '',
                **parameters: Any) -> Iterator[Any]:
        """Run a node of the package in its own thread, as ``run_node`` would."""
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.parameter import Parameter

        node = make(context=self.context, namespace=namespace, parameter_overrides=[
            Parameter(k, value=list(v) if isinstance(v, tuple) else v)
            for k, v in parameters.items()])
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(node)
        failure: list[BaseException] = []

        def spin() -> None:
            try:
                executor.spin()
            except BaseException as error:
                failure.append(error)
            finally:
                node.close()  # in the thread that used it, as a renderer needs it

        thread = threading.Thread(target=spin)
        thread.start()
        node.failure, node.thread = failure, thread
        try:
            yield node
        finally:
            executor.shutdown(timeout_sec=5.0)
            thread.join(timeout=30.0)
            node.destroy_node()

    def close(self) -> None:
        """End the context."""
        import rclpy

        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def bench(ros_environment: dict[str, str]) -> Iterator[Bench]:
    """Return a fresh bench."""
    pytest.importorskip('rclpy')
    made = Bench()
    yield made
    made.close()


@pytest.fixture
def other_bench(ros_environment: dict[str, str]) -> Iterator[Bench]:
    """Return a second bench, which is a second participant to the first."""
    pytest.importorskip('rclpy')
    made = Bench()
    yield made
    made.close()


class Camera:
    """
    Publishes images of one camera of a perception node and collects its masks.

    :param name: of the camera; empty for the only one.
    """

    def __init__(self, bench: Bench, name: str = '', *, compressed: bool = False) -> None:
        from sensor_msgs.msg import CompressedImage, Image

        from kd_perception.nodes import qos

        self.bench, self.name, self.stamp = bench, name, 0
        prefix = f'{name}/' if name else ''
        self.masks = bench.collect(Image, f'{prefix}segmentation/mask', qos.stream(200))
        self.publisher = bench.node.create_publisher(
            CompressedImage if compressed else Image,
            f'{prefix}image/compressed' if compressed else f'{prefix}image', qos.stream(200))
        bench.spin_until(self.publisher.get_subscription_count)
        bench.spin_until(lambda: bench.node.count_publishers(f'{prefix}segmentation/mask'))

    def send(self, picture: np.ndarray | None = None, encoding: str = 'rgb8') -> None:
        """Publish ``picture`` (grey of 48x64 if None) a tenth of a second after the last."""
        from kd_perception.nodes.conversion import header, image_message

        self.stamp += 100_000_000
        if picture is None:
            picture = np.full((48, 64, 3), 90, np.uint8)
        message = image_message(picture, 'rgb8', header(self.stamp, self.name))
        message.encoding = encoding
        self.publisher.publish(message)

    def ask(self, picture: np.ndarray | None = None, encoding: str = 'rgb8') -> Any:
        """Publish and return the mask."""
        before = len(self.masks)
        self.send(picture, encoding)
        self.bench.spin_until(lambda: len(self.masks) > before)
        return self.masks[-1]


@pytest.fixture
def camera(bench: Bench) -> Callable[..., Camera]:
    """Return what makes cameras on the bench."""
    return partial(Camera, bench)
