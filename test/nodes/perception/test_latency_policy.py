import math

import pytest

from kd_perception.nodes.perception.latency_policy import LatencyPolicy, PolicyOptions

OPTIONS = PolicyOptions(fewest=20, tries=3, first_wait_s=1.0, longest_wait_s=8.0, settled_s=30.0)


class Road:
    """A policy with a clock; each frame takes a tenth of a second."""

    def __init__(self, budget_ms=50.0):
        self.policy = LatencyPolicy(OPTIONS)
        self.policy.budget_ms = budget_ms
        self.now = 0.0

    def wanted(self, total_ms, frames):
        for _ in range(frames):
            assert not self.policy.light
            self.now += 0.1
            self.policy.served(total_ms, self.now)
        return self

    def tries(self, total_ms, seconds):
        """Return the times of the tries within so many seconds, or until the light one ends."""
        times, end = [], self.now + seconds
        while self.now < end and self.policy.light:
            self.now += 0.1
            if self.policy.try_due(self.now):
                times.append(self.now)
                self.policy.tried(total_ms, self.now)
        return times


def test_within_the_budget_nothing_changes():
    assert not Road().wanted(50.0, 500).policy.light


def test_single_outliers_do_not_count():
    road = Road()
    for _ in range(10):
        road.wanted(20.0, 39).wanted(400.0, 1)
    assert not road.policy.light


def test_too_slow_for_twenty_frames_is_left():
    road = Road().wanted(51.0, 20)
    assert road.policy.light
    assert 'was 51 ms, the budget is 50' in road.policy.reason
    # Frames of the same batch come after it.
    road.policy.served(51.0, road.now)
    assert road.policy.light


def test_one_in_ten_too_slow_is_left():
    road = Road()
    for _ in range(3):
        road.wanted(20.0, 9).wanted(80.0, 1)
        if road.policy.light:
            break
    assert road.policy.light


def test_it_returns_after_three_good_tries_and_not_at_the_edge_of_the_budget():
    road = Road().wanted(80.0, 20)
    assert road.tries(45.0, 100.0)  # below the budget, above the margin
    assert road.policy.light
    times = road.tries(40.0, 100.0)
    assert len(times) == 3
    assert not road.policy.light
    assert road.policy.reason == ''


def test_tries_become_rarer():
    road = Road().wanted(80.0, 20)
    times = road.tries(80.0, 60.0)
    gaps = [b - a for a, b in zip(times, times[1:])]
    assert gaps[:3] == pytest.approx([2.0, 4.0, 8.0], abs=0.11)
    assert max(gaps) == pytest.approx(8.0, abs=0.11)
    assert road.tries(math.inf, 10.0)


def test_going_to_and_fro_becomes_rarer_until_it_settles():
    road, stays = Road(), []
    for _ in range(4):
        road.wanted(80.0, 20)
        began = road.now
        road.tries(10.0, 100.0)
        stays.append(road.now - began)
    assert stays == sorted(stays)
    assert stays[-1] > stays[0] + 4.0
    road.wanted(10.0, 400).wanted(80.0, 3)
    began = road.now
    road.tries(10.0, 100.0)
    assert road.now - began == pytest.approx(stays[0], abs=0.2)


def test_off_and_reset_mean_the_wanted_model():
    road = Road(budget_ms=0.0).wanted(1e9, 100)
    road.policy.budget_ms = 50.0
    road.wanted(80.0, 20)
    assert road.policy.light
    road.policy.budget_ms = 0.0
    road.wanted(80.0, 30)
    assert road.policy.reason == ''
    road.policy.budget_ms = 50.0
    road.wanted(80.0, 20)
    road.policy.reset()
    assert not road.policy.light


def test_a_light_model_that_fails_is_left_alone_for_a_while():
    road = Road().wanted(80.0, 20)
    road.policy.light_failed(road.now)
    road.wanted(80.0, 75)
    road.now += 8.0
    road.policy.served(80.0, road.now)
    assert road.policy.light
