import pytest

from kd_perception.nodes.stamps import missing_share, stamp_rate_hz, StampAge, StampHistory


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


def test_a_pause_is_no_loss():
    stamps = [i * 33_000_000 for i in range(30)]
    assert missing_share(stamps + [s + 5_000_000_000 for s in stamps]) == 0.0
    assert missing_share(stamps + [s + 1_500_000_000 for s in stamps]) > 0.1


def test_rate_since_time_was_set_back():
    assert stamp_rate_hz([]) == stamp_rate_hz([5]) == stamp_rate_hz([7, 7, 7]) == 0.0
    assert stamp_rate_hz([0, 100_000_000, 200_000_000]) == pytest.approx(10.0)
    assert stamp_rate_hz([8_000_000_000, 9_000_000_000, 0, 50_000_000]) == pytest.approx(20.0)


def test_history_starts_anew_when_time_was_set_back():
    history = StampHistory()
    for i in (*range(0, 60, 3), *range(60, 90)):
        history.add(i * 33_000_000)
    assert history.missing_share() > 0.2
    for i in range(20):
        history.add(i * 33_000_000)
    assert history.missing_share() == 0.0
    # Neighbours that change places are disorder, no other time.
    history.add(18 * 33_000_000)
    for i in (21, 24, 27):
        history.add(i * 33_000_000)
    assert history.missing_share() > 0.1


SECOND = 1_000_000_000


def test_age_is_the_nodes_clock_minus_the_stamp():
    age = StampAge()
    assert age.age_ns(100 * SECOND, 100 * SECOND + 5) == 5
    assert age.age_ns(102 * SECOND, 101 * SECOND) is None
    assert age.age_ns(103 * SECOND, 110 * SECOND) == 7 * SECOND
    assert age.age_ns(103 * SECOND, 4000 * SECOND) is None


def test_single_late_frames_stay_old():
    age = StampAge()
    age.age_ns(100 * SECOND, 100 * SECOND)
    for late in (6, 13, 90, 5, 2, 70):
        assert age.age_ns((100 - late) * SECOND, 100 * SECOND) == late * SECOND


def test_a_recording_that_starts_again_is_not_old_for_good():
    age = StampAge()
    for i in range(20):
        assert age.age_ns((100 + i) * SECOND, (101 + i) * SECOND) == SECOND
    ages = [age.age_ns((100 + i) * SECOND, (121 + i) * SECOND) for i in range(10)]
    assert ages[:4] == [21 * SECOND] * 4
    assert ages[4:] == [0] * 6
    # It lags more and more: that is seen.
    assert age.age_ns(110 * SECOND, 134 * SECOND) == 3 * SECOND
    # The clocks agree again: so is that.
    assert age.age_ns(134 * SECOND, 135 * SECOND) == 0
    assert age.age_ns(135 * SECOND, 138 * SECOND) == 2 * SECOND


def test_a_reset_simulator_is_another_clock_until_ours_follows():
    age = StampAge()
    age.age_ns(500 * SECOND, 500 * SECOND)
    # /clock first, or the image first: one old frame at most, and then none.
    assert age.age_ns(SECOND // 10, 0) is None
    assert age.age_ns(SECOND // 5, SECOND // 5) == 0


def test_one_stamp_of_the_far_future_does_no_harm():
    age = StampAge()
    age.age_ns(9000 * SECOND, 100 * SECOND)
    ages = [age.age_ns((100 + i) * SECOND, (102 + i) * SECOND) for i in range(8)]
    assert max(ages) == 2 * SECOND
