"""
The camera node: publishes the embedded street or a recording, by rate or on demand.

With ``arms`` it serves several perception nodes in the order of ``schedule``; every publish call
is put on record on ``~/published``. In lockstep each call of ``~/step`` serves once; the answer
says in JSON what was served.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import json
import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger
from vision_msgs.msg import LabelInfo

from kd_perception.bags.sampling import LabelError
from kd_perception.errors import ConfigError, ImageError
from kd_perception.evaluation.joining import Published
from kd_perception.nodes import qos
from kd_perception.nodes.camera.published import end_message, published_message, skipped_message
from kd_perception.nodes.camera.source import open_pictures, Picture, StreetPictures
from kd_perception.nodes.conversion import (
    camera_info_message,
    header,
    image_message,
    label_info_message,
)
from kd_perception.nodes.monitor.worst_pictures import parse_show_request
from kd_perception.nodes.parameters import CAMERA, declare, values_of_node
from kd_perception.nodes.process import run_node
from kd_perception.nodes.sampling import SampleIndices
from kd_perception.nodes.schedule import Serving, servings
from kd_perception.nodes.truth_topics import TruthPublishers

# Discovery of publishers in other processes and on other hosts takes about so long.
_DISCOVERY_S = 2.0
# In lockstep images wait so long for the monitor to take the ground truth, megabytes of it: it
# would do that while the first arm computes, and slow that one down.
_TAKE_TRUTH_S = 0.01


class CameraNode(Node):
    """See the module; ``close`` must be called before ``destroy_node``."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__('camera', **arguments)
        self.exit_code = 0
        declare(self, CAMERA)
        self._values = values_of_node(self, CAMERA)
        self._sim_clock = (self.create_publisher(ClockMessage, '/clock', qos.stream())
                           if self._values['publish_clock'] else None)
        self._refuse_second_clock(_DISCOVERY_S)
        self._source = open_pictures(self._values)
        if self._values['speed'] and (
                not self._source.schedule_s.size or self._values['pacing'] != 'realtime'
                or self._values['placement'] != 'concurrent'):
            raise ConfigError('speed needs a recording, pacing realtime and placement '
                              'concurrent')
        self._arms: tuple[str, ...] = self._values['arms'] or ('',)
        self._total = self._number_of_frames()
        self._samples = SampleIndices(self._values['samples'], self._total)
        self._order: Iterator[Serving] = self._servings()
        self._picture: tuple[int, Picture, Image] | None = None
        self._ended = False
        self._served = False
        self._playing_since = 0.0
        self._bad: set[int] = set()
        self._create_topics()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._held = self._values['hold'] or self._values['pacing'] == 'lockstep'
        if self._values['pacing'] != 'lockstep':
            period = 0.0 if self._values['pacing'] == 'max' else 1.0 / self._values['rate_hz']
            self._timer = self.create_timer(period, self._on_timer, clock=steady)
        self.create_service(Trigger, '~/step', self._on_step)
        frames = self._total or 'endless'
        for note in self._source.notes:
            self.get_logger().warning(f'{self._source.name}: {note}')
        self.get_logger().info(f'{self._source.name}: {frames} frames for '
                               f'{", ".join(a or "image" for a in self._arms)}')

    def close(self) -> None:
        """Release the source."""
        self._source.close()

    def _refuse_second_clock(self, patience_s: float) -> None:
        """
        Make sure that nobody else publishes ``/clock``: two clocks send a vehicle back in time.

        :param patience_s: the graph is empty at first and fills in the middleware's own thread.
        :raises ConfigError: when somebody does.
        """
        if self._sim_clock is None:
            return
        deadline = time.monotonic() + patience_s
        while self.count_publishers('/clock') <= 1:  # one is our own
            if time.monotonic() >= deadline:
                return
            time.sleep(0.02)
        raise ConfigError('somebody else publishes /clock already; set publish_clock to false')

    def _create_topics(self) -> None:
        def topic(arm: str, name: str) -> str:
            return f'{arm}/{name}' if arm else name

        self._images = {arm: self.create_publisher(Image, topic(arm, 'image'), qos.stream(2))
                        for arm in self._arms}
        self._infos = {arm: self.create_publisher(CameraInfo, topic(arm, 'camera_info'),
                                                  qos.stream())
                       for arm in self._arms}
        self._labels = self.create_publisher(Image, 'labels', qos.stream(10))
        self._truth = TruthPublishers(self)
        self._parts: tuple[str, ...] = ()
        self._sample = self.create_publisher(Image, 'sample', qos.stream(10))
        self._published = self.create_publisher(DiagnosticArray, '~/published', qos.stream(1000))
        self.create_subscription(String, '~/show', self._on_show, qos.stream(10))
        self._label_info = self.create_publisher(LabelInfo, 'label_info', qos.latched())
        # Without ground truth an empty one, so that nobody waits for classes in vain.
        classes = self._source.classes
        self._label_info.publish(LabelInfo() if classes is None
                                 else label_info_message(classes, header(0, '')))

    def _number_of_frames(self) -> int:
        wanted, there = self._values['frames'], self._source.frames
        if self._values['loop']:
            return wanted
        return min(wanted, there) if wanted and there else wanted or there

    def _servings(self) -> Iterator[Serving]:
        return servings(self._total, self._arms, self._values['placement'], self._values['seed'])

    def _on_timer(self) -> None:
        if self._held or self._ended:
            return
        served = self._serve_next()
        # Draw the next picture now, so that it goes out on time.
        self._prepare()
        if self._values['speed'] and served:
            self._keep_time(served[0].index)

    def _keep_time(self, index: int) -> None:
        """Set the timer to when the frame after ``index`` is due in the recording's own time."""
        now = time.monotonic()
        self._playing_since = self._playing_since or now - self._due_s(index)
        wait_s = self._playing_since + self._due_s(index + 1) - now
        self._timer.timer_period_ns = max(0, int(wait_s * 1e9))
        self._timer.reset()

    def _due_s(self, index: int) -> float:
        """Return when a frame is due after the first one."""
        times = self._source.schedule_s
        rounds, place = divmod(index, len(times) - 1)
        return float(rounds * times[-1] + times[place]) / float(self._values['speed'])

    def _on_step(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        unheard = [p.topic_name for p in self._images.values() if not p.get_subscription_count()]
        if unheard:
            response.success = False
            response.message = json.dumps({'waiting': f'nobody subscribes to {unheard[0]}'})
            return response
        if self._values['pacing'] != 'lockstep':
            self._held = False
            response.success = True
            response.message = json.dumps({'running': not self._ended, 'frames': self._total,
                                           'notes': self._source.notes,
                                           'identity': self._source.identity})
            return response
        served = self._serve_next()
        response.success = bool(served)
        response.message = json.dumps(
            {'served': [{'arm': r.arm, 'stamp_ns': r.stamp_ns, 'frame_id': r.frame_id,
                         'index': r.index, 'turn': r.turn} for r in served],
             'labelled': self._picture is not None and self._picture[1].labels is not None,
             'frames': self._total, 'end': self._ended, 'notes': self._source.notes,
             'identity': self._source.identity})
        return response

    def _serve_next(self) -> list[Published]:
        """Publish the next picture that can be decoded; an empty list at the end."""
        for serving in self._order:
            if serving.index in self._bad:
                continue
            found = self._load(serving.index)
            if found is not None:
                return self._serve(serving, *found)
        if not self._ended:
            self._ended = True
            self._published.publish(end_message())
            self.get_logger().info('end of the source')
        return []

    def _prepare(self) -> None:
        if self._picture is not None and self._values['placement'] != 'turns':
            following = self._picture[0] + 1
            if (not self._total or following < self._total) and following not in self._bad:
                self._load(following)

    def _load(self, index: int) -> tuple[Picture, Image] | None:
        if self._picture is not None and self._picture[0] == index:
            return self._picture[1:]
        there = self._source.frames
        if isinstance(self._source, StreetPictures):
            self._source.depth = self._truth.depth_wanted
        rounds, place = divmod(index, there) if there else (0, index)
        try:
            picture = self._source.picture(place)
        except LabelError:
            raise  # not one bad picture: the labels of this recording mean something else
        except ImageError as error:
            self._bad.add(index)
            self._published.publish(skipped_message(index))
            self.get_logger().warning(f'frame {index} is skipped: {error}')
            return None
        image = picture.image
        if self._values['encoding'] == 'bgr8':
            image = np.ascontiguousarray(image[..., ::-1])
        # A recording that is played again goes on in time: no stamp comes twice.
        stamp = picture.stamp_ns + rounds * self._source.round_ns
        if self._values['stamps'] == 'clock':
            stamp = self.get_clock().now().nanoseconds
        message = image_message(image, self._values['encoding'], header(stamp, picture.frame_id))
        self._picture = (index, picture, message)
        return picture, message

    def _serve(self, serving: Serving, picture: Picture, message: Image) -> list[Published]:
        head = message.header
        if not self._served:
            self._refuse_second_clock(0.0)  # it may have come while the first frame was held
            self._served = True
        if self._values['stamps'] == 'clock' and serving.turn <= 0:
            head.stamp = self.get_clock().now().to_msg()
        if self._sim_clock is not None:
            self._sim_clock.publish(ClockMessage(clock=head.stamp))
        if serving.turn <= 0:
            self._publish_truth(serving.index, picture, head)
            if self._parts and self._values['pacing'] == 'lockstep':
                time.sleep(_TAKE_TRUTH_S)
        stamp_ns = head.stamp.sec * 1_000_000_000 + head.stamp.nanosec
        records = []
        for arm in serving.arms:
            publisher = self._images[arm]
            published_ns = time.monotonic_ns()
            publisher.publish(message)
            records.append(Published(arm, stamp_ns, head.frame_id, serving.index, published_ns,
                                     serving.turn, self._parts))
        for record in records:
            self._published.publish(published_message(record))
            self._publish_info(record.arm, picture, head)
        return records

    def _publish_truth(self, index: int, picture: Picture, head: Any) -> None:
        if picture.labels is not None:
            self._labels.publish(image_message(picture.labels, 'mono8', head))
        self._parts = self._truth.publish(picture, head)
        if index in self._samples:
            self._sample.publish(image_message(picture.image, 'rgb8', head))

    def _on_show(self, message: String) -> None:
        """Publish the picture of a frame once more on ``sample``, for the report."""
        if self._values['source'] not in ('sim', 'bag'):
            return  # what is gone is gone
        try:
            index, key = parse_show_request(message)
            there = self._source.frames
            picture = self._source.picture(index % there if there else index)
        except (ValueError, ImageError) as error:
            self.get_logger().warning(f'~/show: {error}')
            return
        self._sample.publish(image_message(picture.image, 'rgb8', header(*key)))

    def _publish_info(self, arm: str, picture: Picture, head: Any) -> None:
        lens = self._source.intrinsics
        if lens is not None:
            height, width = picture.image.shape[:2]
            self._infos[arm].publish(camera_info_message(
                width, height, lens.fx, lens.fy, lens.cx, lens.cy, head))


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return run_node(CameraNode, args)


if __name__ == '__main__':
    sys.exit(main())
