import math

import numpy as np
import pytest

from kd_perception.nodes.perception.health import Health, verdict
from kd_perception.nodes.perception.slots import COUNTERS

NONE = dict.fromkeys(COUNTERS, 0)


def test_summary_of_results():
    health = Health()
    assert math.isinf(health.summary().silence_s)
    assert math.isnan(health.summary().p50_ms)
    for value in (1.0, 2.0, 3.0):
        health.arrived('', 0)
        health.answered('', int(value * 1e8), value, 10.0 * value)
    summary = health.summary()
    assert summary.p50_ms == 2.0
    assert 2.0 < summary.p95_ms <= 3.0
    assert summary.silence_s < 5.0
    assert summary.stamp_rate_hz == pytest.approx(10.0)
    assert summary.delay_ms == 30.0
    assert not summary.silent


def test_cameras_are_told_apart():
    health = Health(['front', 'left'])
    for number in range(5):
        health.arrived('front', number)
        health.answered('front', number * 50_000_000, 4.0, float('nan'))
    health.answered('left', 0, 8.0, 70.0)
    assert health.camera('front').p95_ms == 4.0
    assert health.camera('left').p50_ms == 8.0
    assert math.isnan(health.camera('front').delay_ms)
    assert health.camera('left').silent
    together = health.summary()
    assert not together.silent
    assert together.stamp_rate_hz == pytest.approx(20.0)
    assert together.delay_ms == 70.0
    assert together.p95_ms > 4.0
    health.failed('bad step', 'left')
    assert health.recent_error('left') == 'bad step'
    assert health.recent_error('front') == ''
    assert health.recent_error() == 'left: bad step'


def test_a_slow_camera_is_not_silent_between_two_images(monkeypatch):
    now = [0.0]
    monkeypatch.setattr('kd_perception.nodes.perception.health.time.monotonic_ns',
                        lambda: int(now[0] * 1e9))
    health = Health()
    for seconds in np.arange(0.0, 30.0, 5.0):
        now[0] = seconds
        health.arrived('', int(seconds * 1e9))
    now[0] = 38.0
    assert not health.summary().silent
    now[0] = 41.0
    assert health.summary().silent


def test_a_jump_of_time_loses_no_frames():
    health = Health()
    loop = [i * 33_000_000 for i in range(40)]
    for stamp in (*loop, *loop, *(s + 3_600_000_000_000 for s in loop)):
        health.arrived('', stamp)
    assert health.summary().missing_share == 0.0
    # What is lost after the jump is seen as before, and not when the subscription is a new one.
    for stamp in loop[:20] + loop[21:30] + loop[32:]:
        health.arrived('', stamp + 9_000_000_000_000)
    assert health.summary().missing_share > 0.01
    health.resubscribed('')
    assert health.summary().missing_share == 0.0


def test_errors_are_forgotten_after_a_while():
    health = Health()
    assert health.recent_error() == ''
    health.failed('bad step')
    assert health.recent_error() == 'bad step'
    assert health.recent_error(seconds=0.0) == ''


def test_the_worst_thing_is_said():
    def say(state='active', *, model='', frame='', silence='', fallback='', refused='',
            stuck='', **counters):
        return verdict(state, model_error=model, frame_error=frame, silence=silence,
                       fallback=fallback, refused=refused, stuck=stuck,
                       counters={**NONE, **counters}, previous=NONE)

    assert say() == (0, 'active')
    assert say('inactive', silence='quiet') == (0, 'inactive')
    assert say(model='gone', frame='bad', silence='quiet') == (2, 'gone')
    assert say(frame='bad', silence='quiet') == (1, 'frames fail: bad')
    assert say(silence='quiet') == (1, 'quiet')
    assert say(silence='quiet', fallback='other') == (1, 'quiet; other')
    assert say(fallback='other', received=30, stale=30)[0] == 2
    level, message = say(received=30, overwritten=20)
    assert level == 1
    assert '20 of the last 30' in message
    assert say(received=30, overwritten=2) == (0, 'active')
    assert say(model='gone', stuck='hangs') == (2, 'hangs')
    assert say('inactive', stuck='hangs') == (2, 'hangs')
    # A model that was not taken hides nothing of how the one that serves gets on.
    assert say(refused='no') == (1, 'no')
    assert say(frame='bad', refused='no') == (1, 'frames fail: bad; no')


def test_frames_of_which_none_is_answered_are_an_error():
    def say(frame='', **counters):
        return verdict('active', model_error='', frame_error=frame, silence='',
                       counters={**NONE, **counters}, previous=NONE)

    level, message = say(received=30, stale=20, published=10)
    assert (level, message) == (1, '20 of the last 30 frames were older than max_age_ms')
    assert say(received=30, stale=30)[0] == 2
    assert say(received=1, stale=1)[0] == 1
    assert say(received=30, stale=3, published=27) == (0, 'active')
    assert say('bad', received=30, failed=30) == (2, 'frames fail: bad; none is answered')
    assert say('bad', received=30, failed=1, published=29) == (1, 'frames fail: bad')
