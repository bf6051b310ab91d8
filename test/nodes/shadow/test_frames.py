import random

import pytest

from kd_perception.bags.ring import RawMessage
from kd_perception.nodes.shadow import frames as shadow_frames
from kd_perception.nodes.shadow.frames import REASONS, ShadowFrames


@pytest.fixture
def frames():
    return ShadowFrames()


def image(frames, number, stamp=None, frame_id='front', data=b'image'):
    frames.image(RawMessage(number, data, 0, number if stamp is None else stamp, frame_id))


def adds_up(frames):
    counts = frames.snapshot()
    assert counts['received'] == (counts['compared'] + counts['skipped'] + counts['failed']
                                  + counts['in_flight'])
    assert counts['skipped'] == sum(counts[f'skipped_{r}'] for r in REASONS)
    assert min(counts.values()) >= 0
    return counts


def test_the_freshest_answered_frame_is_taken(frames):
    for number in range(4):
        image(frames, number)
    for number in (0, 2, 1):                          # the answer of 1 comes late
        frames.mask(number, 'front', b'm%d' % number)
    taken = frames.take(0.0)
    assert (taken.message.number, taken.mask, taken.confidence) == (2, b'm2', None)
    assert frames.take(0.0) is None
    counts = adds_up(frames)
    assert (counts['skipped_rate'], counts['in_flight']) == (2, 2)
    frames.finish('compared')
    assert adds_up(frames)['compared'] == 1


def test_answers_of_other_stamps_and_cameras_are_left_out(frames):
    image(frames, 1)
    frames.mask(2, 'front', b'm')
    frames.mask(1, 'rear', b'm')
    frames.confidence(1, 'rear', b'c')
    assert frames.take(0.0) is None
    frames.mask(1, 'front', b'm')
    assert frames.take(0.0).message.number == 1


def test_a_frame_waits_for_the_confidence_where_there_is_one(frames):
    frames.with_confidence = True
    image(frames, 1)
    frames.mask(1, 'front', b'm')
    assert frames.take(0.0) is None
    frames.confidence(1, 'front', b'c')
    assert frames.take(0.0).confidence == b'c'


def test_a_student_that_stops_publishing_confidence_is_compared_without(frames):
    frames.with_confidence = True                     # the topic stays
    for number in range(30):
        image(frames, number)
        frames.mask(number, 'front', b'm')
        if number == 5:
            frames.confidence(number, 'front', b'c')
            assert frames.take(0.0).confidence == b'c'
            frames.finish('compared')
        elif number == 25:
            assert frames.take(0.0).confidence is None
            frames.finish('compared')
        elif number < 25:
            assert frames.take(0.0) is None
    assert adds_up(frames)['in_flight'] == 1          # the freshest
    frames.confidence(29, 'front', b'late')
    image(frames, 30)
    frames.mask(30, 'front', b'm')                    # it is published again: wait for it
    assert frames.take(0.0).message.number == 29
    frames.confidence(30, 'front', b'c')
    assert frames.take(0.0).confidence == b'c'


def test_an_answer_may_be_read_before_its_frame(frames):
    frames.with_confidence = True
    for number in range(30):
        frames.mask(number, 'front', b'm%d' % number)
        if number == 15:
            frames.confidence(number, 'front', b'c')
    image(frames, 29)
    assert frames.take(0.0) is None
    frames.confidence(29, 'front', b'c')
    assert frames.take(0.0).mask == b'm29'
    frames.confidence(3, 'front', b'c')
    image(frames, 3)                                  # its mask was let go of: memory is bounded
    assert frames.take(0.0) is None


@pytest.mark.parametrize('when', ['waiting', 'ready'])
def test_frames_of_one_stamp_are_not_compared(frames, when):
    image(frames, 0, stamp=5)
    if when == 'ready':
        frames.mask(5, 'front', b'm')
    image(frames, 1, stamp=5)
    frames.mask(5, 'front', b'm')
    image(frames, 2, stamp=5)
    assert frames.take(0.0) is None
    assert adds_up(frames)['skipped_ambiguous'] == 3


def test_what_is_not_answered_is_counted(frames, monkeypatch):
    for number in range(250):
        image(frames, number)
    counts = adds_up(frames)
    assert counts['skipped_unanswered'] == 50         # memory is bounded
    frames.expire()
    assert adds_up(frames)['in_flight'] == 200
    monkeypatch.setattr(shadow_frames, '_PATIENCE_NS', 0)
    frames.expire()
    counts = adds_up(frames)
    assert (counts['in_flight'], counts['skipped_unanswered']) == (0, 250)
    frames.mask(3, 'front', b'm')                     # too late
    assert frames.take(0.0) is None


def test_frames_that_wait_are_bounded_in_bytes():
    frames = ShadowFrames(max_bytes=1000)
    for number in range(20):
        image(frames, number, data=bytes(300))
    counts = adds_up(frames)
    assert (counts['in_flight'], counts['skipped_unanswered']) == (3, 17)
    for number in (17, 18, 19):
        frames.mask(number, 'front', b'm')
    image(frames, 20, data=bytes(5000))               # larger than all the room
    assert adds_up(frames)['in_flight'] == 2
    assert frames.take(0.0).message.number == 19


def test_an_answer_that_comes_after_a_fresher_frame_was_taken_is_left_out(frames):
    image(frames, 1)
    image(frames, 2)
    frames.mask(2, 'front', b'm')
    assert frames.take(0.0).message.number == 2
    frames.mask(1, 'front', b'm')
    assert frames.take(0.0) is None
    frames.finish('compared')
    assert adds_up(frames)['skipped_rate'] == 1


def test_answers_of_another_student_are_let_go_of(frames):
    frames.with_confidence = True
    for number in range(3):
        image(frames, number)
    frames.mask(0, 'front', b'm')
    frames.mask(1, 'front', b'm')
    frames.confidence(1, 'front', b'c')
    frames.mask(9, 'front', b'm')
    frames.student_changed()
    image(frames, 9)
    for number in (0, 9):
        frames.confidence(number, 'front', b'c')
    assert frames.take(0.0) is None
    assert adds_up(frames)['skipped_student_changed'] == 3


def test_counters_add_up_whatever_happens(frames):
    draws = random.Random(0)
    for step in range(3000):
        act = draws.randrange(8)
        if step < 1000 and draws.randrange(100) == 0:
            frames.student_changed()
        stamp = draws.randrange(max(0, step - 30), step + 1)
        if act < 3:
            image(frames, step, stamp)
        elif act < 5:
            frames.mask(stamp, 'front', b'm')
        elif act == 5:
            frames.confidence(stamp, 'front', b'c')
        elif act == 6:
            frames.with_confidence = draws.random() < 0.5
            frames.damaged()
        elif frames.take(0.0) is not None:
            adds_up(frames)
            if draws.random() < 0.3:
                image(frames, step, stamp)
            frames.finish(*draws.choice([('compared',), ('failed',),
                                         ('skipped', 'unknown_classes')]))
        adds_up(frames)
    counts = frames.snapshot()
    assert all(counts[name] for name in counts if name != 'in_flight')
