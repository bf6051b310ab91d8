import pytest

from kd_perception.bags.ring import Excerpt, RawMessage, RingBuffer


def message(number, size=10):
    return RawMessage(number, bytes(size), number, number, '')


def test_memory_is_bounded_in_bytes_and_the_newest_stays():
    ring = RingBuffer(100)
    assert ring.newest == -1
    for number in range(50):
        ring.append(message(number))
        assert ring.bytes <= 100
    assert ring.get(39) is None
    assert ring.get(40).number == 40
    assert ring.get(50) is None
    ring.append(message(50, size=1000))      # larger than all the room
    assert ring.bytes == 1000
    assert ring.get(50).number == 50
    assert ring.get(49) is None
    with pytest.raises(ValueError, match='room'):
        RingBuffer(0)


def test_context_comes_once_in_order_and_when_it_has_arrived():
    ring = RingBuffer(10_000)
    excerpt = Excerpt(ring, 2)
    for number in range(10):
        ring.append(message(number))
    assert excerpt.cost(8) == 5
    excerpt.choose(ring.get(8))
    assert [m.number for m, _ in excerpt.due()] == [6, 7, 8, 9]
    assert excerpt.promised == 5
    assert excerpt.cost(9) == 1              # 7 … 10 are in already, 11 is new
    excerpt.choose(ring.get(9))
    assert list(excerpt.due()) == []
    for number in range(10, 20):
        ring.append(message(number))
    assert [(m.number, c) for m, c in excerpt.due()] == [(10, 8), (11, 9)]
    assert [m.number for m, _ in excerpt.due()] == []
    assert excerpt.cost(0) == 0              # what has gone by does not come back


def test_what_the_ring_let_go_of_is_counted_and_the_chosen_one_is_held():
    ring = RingBuffer(30)
    excerpt = Excerpt(ring, 2)
    first = message(0)
    ring.append(first)
    for number in range(1, 10):
        ring.append(message(number))
    excerpt.choose(first)
    assert [m.number for m, _ in excerpt.due()] == [0]
    assert excerpt.missing == 2
    assert excerpt.promised == 1


def test_a_chosen_one_that_is_context_already_is_held_until_it_has_gone():
    ring = RingBuffer(30)
    excerpt = Excerpt(ring, 2)
    for number in range(2):
        ring.append(message(number))
    excerpt.choose(message(1))
    assert [m.number for m, _ in excerpt.due()] == [0, 1]
    assert excerpt.has_gone(1)
    assert not excerpt.has_gone(2)
    excerpt.choose(message(2))
    for number in range(2, 10):
        ring.append(message(number))
    assert [m.number for m, _ in excerpt.due()] == [2]
    assert excerpt.missing == 2
    ring.clear()
    assert (ring.bytes, ring.newest) == (0, -1)
