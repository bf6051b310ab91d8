"""The search finds the rate of servers that are known, and says when the source was too slow."""

from __future__ import annotations

from collections.abc import Callable
import math

import numpy as np
import pytest

from kd_perception.errors import ConfigError
from kd_perception.evaluation.statistics.peak_rate import peak_rate, Probe

FRAMES = 400


def serve(rate: float, service_ms: Callable[[], float], threads: int = 1, *,
          queue: bool = False) -> tuple[float, float]:
    """
    Serve frames that come at a rate; return the share lost and the 95th percentile of the age.

    As our node does: one slot holds the freshest frame, an older one in it is lost. With ``queue``
    nothing is lost, and the age grows.
    """
    free = np.zeros(threads)
    ages, waiting = [], None

    def start(at: float, came: float) -> None:
        i = int(free.argmin())
        begin = max(at, free[i])
        free[i] = begin + service_ms() / 1e3
        ages.append(1e3 * (free[i] - came))

    for number in range(FRAMES):
        now = number / rate
        if queue:
            start(now, now)
            continue
        if waiting is not None and free.min() <= now:
            start(free.min(), waiting)
            waiting = None
        if free.min() <= now:
            start(now, now)
        else:
            waiting = now
    if waiting is not None:
        start(free.min(), waiting)
    return 1 - len(ages) / FRAMES, float(np.percentile(ages, 95))


def server(service_ms: Callable[[], float], threads: int = 1, *, source_hz: float = math.inf,
           queue: bool = False) -> Callable[[float], Probe]:
    def probe(rate: float) -> Probe:
        offered = min(rate, source_hz)
        return Probe(rate, offered, *serve(offered, service_ms, threads, queue=queue))
    return probe


@pytest.mark.parametrize('service_ms', [0.5, 7.0, 300.0])
@pytest.mark.parametrize('start_hz', [0.5, 10.0, 5000.0])
def test_deterministic_server(service_ms, start_hz):
    """Wherever the search begins, and however fast the server is: there is no ceiling."""
    found = peak_rate(server(lambda: service_ms), start_hz=start_hz, max_age_ms=3 * service_ms)
    true = 1e3 / service_ms
    assert found.limit == 'arm'
    assert found.rate_hz <= 1.02 * true  # 1 % of the frames may be lost
    assert found.rate_hz >= true / 1.06
    assert found.broken_hz <= 1.06 * found.rate_hz


def test_two_threads_serve_twice_the_rate():
    found = peak_rate(server(lambda: 20.0, threads=2), max_age_ms=60)
    assert found.rate_hz == pytest.approx(100, rel=0.06)


def test_random_server():
    """Some frames take three times as long: the rate is that at which 1 % are lost."""
    rng = np.random.default_rng(0)

    def service_ms() -> float:
        return float(rng.choice((10.0, 30.0), p=(0.95, 0.05)))

    found = peak_rate(server(service_ms), max_age_ms=100)
    low, high = (np.mean([serve(factor * found.rate_hz, service_ms)[0] for _ in range(15)])
                 for factor in (0.8, 1.25))
    assert low < 0.01 < high


def test_a_queue_is_found_out_by_its_age():
    """A server that loses nothing, and falls further and further behind, does not keep up."""
    found = peak_rate(server(lambda: 10.0, queue=True))
    assert found.max_age_ms == pytest.approx(20.0)
    assert found.rate_hz == pytest.approx(100, rel=0.06)


@pytest.mark.parametrize('source_hz', [3.0, 25.0, 333.0])
def test_a_slow_source_is_named(source_hz):
    found = peak_rate(server(lambda: 1.0, source_hz=source_hz))
    assert found.limit == 'source'
    assert found.rate_hz == source_hz
    assert math.isinf(found.broken_hz)


def test_an_arm_that_breaks_below_the_limit_of_the_source():
    """Asked 160 Hz the source sends 110, which is too much: the search goes on below 110."""
    found = peak_rate(server(lambda: 10.0, source_hz=110.0), max_age_ms=25)
    assert found.limit == 'arm'
    assert found.rate_hz == pytest.approx(100, rel=0.06)


@pytest.mark.parametrize('sent_hz', [20.0, 38.0, 40.0, 40.1])
def test_a_source_that_collapses_under_an_overloaded_arm(sent_hz):
    """Above 50 Hz the arm takes the processor of the source, which then sends less than before."""
    def probe(rate: float) -> Probe:
        return (Probe(rate, rate, 0.0, 9.0) if rate <= 50
                else Probe(rate, sent_hz, 0.5, 99.0))

    found = peak_rate(probe)
    # All rates above 40 are asked for, and none above 50 was ever offered.
    assert found.rate_hz == pytest.approx(50, rel=0.05)
    assert math.isinf(found.broken_hz)
    assert found.limit == 'source'


def test_a_source_that_collapses_hides_no_rate_in_between():
    """Up to 60 Hz are really offered and do not hold: that is the arm's limit."""
    def probe(rate: float) -> Probe:
        if rate > 60:
            return Probe(rate, 30.0, 0.5, 99.0)
        return Probe(rate, rate, 0.5 if rate > 50 else 0.0, 9.0)

    found = peak_rate(probe)
    assert found.limit == 'arm'
    assert found.rate_hz <= 50 < found.broken_hz <= 1.06 * found.rate_hz


def test_a_broken_rate_is_above_the_one_that_holds():
    """Whatever a source sends, the two rates of a result that names the arm are not the same."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        peak, most = rng.uniform(5, 100, 2)

        def probe(rate: float, peak: float = peak, most: float = most) -> Probe:
            broken = rate > peak * rng.uniform(0.9, 1.1)
            offered = min(rate, most) * (rng.uniform(0.3, 1.0) if broken else 1.0)
            return Probe(rate, offered, 0.5 if broken else 0.0, 9.0)

        found = peak_rate(probe)
        assert found.limit != 'arm' or found.rate_hz < found.broken_hz < math.inf
        assert len(found.probes) < 200


def test_nothing_holds():
    found = peak_rate(lambda rate: Probe(rate, rate, 1.0, math.nan))
    assert (found.rate_hz, found.limit) == (0.0, 'none held')
    assert all(not p.held for p in found.probes)


def test_one_bad_probe_decides_nothing():
    """Every fifth probe meets a busy moment."""
    calls = []

    def probe(rate: float) -> Probe:
        calls.append(rate)
        busy = len(calls) % 5 == 0
        return Probe(rate, rate, 0.5 if busy or rate > 100 else 0.0, 9.0)

    found = peak_rate(probe, start_hz=10.0)
    assert found.rate_hz <= 100 < found.broken_hz <= 106
    assert len(found.probes) == len(calls)


def test_probes_are_told_as_they_come():
    told = []
    found = peak_rate(server(lambda: 10.0), max_age_ms=25, tell=told.append)
    assert tuple(told) == found.probes


@pytest.mark.parametrize('wrong', [
    {'start_hz': 0.0}, {'max_loss': 1.0}, {'max_loss': -0.1}, {'max_age_ms': -1.0},
    {'start_hz': math.nan}])
def test_limits_without_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match='peak rate'):
        peak_rate(server(lambda: 1.0), **wrong)
