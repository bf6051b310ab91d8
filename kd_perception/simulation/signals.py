"""
The cycle of traffic lights: pure functions of time, the same as in ``plain_fragment.glsl``.

Main road: green, amber, red; the side streets have their green within its red.
"""

from __future__ import annotations

import numpy as np

CYCLE_S = 24.
GREEN, AMBER = .4, .5                  # shares of the cycle at which green and amber end
SIDE_SHIFT = .5                        # how far the side streets' lights are ahead
CLOCK_WRAP_S = 240.                    # the shader's clock, a multiple of the cycle


def position(phase: np.ndarray, time_s: float) -> np.ndarray:
    """Return where in the cycle lights of that phase are, 0 … 1 (any shape)."""
    return (time_s % CLOCK_WRAP_S / CYCLE_S + phase) % 1.


def must_stop(phase: np.ndarray, time_s: float) -> np.ndarray:
    """Tell whether the main road has amber or red."""
    return position(phase, time_s) >= GREEN


def side_clock(phase: np.ndarray, time_s: float) -> np.ndarray:
    """Return seconds since the side streets' green began, 0 … 24."""
    return (position(phase, time_s) + SIDE_SHIFT) % 1. * CYCLE_S
