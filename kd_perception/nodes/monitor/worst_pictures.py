"""
Asks the camera for the pictures of the worst frames when a run is over.

The embedded street and recordings give the same frame again by its number, so no picture has to
be carried along with every frame. What does not come (another source, a camera that is gone) is
shown without its picture.
"""

from __future__ import annotations

import json
import time
from typing import Any

from std_msgs.msg import String

from kd_perception.nodes import qos
from kd_perception.nodes.monitor.worst_frames import Key, WorstFrames

SHOW_TOPIC = 'camera/show'
_PATIENCE_S = 2.5
_ATTEMPTS = 2


def show_request(index: int, key: Key) -> String:
    """Return the message that asks for frame ``index`` under the header ``key``."""
    return String(data=json.dumps({'index': index, 'stamp_ns': key[0], 'frame_id': key[1]}))


def parse_show_request(message: Any) -> tuple[int, Key]:
    """
    Return index and key.

    :raises ValueError: for anything else than what ``show_request`` makes.
    """
    try:
        asked = json.loads(message.data)
        index, stamp_ns = int(asked['index']), int(asked['stamp_ns'])
        frame_id = str(asked['frame_id'])
    except (KeyError, TypeError) as error:
        raise ValueError(f'no request for a picture: {error}') from None
    if index < 0 or stamp_ns < 0:
        raise ValueError(f'no request for a picture: index {index}, stamp {stamp_ns}')
    return index, (stamp_ns, frame_id)


class WorstPictures:
    """
    One picture at a time, until all are there or the camera does not answer.

    :param node: the monitor.
    """

    def __init__(self, node: Any, worst: WorstFrames) -> None:
        self._worst = worst
        self._publisher = node.create_publisher(String, SHOW_TOPIC, qos.stream(10))
        self._asked: Key | None = None
        self._attempts = 0
        self._deadline = 0.0
        self._answers = 0
        self._given_up: set[Key] = set()

    def take(self, key: Key, image: Any) -> bool:
        """Take a picture if it is the one that was asked for; ``image`` makes the array."""
        if self._asked != key:
            return False
        self._worst.add_image(key, image())
        self._answers += 1
        self._asked = None
        return True

    def done(self) -> bool:
        """Ask for the next picture if it is time; return whether there is nothing to wait for."""
        if not self._publisher.get_subscription_count():
            return True  # no camera of ours
        now = time.monotonic()
        if self._asked is not None:
            if now < self._deadline:
                return False
            if self._attempts >= _ATTEMPTS:
                self._given_up.add(self._asked)
                self._asked = None
                if not self._answers:
                    return True  # it does not answer at all
        waiting = [(i, k) for i, k in self._worst.wanted() if k not in self._given_up]
        if not waiting:
            return True
        index, key = waiting[0]
        self._attempts = self._attempts + 1 if self._asked == key else 1
        self._asked, self._deadline = key, now + _PATIENCE_S
        self._publisher.publish(show_request(index, key))
        return False
