"""
Ground truth beside labels in a recording, by picture: instances, depth, where the camera was.

Comes in: a bag with what ``bag record --truth`` writes beside the picture (``truth.py``). Goes
out: ``KnownTruth`` of a picture. Topics are found by name in the camera's namespace and joined
by header stamp, as labels are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from kd_perception.bags import messages as msgs
from kd_perception.bags.labels import pair_labels
from kd_perception.bags.reader import BagReader
from kd_perception.bags.topics import TopicIndex
from kd_perception.bags.truth import DETECTIONS, POSE
from kd_perception.errors import BagError, ImageError
from kd_perception.frames import CameraPlace, InstanceTable, KnownTruth
from kd_perception.imaging import decode_depth, raw_view

T = TypeVar('T')

_TOPICS = {'instances': msgs.IMAGE, 'detections': DETECTIONS, 'depth': msgs.IMAGE, 'pose': POSE}


class RecordedTruth:
    """
    The known things of one camera's pictures.

    :param reader: of the bag; not closed here.
    :param topic: resolved name of the image topic.
    """

    def __init__(self, reader: BagReader, topic: str) -> None:
        parent = topic.removesuffix('/compressed').rpartition('/')[0]
        there = {t.name: t.type for t in reader.topics if t.count}
        images = reader.index(topic)
        self._topics: dict[str, tuple[TopicIndex, np.ndarray]] = {}
        for name, kind in _TOPICS.items():
            full = f'{parent}/{name}'
            if there.get(full) == kind:
                index = reader.index(full)
                self._topics[name] = index, pair_labels(images, index)[0]
        self._lens: tuple[float, float, float, float] | None = None
        if there.get(f'{parent}/camera_info') == msgs.CAMERA_INFO:
            k = reader.index(f'{parent}/camera_info').message(0).k
            self._lens = float(k[0]), float(k[4]), float(k[2]), float(k[5])

    def of(self, position: int) -> KnownTruth | None:
        """
        Return what is known of the picture at ``position`` of its topic; None for nothing.

        What is damaged is not known.
        """
        ids = self._read('instances', position, raw_view)
        if ids is not None and (ids.dtype != np.uint16 or ids.ndim != 2):
            ids = None
        table = self._read('detections', position, table_of)
        depth = self._read('depth', position, decode_depth)
        if (ids is None or table is None) and depth is None:
            return None
        return KnownTruth(ids, table, depth, self._read('pose', position, place_of), self._lens)

    def _read(self, name: str, position: int, decode: Callable[[Any], T]) -> T | None:
        index, partner = self._topics.get(name, (None, None))
        if index is None or partner is None or partner[position] < 0:
            return None
        try:
            return decode(index.message(int(partner[position])))
        except (BagError, ImageError):
            return None


def place_of(message: Any) -> CameraPlace:
    """Return where a camera is, of a ``PoseStamped`` of its optical frame in the world."""
    at, turn = message.pose.position, message.pose.orientation
    quaternion = np.array([turn.x, turn.y, turn.z, turn.w])
    x, y, z, w = quaternion / max(np.linalg.norm(quaternion), 1e-12)
    to_world = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])
    return CameraPlace(to_world.T, np.array([at.x, at.y, at.z]))


def table_of(message: Any) -> InstanceTable:
    """
    Return what a ``Detection2DArray`` of ground truth says of instances.

    One whose id does not begin with a number below 65536, or whose class is no number of 8 bits,
    is no instance of a simulator and is left out.
    """
    rows = []
    for one in message.detections:
        number, _, role = one.id.partition(' ')
        said = one.results[0] if len(one.results) else None
        if said is None or not number.isdecimal() or int(number) >= 1 << 16 \
                or not said.hypothesis.class_id.isdecimal() \
                or int(said.hypothesis.class_id) >= 1 << 8:
            continue
        at, box = said.pose.pose.position, one.bbox
        middle = box.center.position
        rows.append((int(number), int(said.hypothesis.class_id), said.hypothesis.score,
                     (at.x, at.y, at.z),
                     (middle.x - box.size_x / 2, middle.y - box.size_y / 2,
                      middle.x + box.size_x / 2, middle.y + box.size_y / 2), role))
    ids, classes, visible, positions, boxes, roles = zip(*rows) if rows else ((),) * 6
    return InstanceTable(
        ids=np.array(ids, np.uint16), classes=np.array(classes, np.uint8),
        visible=np.array(visible, float), positions=np.array(positions, float).reshape(-1, 3),
        boxes=np.array(boxes, float).reshape(-1, 4), roles=tuple(roles))
