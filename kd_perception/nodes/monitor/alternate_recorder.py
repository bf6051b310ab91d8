"""
Which arm a frame belongs to where one node exchanges its model: the one whose model served it.

No ROS here. A timing message says by the number of its exchange which model served; that number is
known from ``~/active_model``, which may come later. A recorder belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from kd_perception.evaluation.joining import Published
from kd_perception.nodes.monitor.recorder import Key, Recorder


@dataclass
class _Frame:
    record: Published | None = None
    mask: np.ndarray | None = None
    received_ns: int = 0
    stages: Mapping[str, float] | None = None
    exchange: int = 0
    again: list[tuple[int, np.ndarray | None]] = field(default_factory=list)


class AlternateRecorder:
    """
    Holds every frame back until it is known which arm answered it.

    :param recorder: where frames go then.
    :param arm_of: arm by number of the exchange; grows while the run goes on.
    """

    def __init__(self, recorder: Recorder, arm_of: Mapping[int, str]) -> None:
        self._recorder = recorder
        self._arm_of = arm_of
        self._open: dict[Key, _Frame] = {}
        self._arms: dict[Key, str] = {}

    def on_published(self, record: Published) -> None:
        """Take the record of a publish call; its arm is the one that is expected to serve it."""
        key = (record.stamp_ns, record.frame_id)
        self._frame(key).record = record
        self._settle(key)

    def on_result(self, key: Key, received_ns: int, mask: np.ndarray | None) -> None:
        """Take one result: uint8 ``[H, W]``, ids of the model; None where nobody looks at it."""
        if key in self._arms:
            self._recorder.on_result(self._arms[key], key, received_ns, mask)  # a duplicate
            return
        frame = self._frame(key)
        if not frame.received_ns:
            frame.received_ns, frame.mask = received_ns, mask
        else:
            frame.again.append((received_ns, mask))
        self._settle(key)

    def on_timing(self, key: Key, stages: Mapping[str, float], exchange: int) -> None:
        """Take what the node says of a frame, and which of its models served it."""
        frame = self._frame(key)
        frame.stages, frame.exchange = stages, exchange
        self._settle(key)

    def resolve(self) -> None:
        """Look again at what waits: another number has become known."""
        for key in list(self._open):
            self._settle(key)

    def flush(self) -> None:
        """Give what has no answer to the arm that was expected to serve it."""
        for key, frame in self._open.items():
            if frame.record is not None:
                self._recorder.on_published(frame.record)
                if frame.stages is not None and not frame.received_ns:
                    self._recorder.on_stages(frame.record.arm, key, frame.stages)
        self._open.clear()

    def outstanding(self) -> int:
        """Return how many publish calls have no result yet."""
        return sum(frame.record is not None for frame in list(self._open.values()))

    def complete(self, arm: str, key: Key, *, labelled: bool) -> bool:
        """Return whether all is there that will ever be known of a frame; see ``Recorder``."""
        owner = self._arms.get(key)
        return owner is not None and self._recorder.complete(owner, key, labelled=labelled)

    def _frame(self, key: Key) -> _Frame:
        return self._open.setdefault(key, _Frame())

    def _settle(self, key: Key) -> None:
        frame = self._open[key]
        arm = self._arm_of.get(frame.exchange)
        record = frame.record
        if record is None or not frame.received_ns or frame.stages is None or arm is None:
            return
        del self._open[key]
        self._arms[key] = arm
        # A frame of the one model within a block of the other is one of the exchange.
        self._recorder.on_published(replace(
            record, arm=arm, swapping=record.swapping or arm != record.arm))
        self._recorder.on_result(arm, key, frame.received_ns, frame.mask)
        self._recorder.on_stages(arm, key, frame.stages)
        for received_ns, mask in frame.again:
            self._recorder.on_result(arm, key, received_ns, mask)
