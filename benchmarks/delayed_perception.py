"""
The perception node with an engine that answers later by a known time; for benchmarks alone.

The delay is real: it lies in the call of the engine, in the node's inference thread, after the
network has run. It sleeps, and spins through the last part, since a sleep alone ends late.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np

VARIABLE = 'KD_PERCEPTION_BENCH_DELAY_MS'
_SPIN_NS = 300_000


class DelayedEngine:
    """An engine as it is, but for the time that a call takes."""

    def __init__(self, engine: Any, delay_ms: float) -> None:
        self._engine = engine
        self._delay_ns = round(delay_ms * 1e6)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph, and wait."""
        outputs = self._engine.infer(images)
        until = time.monotonic_ns() + self._delay_ns
        time.sleep(max(0, self._delay_ns - _SPIN_NS) / 1e9)
        while time.monotonic_ns() < until:
            pass
        return outputs


def main() -> int:
    from kd_perception.nodes.perception import node as perception
    from kd_perception.nodes.perception import serving

    load, delay_ms = serving.load_engine, float(os.environ[VARIABLE])

    def load_delayed(*args: Any, **kwargs: Any) -> Any:
        return DelayedEngine(load(*args, **kwargs), delay_ms)

    serving.load_engine = load_delayed
    return perception.main()


if __name__ == '__main__':
    sys.exit(main())
