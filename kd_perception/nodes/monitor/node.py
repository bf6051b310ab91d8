"""
The monitor node: holds two or more perception nodes against each other, frame by frame.

Results join with publish records by stamp and frame id; the headline latency is from the camera's
publish call to the arrival of the mask here, on the steady clock of this host. Frames come from
the camera node, which is called for them, or from somebody's topic. At the end the monitor writes
the recording and the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
import json
import logging
import math
from pathlib import Path
import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import String

from kd_perception.errors import ConfigError, GraphError, KdPerceptionError
from kd_perception.evaluation.comparison import ComparisonSpec, ResourceUsage
from kd_perception.evaluation.joining import Published
from kd_perception.evaluation.metrics.detail_counter import chosen_measures
from kd_perception.imaging import decode_label_image, decode_message
from kd_perception.interrupts import deferred
from kd_perception.nodes import qos
from kd_perception.nodes.bringup.graph import SHARED
from kd_perception.nodes.conversion import stamp_to_ns, values_of
from kd_perception.nodes.monitor.alternate_recorder import AlternateRecorder
from kd_perception.nodes.monitor.alternation import Alternation
from kd_perception.nodes.monitor.arms import ArmState
from kd_perception.nodes.monitor.camera_control import CameraControl
from kd_perception.nodes.monitor.counting import CountingThread
from kd_perception.nodes.monitor.ground_truth import GroundTruth
from kd_perception.nodes.monitor.live_topic import LiveTopic
from kd_perception.nodes.monitor.pending import Progress
from kd_perception.nodes.monitor.recorder import FRESH_FRAMES, Key, Recorder
from kd_perception.nodes.monitor.report_folder import ReportFolder
from kd_perception.nodes.monitor.run_view import RunView
from kd_perception.nodes.monitor.source_control import Events, SourceControl
from kd_perception.nodes.parameters import declare, MONITOR, values_of_node
from kd_perception.nodes.perception.timing import parse_timing, STAGES
from kd_perception.nodes.process import Finished, run_node
from kd_perception.nodes.truth_topics import TruthSubscriptions

_log = logging.getLogger(__name__)
_TICK_S = 0.05
# Labels of a live topic may come so many frames after their image.
_KEPT_LIVE = 64


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
            Path(self._values['out'] or f'ab_{datetime.now():%Y%m%d_%H%M%S}'),
            report=self._values['report'])
        alternate = self._values['placement'] == 'alternate'
        if alternate:  # the others follow an arm from frame to frame, or its own topics
            self._measures &= {'boundary', 'objects'}
        self._alternation = Alternation(self, self._values, self._arms) if alternate else None
        self._alternate: AlternateRecorder | None = None
        # Perception nodes: one for each arm, or one for all.
        self._nodes = {SHARED: ArmState(SHARED)} if alternate else self._arms
        self._progress = Progress(self._values['progress_file'])
        self._recorder: Recorder | None = None
        self._began = time.monotonic()
        self._started = ''
        self._measuring_since = 0.0
        self._work = CountingThread(self._counted)
        self._view = RunView(self, list(self._arms), self._values['warmup'])
        self._advance_soon = self.create_guard_condition(self._advance)
        events = Events(self._on_published, self._on_skipped, self._on_sample,
                        lambda: self._work.put(lambda: None), self._advance_soon.trigger)
        # In this order the executor serves them: frames before truth before results.
        self._source: SourceControl = (
            LiveTopic if self._values['source'] == 'topic' else CameraControl)(
                self, self._values, events)
        self._truth = GroundTruth(self, self._values, self._on_labels,
                                  lambda: getattr(self._source, 'frame_id', ''))
        TruthSubscriptions(self, self._measures, self._arms, self._hand)
        self.create_subscription(Image, 'sample', lambda m: self._on_sample(_key(m), m),
                                 qos.stream(10))
        for name in self._nodes:
            self._subscribe(name)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics,
                                 qos.stream(50))
        self._tick = self.create_timer(_TICK_S, self._advance,
                                       clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._work.start()  # last: nobody would end it if the rest failed

    def close(self) -> None:
        """Write what was measured if that was not done, and end the thread."""
        self._work.close()
        if not self._out.written and self._recorder is not None and self._recorder.measured():
            self._write(interrupted=True)
        self._out.close()

    def _subscribe(self, arm: str) -> None:
        self.create_subscription(Image, f'{arm}/segmentation/mask', self._mask_callback(arm),
                                 qos.stream(10))
        self.create_subscription(DiagnosticArray, f'{arm}/perception/timing',
                                 self._timing_callback(arm), qos.stream(50))
        self.create_subscription(String, f'{arm}/perception/active_model',
                                 self._model_callback(arm), qos.latched())

    def _mask_callback(self, arm: str) -> Callable[[Image], None]:
        def on_mask(message: Image) -> None:
            received_ns = time.monotonic_ns()
            recorder, alternate = self._recorder, self._alternate
            key, mask = _key(message), None if self._work.behind else message
            if alternate is not None:
                self._work.put(lambda: alternate.on_result(key, received_ns, _ids(mask)))
            elif recorder is not None:
                self._view.on_result(arm, key, received_ns)
                self._work.put(lambda: recorder.on_result(arm, key, received_ns, _ids(mask)))
        return on_mask

    def _timing_callback(self, arm: str) -> Callable[[DiagnosticArray], None]:
        def on_timing(message: DiagnosticArray) -> None:
            recorder, alternate = self._recorder, self._alternate
            if alternate is not None:
                self._work.put(lambda: alternate.on_timing(
                    _key(message), _stages(message), parse_timing(message).exchange))
            elif recorder is not None:
                self._work.put(lambda: recorder.on_stages(arm, _key(message), _stages(message)))
        return on_timing

    def _model_callback(self, arm: str) -> Callable[[String], None]:
        def on_model(message: String) -> None:
            fresh = json.loads(message.data)
            if not fresh['hash']:
                self._on_no_model(arm)
                return
            if self._alternation is not None:
                self._on_exchange(fresh)
                return
            state = self._arms[arm]
            if state.model and state.model['hash'] != fresh['hash'] and self._recorder:
                self._recorder.notes.append(
                    f'the model of arm {arm} was exchanged during the run')
            state.model = fresh
        return on_model

    def _on_no_model(self, arm: str) -> None:
        """Take notice of a node that was cleaned up, or failed."""
        if self._recorder is not None:  # the report is of the model that served
            self._recorder.notes.append(f'the model of {arm} was taken away during the run')
        elif self._alternation is None:
            self._arms[arm].model = {}

    def _on_exchange(self, model: dict[str, Any]) -> None:
        assert self._alternation is not None
        if self._alternation.on_model(model):
            if (alternate := self._alternate) is not None:
                self._work.put(alternate.resolve)
        elif self._recorder is not None:
            self._recorder.notes.append(f'{model["name"]} by {model["engine"]} served, which is '
                                        f'none of the arms: {model["stands_in"]}')

    def _on_published(self, record: Published) -> None:
        recorder, stopped_ns = self._recorder, self._source.stopped_ns
        if recorder is None or record.arm not in self._nodes:
            return
        if stopped_ns is not None and record.published_ns > stopped_ns:
            return  # more than was asked for
        alternate = self._alternate
        if self._alternation is not None and alternate is not None:
            expected = self._alternation.expect(record)
            self._work.put(lambda: alternate.on_published(expected))
        else:
            self._view.on_published(record)
            self._work.put(lambda: recorder.on_published(record))
        if not self._measuring_since and record.index >= self._values['warmup']:
            self._measuring_since = time.monotonic()
            if self._alternation is None:  # one process serves all
                for arm in self._arms.values():
                    arm.begin_usage()

    def _on_skipped(self, index: int) -> None:
        recorder = self._recorder
        if recorder is not None:
            self._work.put(lambda: recorder.on_skipped(index))

    def _on_labels(self, message: Image) -> None:
        recorder = self._recorder
        if recorder is not None and not self._work.behind:
            self._work.put(lambda: recorder.on_labels(_key(message), decode_label_image(message)))

    def _hand(self, call: Callable[[Recorder], None]) -> None:
        recorder = self._recorder
        if recorder is not None and not self._work.behind:
            self._work.put(lambda: call(recorder))

    def _on_sample(self, key: Key, message: Any) -> None:
        recorder = self._recorder
        if recorder is not None and not self._view.on_sample(
                key, lambda: decode_message(message)):
            self._work.put(lambda: recorder.on_sample(key, decode_message(message)))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for entry in message.status:
            for arm in self._nodes.values():
                if entry.name == f'{self._full_name(arm.name)}: perception':
                    level = entry.level[0] if isinstance(entry.level, bytes) else entry.level
                    arm.on_diagnostics(int(level), entry.message, values_of(entry))

    def _full_name(self, arm: str) -> str:
        return f'{self.get_namespace().rstrip("/")}/{arm}/perception'

    def _counted(self) -> None:
        """Look whether the frame that is waited for is complete; runs in the counting thread."""
        pending = self._source.pending
        if pending is not None and self._recorder is not None:
            pending.update(self._alternate or self._recorder)
            if pending.done:
                self._advance_soon.trigger()

    def _advance(self) -> None:
        self._work.check()
        if self._recorder is None:
            self._try_to_begin()
            return
        for arm in self._arms.values():
            arm.sample_usage()
            if arm.gpu_due():
                self._work.put(arm.sample_gpu)
        if self._source.ended_ns is None:
            duration_s = self._values['duration_s']
            if duration_s and self._measuring_since and \
                    time.monotonic() - self._measuring_since >= duration_s:
                self._source.stop()
            if self._alternation is not None:
                self._alternation.check()
                if self._alternation.done:
                    self._source.stop()
            self._source.advance()
            if self._values['placement'] == 'isolated':
                # Half of the frames wait for the other arms, and those that one arm has lost.
                self._recorder.kept_frames = self._source.total + FRESH_FRAMES
        else:
            self._try_to_finish(self._source.ended_ns)
        self._tell()

    def _try_to_begin(self) -> None:
        for arm in self._nodes.values():
            if arm.error:
                raise GraphError(f'arm {arm.name}: {arm.error}')
        if self._alternation is not None:
            self._alternation.check()
            there = self._alternation.missing()
            missing = [there] if there else []
        else:
            missing = [f'arm {a.name} (no active model)' for a in self._arms.values()
                       if not a.model]
        if there := self._source.missing() or self._truth.missing():
            missing.append(there)
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
            margin_miou=values['margin_miou'], margin_latency_ms=values['margin_latency_ms'],
            duration_s=values['duration_s'],
            swap_every=values['swap_every'] if self._alternation is not None else 0)
        labelled = self._truth.source_classes()
        class_map, note = self._truth.class_map(labelled, classes)
        recorder = Recorder(spec, [arm.info() for arm in arms], classes, class_map,
                            source=labelled, measures=self._measures)
        recorder.notes += [note] if note else []
        self._out.prepare()
        if values['pacing'] != 'lockstep':
            # Nobody waits for a slow arm, whose answer counts until it is called lost.
            recorder.kept_frames = max(FRESH_FRAMES + math.ceil(
                values['timeout_s'] * values['rate_hz']), _KEPT_LIVE)
        if isinstance(self._source, LiveTopic):
            recorder.ignored = frozenset(self._source.before)
        self._started = datetime.now(timezone.utc).isoformat(timespec='seconds')
        if self._alternation is not None:
            self._alternate = AlternateRecorder(recorder, self._alternation.arm_of)
        self._view.begin(classes, self._source.total)
        recorder.watchers.append(self._view.on_frame)
        self._recorder = recorder
        self._source.begin()
        self.get_logger().info('comparing ' + ' with '.join(
            f'{a.name}: {a.model["name"]} ({a.model["engine"]} {a.model["precision"]})'
            for a in arms))

    def _try_to_finish(self, ended_ns: int) -> None:
        assert self._recorder is not None
        since = (time.monotonic_ns() - ended_ns) / 1e9
        front = self._alternate or self._recorder
        everything = self._work.empty and not front.outstanding()
        if not everything and since < self._values['timeout_s']:
            return
        # Counters come once a second: wait for a status that has seen the last frame.
        fresh = all(a.counters_ns > ended_ns + 5e7 for a in self._nodes.values())
        if not fresh and since < self._values['timeout_s'] + 3.0:
            return
        if not self._view.pictures_done():
            return
        # A signal must not end the writing half way; whoever sent it waits for the report.
        with deferred():
            # What came is not lost because the counting thread has not come to it yet.
            self._work.drain()
            self._write(interrupted=False)
        raise Finished

    def _tell(self) -> None:
        recorder = self._recorder
        if recorder is not None:
            total, done = self._source.total * len(self._arms), recorder.published
            if self._alternation is not None:
                total, done = self._alternation.total, self._alternation.counted
            note = 'measuring' if self._measuring_since else 'warm-up'
            self._view.tick()
            self._progress.tell(min(done, total or done), total, note, arms=self._view.arms)

    def _write(self, *, interrupted: bool) -> None:
        assert self._recorder is not None
        self._out.written = True  # whatever comes of it, not twice
        usage: dict[str, ResourceUsage] = {}
        for name, arm in self._arms.items():
            if (used := arm.usage()) is not None:
                usage[name] = used
        if self._alternate is not None:
            self._alternate.flush()
        times = self._source.finish() if isinstance(self._source, LiveTopic) else {}
        self._recorder.notes += self._source.notes
        run = self._recorder.run(
            patience_ms=self._values['timeout_s'] * 1e3, resources=usage,
            counters={n: a.counters for n, a in self._arms.items()}, started=self._started,
            interrupted=interrupted, published_at=times, stopped_ns=self._source.stopped_ns)
        run = replace(run, spec=replace(run.spec, **self._source.identity),
                      pictures=(*run.pictures, *self._view.worst(run.pictures)))
        what = 'report' if self._values['report'] else 'recording'
        self._progress.tell(1, 1, f'writing the {what}', force=True)
        try:
            written = self._out.write(run)
        except (KdPerceptionError, OSError) as error:
            self._say(f'not written: {error}', error=True)
            self.exit_code = 2
            return
        self._say(f'written: {written}')

    def _say(self, text: str, *, error: bool = False) -> None:
        """Log, also after a signal has taken the context away."""
        if self.context.ok():
            logger = self.get_logger()
            (logger.error if error else logger.info)(text)
        elif error:
            _log.error(text)


def _key(message: Any) -> Key:
    return stamp_to_ns(message.header.stamp), message.header.frame_id


def _ids(mask: Image | None) -> np.ndarray | None:
    return None if mask is None else decode_label_image(mask)


def _stages(message: DiagnosticArray) -> dict[str, float]:
    timing = parse_timing(message)
    return {stage.removesuffix('_ms'): getattr(timing, stage) for stage in STAGES}


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until the comparison is done, or SIGINT or SIGTERM."""
    return run_node(MonitorNode, args)


if __name__ == '__main__':
    sys.exit(main())
