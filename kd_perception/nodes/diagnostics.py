"""
What the perception node publishes on ``/diagnostics``: its state and counters as key-value pairs.

Comes in: a view of the node once a second. Goes out: statuses. Which keys there are is told in
``docs/nodes.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus

from kd_perception.nodes.camera_topics import CameraTopics
from kd_perception.nodes.conversion import status
from kd_perception.nodes.health import Health, verdict
from kd_perception.nodes.slots import FrameSlots

SCHEMA_VERSION = 1
_SILENCE_S = 2.0


@dataclass(frozen=True)
class NodeView:
    """
    What the node is at one moment.

    :param state: of the lifecycle.
    :param model: what serves, as ``ServingModel.describe`` tells; empty when nothing does.
    :param model_error: why the wanted model does not serve, or why the node does not.
    :param loading: whether a model is being loaded.
    """

    state: str
    slots: FrameSlots
    health: Health
    topics: Mapping[str, CameraTopics]
    model: Mapping[str, Any] = field(default_factory=dict)
    model_error: str = ''
    loading: bool = False


class Diagnostics:
    """
    Makes statuses of views; compares each with the one before.

    :param node_name: fully qualified.
    """

    def __init__(self, node_name: str) -> None:
        self._node_name = node_name
        self._previous: dict[str, int] = {}

    def statuses(self, view: NodeView) -> list[DiagnosticStatus]:
        """Return the status of the node."""
        counters = view.slots.snapshot()
        summary = view.health.summary()
        silence = ''
        if view.state == 'active' and summary.silence_s > _SILENCE_S:
            silence = '; '.join(t.silence_reason() for t in view.topics.values())
        level, message = verdict(
            view.state, model_error=view.model_error, frame_error=view.health.recent_error(),
            silence=silence, counters=counters, previous=self._previous)
        self._previous = counters
        model = view.model
        values: dict[str, Any] = {
            'schema_version': SCHEMA_VERSION, 'state': view.state,
            'model': model.get('name', ''), 'model_hash': model.get('hash', ''),
            'engine': model.get('engine', ''), 'device': model.get('device', ''),
            'precision': model.get('precision', ''), 'loading': view.loading,
            'frame_rate_node': summary.rate_hz, 'latency_p50_ms': summary.p50_ms,
            'latency_p95_ms': summary.p95_ms, **counters}
        if view.topics:
            every = view.topics.values()
            values['age_source'] = ('header stamp' if all(t.age_from_stamp for t in every)
                                    else 'time since receipt')
            values['reliability'] = ('reliable' if all(t.reliable for t in every)
                                     else 'best_effort')
        return [status(f'{self._node_name}: perception', model.get('hash', '')[:12], values,
                       level=bytes([level]), message=message)]
