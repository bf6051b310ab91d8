"""
How old frames are when inference starts, where the node is half as fast as the camera.

p95 of the age over the camera's period; the node holds only the freshest frame, so a frame should
never be older than one period and the transport. Wants two idle cores.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from node_bench import HEIGHT, make_student, picture, private_room, WIDTH
from node_overhead import bare_runtime
import numpy as np
import result

from kd_perception.bundle import find_bundle, NetworkSpec
from kd_perception.nodes.bringup.graph import perception_graph
from kd_perception.nodes.bringup.runner import started

# On two cores about 90 ms a frame, so a camera of 22 Hz is twice too fast for it.
NETWORK = NetworkSpec('smp', {'architecture': 'Unet', 'encoder': 'resnet18', 'encoder_depth': 4,
                              'decoder_channels': [64, 48, 32, 8]})
REPEATS, FRAMES, WARMUP = 3, 300, 40
SLOWER = 2.0


def main() -> None:
    args = result.parser(__doc__ or '').parse_args()
    with private_room() as folder:
        make_student(folder, NETWORK)
        bundle = find_bundle('student', folder)
        graph = perception_graph('student', models_dir=str(folder), engine='onnxruntime',
                                 precision='fp32')
        call = bare_runtime(bundle, 'onnxruntime')
        for _ in range(10):
            call()
        with started(graph, folder / 'logs', isolated=False):
            ratios, details, counters = measure(busy_period(call))
        values = [float(np.percentile(r, 95)) for r in ratios]
        result.state(
            name='node_staleness', value=statistics.median(values), unit='camera periods',
            workload={'image': f'{WIDTH}x{HEIGHT} bgr8', 'engine': 'onnxruntime',
                      'precision': 'fp32', 'bundle': bundle.hash[:12],
                      'p50': round(statistics.median([x for r in ratios for x in r]), 3),
                      **details, **counters, 'n': FRAMES, 'repeats': REPEATS},
            spread={'min': round(min(values), 3), 'max': round(max(values), 3)},
            details={'ratios': ratios}, json_file=args.json)


def busy_period(call: Any) -> float:
    """Return the camera period in seconds at which the node is half as fast as it should be."""
    times = []
    for _ in range(20):
        start = time.monotonic()
        call()
        times.append(time.monotonic() - start)
    return statistics.median(times) / SLOWER


def measure(period: float) -> tuple[list[list[float]], dict[str, Any], dict[str, int]]:
    """Return ages over the period for each repeat, the period that was used, and the counters."""
    from diagnostic_msgs.msg import DiagnosticArray
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image

    from kd_perception.nodes import qos
    from kd_perception.nodes.conversion import image_message, values_of
    from kd_perception.nodes.perception.timing import parse_timing

    rclpy.init()
    node = rclpy.create_node('bench')
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    timings: list[Any] = []
    states: list[Any] = []
    node.create_subscription(DiagnosticArray, 'perception/timing', timings.append, qos.stream(50))
    node.create_subscription(DiagnosticArray, '/diagnostics', states.append, qos.stream(5))
    publisher = node.create_publisher(Image, 'image', qos.stream(2))
    image = image_message(picture(), 'bgr8', Image().header)
    while not publisher.get_subscription_count():
        executor.spin_once(timeout_sec=0.1)

    def spin_until(deadline: float) -> None:
        while (left := deadline - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=min(left, 0.02))

    def run(frames: int) -> list[Any]:
        timings.clear()
        begin = time.monotonic()
        for number in range(frames):
            spin_until(begin + number * period)
            image.header.stamp = node.get_clock().now().to_msg()
            publisher.publish(image)
        spin_until(time.monotonic() + 0.5)
        return [parse_timing(t) for t in timings]

    try:
        # The node's own time per frame decides what "half as fast" is.
        for _ in range(2):
            served = run(WARMUP)
            period = statistics.median(
                [t.total_ms - t.wait_ms for t in served]) / 1e3 / SLOWER
        ratios = [[t.age_ms / 1e3 / period for t in run(FRAMES)] for _ in range(REPEATS)]
        spin_until(time.monotonic() + 1.2)
        said = values_of(states[-1].status[0])
        counters = {k: int(said[k]) for k in ('received', 'published', 'overwritten')}
        return ratios, {'network': 'Unet-ResNet18', 'period_ms': round(period * 1e3, 2)}, counters
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()


if __name__ == '__main__':
    main()
