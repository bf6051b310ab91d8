"""
What the perception node adds to the network: milliseconds of the headline latency.

A camera of 640x360 bgr8 at 30 Hz, and in turns of two seconds: the node with the student, a bare
publisher-echo pair of the same message sizes, and the bare runtime on the same file. The value is
p50 of the node minus p50 of the echo minus p50 of the runtime. Wants two idle cores.
"""

from __future__ import annotations

import array
from collections.abc import Callable
import contextlib
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import result

from kd_perception.bundle import BundleSpec, DEPLOY, find_bundle, InputSpec, NetworkSpec
from kd_perception.classes import load_class_set
from kd_perception.nodes.environment import isolation, reserved_domain, tuning
from kd_perception.nodes.graph import perception_graph
from kd_perception.nodes.runner import started

HEIGHT, WIDTH, RATE_HZ = 360, 640, 30.0
ROUNDS, FRAMES, WARMUP = 8, 60, 40
ECHO = '--echo'


STUDENT = NetworkSpec('compact', {})


def make_student(folder: Path, network: NetworkSpec = STUDENT) -> None:
    """Write a student with random weights, which cost the same time."""
    import torch

    from kd_perception.networks.deploy import save_bundle
    from kd_perception.networks.registry import build

    torch.manual_seed(0)
    spec = BundleSpec(name='student', task='segmentation', role='student',
                      classes=load_class_set('driving'), input=InputSpec(HEIGHT, WIDTH),
                      network=network)
    save_bundle(folder / 'student', build(spec.network, len(spec.classes)).eval(), spec)


def echo() -> None:
    """Answer each image with a message of a mask's size; nothing else (a process of its own)."""
    import rclpy
    from sensor_msgs.msg import Image

    from kd_perception.nodes import qos

    rclpy.init()
    node = rclpy.create_node('echo')
    publisher = node.create_publisher(Image, 'echo/mask', qos.stream())
    answer = Image(height=HEIGHT, width=WIDTH, step=WIDTH, encoding='mono8',
                   data=array.array('B', bytes(HEIGHT * WIDTH)))

    def on_image(message: Image) -> None:
        answer.header = message.header
        publisher.publish(answer)

    node.create_subscription(Image, 'echo/image', on_image, qos.image_subscription())
    with contextlib.suppress(KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        rclpy.spin(node)
    node.destroy_node()
    rclpy.try_shutdown()


class Camera:
    """Publishes at a fixed rate and takes the time until the answer is back."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import Image

        from kd_perception.nodes import qos
        from kd_perception.nodes.conversion import header, image_message

        rclpy.init()
        self.node = rclpy.create_node('bench')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._header = header
        picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        self._image = image_message(picture, 'bgr8', header(0, 'c'))
        self._sent: dict[int, int] = {}
        self._latency: dict[int, float] = {}
        self._stamp = 0
        self._publishers = {}
        for side, image, mask in (('node', 'image', 'segmentation/mask'),
                                  ('echo', 'echo/image', 'echo/mask')):
            self._publishers[side] = self.node.create_publisher(Image, image, qos.stream(2))
            self.node.create_subscription(Image, mask, self._on_mask, qos.stream(5))

    def wait(self) -> None:
        """Wait until both sides listen."""
        deadline = time.monotonic() + 60
        while not all(p.get_subscription_count() for p in self._publishers.values()):
            if time.monotonic() > deadline:
                sys.exit('the nodes did not start')
            self._executor.spin_once(timeout_sec=0.1)
        time.sleep(1.0)

    def block(self, side: str, frames: int) -> list[float]:
        """Return milliseconds per answered frame."""
        self._latency.clear()
        publisher, period = self._publishers[side], 1.0 / RATE_HZ
        begin = time.monotonic()
        for number in range(frames):
            self._spin_until(begin + number * period)
            self._stamp += 1
            self._image.header = self._header(self._stamp, 'c')
            self._sent[self._stamp] = time.monotonic_ns()
            publisher.publish(self._image)
        self._spin_until(time.monotonic() + 0.5)
        return list(self._latency.values())

    def close(self) -> None:
        """End the node."""
        import rclpy

        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown()

    def _on_mask(self, message: Any) -> None:
        now, stamp = time.monotonic_ns(), message.header.stamp.nanosec
        self._latency[stamp] = (now - self._sent[stamp]) / 1e6

    def _spin_until(self, deadline: float) -> None:
        while (left := deadline - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(left, 0.02))


def bare_runtime(bundle: Any, engine: str) -> Callable[[], object]:
    """Return a call of the runtime alone on the bundle's graph."""
    picture = np.random.default_rng(0).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)
    if engine == 'openvino':
        import openvino

        core = openvino.Core()
        model = core.read_model(bundle.file(DEPLOY))
        model.reshape([1, HEIGHT, WIDTH, 3])
        request = core.compile_model(model, 'CPU', {
            'PERFORMANCE_HINT': 'LATENCY', 'NUM_STREAMS': '1',
            'INFERENCE_PRECISION_HINT': 'f32'}).create_infer_request()
        request.set_input_tensor(0, openvino.Tensor(picture, shared_memory=True))

        def call() -> None:
            request.start_async()
            request.wait()
        return call
    import onnxruntime

    session = onnxruntime.InferenceSession(str(bundle.file(DEPLOY)),
                                           providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: picture})


def runtime_block(call: Callable[[], object], frames: int) -> list[float]:
    """Return milliseconds of the bare runtime at the camera's rate."""
    out = []
    begin = time.monotonic()
    for number in range(frames):
        time.sleep(max(0.0, begin + number / RATE_HZ - time.monotonic()))
        start = time.monotonic_ns()
        call()
        out.append((time.monotonic_ns() - start) / 1e6)
    return out


def main() -> None:
    parser = result.parser(__doc__ or '')
    parser.add_argument('--engine', default='onnxruntime', choices=('onnxruntime', 'openvino'))
    parser.add_argument('--rounds', type=int, default=ROUNDS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, reserved_domain() as domain:
        folder = Path(name)
        make_student(folder)
        os.environ.update({**isolation(domain), **tuning()})
        graph = perception_graph('student', models_dir=name, engine=args.engine,
                                 precision='fp32', warmup_iterations=5)
        times: dict[str, list[list[float]]] = {'node': [], 'echo': [], 'runtime': []}
        with started(graph, folder / 'logs', isolated=False):
            other = subprocess.Popen([sys.executable, __file__, ECHO])
            try:
                camera = Camera()
                camera.wait()
                bundle = find_bundle('student', folder)
                call = bare_runtime(bundle, args.engine)
                for side in ('node', 'echo'):
                    camera.block(side, WARMUP)
                runtime_block(call, WARMUP)
                for _ in range(args.rounds):
                    times['node'].append(camera.block('node', FRAMES))
                    times['runtime'].append(runtime_block(call, FRAMES))
                    times['echo'].append(camera.block('echo', FRAMES))
                camera.close()
            finally:
                other.send_signal(2)
                other.wait(10)
        p50 = {k: statistics.median([t for block in v for t in block]) for k, v in times.items()}
        medians = {k: [statistics.median(block) for block in v] for k, v in times.items()}
        each = [n - e - r for n, e, r in zip(medians['node'], medians['echo'],
                                             medians['runtime'])]
        lost = {k: sum(FRAMES - len(block) for block in times[k]) for k in ('node', 'echo')}
        result.state(
            name='node_overhead', value=p50['node'] - p50['echo'] - p50['runtime'], unit='ms',
            workload={'image': f'{WIDTH}x{HEIGHT} bgr8', 'rate_hz': RATE_HZ,
                      'engine': args.engine, 'precision': 'fp32', 'bundle': bundle.hash[:12],
                      'p50_ms': {k: round(v, 3) for k, v in p50.items()}, 'frames_lost': lost,
                      'n': FRAMES, 'repeats': args.rounds},
            spread={'min': round(min(each), 3), 'max': round(max(each), 3)},
            details={'ms': times}, json_file=args.json)


if __name__ == '__main__':
    echo() if ECHO in sys.argv else main()
