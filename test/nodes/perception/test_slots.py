import threading
import time

import pytest

from kd_perception.nodes.perception.slots import Arrival, COUNTERS, FrameSlots


def arrival(number, camera=''):
    return Arrival(camera, number, 0)


def adds_up(slots):
    counts = slots.snapshot()
    return counts['received'] == sum(counts[c] for c in COUNTERS if c != 'received')


def test_the_freshest_frame_wins():
    slots = FrameSlots()
    slots.open()
    for number in range(5):
        slots.offer(arrival(number))
        assert adds_up(slots)
    taken = slots.take(0)[0]
    assert taken.message == 4
    assert slots.snapshot() == {'received': 5, 'published': 0, 'overwritten': 4, 'stale': 0,
                                'failed': 0, 'inactive': 0, 'in_flight': 1}
    assert slots.take(0) == []
    slots.finish(taken, 'published')
    assert slots.snapshot()['in_flight'] == 0
    assert adds_up(slots)


def test_closed_slots_turn_frames_away():
    slots = FrameSlots()
    slots.offer(arrival(0))
    slots.open()
    slots.offer(arrival(1))
    slots.close()
    slots.offer(arrival(2))
    assert slots.take(0) == []
    assert slots.snapshot()['inactive'] == 3
    assert adds_up(slots)


def test_cameras_take_turns():
    slots = FrameSlots(['front', 'left'])
    slots.open()
    slots.offer(arrival(0, 'front'))
    slots.offer(arrival(1, 'left'))
    first = slots.take(0)[0]
    slots.offer(arrival(2, first.camera))
    assert slots.take(0)[0].camera != first.camera
    assert slots.take(0)[0].message == 2


def test_close_wakes_the_one_that_waits():
    slots = FrameSlots()
    slots.open()
    found = []
    thread = threading.Thread(target=lambda: found.append(slots.take(30.0)))
    thread.start()
    slots.close()
    thread.join(5.0)
    assert found == [[]]


@pytest.mark.parametrize('consumers', [1, 3])
def test_counters_add_up_while_threads_race(consumers):
    slots = FrameSlots(['a', 'b'])
    slots.open()
    stop = threading.Event()
    taken = []

    def consume():
        while not stop.is_set():
            for frame in slots.take(0.01):
                taken.append(1)
                slots.finish(frame, ('published', 'failed', 'stale')[len(taken) % 3])

    threads = [threading.Thread(target=consume) for _ in range(consumers)]
    for thread in threads:
        thread.start()
    for number in range(3000):
        slots.offer(arrival(number, 'ab'[number % 2]))
        if number % 100 == 0:
            assert adds_up(slots)
    deadline = time.monotonic() + 10.0
    while slots.snapshot()['in_flight'] and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    counts = slots.snapshot()
    assert adds_up(slots)
    assert counts['received'] == 3000
    assert counts['published'] + counts['failed'] + counts['stale'] == len(taken)
