"""What the node says on latched topics of the model that serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import json
import threading
from typing import Any

from std_msgs.msg import String

from kd_perception.nodes.perception.camera_topics import CameraTopics
from kd_perception.nodes.perception.serving import ACTIVE_MODEL_SCHEMA, ServingModel

Topics = Mapping[str, CameraTopics]


class Announcement:
    """
    Publishes ``~/active_model`` and the ``segmentation/label_info`` of all cameras.

    Models begin to serve in the inference thread, thresholds are set in the ROS thread: under one
    lock, so that what is said last holds the last of both.

    :param publisher: of ``~/active_model``.
    """

    def __init__(self, publisher: Any) -> None:
        self.exchanges = 0
        self._publisher = publisher
        self._lock = threading.Lock()
        self._model: ServingModel | None = None

    def serves(self, model: ServingModel, topics: Topics, threshold: Callable[[], float]) -> None:
        """
        Say that ``model`` serves from now on.

        :param threshold: returns the confidence threshold of now.
        """
        with self._lock:
            self._model = model
            self._publish_classes(topics, threshold())
            self.exchanges += 1
            self._publish(model.describe())

    def threshold_changed(self, topics: Topics, threshold: Callable[[], float]) -> None:
        """Say with which threshold the classes are decided from now on."""
        with self._lock:
            self._publish_classes(topics, threshold())

    def nothing_serves(self) -> None:
        """Say that no model serves any more, where one did."""
        with self._lock:
            if self._model is not None:
                self._model = None
                self._publish({'schema_version': ACTIVE_MODEL_SCHEMA, 'model': '', 'name': '',
                               'hash': ''})

    def _publish_classes(self, topics: Topics, threshold: float) -> None:
        if self._model is not None:
            for camera in topics.values():
                camera.publish_classes(self._model.bundle.spec.classes, threshold)

    def _publish(self, told: Mapping[str, Any]) -> None:
        self._publisher.publish(String(data=json.dumps({**told, 'exchange': self.exchanges})))
