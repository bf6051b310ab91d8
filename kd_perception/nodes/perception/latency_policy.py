"""
When a light model serves in place of the wanted one: a budget of latency, with hysteresis.

Plain decisions: times come in, nothing runs here. The wanted model is left when the 95th
percentile of its frames' ``total_ms`` is over the budget. While the light one serves, the wanted
one is tried now and then on a frame that was answered already, and returns when it would have
stayed well within the budget several times in a row.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class PolicyOptions:
    """
    How quick and how patient the policy is.

    :param window: frames that the percentile is taken of,
    :param fewest: and how many there must be.
    :param margin: share of the budget that the wanted model must stay within to return.
    :param tries: tries in a row that must.
    :param first_wait_s: time between tries; doubled when one fails,
    :param longest_wait_s: up to this.
    :param settled_s: time that the wanted model must serve until it is trusted as at first.
    """

    window: int = 40
    fewest: int = 20
    margin: float = 0.8
    tries: int = 3
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    settled_s: float = 30.0


class LatencyPolicy:
    """
    Says which model serves the next frame; used by the inference thread alone.

    Set ``budget_ms`` at any time; 0 switches the policy off. Times are steady, in seconds.
    """

    def __init__(self, options: PolicyOptions = PolicyOptions()) -> None:
        self.budget_ms = 0.0
        self.reason = ''
        self._options = options
        self._totals: deque[float] = deque(maxlen=options.window)
        self.reset()

    def reset(self) -> None:
        """Begin anew with the wanted model: one of both is another now."""
        self._light = False
        self._good = 0
        self._wait_s = self._options.first_wait_s
        self._next_try = 0.0
        self._returned_at: float | None = None
        self._blocked_until = 0.0
        self._totals.clear()
        self.reason = ''

    @property
    def light(self) -> bool:
        """Return whether the light model serves the next frame."""
        return self._light and self.budget_ms > 0

    def served(self, total_ms: float, now: float) -> None:
        """Note how long the wanted model took for a frame, from its arrival to its result."""
        if self.budget_ms <= 0:
            self._light, self.reason = False, ''
            self._totals.clear()
            return
        if self._light:
            return  # it shared a call with the frame that was too much
        self._totals.append(total_ms)
        p95 = percentile95(self._totals)
        if (len(self._totals) < self._options.fewest or p95 <= self.budget_ms
                or now < self._blocked_until):
            return
        if self._returned_at is None or now - self._returned_at > self._options.settled_s:
            self._wait_s = self._options.first_wait_s
        self.reason = f'p95 of the wanted model was {p95:.0f} ms, the budget is {self.budget_ms:g}'
        self._light, self._good = True, 0
        self._totals.clear()
        self._wait(now)

    def try_due(self, now: float) -> bool:
        """Return whether the wanted model should be tried on the frame at hand."""
        return self.light and now >= self._next_try

    def tried(self, total_ms: float, now: float) -> None:
        """Note how long the wanted model would have taken; infinite when it failed."""
        if total_ms > self._options.margin * self.budget_ms:
            self._good = 0
            self._wait(now)
            return
        self._good += 1
        self._next_try = now + self._options.first_wait_s
        if self._good >= self._options.tries:
            self._light, self._returned_at, self.reason = False, now, ''

    def light_failed(self, now: float) -> None:
        """Serve the wanted model, and leave the light one alone for a while."""
        self._light, self.reason = False, ''
        self._blocked_until = now + self._options.longest_wait_s

    def _wait(self, now: float) -> None:
        self._next_try = now + self._wait_s
        self._wait_s = min(2 * self._wait_s, self._options.longest_wait_s)


def percentile95(values: deque[float]) -> float:
    """Return the value that 5 % are above; one outlier among twenty does not move it."""
    ordered = sorted(values)
    return ordered[int(0.95 * (len(ordered) - 1))]
