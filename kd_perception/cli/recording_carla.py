"""Recording of a CARLA server into a rosbag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kd_perception.bags.importer import beside, check_topic, DEFAULT_TOPIC
from kd_perception.bags.writer import BagWriter
from kd_perception.classes import load_class_set
from kd_perception.simulation.carla.session import CarlaSession
from kd_perception.simulation.carla.spec import CarlaSpec

FRAME_ID = 'camera'


@dataclass(frozen=True)
class CarlaRecording:
    """
    A recording that is done.

    :param notes: what a reader must know of the drive.
    """

    path: Path
    notes: tuple[str, ...]


def record_carla(out: Path | str, spec: CarlaSpec, *, frames: int = 100,
                 topic: str = DEFAULT_TOPIC, encoding: Literal['jpeg', 'png', 'rgb8'] = 'jpeg',
                 labels: bool = True, overwrite: bool = False,
                 progress: Callable[[int, int, str], None] | None = None) -> CarlaRecording:
    """
    Drive in a CARLA world and record what the camera sees.

    The topics are those of ``record_simulation``: picture, ``camera_info``, with ``labels`` the
    tags of every pixel and their ``label_info``, and instance ids where ``spec`` asks for them.

    :param progress: called with (done, total, note).
    :raises SimulationError: when the server cannot be driven.
    :raises BagError: when ``out`` exists and ``overwrite`` is false.
    """
    check_topic(topic)
    name = topic if encoding == 'rgb8' else f'{topic.rstrip("/")}/compressed'
    writer = BagWriter(out, overwrite=overwrite)
    with CarlaSession(spec) as session, writer:
        camera = session.camera
        for number in range(frames):
            frame = session.frame()
            stamp = frame.stamp_ns
            if labels and number == 0:
                writer.write_label_info(beside(topic, 'label_info'), load_class_set('carla'),
                                        stamp, FRAME_ID)
            writer.write_image(name, frame.image, stamp, FRAME_ID, encoding)
            if labels:
                writer.write_labels(beside(topic, 'labels'), frame.labels, stamp, FRAME_ID)
            if frame.instances is not None:
                writer.write_image(beside(topic, 'instances'), frame.instances, stamp, FRAME_ID,
                                   'mono16')
            writer.write_camera_info(beside(topic, 'camera_info'), camera.width, camera.height,
                                     camera.fx, camera.fy, camera.cx, camera.cy, stamp, FRAME_ID)
            if progress is not None:
                progress(number + 1, frames, '')
        notes = session.notes
    return CarlaRecording(writer.path, notes)
