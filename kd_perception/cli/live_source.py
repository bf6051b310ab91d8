"""A live topic as the source of a comparison, looked at before anything is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import importlib.util

from kd_perception.errors import ConfigError
from kd_perception.nodes.bringup.graph import full_topic

# Of the nodes of a comparison in the user's own domain, where others may be called a and b.
NAMESPACE = 'ab_comparison'
_TRANSPORTS = {'sensor_msgs/msg/Image': 'raw', 'sensor_msgs/msg/CompressedImage': 'compressed'}
# Publishers in other processes were found after two to three seconds.
_PATIENCE_S = 5.0
_LABEL_INFO = 'vision_msgs/msg/LabelInfo'


@dataclass(frozen=True)
class LiveTopics:
    """
    How to subscribe.

    :param image_transport: ``raw`` or ``compressed``.
    :param label_info: topic that tells the classes of the labels; empty where none is needed.
    """

    image_transport: str
    label_info: str = ''


def check_topics(topic: str, label_topic: str, *, classes: str) -> LiveTopics:
    """
    Look at the graph of the user's domain, and judge what is there as ``choose_topics`` does.

    :raises ConfigError: also where ROS is missing.
    """
    if importlib.util.find_spec('rclpy') is None:
        raise ConfigError('source topic needs ROS 2: source /opt/ros/<distribution>/setup.bash '
                          '(kd_perception doctor says more)')
    from kd_perception.nodes.topics_now import topics_now

    image, labels, infos = _names(topic, label_topic)
    wanted = [image] if not labels else [image, labels] if classes else [
        image, labels, '|'.join(infos)]
    return choose_topics(topics_now(wanted, _PATIENCE_S), topic, label_topic, classes=classes)


def choose_topics(found: Mapping[str, Sequence[str]], topic: str, label_topic: str, *,
                  classes: str) -> LiveTopics:
    """
    Judge whether a comparison can run on what is published.

    :param found: types by name.
    :param label_topic: empty for none.
    :param classes: class set of the labels; empty where ``LabelInfo`` must tell it.
    :raises ConfigError: for a topic that nobody publishes or that is of another type.
    """
    image, labels, infos = _names(topic, label_topic)
    if any(name.startswith(f'/{NAMESPACE}/') for name in found):
        raise ConfigError(f'another comparison runs in this domain (topics below /{NAMESPACE})')
    pictures = sorted(n for n, types in found.items() if set(types) & set(_TRANSPORTS))
    for name in (image, labels):
        if name and name not in found:
            raise ConfigError(f'nobody publishes {name}; image topics that are published: '
                              f'{", ".join(pictures) or "none"} (ROS_DOMAIN_ID decides who is '
                              'heard)')
    transport = next((_TRANSPORTS[t] for t in found[image] if t in _TRANSPORTS), '')
    if not transport:
        raise ConfigError(f'{image} carries {", ".join(found[image])}, no images')
    if labels and 'sensor_msgs/msg/Image' not in found[labels]:
        raise ConfigError(f'{labels} carries {", ".join(found[labels])}, no label images')
    if not labels or classes:
        return LiveTopics(transport)
    told = next((n for n in infos if _LABEL_INFO in found.get(n, ())), '')
    if not told:
        raise ConfigError(f'nobody says what the ids on {labels} mean: no {_LABEL_INFO} on '
                          f'{" or ".join(infos)}; name the class set (--classes)')
    return LiveTopics(transport, told)


def _names(topic: str, label_topic: str) -> tuple[str, str, tuple[str, str]]:
    """Return the full names of images, labels (or nothing), and where their classes may be."""
    labels = full_topic(label_topic) if label_topic else ''
    return full_topic(topic), labels, (f'{labels}_info',
                                       f'{labels.rpartition("/")[0]}/label_info')
