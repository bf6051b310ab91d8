"""Topics as CARLA's ROS bridge publishes them, as the source of a comparison."""

from __future__ import annotations

import array
from contextlib import ExitStack
from functools import partial

import numpy as np
from sensor_msgs.msg import Image

from kd_perception.classes import load_class_set
from kd_perception.evaluation.comparison_files import load_run, RECORDING
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import header
from kd_perception.nodes.monitor.node import MonitorNode
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.process import Finished

ROOT = '/carla/ego_vehicle'


def bgra(pixels, stamp_ns, sensor):
    height, width = pixels.shape[:2]
    return Image(header=header(stamp_ns, f'ego_vehicle/{sensor}'), height=height, width=width,
                 encoding='bgra8', step=4 * width, data=array.array('B', pixels.tobytes()))


def test_pictures_and_labels_of_the_bridge_are_compared(bench, bundles, tmp_path):
    tags = np.repeat(np.array([[1, 11, 14, 0]], np.uint8), 48, axis=0).repeat(16, axis=1)
    labels = np.dstack([load_class_set('carla').palette()[tags][..., ::-1],
                        np.full(tags.shape, 255, np.uint8)])
    picture = np.full((48, 64, 4), 90, np.uint8)
    publishers = {sensor: bench.node.create_publisher(Image, f'{ROOT}/{sensor}/image',
                                                      qos.stream(10))
                  for sensor in ('rgb_front', 'semantic_segmentation_front')}
    number = 0

    def tick():
        nonlocal number
        number += 1
        for (sensor, publisher), pixels in zip(publishers.items(), (picture, labels)):
            publisher.publish(bgra(pixels, number * 50_000_000, sensor))

    remapped = ['--ros-args', '-r', f'image:={ROOT}/rgb_front/image',
                '-r', f'labels:={ROOT}/semantic_segmentation_front/image']
    with ExitStack() as stack:
        for arm, model in zip('ab', ('one', 'two')):
            stack.enter_context(bench.running(
                partial(PerceptionNode, cli_args=remapped), arm, models_dir=str(bundles),
                model=model, threads=1, engine='onnxruntime', warmup_iterations=1))
        monitor = stack.enter_context(bench.running(
            partial(MonitorNode, cli_args=remapped), out=str(tmp_path / 'out'), source='topic',
            scenario=f'{ROOT}/rgb_front/image', pacing='realtime', placement='concurrent',
            truth='required', classes='carla', frames=6, warmup=1))
        timer = bench.node.create_timer(0.1, tick)
        bench.spin_until(lambda: not monitor.thread.is_alive(), 60.0)
        timer.cancel()
    assert isinstance(monitor.failure[0], Finished), monitor.failure
    run = load_run(tmp_path / 'out' / RECORDING)
    counted = run.confusion['a'].sum(axis=1)
    names = load_class_set('driving').names
    # Unlabelled pixels count nowhere; a busy machine may lose a frame.
    assert {names[i] for i in np.flatnonzero(counted)} == {'road', 'sky', 'vehicle'}
    assert {int(n) // (48 * 16) for n in counted if n} <= set(range(1, 7))
    assert len({int(n) for n in counted if n}) == 1
