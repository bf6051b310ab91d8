import math

import pytest

from kd_perception.nodes.health import Health, missing_share, verdict
from kd_perception.nodes.slots import COUNTERS

NONE = dict.fromkeys(COUNTERS, 0)


@pytest.mark.parametrize(('lost', 'share'), [((), 0.0), ((5,), 1 / 99), ((5, 6, 7), 3 / 99),
                                             (range(1, 99, 2), 0.0)])
def test_missing_frames_are_seen_in_the_stamps(lost, share):
    stamps = [i * 33_000_000 for i in range(100) if i not in lost]
    # Where every other frame is lost the camera looks like one of half the rate.
    assert missing_share(stamps) == pytest.approx(share, abs=1e-3)


def test_half_lost_at_random_is_seen():
    stamps = [i for i in range(200) if (i * 7919) % 13 > 5]
    assert missing_share([s * 33_000_000 for s in stamps]) == pytest.approx(6 / 13, abs=0.05)


def test_repeated_or_few_stamps_say_nothing():
    assert missing_share([0] * 50) == 0.0
    assert missing_share([0, 100, 500]) == 0.0


def test_summary_of_results():
    health = Health()
    assert math.isinf(health.summary().silence_s)
    assert math.isnan(health.summary().p50_ms)
    for value in (1.0, 2.0, 3.0):
        health.arrived('', 0)
        health.answered(value)
    summary = health.summary()
    assert summary.p50_ms == 2.0
    assert 2.0 < summary.p95_ms <= 3.0
    assert summary.silence_s < 5.0


def test_errors_are_forgotten_after_a_while():
    health = Health()
    assert health.recent_error() == ''
    health.failed('bad step')
    assert health.recent_error() == 'bad step'
    assert health.recent_error(0.0) == ''


def test_the_worst_thing_is_said():
    def say(state='active', *, model='', frame='', silence='', **counters):
        return verdict(state, model_error=model, frame_error=frame, silence=silence,
                       counters={**NONE, **counters}, previous=NONE)

    assert say() == (0, 'active')
    assert say('inactive', silence='quiet') == (0, 'inactive')
    assert say(model='gone', frame='bad', silence='quiet') == (2, 'gone')
    assert say(frame='bad', silence='quiet') == (1, 'frames fail: bad')
    assert say(silence='quiet') == (1, 'quiet')
    level, message = say(received=30, overwritten=20)
    assert level == 1
    assert '20 of the last 30' in message
    assert say(received=30, overwritten=2) == (0, 'active')
