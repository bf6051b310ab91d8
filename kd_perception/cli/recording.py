"""Recording of the simulator into a rosbag."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from kd_perception.bags.importer import beside, check_topic, DEFAULT_TOPIC
from kd_perception.bags.writer import BagWriter
from kd_perception.classes import load_class_set
from kd_perception.simulation.street import StreetSimulator


def record_simulation(out: Path | str, *, scenario: str = 'clear', seed: int = 0,
                      frames: int = 100, rate_hz: float = 10.0, start_s: float = 0.0,
                      width: int = 640, height: int = 360, topic: str = DEFAULT_TOPIC,
                      encoding: Literal['jpeg', 'png', 'rgb8'] = 'jpeg', labels: bool = True,
                      overwrite: bool = False,
                      progress: Callable[[int, int, str], None] | None = None) -> Path:
    """
    Drive through the simulated street and record what the camera sees.

    The recording holds the picture, ``camera_info`` and, with ``labels``, the CARLA tags of
    every pixel with their ``label_info``. It is the same for the same arguments.

    :param start_s: simulated time of the first frame.
    :param progress: called with (done, total, note).
    :returns: the recording's path.
    :raises SimulationError: when the simulator cannot start.
    :raises BagError: when ``out`` exists and ``overwrite`` is false.
    """
    check_topic(topic)
    name = topic if encoding == 'rgb8' else f'{topic.rstrip("/")}/compressed'
    writer = BagWriter(out, overwrite=overwrite)
    with StreetSimulator(scenario, seed=seed, width=width, height=height) as simulator, writer:
        camera = simulator.camera
        for number in range(frames):
            frame = simulator.render(start_s + number / rate_hz)
            stamp, frame_id = frame.stamp_ns, frame.frame_id
            if labels and number == 0:
                writer.write_label_info(beside(topic, 'label_info'), load_class_set('carla'),
                                        stamp, frame_id)
            writer.write_image(name, frame.image, stamp, frame_id, encoding)
            if labels:
                writer.write_labels(beside(topic, 'labels'), frame.labels, stamp, frame_id)
            writer.write_camera_info(beside(topic, 'camera_info'), camera.width, camera.height,
                                     camera.fx, camera.fy, camera.cx, camera.cy, stamp, frame_id)
            if progress is not None:
                progress(number + 1, frames, '')
    return writer.path
