"""
The camera node of this package as the monitor sees it: called for frames, heard, looked after.

In lockstep the next frame is called for when the last one is answered, so that nothing else runs
beside the arm that is measured; else the camera is let go once and runs by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from std_srvs.srv import Trigger

from kd_perception.errors import GraphError
from kd_perception.nodes import qos
from kd_perception.nodes.camera.published import parse_published, Skipped
from kd_perception.nodes.monitor.pending import Pending
from kd_perception.nodes.monitor.source_control import Events

_RETRY_S = 0.2


class CameraControl:
    """
    A ``SourceControl``.

    :param node: the monitor.
    :param values: its parameters.
    """

    def __init__(self, node: Any, values: Mapping[str, Any], events: Events) -> None:
        self.notes: list[str] = []
        self.identity: dict[str, Any] = {}
        self.total = values['frames'] + values['warmup'] if values['frames'] else 0
        self.ended_ns: int | None = None
        self.stopped_ns: int | None = None
        self.pending: Pending | None = None
        self._node, self._values, self._events = node, values, events
        self._began = self._stepped_at = self._seen_at = time.monotonic()
        self._lockstep = values['pacing'] == 'lockstep'
        self._running = self._stopping = False
        self._between = True
        self._retry_at = 0.0
        self._future: Any = None
        node.create_subscription(DiagnosticArray, 'camera/published', self._on_published,
                                 qos.stream(1000))
        self._step = node.create_client(Trigger, 'camera/step')

    def missing(self) -> str:
        """Return what is not there yet."""
        return '' if self._step.service_is_ready() else 'the camera (no service camera/step)'

    def begin(self) -> None:
        """Call for frames from now on."""
        self._seen_at = time.monotonic()

    def stop(self) -> None:
        """End the run at the next frame that all arms have had."""
        if self._lockstep:
            self._stopping = True
        else:
            self._stop()

    def advance(self) -> None:
        """
        Call for the next frame if it is time.

        :raises GraphError: when the camera cannot begin, is gone, or hangs.
        """
        self._look_after()
        if self._future is not None:
            if self._future.done():
                future, self._future = self._future, None
                self._on_stepped(json.loads(future.result().message))
        elif self._lockstep:
            self._go_on()
        elif not self._running and time.monotonic() >= self._retry_at:
            self._call()

    def _stop(self) -> None:
        self.ended_ns = self.stopped_ns = time.monotonic_ns()

    def _on_published(self, message: DiagnosticArray) -> None:
        record = parse_published(message)
        if record is None:
            self.ended_ns = self.ended_ns or time.monotonic_ns()
        elif isinstance(record, Skipped):
            self._events.skipped(record.index)
        else:
            self._events.published(record)

    def _look_after(self) -> None:
        """Notice that the camera is gone or hangs, which nothing else would ever tell."""
        now = time.monotonic()
        if self._step.service_is_ready():
            self._seen_at = now
        if now - self._seen_at > self._values['timeout_s']:
            raise GraphError('the camera went away before its source had ended; see its log')
        # Serving may take long where many frames of a recording cannot be decoded.
        if self._future is not None and now - self._stepped_at > self._values['start_timeout_s']:
            raise GraphError('the camera has not answered camera/step for '
                             f'{self._values["start_timeout_s"]:g} s; see its log')

    def _go_on(self) -> None:
        """Serve the next frame when the last one is answered or given up."""
        pending = self.pending
        if pending is not None and not pending.done:
            if not pending.expired():
                return
            self._node.get_logger().warning(
                f'no result for frame {pending.index} in arm {", ".join(pending.missing())}: '
                'counted as lost')
        if self._stopping and self._between:
            self._stop()
        elif time.monotonic() >= self._retry_at:
            self.pending = None
            self._call()

    def _call(self) -> None:
        self._stepped_at = time.monotonic()
        self._future = self._step.call_async(Trigger.Request())
        self._future.add_done_callback(lambda _: self._events.wake())

    def _on_stepped(self, answer: dict[str, Any]) -> None:
        if 'waiting' in answer:
            if time.monotonic() - self._began > self._values['start_timeout_s']:
                raise GraphError(f'the camera cannot begin: {answer["waiting"]}')
            self._retry_at = time.monotonic() + _RETRY_S
            return
        self.total = answer.get('frames') or self.total
        self.notes += [n for n in answer['notes'] if n not in self.notes]
        self.identity = answer['identity']
        if 'running' in answer:
            self._running = True
            return
        served = answer['served']
        if answer['end'] or not served:
            self.ended_ns = time.monotonic_ns()
            return
        turn, arms = served[-1]['turn'], len(self._values['arms'])
        self._between = self._values['placement'] != 'turns' or turn == arms - 1
        # The result may have come before this answer did.
        self.pending = Pending(
            served[0]['index'], {s['arm']: (s['stamp_ns'], s['frame_id']) for s in served},
            bool(answer['labelled']), self._values['timeout_s'])
        self._events.served()
