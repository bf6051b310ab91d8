import numpy as np
import pytest

from kd_perception.bags.motion import change
from kd_perception.errors import ConfigError
from kd_perception.evaluation.metrics.disagreement import FrameScores
from kd_perception.evaluation.mining import (
    choose,
    is_near,
    Miner,
    MiningOptions,
    ranked,
    require_room,
    Room,
    surroundings,
)


def frame(balanced, low=float('nan'), novelty=float('nan')):
    return FrameScores(balanced, balanced, low, novelty)


def pictures(seed=0):
    draws = np.random.default_rng(seed)
    while True:
        yield draws.normal(size=(36, 64)).astype(np.float32)


def run(scores, options, received=None):
    """Offer all frames; return the choices, written frames counted as in an excerpt."""
    miner, written, choices = Miner(options), 0, []
    cost = 1 + 2 * options.context
    for number, (one, small) in enumerate(zip(scores, pictures())):
        choice = miner.offer(one, small, received=received(number) if received else number + 1,
                             written=written, cost=cost)
        written += cost * choice.kept
        choices.append(choice)
    return miner, choices


def test_the_share_holds_from_the_first_frame_on_and_the_highest_are_kept():
    draws = np.random.default_rng(1)
    values = draws.random(500)
    miner, choices = run([frame(v) for v in values], MiningOptions(context=0))
    kept = np.array([c.kept for c in choices])
    assert (kept.cumsum() <= 0.1 * np.arange(1, 501) + 1e-9).all()
    assert 30 <= kept.sum() <= 50
    assert values[kept].min() > 0.8
    assert miner.chosen == kept.sum()
    assert choices[int(np.flatnonzero(kept)[0])].reasons == ('disagreement',)


def test_context_is_paid_for_by_fewer_choices():
    draws = np.random.default_rng(2)
    _, choices = run([frame(v) for v in draws.random(500)], MiningOptions(context=2))
    written = 5 * np.cumsum([c.kept for c in choices])
    assert (written <= 0.1 * np.arange(1, 501) + 1e-9).all()
    kept = sum(c.kept for c in choices)
    assert 5 <= kept <= 10                     # five frames each, of at most fifty
    assert {c.refused for c in choices} >= {'', 'share of all frames'}


def test_a_slow_teacher_does_not_keep_all_that_it_sees():
    draws = np.random.default_rng(3)
    # One of thirty frames is compared: a tenth of all would be more than these.
    _, choices = run([frame(v) for v in draws.random(500)], MiningOptions(context=2),
                     received=lambda n: 30 * (n + 1))
    assert sum(c.kept for c in choices) <= 50


def test_each_criterion_can_be_the_reason_and_unknown_scores_are_none():
    values = [frame(0.5 + i * 1e-4, low=0.1 + i * 1e-4) for i in range(99)]
    values.append(frame(0.1, low=0.9))
    _, choices = run(values, MiningOptions(context=0))
    assert choices[-1].kept
    assert choices[-1].reasons == ('confidence',)
    only = MiningOptions(context=0, criteria=('novelty',))
    assert not any(c.kept for c in run(values, only)[1])


def test_frames_that_are_all_alike_are_not_high():
    _, choices = run([frame(0.0)] * 200, MiningOptions(context=0))
    assert not any(c.reasons for c in choices)


def test_a_frame_like_a_kept_one_is_not_kept():
    miner = Miner(MiningOptions(share=0.5, context=0))
    small = next(pictures())
    kept = []
    for number in range(100):  # the score rises without end, and the picture stays
        kept.append(miner.offer(frame(number / 1000), small, received=number + 1,
                                written=sum(c.kept for c in kept), cost=1))
    assert sum(c.kept for c in kept) == 1
    assert kept[-1].refused == 'like a kept frame'
    assert is_near(small, [small + 0.01], 2.0)
    assert not is_near(small, [small + 0.03], 2.0)
    assert change(small, small + 0.03) == pytest.approx(3.0, rel=1e-3)


def test_offline_takes_the_highest_of_all_within_both_shares():
    draws = np.random.default_rng(4)
    values = draws.random(200)
    scores = [None if i % 50 == 7 else frame(v) for i, v in enumerate(values)]
    stream = pictures()
    chosen = choose(scores, MiningOptions(context=1), lambda place: next(stream), ends=(100, 200))
    assert list(chosen) == sorted(chosen)
    assert 6 <= len(chosen) <= 20
    around = {p for c in chosen for p in surroundings(c, 1, 200, (100, 200))}
    assert len(around) <= 20
    best = max((v, i) for i, v in enumerate(values) if i % 50 != 7)[1]
    assert best in chosen
    # A frame that looks like a kept one is passed over.
    small = next(stream)
    assert len(choose(scores, MiningOptions(context=0), lambda place: small)) == 1
    assert choose([None, None], MiningOptions(), lambda place: small) == {}


@pytest.mark.parametrize('context', [0, 2])
def test_a_budget_chooses_among_what_would_be_chosen_without_it(context):
    draws = np.random.default_rng(5)
    scores = [frame(v) for v in draws.random(300)]
    small = [p for p, _ in zip(pictures(), scores)]
    for number in range(100):  # some are like others
        small[3 * number] = small[0]
    options = MiningOptions(context=context)
    whole = choose(scores, options, small.__getitem__)
    room = Room(25, lambda place: 1 + place % 3)
    part = choose(scores, options, small.__getitem__, room=room)
    assert 0 < len(part) < len(whole)
    assert part == {place: whole[place] for place in part}
    assert room.refused == len(whole) - len(part)
    written = {p for c in part for p in surroundings(c, context, 300)}
    assert sum(1 + p % 3 for p in written) <= 25
    assert choose(scores, options, small.__getitem__, room=Room(0, lambda place: 10 ** 9)) == whole


def test_a_share_of_less_than_one_frame_with_context_is_refused_at_once():
    with pytest.raises(ConfigError, match='0.1 of 30 frames is 3, less than one .* of 3'):
        require_room(MiningOptions(context=3), (30,))
    require_room(MiningOptions(context=2), (30,))
    require_room(MiningOptions(context=9), (1, 30))   # a recording of one frame has no context
    with pytest.raises(ConfigError, match='of 9 frames is 0.9'):
        require_room(MiningOptions(context=0), (0, 9))


def test_context_stays_within_its_recording():
    assert list(surroundings(100, 2, 200, (100, 200))) == [100, 101, 102]
    assert list(surroundings(99, 2, 200, (100, 200))) == [97, 98, 99]
    assert list(surroundings(0, 1, 1)) == [0]


def test_ranks_of_equal_values_are_equal_and_nan_stays():
    ranks = ranked(np.array([[1.0, np.nan], [2.0, 5.0], [2.0, np.nan], [3.0, 4.0]]))
    assert ranks[:, 0] == pytest.approx([0.125, 0.5, 0.5, 0.875])
    assert np.isnan(ranks[[0, 2], 1]).all()
    assert ranks[[3, 1], 1] == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize(('values', 'reason'), [
    ({'share': 0.0}, 'above 0'), ({'share': 1.5}, 'at most 1'), ({'context': -1}, 'negative'),
    ({'near_percent': float('nan')}, 'negative'),
    ({'criteria': ('luck',)}, 'not for luck'), ({'criteria': ()}, 'nothing')])
def test_impossible_options_are_one_line(values, reason):
    with pytest.raises(ConfigError, match=reason):
        MiningOptions(**values)
