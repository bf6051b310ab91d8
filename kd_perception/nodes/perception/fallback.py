"""
When an engine fails: which others may take its place, and when the wanted one is tried again.

Plain decisions: times come in, nothing is loaded here. A runtime fails for a while when its memory
is full. A GPU that is lost stays so until the process ends (``engines/gpu_loss.py``): it is not
tried again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
import threading

from kd_perception.engines.engine import DEVICES
from kd_perception.engines.gpu_loss import gpu_of
from kd_perception.nodes.perception.serving import ServingSettings


@dataclass(frozen=True)
class FallbackOptions:
    """
    How patient the node is.

    :param failures: frames that must fail in a row until an engine is left.
    :param first_retry_s: time until the wanted engine is tried again; doubled each time,
    :param longest_retry_s: up to this.
    :param settled_s: time that the wanted engine must serve until it is trusted as before.
    """

    failures: int = 3
    first_retry_s: float = 10.0
    longest_retry_s: float = 600.0
    settled_s: float = 60.0


class EngineFallback:
    """
    Decides when the serving engine is left, and when the wanted one is tried again.

    Failures and answers come from the inference thread, the rest from the ROS thread; times are
    steady, in seconds. An engine that fails soon after it was tried again waits twice as long as
    before, so that the node does not go to and fro.
    """

    def __init__(self, options: FallbackOptions = FallbackOptions()) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._wait_s = options.first_retry_s
        self._retry_at: float | None = None
        self._serving_since: float | None = None

    def answered(self) -> None:
        """Note that the engine answered a frame."""
        if self._in_a_row:  # without the lock: this is called for every frame
            with self._lock:
                self._in_a_row = 0

    def failed(self) -> bool:
        """Note that it failed on one; return whether it must be left now, once each time."""
        with self._lock:
            self._in_a_row += 1
            return self._in_a_row == self._options.failures

    def left(self, now: float, *, for_good: bool = False) -> None:
        """
        Note that the wanted engine was left, or could not be loaded again.

        :param for_good: it is not tried again.
        """
        with self._lock:
            self._in_a_row = 0
            since = self._serving_since
            if since is not None and now - since > self._options.settled_s:
                self._wait_s = self._options.first_retry_s
            self._retry_at = None if for_good else now + self._wait_s
            self._wait_s = min(2 * self._wait_s, self._options.longest_retry_s)
            self._serving_since = None

    def due(self, now: float) -> bool:
        """Return whether the wanted engine should be tried again now."""
        with self._lock:
            return self._retry_at is not None and now >= self._retry_at

    def retry_in_s(self, now: float) -> float | None:
        """Return the time until then; None when nothing has to be tried."""
        with self._lock:
            return None if self._retry_at is None else max(0.0, self._retry_at - now)

    def restored(self, now: float) -> None:
        """Note that the wanted engine serves again."""
        with self._lock:
            self._in_a_row, self._retry_at, self._serving_since = 0, None, now

    def reset(self) -> None:
        """Forget all: another model or engine is wanted."""
        with self._lock:
            self._in_a_row, self._retry_at, self._serving_since = 0, None, None
            self._wait_s = self._options.first_retry_s


def alternatives(wanted: ServingSettings, *, engine: str, device: str, precision: str,
                 available: Sequence[str],
                 lost: Collection[str] = ()) -> tuple[ServingSettings, ...]:
    """
    Return what may serve in place of an engine that fails, best first.

    Other engines on the same device come first, those of the same precision before those that
    choose their own, and the CPU comes last; before it, of TensorRT by ONNX Runtime, the same GPU
    without TensorRT. Whether one can serve the bundle is found out by
    loading it.

    :param wanted: what the parameters ask for.
    :param engine: the one that fails, with the ``device`` it ran on and the ``precision`` it
        really computed in.
    :param available: engines that are installed, fastest first.
    :param lost: GPUs (``cuda:<n>``) that this process has lost.
    """
    found: dict[tuple[str, str, str], None] = {}
    kind, colon, index = device.partition(':')
    places = [device, *([f'cuda{colon}{index}'] if kind == 'tensorrt' else []), 'cpu']
    for place in dict.fromkeys(p for p in places if gpu_of(p) not in lost):
        for kind in (precision, 'auto'):
            for name in available:
                can = place.partition(':')[0] in DEVICES.get(name, ())
                if can and (name, place) != (engine, device):
                    found[name, place, kind] = None
    return tuple(replace(wanted, engine=name, device=place, precision=kind)
                 for name, place, kind in found)
