"""
The time that one frame took in the perception node, and its form on ``~/timing``.

All durations come from the steady clock. ``total_ms`` is from the subscription callback to the
return of the last publish call; ``transport_ms`` (middleware, before the callback) is no part of
it and is given only where the middleware knows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray

from kd_perception.nodes.conversion import status, statuses, values_of
from kd_perception.nodes.perception.worker import FrameResult

SCHEMA_VERSION = 2
_KNOWN = ('1', '2')  # 1 did not tell the exchange
STAGES = ('wait_ms', 'decode_ms', 'preprocess_ms', 'inference_ms', 'postprocess_ms', 'publish_ms',
          'total_ms')


@dataclass(frozen=True)
class FrameTiming:
    """
    What one frame cost.

    :param camera: name of the camera; empty for the only one.
    :param model_hash: bundle that served it.
    :param exchange: how many models have begun to serve in this node, this one included; as in
        ``~/active_model``. 0 when unknown.
    :param age_ms: age of the frame when inference could start.
    :param transport_ms: time in the middleware; None when unknown.
    """

    camera: str
    model_hash: str
    wait_ms: float
    decode_ms: float
    preprocess_ms: float
    inference_ms: float
    postprocess_ms: float
    publish_ms: float
    total_ms: float
    age_ms: float
    transport_ms: float | None = None
    exchange: int = 0


def frame_timing(frame: FrameResult, publish: Callable[[], None],
                 exchange: int = 0) -> FrameTiming:
    """Call ``publish`` and return the timing of the frame with it."""
    began = time.monotonic_ns()
    publish()
    ended = time.monotonic_ns()
    arrival, stages = frame.arrival, frame.processed.stages_ns
    transport = arrival.transport_ns
    return FrameTiming(
        camera=arrival.camera, model_hash=frame.model.bundle.hash,
        wait_ms=(frame.taken_ns - arrival.received_ns) / 1e6,
        decode_ms=stages['decode'] / 1e6, preprocess_ms=stages['preprocess'] / 1e6,
        inference_ms=stages['inference'] / 1e6, postprocess_ms=stages['postprocess'] / 1e6,
        publish_ms=(ended - began) / 1e6, total_ms=(ended - arrival.received_ns) / 1e6,
        age_ms=frame.age_ns / 1e6, transport_ms=None if transport is None else transport / 1e6,
        exchange=exchange)


def timing_message(timing: FrameTiming, node_name: str, header: Any) -> DiagnosticArray:
    """Return ``timing`` under the header of its image."""
    values: dict[str, Any] = {'schema_version': SCHEMA_VERSION, 'camera': timing.camera,
                              'model_hash': timing.model_hash, 'exchange': timing.exchange}
    values.update({stage: float(getattr(timing, stage)) for stage in STAGES})
    values['age_ms'] = timing.age_ms
    if timing.transport_ms is not None:
        values['transport_ms'] = timing.transport_ms
    return statuses(header, status(f'{node_name}: timing', timing.model_hash[:12], values))


def parse_timing(message: Any) -> FrameTiming:
    """
    Return the timing that a message on ``~/timing`` holds.

    :raises ValueError: when it holds none of this schema.
    """
    if not message.status:
        raise ValueError('no status in the timing message')
    values = values_of(message.status[0])
    if values.get('schema_version') not in _KNOWN:
        raise ValueError(f'timing schema {values.get("schema_version")!r} is unknown')
    try:
        transport = values.get('transport_ms')
        return FrameTiming(
            camera=values['camera'], model_hash=values['model_hash'],
            age_ms=float(values['age_ms']), exchange=int(values.get('exchange', 0)),
            transport_ms=None if transport is None else float(transport),
            **{stage: float(values[stage]) for stage in STAGES})
    except KeyError as error:
        raise ValueError(f'timing lacks {error}') from None
