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
import statistics
import subprocess
import sys
import time
from typing import Any

from node_bench import (
    Cameras,
    HEIGHT,
    Line,
    make_student,
    picture,
    private_room,
    RATE_HZ,
    WIDTH,
)
import numpy as np
import result

from kd_perception.bundle import DEPLOY, find_bundle
from kd_perception.nodes.bringup.graph import perception_graph
from kd_perception.nodes.bringup.runner import started

ROUNDS, FRAMES, WARMUP = 8, 60, 40
ECHO = '--echo'


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


def both_sides() -> Cameras:
    """Return the camera of the node and that of the echo."""
    from kd_perception.nodes.conversion import header, image_message

    message = image_message(picture(), 'bgr8', header(0, 'c'))
    return Cameras({'node': Line('image', 'segmentation/mask', message),
                    'echo': Line('echo/image', 'echo/mask', message)})


def block(cameras: Cameras, side: str, frames: int) -> list[float]:
    """Return milliseconds per answered frame."""
    return [t.latency_ms for t in cameras.run([side], frames) if t.answered_ns]


def bare_runtime(bundle: Any, engine: str, threads: int = 0) -> Callable[[], object]:
    """Return a call of the runtime alone on the bundle's graph, set up as the engine does."""
    images = picture()[np.newaxis]
    if engine == 'openvino':
        import openvino

        core = openvino.Core()
        model = core.read_model(bundle.file(DEPLOY))
        model.reshape([1, HEIGHT, WIDTH, 3])
        request = core.compile_model(model, 'CPU', {
            'PERFORMANCE_HINT': 'LATENCY', 'NUM_STREAMS': '1',
            'INFERENCE_PRECISION_HINT': 'f32',
            **({'INFERENCE_NUM_THREADS': str(threads)} if threads else {})}).create_infer_request()
        request.set_input_tensor(0, openvino.Tensor(images, shared_memory=True))

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
    return lambda: session.run(None, {name: images})


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
    with private_room() as folder:
        make_student(folder)
        graph = perception_graph('student', models_dir=str(folder), engine=engine,
                                 precision='fp32', threads=threads, warmup_iterations=5)
        with started(graph, folder / 'logs', isolated=False):
            other = subprocess.Popen([sys.executable, __file__, ECHO])
            try:
                cameras = both_sides()
                cameras.wait()
                bundle = find_bundle('student', folder)
                call = bare_runtime(bundle, engine, threads)
                for side in ('node', 'echo'):
                    block(cameras, side, WARMUP)
                runtime_block(call, WARMUP)
                for _ in range(rounds):
                    times['node'].append(block(cameras, 'node', FRAMES))
                    times['runtime'].append(runtime_block(call, FRAMES))
                    times['echo'].append(block(cameras, 'echo', FRAMES))
                cameras.close()
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
