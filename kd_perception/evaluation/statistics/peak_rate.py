"""
The highest rate that an arm sustains: few frames lost, and an age that does not grow.

In: a callable that serves frames at a rate and says what came of them; out: the rate, what ended
the search, and all probes. No ROS here.

There is no ceiling to choose: the rate is doubled until the arm or the source gives in, then
bisected in the logarithm. What counts is the rate that was really offered, never the rate that was
asked for. Where the source could not send faster, the result says so: it is then a lower bound.
A source may also send less than before when it is asked for more, because the overloaded arm takes
its processor: that says nothing of the rates in between, which are then asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
import math

from kd_perception.errors import ConfigError

SHORT_OF_RATE = 0.95  # below this share of what was asked for the source is at its limit
LOWEST_HZ = 0.1
_SAME_RATE = 1.005  # rates that are closer than this factor are one rate


@dataclass(frozen=True)
class Probe:
    """
    What came of serving at one rate.

    :param asked_hz: the rate that was wanted.
    :param offered_hz: the rate at which frames really went out.
    :param loss: share of the frames that were never answered, 0 … 1.
    :param age_p95_ms: 95th percentile of publish call → result; NaN when nothing came.
    :param frames: how many frames were offered; 0 where not known.
    :param held: whether loss and age stayed within the limits; set by the search.
    """

    asked_hz: float
    offered_hz: float
    loss: float
    age_p95_ms: float
    frames: int = 0
    held: bool = False

    @property
    def short(self) -> bool:
        """Return whether the source could not send as fast as it was asked to."""
        return self.offered_hz < SHORT_OF_RATE * self.asked_hz


@dataclass(frozen=True)
class PeakRate:
    """
    The result of a search.

    :param rate_hz: highest offered rate that held; 0 when none did.
    :param broken_hz: lowest offered rate above it that did not hold; infinite when none above it
        was offered that broke.
    :param limit: what ended the search: ``arm``, ``source`` (the arm may sustain more) or
        ``none held``.
    :param max_age_ms: the limit of the age that was applied.
    """

    rate_hz: float
    broken_hz: float
    limit: str
    max_loss: float
    max_age_ms: float
    probes: tuple[Probe, ...]


def peak_rate(probe: Callable[[float], Probe], *, start_hz: float = 10.0, max_loss: float = 0.01,
              max_age_ms: float = 0.0, tolerance: float = 0.05, repeats: int = 3,
              tell: Callable[[Probe], None] = lambda probe: None) -> PeakRate:
    """
    Search the highest rate at which an arm keeps up.

    A rate holds when most of up to ``repeats`` probes do, so that neither one busy moment nor one
    lucky one decides.

    :param probe: serves frames at about the rate it is given; the rate may be as high as it likes.
    :param max_loss: share of frames that may be lost.
    :param max_age_ms: 95th percentile of the age that may be reached; 0 for twice that of the
        first probe that loses no more than it may.
    :param tolerance: width of the last bracket, as a share of the rate.
    :param tell: called with every probe that is done.
    :raises ConfigError: for limits that make no sense.
    """
    if not (start_hz > 0 and 0 <= max_loss < 1 and max_age_ms >= 0 and tolerance > 0
            and repeats > 0):
        raise ConfigError(f'peak rate: start {start_hz:g} Hz, loss {max_loss:g} of 1, age '
                          f'{max_age_ms:g} ms: rates must be above 0, losses below 1, ages not '
                          'negative')
    done: list[Probe] = []
    limit_ms = max_age_ms

    def holds(rate: float) -> Probe:
        """Return a probe that stands for the rate: the verdict of most, the rate of all."""
        nonlocal limit_ms
        votes: list[Probe] = []
        while True:
            found = probe(rate)
            if not limit_ms and found.loss <= max_loss and math.isfinite(found.age_p95_ms):
                limit_ms = 2 * found.age_p95_ms
            found = replace(found, held=found.loss <= max_loss and found.age_p95_ms <= limit_ms)
            done.append(found)
            votes.append(found)
            tell(found)
            yes = sum(v.held for v in votes)
            if max(yes, len(votes) - yes) > repeats / 2 or len(votes) == repeats:
                held = yes > len(votes) / 2
                alike = [v.offered_hz for v in votes if v.held is held]
                return replace(found, held=held, offered_hz=sum(alike) / len(alike))

    def finish(low: float, high: float, limit: str) -> PeakRate:
        return PeakRate(low, high, limit, max_loss, limit_ms, tuple(done))

    # No rate above the ceiling needs to be asked for: it broke, or the source could not send it.
    low, high, ceiling = 0.0, math.inf, math.inf
    rate = start_hz
    while not low or math.isinf(ceiling):
        found = holds(rate)
        if found.held:
            low = max(low, found.offered_hz)
            if found.short:
                return finish(low, high, 'source')
            rate *= 2
        elif low and found.offered_hz <= low * _SAME_RATE:
            ceiling = rate
        else:
            high = ceiling = min(high, found.offered_hz)
            # What the source really sent is what broke: go on below that.
            rate = min(rate, found.offered_hz) / 2
            if rate < LOWEST_HZ:
                return finish(0.0, high, 'none held')
    while ceiling > low * (1 + tolerance):
        rate = math.sqrt(low * ceiling)
        found = holds(rate)
        if found.held and found.short and math.isinf(high):
            return finish(max(low, found.offered_hz), high, 'source')
        if found.held and low < found.offered_hz < ceiling:
            low = found.offered_hz
        elif not found.held and found.offered_hz <= low * _SAME_RATE:
            ceiling = rate
        elif not found.held and found.offered_hz < ceiling:
            high = ceiling = found.offered_hz
        else:  # the source sends no rate in between
            return finish(low, high, 'source' if found.held else 'arm')
    return finish(low, high, 'source' if math.isinf(high) else 'arm')
