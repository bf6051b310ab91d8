"""
What is known of every arm while a comparison runs.

No ROS here. In: publish records, results, finished frames; out: ``LiveArm`` s, cheap enough for
twice a second. The report is computed anew from the rows; these figures only pass the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
import threading
from typing import Any

import numpy as np

from kd_perception.evaluation.joining import Published
from kd_perception.evaluation.metrics.frame_accuracy import frame_miou
from kd_perception.evaluation.statistics.paired import rate
from kd_perception.nodes.monitor.worst_frames import FinishedFrame, Key

_RATE_OVER_NS = 5_000_000_000


@dataclass(frozen=True)
class LiveArm:
    """
    One arm so far; the warm-up is left out.

    :param served: frames given to it; ``answered``: with a result.
    :param lost: given up by the monitor in lockstep; else those without a result although a later
        frame has one.
    :param p50_ms, p95_ms: of the latency; None before the first answer.
    :param rate_hz: answers per second over the last five seconds.
    :param miou: over the pixels of all frames so far, 0 … 1; None without ground truth.
    """

    arm: str
    served: int
    answered: int
    lost: int
    p50_ms: float | None
    p95_ms: float | None
    rate_hz: float
    miou: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return asdict(self)


class _Arm:
    """Running figures of one arm."""

    def __init__(self) -> None:
        self.open: dict[Key, int] = {}
        self.early: dict[Key, int] = {}
        self.latencies_ms: list[float] = []
        self.received_ns: list[int] = []
        self.served = self.lost = 0
        self.counts: np.ndarray | None = None

    def answer(self, key: Key, received_ns: int) -> None:
        """Take a result of a frame that was published before it."""
        published_ns = self.open.pop(key)
        self.latencies_ms.append((received_ns - published_ns) / 1e6)
        self.received_ns.append(received_ns)
        # Frames are answered in order: what was published before this one will not come any more.
        passed = [k for k, at in self.open.items() if at < published_ns]
        for k in passed:
            del self.open[k]
        self.lost += len(passed)


class LiveFigures:
    """
    Running figures of all arms; events may come from several threads.

    :param arms: names.
    :param warmup: frames of a lower index do not count.
    """

    def __init__(self, arms: Sequence[str], warmup: int) -> None:
        self._arms = {name: _Arm() for name in arms}
        self._warmup = warmup
        self._lock = threading.Lock()
        np.percentile([0.0, 1.0], (50, 95))  # the first call takes ten times as long as all others

    def on_published(self, record: Published) -> None:
        """Take the record of a publish call."""
        arm = self._arms.get(record.arm)
        if arm is None:
            return
        key = (record.stamp_ns, record.frame_id)
        with self._lock:
            early = arm.early.pop(key, None)
            if record.index < self._warmup:
                return
            arm.served += 1
            arm.open[key] = record.published_ns
            if early is not None:
                arm.answer(key, early)

    def on_result(self, name: str, key: Key, received_ns: int) -> None:
        """Take the arrival of a result."""
        arm = self._arms[name]
        with self._lock:
            if key in arm.open:
                arm.answer(key, received_ns)
            else:  # its record is under way, or it is of the warm-up or a duplicate
                arm.early[key] = received_ns
                if len(arm.early) > 100:
                    del arm.early[next(iter(arm.early))]

    def on_frame(self, frame: FinishedFrame) -> None:
        """Take the pixel counts of a finished frame."""
        with self._lock:
            for name, counts in frame.counts.items():
                arm = self._arms[name]
                table = np.array(counts, np.int64)
                arm.counts = table if arm.counts is None else arm.counts + table

    def arms(self) -> tuple[LiveArm, ...]:
        """Return the figures so far."""
        with self._lock:
            return tuple(_live(name, arm) for name, arm in self._arms.items())


def _live(name: str, arm: _Arm) -> LiveArm:
    p50 = p95 = None
    if arm.latencies_ms:
        p50, p95 = (float(v) for v in np.percentile(arm.latencies_ms, (50, 95)))
    last = arm.received_ns[-1] if arm.received_ns else 0
    recent = [t for t in arm.received_ns[-500:] if t > last - _RATE_OVER_NS]
    miou = None if arm.counts is None else frame_miou(
        [(int(c), int(t), int(p)) for c, t, p in arm.counts])
    return LiveArm(name, arm.served, len(arm.latencies_ms), arm.lost, p50, p95, rate(recent), miou)


def live_arms(data: Sequence[Mapping[str, Any]]) -> tuple[LiveArm, ...]:
    """
    Return what ``LiveArm.to_dict`` gave.

    :raises TypeError: for other keys.
    """
    return tuple(LiveArm(**entry) for entry in data)
