"""
The shadow node: a teacher beside a student that serves, in a process of its own.

Comes in: the camera's images, the student's masks and confidences, what it says of itself. Goes
out: how far the teacher disagrees, and, where asked, a recording of the frames that are worth a
label. It runs at a low rate within a budget, and makes way for the student. Topics and parameters
are described in ``docs/data_loop.md``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
import json
import os
import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import numpy as np
import psutil
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from vision_msgs.msg import LabelInfo

from kd_perception.bags import messages as msgs
from kd_perception.bags.labels import classes_by_names
from kd_perception.bags.mined import MinedTopics
from kd_perception.bags.ring import RawMessage
from kd_perception.bundle import find_bundle
from kd_perception.classes import ClassSet
from kd_perception.errors import BagError, KdPerceptionError
from kd_perception.evaluation.metrics.disagreement import FrameComparison
from kd_perception.evaluation.mining import MiningOptions
from kd_perception.evaluation.redaction import Redaction
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import (
    header,
    image_message,
    label_info_names,
    status,
    statuses,
    values_of,
)
from kd_perception.nodes.parameters import declare, SHADOW, values_of_node
from kd_perception.nodes.perception.serving import ServingModel, ServingSettings
from kd_perception.nodes.perception.timing import parse_timing
from kd_perception.nodes.process import run_node
from kd_perception.nodes.qos_overrides import overridable
from kd_perception.nodes.shadow.frames import ShadowFrames
from kd_perception.nodes.shadow.keeper import KeeperOptions, ShadowKeeper
from kd_perception.nodes.shadow.pace import Pace, PaceOptions
from kd_perception.nodes.shadow.teacher import Comparison, ShadowTeacher
from kd_perception.tasks.familiarity import load_statistics, PictureStatistics

SCHEMA_VERSION = 1
_MEAN_OF = 100
_MB = 1 << 20
_DEPTH = 10


class ShadowNode(Node):
    """See the module; ``close`` must be called before ``destroy_node``."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__('shadow', **arguments)
        self.exit_code = 0
        declare(self, SHADOW)
        values = self._values = values_of_node(self, SHADOW)
        if values['nice']:
            os.nice(values['nice'])
        mining = MiningOptions(values['share'], values['context'],
                               values['keep_for'] or MiningOptions.criteria,
                               values['near_percent'])
        model = ServingModel.load(
            ServingSettings(*(values[n] for n in ('model', 'models_dir', 'engine', 'device',
                                                  'precision', 'threads'))),
            values['warmup_iterations'])
        self._bundle = model.bundle
        self._engine = model.label
        self._student: dict[str, Any] = {}
        self._student_classes: ClassSet | None = None
        self._trouble = self._failure = ''
        self._shares: deque[float] = deque(maxlen=_MEAN_OF)
        self._costs: deque[tuple[float, float]] = deque(maxlen=_MEAN_OF)
        self._number = 0
        self._kind = msgs.COMPRESSED_IMAGE if values['image_transport'] == 'compressed' \
            else msgs.IMAGE
        self._frames = ShadowFrames(int(values['ring_mb'] * _MB))
        self._pace = Pace(PaceOptions(*(values[n] for n in (
            'max_rate_hz', 'cpu_budget', 'student_slowdown', 'load_limit'))))
        self._teacher = ShadowTeacher(model, self._kind, self._frames, self._pace,
                                      self._on_compared, lambda: self._keeper.flush(),
                                      self._on_failure)
        try:
            classes = self._bundle.spec.classes
            redaction = Redaction(values['blur'], classes)
            self._keeper = ShadowKeeper(
                KeeperOptions(values['out_dir'], int(values['ring_mb'] * _MB),
                              int(values['disk_budget_mb'] * _MB), int(values['file_mb'] * _MB),
                              values['keep_masks']),
                mining, redaction, topics=self._mined_topics,
                ask=self._teacher.ask, classes=classes, about=self._about(redaction.hides),
                tell=self.get_logger().error)
        except KdPerceptionError:
            self._teacher.close()
            raise
        self._process = psutil.Process()
        self._create_topics()
        self._teacher.start()
        self.get_logger().info(f'{self._engine} shadows {self._images.topic_name}, '
                               f'blurred in what is kept: {redaction.hides}')

    def close(self) -> None:
        """End the teacher's thread and complete the recording."""
        self._keeper.ending = True
        self._teacher.close()
        try:
            self._keeper.close()
        except BagError as error:
            self.get_logger().error(str(error))
            self.exit_code = 2

    @property
    def hangs(self) -> bool:
        """Return whether the teacher did not return when it was closed."""
        return self._teacher.running

    def counters(self) -> dict[str, int]:
        """Return what became of the frames."""
        return self._frames.snapshot()

    def _create_topics(self) -> None:
        student = self._values['student']
        self._disagreement = self.create_publisher(DiagnosticArray, '~/disagreement',
                                                   qos.stream(10))
        self._picture = self.create_publisher(Image, '~/disagreement_image', qos.stream())
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', qos.stream(10))
        # Serialised: most frames are never looked at.
        compressed = self._kind == msgs.COMPRESSED_IMAGE
        self._images = self.create_subscription(
            CompressedImage if compressed else Image,
            'image/compressed' if compressed else 'image', self._on_image, _best_effort(),
            raw=True, qos_overriding_options=overridable())
        self.create_subscription(Image, 'segmentation/mask', self._on_mask, _best_effort(),
                                 raw=True)
        self._confidences = self.create_subscription(
            Image, 'segmentation/confidence', self._on_confidence, _best_effort(), raw=True)
        self._infos = self.create_subscription(CameraInfo, 'camera_info', self._on_camera_info,
                                               _best_effort(), raw=True,
                                               qos_overriding_options=overridable())
        self.create_subscription(LabelInfo, 'segmentation/label_info', self._on_label_info,
                                 qos.latched())
        self.create_subscription(String, f'{student}/active_model', self._on_active_model,
                                 qos.latched())
        self.create_subscription(DiagnosticArray, f'{student}/timing', self._on_timing,
                                 _best_effort())
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics,
                                 qos.stream(10))
        self._status_name = f'{self.resolve_topic_name(student)}: perception'
        self.create_timer(1.0, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_image(self, data: bytes) -> None:
        log_ns = time.time_ns()
        try:
            stamp_ns, frame_id = msgs.header_of(data)
        except BagError:
            self._frames.damaged()
            return
        message = RawMessage(self._number, data, log_ns, stamp_ns, frame_id)
        self._number += 1
        self._keeper.arrived(message)
        self._frames.image(message)

    def _on_mask(self, data: bytes) -> None:
        with suppress(BagError):
            self._frames.mask(*msgs.header_of(data), data)

    def _on_confidence(self, data: bytes) -> None:
        with suppress(BagError):
            self._frames.confidence(*msgs.header_of(data), data)

    def _on_camera_info(self, data: bytes) -> None:
        with suppress(BagError):
            self._keeper.camera_info(msgs.header_of(data)[0], data)

    def _on_label_info(self, message: LabelInfo) -> None:
        try:
            classes = classes_by_names(label_info_names(message), 'student')
        except (ValueError, KdPerceptionError) as error:
            # Nothing is better than scores in the classes of the student before.
            self._student_classes = self._teacher.comparison = None
            self._trouble = f'the label_info of the student cannot be used: {error}'
            return
        self._student_classes = classes
        self._renew_comparison()

    def _on_active_model(self, message: String) -> None:
        before = self._student.get('hash')
        try:
            told = json.loads(message.data)
            self._student = {k: str(told[k]) for k in ('name', 'hash', 'path')}
        except (ValueError, KeyError, TypeError):
            self._student = {}
        if before is not None and before != self._student.get('hash'):
            self._frames.student_changed()
        self._teacher.student_hash = self._student.get('hash', '')
        self._renew_comparison()

    def _on_timing(self, message: DiagnosticArray) -> None:
        try:
            self._pace.student_answered(time.monotonic(), parse_timing(message).total_ms)
        except ValueError as error:
            self.get_logger().warning(f'{self._values["student"]}/timing: {error}', once=True)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for entry in message.status:
            if entry.name == self._status_name:
                told = values_of(entry)
                try:
                    self._pace.student_counted(
                        int(told['received']), int(told['overwritten']) + int(told['stale']))
                except (KeyError, ValueError):
                    return

    def _renew_comparison(self) -> None:
        if self._student_classes is None:
            return
        try:
            self._teacher.comparison = FrameComparison(
                self._bundle.spec.classes, self._student_classes,
                class_map=self._values['class_map'], statistics=self._statistics(),
                low_confidence=self._values['low_confidence'])
            self._trouble = ''
        except KdPerceptionError as error:
            self._teacher.comparison = None
            self._trouble = str(error)
            self.get_logger().error(self._trouble)

    def _statistics(self) -> PictureStatistics | None:
        """Return what the student's training pictures looked like, where its bundle is here."""
        if not self._student:
            return None
        try:
            return load_statistics(find_bundle(self._student['path'], verify=False))
        except KdPerceptionError as error:
            self.get_logger().warning(f'pictures are not scored: {error}')
            return None

    def _on_compared(self, done: Comparison) -> None:
        """Publish one comparison and keep its frame if it is worth it; in the teacher's thread."""
        how = done.how
        if not self.context.ok():
            return
        self._failure = ''
        self._shares.append(done.scores.disagreement)
        self._costs.append((done.wall_ms, done.cpu_ms))
        values = {**done.scores.values(how.classes), 'mean': _mean(self._shares),
                  'teacher_ms': done.wall_ms, 'teacher_hash': self._bundle.hash,
                  'student_hash': done.student_hash}
        choice = self._keeper.offer(done.message, done.scores, done.image, done.teacher, values)
        head = header(done.message.stamp_ns, done.message.frame_id)
        name = self.get_fully_qualified_name()
        self._disagreement.publish(statuses(head, status(
            f'{name}: disagreement', self._bundle.hash[:12],
            {**values, 'kept': choice.kept, **choice.values(),
             'refused': choice.refused})))
        if self._picture.get_subscription_count():
            differs = how.differing(done.teacher, done.student)
            self._picture.publish(image_message(paint(done.image, differs), 'rgb8', head))

    def _on_failure(self, reason: str) -> None:
        if not self.context.ok():
            return
        self._failure = reason
        self.get_logger().warning(f'frame failed: {reason}', throttle_duration_sec=5.0)

    def _tick(self) -> None:
        self._frames.expire()
        self._frames.with_confidence = bool(
            self.count_publishers(self._confidences.topic_name))
        own = self._process.cpu_percent() / 100 / (os.cpu_count() or 1)
        load = max(0.0, psutil.cpu_percent() / 100 - own)
        self._pace.look(time.monotonic(), load)
        name = self.get_fully_qualified_name()
        level, message = self._verdict()
        how = self._teacher.comparison
        costs = tuple(self._costs)
        head = header(self.get_clock().now().nanoseconds, '')
        values = {
            'schema_version': SCHEMA_VERSION, 'teacher': self._engine,
            'student': self._student.get('name', ''),
            'classes': how.classes.name if how is not None else '', **self._frames.snapshot(),
            'interval_s': self._pace.interval_s, 'slowdown': self._pace.slowdown,
            'slowed_by': self._pace.trouble,
            'load_of_others': load, 'cpu_share': own * (os.cpu_count() or 1),
            'teacher_ms': _mean(wall for wall, _ in costs),
            'teacher_cpu_ms': _mean(cpu for _, cpu in costs),
            'mean': _mean(self._shares), **self._keeper.values()}
        self._diagnostics.publish(statuses(head, status(
            f'{name}: shadow', self._bundle.hash[:12], values, level=level, message=message)))

    def _verdict(self) -> tuple[bytes, str]:
        if self._trouble:
            return DiagnosticStatus.ERROR, self._trouble
        counts = self._frames.snapshot()
        if not counts['received']:
            return DiagnosticStatus.WARN, qos.silence_reason(
                self, self._images.topic_name, self._kind, False, 'it is best effort already')
        if self._student_classes is None:
            return DiagnosticStatus.WARN, (
                'no student: nothing latched on '
                f'{self.resolve_topic_name("segmentation/label_info")}')
        if self._keeper.stopped.startswith('stopped'):
            return DiagnosticStatus.WARN, f'keeping frames {self._keeper.stopped}'
        if self._failure:
            return DiagnosticStatus.WARN, f'frames fail: {self._failure}'
        slow = self._pace.trouble
        return DiagnosticStatus.OK, f'slowed down: {slow}' if slow else 'comparing'

    def _mined_topics(self) -> MinedTopics:
        return MinedTopics(self._images.topic_name, self._kind, self._infos.topic_name,
                           self.get_fully_qualified_name())

    def _about(self, hides: str) -> dict[str, str]:
        values = self._values
        return {'made_by': 'kd_perception shadow', 'teacher': self._bundle.hash,
                'blurred': hides,
                **{k: str(values[k]) for k in ('share', 'context', 'blur')}}


def paint(image: np.ndarray, differs: np.ndarray) -> np.ndarray:
    """Return uint8 ``[H, W, 3]``: the picture darkened, red where ``differs`` (bool [H, W])."""
    out = image // 2
    out[differs, 0] = 255
    return out


def _mean(values: Iterable[float]) -> float:
    """Return the mean of what is known; NaN of nothing."""
    # Copied in one go: the teacher's thread adds to them meanwhile.
    known = [v for v in tuple(values) if v == v]
    return sum(known) / len(known) if known else float('nan')


def _best_effort() -> QoSProfile:
    # Matches every publisher, and never holds one up.
    profile = qos.image_subscription()
    profile.depth = _DEPTH
    return profile


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return run_node(ShadowNode, args)


if __name__ == '__main__':
    sys.exit(main())
