"""
The monitor node: holds two or more perception nodes against each other, frame by frame.

Results join with publish records by stamp and frame id; the headline latency is from the camera's
publish call to the arrival of the mask here, on the steady clock of this host. In lockstep the
monitor calls for each frame when the last was answered, so that nothing else runs beside the arm
that is measured. At the end it writes the recording and the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
import json
import logging
from pathlib import Path
import queue
import sys
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger
from vision_msgs.msg import LabelInfo

from kd_perception.bags.labels import classes_by_names
from kd_perception.classes import ClassMap, ClassSet, load_class_map
from kd_perception.errors import ConfigError, GraphError, KdPerceptionError
from kd_perception.evaluation.comparison import ComparisonSpec, ResourceUsage
from kd_perception.evaluation.detail_counter import chosen_measures
from kd_perception.imaging import decode_image, decode_label_image
from kd_perception.nodes import qos
from kd_perception.nodes.arms import ArmState
from kd_perception.nodes.conversion import label_info_names, stamp_to_ns, values_of
from kd_perception.nodes.parameters import declare, MONITOR, values_of_node
from kd_perception.nodes.pending import Pending, Progress
from kd_perception.nodes.process import Finished, run_node
from kd_perception.nodes.published import parse_published, Skipped
from kd_perception.nodes.recorder import FRESH_FRAMES, Key, Recorder
from kd_perception.nodes.report_folder import ReportFolder
from kd_perception.nodes.run_view import RunView
from kd_perception.nodes.timing import parse_timing, STAGES
from kd_perception.nodes.truth_topics import TruthSubscriptions

_log = logging.getLogger(__name__)


class MonitorNode(Node):
    """See the module; ``close`` must be called before ``destroy_node``."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__('monitor', **arguments)
        self.exit_code = 0
        declare(self, MONITOR)
        self._values = values_of_node(self, MONITOR)
        if not self._values['arms']:
            raise ConfigError('parameter arms: name at least one namespace')
        self._arms = {name: ArmState(name) for name in self._values['arms']}
        self._measures = chosen_measures(self._values['measures'], self._values['pacing'])
        self._out = ReportFolder(
            Path(self._values['out'] or f'ab_{datetime.now():%Y%m%d_%H%M%S}'))
        self._progress = Progress(self._values['progress_file'])
        self._recorder: Recorder | None = None
        self._source_names: tuple[str, ...] | None = None
        self._began = time.monotonic()
        self._started = ''
        self._measuring = False
        self._ended_at: float | None = None
        self._pending: Pending | None = None
        self._total = 0
        self._running = False
        self._step_future: Any = None
        self._retry_at = 0.0
        self._stepped_at = self._camera_seen_at = time.monotonic()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._worker_error: Exception | None = None
        self._view = RunView(self, list(self._arms), self._values['warmup'])
        self._subscribe()
        self._step = self.create_client(Trigger, 'camera/step')
        self._advance_soon = self.create_guard_condition(self._advance)
        self._tick = self.create_timer(0.05, self._advance,
                                       clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._worker = threading.Thread(target=self._count, name='count pixels')
        self._worker.start()

    def close(self) -> None:
        """Write what was measured if that was not done, and end the thread."""
        self._work.put(None)
        self._worker.join()
        if not self._out.written and self._recorder is not None and self._recorder.measured():
            self._write(interrupted=True)
        self._out.close()

    def _subscribe(self) -> None:
        # In this order the executor serves them: truth before results.
        self.create_subscription(DiagnosticArray, 'camera/published', self._on_published,
                                 qos.stream(1000))
        self.create_subscription(LabelInfo, 'label_info', self._on_label_info, qos.latched())
        self.create_subscription(Image, 'labels', self._on_labels, qos.stream(10))
        TruthSubscriptions(self, self._measures, self._arms, self._hand)
        self.create_subscription(Image, 'sample', self._on_sample, qos.stream(10))
        for arm in self._arms:
            self.create_subscription(Image, f'{arm}/segmentation/mask',
                                     self._mask_callback(arm), qos.stream(10))
            self.create_subscription(DiagnosticArray, f'{arm}/perception/timing',
                                     self._timing_callback(arm), qos.stream(50))
            self.create_subscription(String, f'{arm}/perception/active_model',
                                     self._model_callback(arm), qos.latched())
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics,
                                 qos.stream(50))

    def _mask_callback(self, arm: str) -> Callable[[Image], None]:
        def on_mask(message: Image) -> None:
            received_ns = time.monotonic_ns()
            recorder = self._recorder
            if recorder is not None:
                self._view.on_result(arm, _key(message), received_ns)
                self._work.put(lambda: recorder.on_result(
                    arm, _key(message), received_ns, decode_label_image(message)))
        return on_mask

    def _timing_callback(self, arm: str) -> Callable[[DiagnosticArray], None]:
        def on_timing(message: DiagnosticArray) -> None:
            recorder = self._recorder
            if recorder is not None:
                self._work.put(lambda: recorder.on_stages(arm, _key(message), _stages(message)))
        return on_timing

    def _model_callback(self, arm: str) -> Callable[[String], None]:
        def on_model(message: String) -> None:
            state = self._arms[arm]
            fresh = json.loads(message.data)
            if state.model and state.model['hash'] != fresh['hash'] and self._recorder:
                self._recorder.notes.append(
                    f'the model of arm {arm} was exchanged during the run')
            state.model = fresh
        return on_model

    def _on_published(self, message: DiagnosticArray) -> None:
        record = parse_published(message)
        recorder = self._recorder
        if record is None:
            self._ended_at = self._ended_at or time.monotonic()
        elif isinstance(record, Skipped):
            if recorder is not None:
                self._work.put(lambda: recorder.on_skipped(record.index))
        elif recorder is not None and record.arm in self._arms:
            self._view.on_published(record)
            self._work.put(lambda: recorder.on_published(record))
            if not self._measuring and record.index >= self._values['warmup']:
                self._measuring = True
                for arm in self._arms.values():
                    arm.begin_usage()

    def _on_label_info(self, message: LabelInfo) -> None:
        try:
            self._source_names = label_info_names(message)
        except ValueError as error:
            self.get_logger().warning(f'label_info is not usable: {error}')

    def _on_labels(self, message: Image) -> None:
        recorder = self._recorder
        if recorder is not None:
            self._work.put(lambda: recorder.on_labels(_key(message), decode_label_image(message)))

    def _hand(self, call: Callable[[Recorder], None]) -> None:
        recorder = self._recorder
        if recorder is not None:
            self._work.put(lambda: call(recorder))

    def _on_sample(self, message: Image) -> None:
        recorder = self._recorder
        if recorder is not None and not self._view.on_sample(
                _key(message), lambda: decode_image(message)):
            self._work.put(lambda: recorder.on_sample(_key(message), decode_image(message)))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for entry in message.status:
            for arm in self._arms.values():
                if entry.name == f'{self._full_name(arm.name)}: perception':
                    level = entry.level[0] if isinstance(entry.level, bytes) else entry.level
                    arm.on_diagnostics(int(level), entry.message, values_of(entry))

    def _full_name(self, arm: str) -> str:
        return f'{self.get_namespace().rstrip("/")}/{arm}/perception'

    def _count(self) -> None:
        while (task := self._work.get()) is not None:
            try:
                task()
            except Exception as error:
                self._worker_error = error
            pending = self._pending
            if pending is not None and self._recorder is not None:
                pending.update(self._recorder)
                if pending.done:
                    self._advance_soon.trigger()

    def _advance(self) -> None:
        if self._worker_error is not None:
            raise _readable(self._worker_error)
        if self._recorder is None:
            self._try_to_begin()
            return
        for arm in self._arms.values():
            arm.sample_usage()
        if self._ended_at is not None:
            self._try_to_finish()
            self._tell()
            return
        self._look_after_camera()
        if self._step_future is not None:
            if self._step_future.done():
                future, self._step_future = self._step_future, None
                self._on_stepped(json.loads(future.result().message))
        elif self._values['pacing'] == 'lockstep':
            self._go_on()
        elif not self._running and time.monotonic() >= self._retry_at:
            self._call_step()
        self._tell()

    def _look_after_camera(self) -> None:
        """
        Notice that the camera is gone or hangs, which nothing else would ever tell.

        :raises GraphError: when it is so.
        """
        now = time.monotonic()
        if self._step.service_is_ready():
            self._camera_seen_at = now
        if now - self._camera_seen_at > self._values['timeout_s']:
            raise GraphError('the camera went away before its source had ended; see its log')
        # Serving may take long where many frames of a recording cannot be decoded.
        if self._step_future is not None and \
                now - self._stepped_at > self._values['start_timeout_s']:
            raise GraphError('the camera has not answered camera/step for '
                             f'{self._values["start_timeout_s"]:g} s; see its log')

    def _try_to_begin(self) -> None:
        for arm in self._arms.values():
            if arm.error:
                raise GraphError(f'arm {arm.name}: {arm.error}')
        missing = [f'arm {a.name} (no active model)' for a in self._arms.values() if not a.model]
        if not self._step.service_is_ready():
            missing.append('the camera (no service camera/step)')
        elif self._source_names is None:
            missing.append('the camera (no label_info)')
        if not missing:
            self._begin()
        elif time.monotonic() - self._began > self._values['start_timeout_s']:
            raise GraphError(f'not ready after {self._values["start_timeout_s"]:g} s: '
                             f'{", ".join(missing)}; see the logs of these nodes')
        else:
            self._progress.tell(0, 0, f'waiting for {missing[0]}')

    def _begin(self) -> None:
        values, arms = self._values, list(self._arms.values())
        classes = arms[0].classes()
        for arm in arms[1:]:
            if arm.classes().names != classes.names:
                raise ConfigError(f'arms {arms[0].name} and {arm.name} have different classes: '
                                  f'{classes.name} and {arm.classes().name}; they cannot be '
                                  'compared')
        spec = ComparisonSpec(
            arms=tuple(arm.spec() for arm in arms), source=values['source'],
            scenario=values['scenario'], seed=values['seed'], frames=values['frames'],
            warmup=values['warmup'], pacing=values['pacing'], placement=values['placement'],
            rate_hz=values['rate_hz'], class_map=values['class_map'],
            margin_miou=values['margin_miou'],
            margin_latency_ms=values['margin_latency_ms'])
        source = classes_by_names(self._source_names, 'source') if self._source_names else None
        class_map, note = self._class_map(source, classes)
        recorder = Recorder(spec, [arm.info() for arm in arms], classes, class_map,
                            source=source, measures=self._measures)
        recorder.notes += [note] if note else []
        self._out.prepare()
        self._camera_seen_at = time.monotonic()
        self._started = datetime.now(timezone.utc).isoformat(timespec='seconds')
        self._total = values['frames'] + values['warmup'] if values['frames'] else 0
        self._view.begin(classes, self._total)
        recorder.watchers.append(self._view.on_frame)
        self._recorder = recorder
        self._retry_at = time.monotonic()
        self.get_logger().info('comparing ' + ' with '.join(
            f'{a.name}: {a.model["name"]} ({a.model["engine"]} {a.model["precision"]})'
            for a in arms))

    def _class_map(self, source: ClassSet | None,
                   classes: ClassSet) -> tuple[ClassMap | None, str]:
        """Return the map from labels to models, or why there is none."""
        if source is None:
            return None, ''
        try:
            return load_class_map(source, classes, self._values['class_map']), ''
        except ConfigError as error:
            if self._values['class_map']:
                raise
            self.get_logger().warning(f'no accuracy: {error}')
            return None, f'accuracy was not measured: {error}'

    def _go_on(self) -> None:
        """Serve the next frame in lockstep when the last one is answered or given up."""
        pending = self._pending
        if pending is not None and not pending.done:
            if not pending.expired():
                return
            self.get_logger().warning(f'no result for frame {pending.index} in arm '
                                      f'{", ".join(pending.missing())}: counted as lost')
        if time.monotonic() >= self._retry_at:
            self._pending = None
            self._call_step()

    def _call_step(self) -> None:
        self._stepped_at = time.monotonic()
        self._step_future = self._step.call_async(Trigger.Request())
        self._step_future.add_done_callback(lambda _: self._advance_soon.trigger())

    def _on_stepped(self, answer: dict[str, Any]) -> None:
        if 'waiting' in answer:
            if time.monotonic() - self._began > self._values['start_timeout_s']:
                raise GraphError(f'the camera cannot begin: {answer["waiting"]}')
            self._retry_at = time.monotonic() + 0.2
            return
        self._total = answer.get('frames') or self._total
        assert self._recorder is not None  # it calls for frames
        self._recorder.notes += [n for n in answer['notes'] if n not in self._recorder.notes]
        if self._values['placement'] == 'isolated':
            # Half of the frames wait for the other arms, and those that one arm has lost.
            self._recorder.kept_frames = self._total + FRESH_FRAMES
        if 'running' in answer:
            self._running = True
            return
        if answer['end'] or not answer['served']:
            self._ended_at = time.monotonic()
            return
        served = answer['served']
        pending = Pending(
            served[0]['index'], {s['arm']: (s['stamp_ns'], s['frame_id']) for s in served},
            bool(answer['labelled']), self._values['timeout_s'])
        # The result may have come before this answer did.
        self._pending = pending
        self._work.put(lambda: None)

    def _try_to_finish(self) -> None:
        assert self._recorder is not None
        assert self._ended_at is not None
        recorder, since = self._recorder, time.monotonic() - self._ended_at
        everything = self._work.empty() and recorder.answered >= recorder.published
        if not everything and since < self._values['timeout_s']:
            return
        # Counters come once a second: wait for a status that has seen the last frame.
        fresh = all(a.counters_ns > self._ended_at * 1e9 + 5e7 for a in self._arms.values())
        if not fresh and since < self._values['timeout_s'] + 3.0:
            return
        if self._view.pictures_done():
            self._write(interrupted=False)
            raise Finished

    def _tell(self) -> None:
        recorder = self._recorder
        if recorder is not None:
            total = self._total * len(self._arms)
            note = 'measuring' if self._measuring else 'warm-up'
            self._view.tick()
            self._progress.tell(min(recorder.published, total or recorder.published), total, note,
                                arms=self._view.arms)

    def _write(self, *, interrupted: bool) -> None:
        assert self._recorder is not None
        self._out.written = True  # whatever comes of it, not twice
        if not interrupted:
            # The counting thread may be at its last frame.
            counted = threading.Event()
            self._work.put(counted.set)
            counted.wait(self._values['timeout_s'])
        usage: dict[str, ResourceUsage] = {}
        for name, arm in self._arms.items():
            if (used := arm.usage()) is not None:
                usage[name] = used
        run = self._recorder.run(
            patience_ms=self._values['timeout_s'] * 1e3, resources=usage,
            counters={n: a.counters for n, a in self._arms.items()}, started=self._started,
            interrupted=interrupted)
        run = replace(run, pictures=(*run.pictures, *self._view.worst(run.pictures)))
        self._progress.tell(1, 1, 'writing the report', force=True)
        try:
            report = self._out.write(run)
        except (KdPerceptionError, OSError) as error:
            self._say(f'no report: {error}', error=True)
            self.exit_code = 2
            return
        self._say(f'report: {report.html}')

    def _say(self, text: str, *, error: bool = False) -> None:
        """Log, also after a signal has taken the context away."""
        if self.context.ok():
            logger = self.get_logger()
            (logger.error if error else logger.info)(text)
        elif error:
            _log.error(text)


def _key(message: Any) -> Key:
    return stamp_to_ns(message.header.stamp), message.header.frame_id


def _stages(message: DiagnosticArray) -> dict[str, float]:
    timing = parse_timing(message)
    return {stage.removesuffix('_ms'): getattr(timing, stage) for stage in STAGES}


def _readable(error: Exception) -> Exception:
    """Return an error that the user can read, whatever the counting thread raised."""
    if isinstance(error, KdPerceptionError):
        return error
    return GraphError(f'the monitor failed: {type(error).__name__}: {error}')


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until the comparison is done, or SIGINT or SIGTERM."""
    return run_node(MonitorNode, args)


if __name__ == '__main__':
    sys.exit(main())
