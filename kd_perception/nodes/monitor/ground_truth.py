"""The ground truth of a comparison: its topics, what its ids mean, whether it must be there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo

from kd_perception.bags.labels import classes_by_names
from kd_perception.classes import ClassMap, ClassSet, load_class_map, load_class_set
from kd_perception.errors import ConfigError
from kd_perception.imaging.encodings import is_colour
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import label_info_names
from kd_perception.nodes.qos_watch import publisher_problem

# Labels of somebody else's topic may come late; the frames that wait for them must be kept.
_DEPTH = 10


class GroundTruth:
    """
    Subscriptions to ``labels`` and ``label_info``, as the parameter ``truth`` says.

    The camera of this package always tells its classes, none where it has no labels. Of a live
    topic labels are taken only where they are ``required``; then at least one must have come, and
    its classes must be told by ``label_info`` or the parameter ``classes``.

    :param node: the monitor.
    :param values: its parameters.
    :param on_labels: called in the ROS thread with every label image.
    :param frame_id: returns the frame id of a live topic's images.
    """

    def __init__(self, node: Any, values: Mapping[str, Any],
                 on_labels: Callable[[Image], None], frame_id: Callable[[], str]) -> None:
        self._node = node
        self._live = values['source'] == 'topic'
        self._mode = values['truth']
        self._class_map = values['class_map']
        self._on_labels, self._frame_id = on_labels, frame_id
        self._came = False
        self._names: tuple[str, ...] | None = None
        wanted = self._mode == 'required' or (self._mode == 'auto' and not self._live)
        if not wanted:
            self._names = ()
            return
        if values['classes']:
            self._names = load_class_set(values['classes']).names
        else:
            node.create_subscription(LabelInfo, 'label_info', self._on_label_info, qos.latched())
        # Best effort takes from every publisher; our own camera is reliable, and must not lose.
        profile = qos.stream(_DEPTH)
        if self._live:
            profile = qos.image_subscription()
            profile.depth = _DEPTH
        self._subscription = node.create_subscription(Image, 'labels', self._take, profile)

    def missing(self) -> str:
        """Return what must come before the run can begin; empty when all is there."""
        if self._names is None:
            if self._live:
                return ('the classes of the labels (no label_info on '
                        f'{self._node.resolve_topic_name("label_info")}; name them by classes)')
            return 'the camera (no label_info)'
        if self._live and self._mode == 'required' and not self._came:
            topic = self._subscription.topic_name
            ends = self._node.get_publishers_info_by_topic(topic)
            told = [publisher_problem(topic, end, self._subscription.qos_profile, '')
                    for end in ends]
            return 'ground truth (' + (next((t for t in told if t), '') or (
                f'{topic} is published but nothing comes' if ends
                else f'nobody publishes {topic}')) + ')'
        return ''

    def source_classes(self) -> ClassSet | None:
        """Return the class set of the labels; None where there are none."""
        return classes_by_names(self._names, 'source') if self._names else None

    def class_map(self, source: ClassSet | None,
                  classes: ClassSet) -> tuple[ClassMap | None, str]:
        """
        Return the map from labels to models, or why there is none.

        :raises ConfigError: where it must be there and is not.
        """
        if source is None:
            if self._mode == 'required':
                raise ConfigError('ground truth is required, but the source has none')
            return None, ''
        try:
            return load_class_map(source, classes, self._class_map), ''
        except ConfigError as error:
            if self._class_map or self._mode == 'required':
                raise
            self._node.get_logger().warning(f'no accuracy: {error}')
            return None, f'accuracy was not measured: {error}'

    def _take(self, message: Image) -> None:
        self._came = True
        if self._live and is_colour(message.encoding):
            # Labels of CARLA: there each sensor has a frame id of its own, and stamps are equal.
            message.header.frame_id = self._frame_id()
        self._on_labels(message)

    def _on_label_info(self, message: LabelInfo) -> None:
        try:
            self._names = label_info_names(message)
        except ValueError as error:
            self._node.get_logger().warning(f'label_info is not usable: {error}')
