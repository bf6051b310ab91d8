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

from kd_perception.nodes.conversion import status
from kd_perception.nodes.perception.camera_topics import CameraTopics
from kd_perception.nodes.perception.health import Health, Summary, verdict
from kd_perception.nodes.perception.slots import FrameSlots

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class NodeView:
    """
    What the node is at one moment.

    :param state: of the lifecycle.
    :param model: what serves, as ``ServingModel.describe`` tells; empty when nothing does.
    :param model_error: why the wanted model does not serve, or why the node does not.
    :param fallback: why something else than the wanted engine serves; empty when all is well.
    :param refused: which other model was not taken lately, while the old one serves on.
    :param stuck: what does not return in the inference thread; empty when all is well.
    :param loading: whether a model is being loaded, ``loading_s``: for how long.
    :param values: more key-value pairs of the node.
    """

    state: str
    slots: FrameSlots
    health: Health
    topics: Mapping[str, CameraTopics]
    model: Mapping[str, Any] = field(default_factory=dict)
    model_error: str = ''
    fallback: str = ''
    refused: str = ''
    stuck: str = ''
    loading: bool = False
    loading_s: float = 0.0
    values: Mapping[str, Any] = field(default_factory=dict)


class Diagnostics:
    """
    Makes statuses of views; compares each with the one before.

    :param node_name: fully qualified.
    """

    def __init__(self, node_name: str) -> None:
        self._node_name = node_name
        self._previous: dict[str | None, dict[str, int]] = {}

    def statuses(self, view: NodeView) -> list[DiagnosticStatus]:
        """Return the status of the node, and behind it one of each camera that has a name."""
        silences = {}
        if view.state == 'active':
            silences = {name: topics.silence_reason() for name, topics in view.topics.items()
                        if view.health.camera(name).silent}
        named = [name for name in view.topics if name]
        return [self._node(view, silences), *(self._camera(view, c, silences) for c in named)]

    def _node(self, view: NodeView, silences: Mapping[str, str]) -> DiagnosticStatus:
        counters, summary, model = view.slots.snapshot(), view.health.summary(), view.model
        level, message = self._verdict(view, None, '; '.join(
            f'{camera}: {reason}' if camera else reason for camera, reason in silences.items()))
        values: dict[str, Any] = {
            'schema_version': SCHEMA_VERSION, 'state': view.state,
            'model': model.get('name', ''), 'model_hash': model.get('hash', ''),
            'engine': model.get('engine', ''), 'device': model.get('device', ''),
            'precision': model.get('precision', ''),
            'engine_choice': model.get('engine_choice', ''), 'loading': view.loading,
            'loading_s': round(view.loading_s, 1),
            **_performance(summary), **_lost(summary), **counters, **view.values}
        if view.topics:
            every = view.topics.values()
            values['age_source'] = _age_source(all(t.age_from_stamp for t in every))
            values['reliability'] = _reliability(all(t.reliable for t in every))
        return status(f'{self._node_name}: perception', model.get('hash', '')[:12], values,
                      level=bytes([level]), message=message)

    def _camera(self, view: NodeView, camera: str,
                silences: Mapping[str, str]) -> DiagnosticStatus:
        summary, topics = view.health.camera(camera), view.topics[camera]
        level, message = self._verdict(view, camera, silences.get(camera, ''))
        values: dict[str, Any] = {
            'schema_version': SCHEMA_VERSION, 'camera': camera, 'topic': topics.topic,
            **_performance(summary), 'silence_s': summary.silence_s, **_lost(summary),
            **view.slots.snapshot(camera),
            'age_source': _age_source(topics.age_from_stamp),
            'reliability': _reliability(topics.reliable)}
        return status(f'{self._node_name}: camera {camera}', topics.topic, values,
                      level=bytes([level]), message=message)

    def _verdict(self, view: NodeView, camera: str | None, silence: str) -> tuple[int, str]:
        counters = view.slots.snapshot(camera)
        previous = self._previous.get(camera, {})
        self._previous[camera] = counters
        return verdict(view.state, model_error=view.model_error if camera is None else '',
                       frame_error=view.health.recent_error(camera), silence=silence,
                       fallback=view.fallback if camera is None else '',
                       refused=view.refused if camera is None else '', stuck=view.stuck,
                       counters=counters, previous=previous)


def _performance(summary: Summary) -> dict[str, float]:
    """Return rates and times under the names that dashboards of the field read."""
    return {'frame_rate_node': summary.rate_hz, 'frame_rate_msg': summary.stamp_rate_hz,
            'current_delay_from_realtime_ms': summary.delay_ms,
            'latency_p50_ms': summary.p50_ms, 'latency_p95_ms': summary.p95_ms}


def _lost(summary: Summary) -> dict[str, float]:
    """Return what never came, as far as stamps and middleware tell."""
    return {'missing_share': summary.missing_share, 'lost_in_middleware': summary.lost}


def _age_source(from_stamp: bool) -> str:
    return 'header stamp' if from_stamp else 'time since receipt'


def _reliability(reliable: bool) -> str:
    return 'reliable' if reliable else 'best_effort'
