from collections import Counter
from itertools import islice

import pytest

from kd_perception.errors import ConfigError
from kd_perception.nodes.schedule import servings

ARMS = ('a', 'b', 'c')


@pytest.mark.parametrize('placement', ['turns', 'concurrent', 'isolated'])
def test_every_arm_gets_every_frame_once(placement):
    seen = Counter((s.index, arm) for s in servings(11, ARMS, placement, 3) for arm in s.arms)
    assert seen == Counter((i, arm) for i in range(11) for arm in ARMS)


def test_turns_serve_one_arm_at_a_time_in_balanced_order():
    order = list(servings(300, ('a', 'b'), 'turns', 0))
    assert [s.index for s in order] == sorted(s.index for s in order)
    assert all(len(s.arms) == 1 for s in order)
    assert [s.turn for s in order[:4]] == [0, 1, 0, 1]
    first = [s.arms[0] for s in order if s.turn == 0]
    assert all(set(first[i:i + 2]) == {'a', 'b'} for i in range(0, 300, 2))
    # Which of both orders comes first is drawn.
    assert 50 < sum(arm == 'a' for arm in first[::2]) < 100


@pytest.mark.parametrize('placement', ['turns', 'concurrent'])
def test_three_arms_have_each_place_equally_often(placement):
    places = Counter()
    orders = set()
    by_frame = {}
    for s in servings(300, ARMS, placement, 1):
        by_frame.setdefault(s.index, []).extend(s.arms)
    for order in by_frame.values():
        orders.add(tuple(order))
        places.update(enumerate(order))
    assert set(places.values()) == {100}
    assert len(orders) == 6


def test_order_follows_the_seed():
    assert list(servings(50, ARMS, 'turns', 1)) == list(servings(50, ARMS, 'turns', 1))
    assert list(servings(50, ARMS, 'turns', 1)) != list(servings(50, ARMS, 'turns', 2))


def test_isolated_goes_there_and_back():
    blocks = [(s.arms[0], s.index) for s in servings(4, ('a', 'b'), 'isolated', 0)]
    assert blocks == [('a', 0), ('a', 1), ('b', 0), ('b', 1),
                      ('b', 2), ('b', 3), ('a', 2), ('a', 3)]
    with pytest.raises(ConfigError, match='number of frames'):
        next(servings(0, ARMS, 'isolated', 0))


def test_a_source_without_end():
    endless = list(islice(servings(0, ('',), 'concurrent', 0), 1000))
    assert endless[-1].index == 999
    assert {s.turn for s in endless} == {0}
