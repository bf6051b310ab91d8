"""
The perception node: camera images in, segmentation masks out, as a managed (lifecycle) node.

The ROS thread only receives, counts and answers services; one inference thread decodes and runs
the model. Setting ``model`` while it serves loads the new model beside the old one and exchanges
them between two frames. Topics and parameters are described in ``docs/nodes.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_msgs.msg import String

from kd_perception.engines.loader import check_possible
from kd_perception.errors import ConfigError
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import image_message, stamp_to_ns, statuses
from kd_perception.nodes.parameters import declare, PERCEPTION, value_of
from kd_perception.nodes.perception import systemd
from kd_perception.nodes.perception.announcement import Announcement
from kd_perception.nodes.perception.camera_topics import CameraTopics
from kd_perception.nodes.perception.diagnostics import Diagnostics, NodeView
from kd_perception.nodes.perception.executor import ImageExecutor
from kd_perception.nodes.perception.health import Health
from kd_perception.nodes.perception.model_switch import load_soon, ModelSwitch
from kd_perception.nodes.perception.overlay import OverlayPainter
from kd_perception.nodes.perception.parameter_changes import ParameterChanges
from kd_perception.nodes.perception.possible import check_together, idle_gpu
from kd_perception.nodes.perception.region import Region
from kd_perception.nodes.perception.ros_thread import RosThread
from kd_perception.nodes.perception.serving import (
    check_light,
    check_settings,
    ServingModel,
    ServingSettings,
)
from kd_perception.nodes.perception.slots import Arrival, FrameSlots
from kd_perception.nodes.perception.timing import frame_timing, timing_message
from kd_perception.nodes.perception.transitions import each, Transitions
from kd_perception.nodes.perception.watch import InputWatch
from kd_perception.nodes.perception.worker import FrameResult, InferenceWorker, WorkerOptions
from kd_perception.nodes.process import run_node
from kd_perception.nodes.qos_overrides import check_overrides
from kd_perception.nodes.qos_watch import QosWatch

_SPECS = {spec.name: spec for spec in PERCEPTION}
_SERVING = tuple(f.name for f in fields(ServingSettings))
_OPTIONS = tuple(f.name for f in fields(WorkerOptions))
_HANDOVER_S = 0.0002
# How long a model that was not taken is a warning; the history keeps it.
_REFUSED_S = 60.0
_SUCCESS = TransitionCallbackReturn.SUCCESS


class PerceptionNode(LifecycleNode):
    """See the module; ``close`` must be called before ``destroy_node``."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__('perception', **arguments)
        self.exit_code = 0
        declare(self, PERCEPTION)
        check_overrides(self)
        self._health = Health()
        self._slots = FrameSlots()
        self._inputs = InputWatch()
        self._worker: InferenceWorker | None = None
        self._switch: ModelSwitch | None = None
        self._painter: OverlayPainter | None = None
        self._topics: dict[str, CameraTopics] = {}
        self._model_error = ''
        self._refused: tuple[str, float] = ('', 0.0)
        self._stuck = ''
        self._report = Diagnostics(self.get_fully_qualified_name())
        self._publish_confidence = True
        self._publish_overlay = True
        self._warmup = 0
        self._ros = RosThread(self)
        self._qos_watch = QosWatch(self)
        self._timing = self._qos_watch.publisher(
            self.create_lifecycle_publisher, DiagnosticArray, '~/timing', qos.stream(10))
        self._announced = Announcement(
            self.create_publisher(String, '~/active_model', qos.latched()))
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', qos.stream(10))
        self._transitions = Transitions(self, self._transition_failed)
        self._changes = ParameterChanges(
            self, PERCEPTION, self._state, lambda: self._worker is not None, self._apply)
        # Not the node's clock: under sim time it may stand still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._tick = self.create_timer(1.0, self._each_second, clock=steady)
        self._start = self.create_timer(0.0, self._autostart, clock=steady)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and warm the model, create the topics of all cameras."""
        return self._transitions.run('configure', lambda: self._configure(state), self._release)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start to serve frames."""
        return self._transitions.run('activate', lambda: self._activate(state),
                                     lambda: self._deactivate(state))

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finish the frame at hand and serve no more."""
        return self._transitions.run('deactivate', lambda: self._deactivate(state))

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the model and take the topics away."""
        self._model_error = ''
        return self._transitions.run('cleanup', self._release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything."""
        return self._transitions.run('shutdown', self._release)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, so that the node can be configured again."""
        return self._transitions.recover(lambda: each((
            self._release, lambda: super(PerceptionNode, self).on_deactivate(state))))

    def close(self) -> None:
        """Stop all threads and release the model."""
        self._transitions.run('close', self._release)

    @property
    def hangs(self) -> bool:
        """Return whether a runtime does not return, so that the process must be ended."""
        return self._worker is not None and bool(self._worker.trouble)

    def counters(self) -> dict[str, int]:
        """Return the frame counters since the node was last configured."""
        return self._slots.snapshot()

    def _transition_failed(self, reason: str) -> None:
        self._model_error = reason

    def _configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        values = {name: value_of(self, name) for name in _SPECS}
        settings = ServingSettings(**{name: values[name] for name in _SERVING})
        cameras = values['cameras'] or ('',)
        if len(set(cameras)) != len(cameras):
            raise ConfigError(f'parameter cameras: names must differ: {list(cameras)}')
        region = Region.parse(values['region'])
        self._warmup = values['warmup_iterations']
        light = check_light(settings, values['light_model'])
        if idle := idle_gpu(settings):
            self.get_logger().info(idle)
        batch = len(cameras) if values['batch_wait_ms'] else 1
        with ExitStack() as undo:
            model = load_soon(settings, self._warmup, batch)
            undo.callback(model.close)
            worker, switch = self._make(cameras, values, region, batch)
            undo.pop_all()  # from here on it is the worker's
        worker.exchange(model)
        switch.replace_stand_in(model, self._warmup)
        switch.light.choose(light)
        return super().on_configure(state)

    def _make(self, cameras: Sequence[str], values: dict[str, Any], region: Region | None,
              batch: int) -> tuple[InferenceWorker, ModelSwitch]:
        """Make everything but the model."""
        self._slots = FrameSlots(cameras)
        self._inputs = InputWatch(cameras, values['watch_input'],
                                  tell=self.get_logger().warning)
        self._health = Health(cameras)
        self._report = Diagnostics(self.get_fully_qualified_name())
        self._model_error, self._refused = '', ('', 0.0)
        self._publish_confidence = values['publish_confidence']
        self._publish_overlay = values['publish_overlay']
        self._worker = InferenceWorker(self._slots, self._on_result, self._on_exchange,
                                       lambda camera, why: self._on_failure(why, camera))
        self._worker.options = WorkerOptions(region=region, **{
            name: values[name] for name in _OPTIONS if name != 'region'})
        self._worker.batch_wait_s = values['batch_wait_ms'] / 1e3
        self._switch = ModelSwitch(
            self._worker, post=self._ros.post, warn=self.get_logger().warning,
            on_refused=self._on_refused, batch=batch)
        self._worker.on_engine_failure = self._switch.engine_failed
        self._worker.look = self._inputs.look
        for camera in cameras:  # one by one: those made before one that fails are released
            self._topics[camera] = CameraTopics(
                self, camera, image_transport=values['image_transport'],
                reliability=values['reliability'], on_arrival=self._on_arrival,
                on_lost=self._health.lost, watch=self._qos_watch)
        self._painter = OverlayPainter(self._on_painted, self._on_failure)
        return self._worker, self._switch

    def _activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(state)
        if result == _SUCCESS and self._worker is not None:
            self._inputs.restart()
            self._worker.start()
        return result

    def _deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        # The worker first: a publisher that is off drops results without a word.
        if self._worker is not None:
            self._worker.stop()
        return super().on_deactivate(state)

    def _release(self) -> None:
        parts = [part for part in (self._switch, self._worker, self._painter) if part is not None]
        # One that fails to close must not keep the others open; all are tried again by on_error.
        each([*(part.close for part in parts), *(t.destroy for t in self._topics.values())])
        self._switch = self._worker = self._painter = None
        self._topics = {}
        if self.context.ok():  # else a signal ends the process, and with it what is latched
            self._announced.nothing_serves()

    def _autostart(self) -> None:
        self._start.cancel()
        if not value_of(self, 'autostart'):
            return
        # Somebody else's transition may have come first; then nothing is left to do.
        if self._state() == 'unconfigured':
            self.trigger_configure()
        if self._state() == 'inactive' and not self._model_error:
            self.trigger_activate()

    def _state(self) -> str:
        return str(self._state_machine.current_state[1])

    def _apply(self, values: dict[str, Any]) -> None:
        """
        Take values over.

        :raises KdPerceptionError: when the model that they ask for cannot be.
        """
        assert self._worker is not None
        options = {k: v for k, v in values.items() if k in _OPTIONS}
        if 'region' in options:
            options['region'] = Region.parse(options['region'])
        serving = {k: v for k, v in values.items() if k in _SERVING}
        light = {k: v for k, v in values.items() if k == 'light_model'}
        check_possible(serving.get('engine', 'auto'), serving.get('device', ''))
        if serving or light:
            self._change_models(serving, **light)
        self._worker.options = replace(self._worker.options, **options)
        if 'confidence_threshold' in options:
            self._announced.threshold_changed(self._topics, self._threshold)
        self._publish_confidence = values.get('publish_confidence', self._publish_confidence)
        self._publish_overlay = values.get('publish_overlay', self._publish_overlay)
        self._inputs.enabled = values.get('watch_input', self._inputs.enabled)
        self._warmup = values.get('warmup_iterations', self._warmup)

    def _wanted(self) -> ServingSettings:
        return ServingSettings(**{name: value_of(self, name) for name in _SERVING})

    def _change_models(self, serving: dict[str, Any], light_model: str | None = None) -> None:
        assert self._switch is not None
        wanted = replace(self._wanted(), **serving)
        # All is looked at before anything is loaded.
        bundle = check_settings(wanted) if serving else None
        if bundle is not None and serving.keys() & {'engine', 'device'}:
            check_together(wanted, bundle)
        light = check_light(wanted, light_model or '')
        if bundle is not None:
            self.get_logger().info(f'loading {bundle.path} ({bundle.hash[:12]})')
            self._switch.request(wanted, bundle, self._warmup)
        if light_model is not None:
            self._switch.light.choose(light)

    def _restore_parameters(self, failed: ServingSettings, reason: str) -> None:
        """Set the model's parameters back to what serves; runs in the ROS thread."""
        self.get_logger().error(f'model {failed.model!r} was not taken: {reason}')
        model = self._worker.model if self._worker is not None else None
        if model is None or self._wanted() != failed:
            return  # a newer request came meanwhile; its own outcome decides
        self._refused = f'model {failed.model!r} was not taken: {reason}', time.monotonic()
        self._changes.restore(asdict(model.wanted))

    def _on_arrival(self, arrival: Arrival, stamp_ns: int) -> None:
        self._health.arrived(arrival.camera, stamp_ns)
        self._slots.offer(arrival)
        # Give the interpreter away: what the executor does next would keep the inference thread
        # waiting for it three times as long.
        time.sleep(_HANDOVER_S)

    def _on_result(self, frame: FrameResult) -> None:
        """Publish one result; runs in the inference thread."""
        if not self.context.ok():
            return  # a signal came while the frame was in the network
        topics = self._topics[frame.arrival.camera]
        timing = frame_timing(frame, lambda: topics.publish(
            frame, confidence=self._publish_confidence), self._announced.exchanges)
        head = frame.arrival.message.header
        stamp_ns = stamp_to_ns(head.stamp)
        delay_ms = ((self.get_clock().now().nanoseconds - stamp_ns) / 1e6
                    if topics.age_from_stamp else float('nan'))
        if self._switch is not None:
            self._switch.answered()
        self._health.answered(frame.arrival.camera, stamp_ns, timing.total_ms, delay_ms)
        if self._timing.get_subscription_count():
            self._timing.publish(timing_message(timing, self.get_fully_qualified_name(), head))
        painter = self._painter
        if (self._publish_overlay and painter is not None
                and topics.overlay.get_subscription_count()):
            painter.offer(frame)

    def _on_failure(self, reason: str, camera: str | None = None) -> None:
        if not self.context.ok():
            return
        self._health.failed(reason, camera)
        where = f'{camera}: ' if camera else ''
        self.get_logger().warning(f'{where}frame failed: {reason}', throttle_duration_sec=5.0)

    def _on_painted(self, camera: str, picture: np.ndarray, header: Any) -> None:
        topics = self._topics.get(camera)
        if topics is not None:
            topics.overlay.publish(image_message(picture, 'rgb8', header))

    def _on_refused(self, settings: ServingSettings, reason: str) -> None:
        self._ros.post(lambda: self._restore_parameters(settings, reason))

    def _on_exchange(self, model: ServingModel) -> None:
        self._model_error, self._refused = '', ('', 0.0)
        self._announced.serves(model, self._topics, self._threshold)
        self.get_logger().info(
            f'serving {model.bundle.spec.name} ({model.bundle.hash[:12]}) by {model.engine.name} '
            f'on {model.engine.device} in {model.engine.precision}')

    def _threshold(self) -> float:
        worker = self._worker
        return worker.options.confidence_threshold if worker is not None else 0.0

    def _each_second(self) -> None:
        # One by one: what fails must not keep the rest from being done.
        for act in (self._heal, self._try_again, self._look_for_hangs, self._publish_diagnostics):
            self._ros.guarded(act)

    def _heal(self) -> None:
        """Let subscriptions follow their publishers."""
        if self._state() != 'active':
            return
        for camera, topics in self._topics.items():
            if done := topics.heal(self._health.camera(camera).missing_share):
                self._health.resubscribed(camera)
                self.get_logger().warning(f'{topics.topic}: {done}')

    def _try_again(self) -> None:
        if self._switch is not None:
            self._switch.tick()

    def _publish_diagnostics(self) -> None:
        state = self._state()
        model = self._worker.serving if self._worker is not None else None
        switch = self._switch
        refused, when = self._refused
        view = NodeView(
            state, self._slots, self._health, self._topics, stuck=self._stuck,
            refused=refused if time.monotonic() - when < _REFUSED_S else '',
            model=model.describe() if model is not None else {}, model_error=self._model_error,
            fallback=switch.trouble if switch is not None else '',
            values=switch.values() if switch is not None else {},
            loading=switch is not None and switch.loading,
            loading_s=switch.loading_s if switch is not None else 0.0)
        head = DiagnosticArray().header
        head.stamp = self.get_clock().now().to_msg()
        told = self._report.statuses(view)
        self._qos_watch.amend(told[0], active=state == 'active')
        pictures = self._inputs.statuses(self.get_fully_qualified_name(), state)
        self._diagnostics.publish(statuses(head, *told, *pictures))

    def _look_for_hangs(self) -> None:
        """Note what does not return in the inference thread, and log when that begins."""
        stuck = self._worker.trouble if self._worker is not None else ''
        if stuck and not self._stuck:
            self.get_logger().fatal(stuck)
        elif self._stuck and not stuck:
            self.get_logger().warning('the inference thread goes on')
        self._stuck = stuck
        if not stuck:
            systemd.alive()


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return run_node(PerceptionNode, args, executor_type=ImageExecutor)


if __name__ == '__main__':
    sys.exit(main())
