"""Recording of the simulator into a rosbag."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal

from kd_perception.bags.importer import beside, check_topic, DEFAULT_TOPIC
from kd_perception.bags.truth import write_depth, write_detections, write_pose
from kd_perception.bags.writer import BagWriter
from kd_perception.classes import load_class_set
from kd_perception.errors import ConfigError
from kd_perception.simulation.street import LONGEST_S, SimulatedFrame, StreetSimulator

# What can be recorded beside picture, camera_info and labels, with its topic.
TRUTH = {'instances': 'instances', 'depth': 'depth', 'detections': 'detections', 'pose': 'pose'}
FASTEST_HZ = 1000.


def record_simulation(out: Path | str, *, scenario: str = 'clear', seed: int = 0,
                      frames: int = 100, rate_hz: float = 10.0, start_s: float = 0.0,
                      width: int = 640, height: int = 360, topic: str = DEFAULT_TOPIC,
                      encoding: Literal['jpeg', 'png', 'rgb8'] = 'jpeg', labels: bool = True,
                      truth: Collection[str] = (), world: str = '', overwrite: bool = False,
                      progress: Callable[[int, int, str], None] | None = None) -> Path:
    """
    Drive through the simulated street and record what the camera sees.

    The recording holds the picture, ``camera_info`` and, with ``labels``, the CARLA tags of
    every pixel with their ``label_info``. It is the same for the same arguments.

    :param scenario: name of a scenario, with changes behind commas; ``world``: instead of its own.
    :param start_s: simulated time of the first frame.
    :param truth: any of ``instances`` (mono16), ``depth`` (32FC1), ``pose`` of the camera
        (``geometry_msgs/PoseStamped``) and ``detections`` (``vision_msgs/Detection2DArray``).
    :param progress: called with (done, total, note).
    :returns: the recording's path.
    :raises ConfigError: when frames lie beyond the simulated day.
    :raises SimulationError: when the simulator cannot start.
    :raises BagError: when ``out`` exists and ``overwrite`` is false.
    """
    check_topic(topic)
    check_times(frames, rate_hz, start_s)
    unknown = sorted(set(truth) - set(TRUTH))
    if unknown:
        raise ConfigError(f'truth {unknown[0]!r}: known are {", ".join(TRUTH)}')
    name = topic if encoding == 'rgb8' else f'{topic.rstrip("/")}/compressed'
    writer = BagWriter(out, overwrite=overwrite)
    with StreetSimulator(scenario, seed=seed, width=width, height=height,
                         world=world) as simulator, writer:
        camera = simulator.camera
        for number in range(frames):
            frame = simulator.render(start_s + number / rate_hz, depth='depth' in truth)
            stamp, frame_id = frame.stamp_ns, frame.frame_id
            if labels and number == 0:
                writer.write_label_info(beside(topic, 'label_info'), load_class_set('carla'),
                                        stamp, frame_id)
            writer.write_image(name, frame.image, stamp, frame_id, encoding)
            if labels:
                writer.write_labels(beside(topic, 'labels'), frame.labels, stamp, frame_id)
            _write_truth(writer, topic, frame, truth)
            writer.write_camera_info(beside(topic, 'camera_info'), camera.width, camera.height,
                                     camera.fx, camera.fy, camera.cx, camera.cy, stamp, frame_id)
            if progress is not None:
                progress(number + 1, frames, '')
    return writer.path


def check_times(frames: int, rate_hz: float, start_s: float) -> None:
    """
    Refuse a recording that would only fail after hours, or never end.

    :raises ConfigError: when a frame lies outside the simulated day, or the rate is impossible.
    """
    if not 0 < rate_hz <= FASTEST_HZ:
        raise ConfigError(f'a rate of {rate_hz:g} Hz: must be above 0 and at most {FASTEST_HZ:g}')
    last = start_s + (frames - 1) / rate_hz
    if not 0 <= start_s <= last <= LONGEST_S:
        raise ConfigError(f'{frames:g} frames from {start_s:g} to {last:g} s: the simulated time '
                          f'is 0 to {LONGEST_S:.0f} s')


def _write_truth(writer: BagWriter, topic: str, frame: SimulatedFrame,
                 truth: Collection[str]) -> None:
    stamp, frame_id = frame.stamp_ns, frame.frame_id
    if 'instances' in truth:
        writer.write_image(beside(topic, TRUTH['instances']), frame.instances, stamp, frame_id,
                           'mono16')
    if 'depth' in truth and frame.depth is not None:
        write_depth(writer, beside(topic, TRUTH['depth']), frame.depth, stamp, frame_id)
    if 'pose' in truth and frame.scene is not None:
        write_pose(writer, beside(topic, TRUTH['pose']), frame.scene.pose.place(), stamp,
                   frame_id)
    if 'detections' in truth:
        rows = frame.instances_table()
        write_detections(writer, beside(topic, TRUTH['detections']), stamp, frame_id,
                         ids=rows.names, tags=rows.tags, scores=rows.visible, boxes=rows.boxes,
                         positions=rows.positions)
