"""
What the perception node adds to the network: milliseconds of the headline latency.

A camera of 640x360 bgr8 at 30 Hz, and in turns of two seconds: the node with the student, a bare
publisher-echo pair of the same message sizes, and the bare runtime on the same file. The value is
p50 of the node minus p50 of the echo minus p50 of the runtime. Wants two idle cores. The same is
then done with one thread for the runtime, which leaves a core to everything else.
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


def bare_runtime(bundle: Any, engine: str, threads: int = 0) -> Callable[[], object]:
    """Return a call of the runtime alone on the bundle's graph, set up as the engine does."""
    picture = np.random.default_rng(0).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)
    if engine == 'openvino':
        import openvino

        core = openvino.Core()
        model = core.read_model(bundle.file(DEPLOY))
        model.reshape([1, HEIGHT, WIDTH, 3])
        request = core.compile_model(model, 'CPU', {
            'PERFORMANCE_HINT': 'LATENCY', 'NUM_STREAMS': '1',
            'INFERENCE_PRECISION_HINT': 'f32',
            **({'INFERENCE_NUM_THREADS': str(threads)} if threads else {})}).create_infer_request()
        request.set_input_tensor(0, openvino.Tensor(picture, shared_memory=True))

        def call() -> None:
            request.start_async()
            request.wait()
        return call
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry('session.force_spinning_stop', '1')
    session = onnxruntime.InferenceSession(str(bundle.file(DEPLOY)), options,
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


def measure(engine: str, threads: int, rounds: int) -> dict[str, Any]:
    """Return milliseconds per block of ``node``, ``echo`` and ``runtime``, and counters."""
    times: dict[str, list[list[float]]] = {'node': [], 'echo': [], 'runtime': []}
    with tempfile.TemporaryDirectory() as name, reserved_domain() as domain:
        folder = Path(name)
        make_student(folder)
        os.environ.update({**isolation(domain), **tuning()})
        graph = perception_graph('student', models_dir=name, engine=engine, precision='fp32',
                                 threads=threads, warmup_iterations=5)
        with started(graph, folder / 'logs', isolated=False):
            other = subprocess.Popen([sys.executable, __file__, ECHO])
            try:
                camera = Camera()
                camera.wait()
                bundle = find_bundle('student', folder)
                call = bare_runtime(bundle, engine, threads)
                for side in ('node', 'echo'):
                    camera.block(side, WARMUP)
                runtime_block(call, WARMUP)
                for _ in range(rounds):
                    times['node'].append(camera.block('node', FRAMES))
                    times['runtime'].append(runtime_block(call, FRAMES))
                    times['echo'].append(camera.block('echo', FRAMES))
                camera.close()
            finally:
                other.send_signal(2)
                other.wait(10)
    p50 = {k: statistics.median([t for block in v for t in block]) for k, v in times.items()}
    medians = {k: [statistics.median(block) for block in v] for k, v in times.items()}
    return {'bundle': bundle.hash[:12], 'p50': p50, 'ms': times,
            'value': p50['node'] - p50['echo'] - p50['runtime'],
            'rounds': [n - e - r for n, e, r in zip(medians['node'], medians['echo'],
                                                    medians['runtime'])],
            'lost': {k: sum(FRAMES - len(block) for block in times[k])
                     for k in ('node', 'echo')}}


def main() -> None:
    parser = result.parser(__doc__ or '')
    parser.add_argument('--engine', default='onnxruntime', choices=('onnxruntime', 'openvino'))
    parser.add_argument('--rounds', type=int, default=ROUNDS)
    args = parser.parse_args()
    default = measure(args.engine, 0, args.rounds)
    single = measure(args.engine, 1, args.rounds)
    result.state(
        name='node_overhead', value=default['value'], unit='ms',
        workload={'image': f'{WIDTH}x{HEIGHT} bgr8', 'rate_hz': RATE_HZ,
                  'engine': args.engine, 'precision': 'fp32', 'bundle': default['bundle'],
                  'p50_ms': {k: round(v, 3) for k, v in default['p50'].items()},
                  'frames_lost': default['lost'], 'n': FRAMES, 'repeats': args.rounds,
                  'with_one_runtime_thread': {
                      'value': round(single['value'], 3), 'min': round(min(single['rounds']), 3),
                      'max': round(max(single['rounds']), 3),
                      'p50_ms': {k: round(v, 3) for k, v in single['p50'].items()},
                      'frames_lost': single['lost']}},
        spread={'min': round(min(default['rounds']), 3), 'max': round(max(default['rounds']), 3)},
        details={'ms': default['ms'], 'ms_with_one_thread': single['ms']}, json_file=args.json)


if __name__ == '__main__':
    echo() if ECHO in sys.argv else main()
