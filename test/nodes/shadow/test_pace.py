import pytest

from kd_perception.nodes.shadow.pace import Pace, PaceOptions


def pace(**values):
    return Pace(PaceOptions(**values))


def test_the_rate_is_the_lower_of_both_limits():
    one = pace(max_rate_hz=2.0, cpu_budget=0.1)
    assert one.due_in(0.0) == 0
    one.begin(10.0)
    one.end(10.01, cpu_s=0.02)
    assert one.due_in(10.1) == pytest.approx(0.4)     # 0.02 s would allow 5 Hz
    one.begin(11.0)
    one.end(11.1, cpu_s=0.3)                          # several threads: more than by the clock
    assert one.due_in(11.1) == pytest.approx(2.9)
    one.begin(20.0)
    one.end(20.5, cpu_s=0.1)                          # a GPU, or a machine that others use
    assert one.due_in(20.5) == pytest.approx(4.5)


def test_what_keeping_costs_is_in_the_budget():
    one = pace(max_rate_hz=10.0, cpu_budget=0.5)
    one.begin_more()
    one.end_more(3.0, 3.0)                            # before the first: nothing to delay
    one.begin(10.0)
    one.end(10.5, cpu_s=0.5)
    for _ in range(2):
        one.begin_more()
        answer(one, 11.0, 10.0, 30)                   # beside it: does not tell what is usual
        one.end_more(0.5, 0.2)
    assert one.due_in(11.5) == pytest.approx(1.5)
    answer(one, 11.5, 20.0, 1)
    one.begin(13.0)
    one.end(13.5, cpu_s=0.5)
    assert one.due_in(13.5) == pytest.approx(0.5)
    answer(one, 15.0, 10.0, 25)
    one.look(16.0, 0.0)
    assert one.slowdown == 1
    answer(one, 16.0, 13.0, 90)
    one.begin(17.0)
    one.look(17.0, 0.0)
    assert one._idle.count(20.0) == 0


def test_high_load_doubles_the_interval_and_calm_brings_it_back():
    one = pace(load_limit=0.5)
    one.look(0.0, 0.4)
    assert one.slowdown == 1
    assert one.trouble == ''
    for second in range(1, 4):
        one.look(float(second), 0.6)
    assert one.slowdown == 8
    assert one.interval_s == 8
    assert one.trouble == 'others use 60% of the machine'
    slowdowns = []
    for second in range(4, 80):
        one.look(float(second), 0.4)
        slowdowns.append(one.slowdown)
    assert slowdowns[3:5] == [8, 6.4]                 # after five calm seconds
    assert slowdowns == sorted(slowdowns, reverse=True)
    assert slowdowns[-1] == 1
    assert one.trouble == ''
    for second in range(100):
        one.look(100.0 + second, 0.6)
    assert one.slowdown == 64


def answer(one, now, total_ms, count):
    for number in range(count):
        one.student_answered(now + number * 0.03, total_ms)


def test_a_student_that_is_slower_beside_the_teacher_slows_the_teacher_down():
    one = pace(student_slowdown=1.5)
    answer(one, 0.0, 10.0, 50)                        # alone
    one.begin(2.0)
    answer(one, 2.0, 14.0, 30)                        # beside it, but within the limit
    one.end(3.0, 0.9)
    one.look(3.0, 0.0)
    assert one.slowdown == 1
    one.begin(4.0)
    answer(one, 4.0, 16.0, 30)
    one.end(5.0, 0.9)
    one.look(5.0, 0.0)
    assert one.slowdown == 2
    assert one.trouble == 'the student takes 16 ms (p95), 10 ms while the teacher rests'
    one.look(6.0, 0.0)                                # the same frames count once
    assert one.slowdown == 2


def test_a_student_that_is_always_as_slow_is_not_our_doing():
    one = pace(student_slowdown=1.1)
    answer(one, 0.0, 500.0, 50)
    one.begin(30.0)
    answer(one, 30.0, 500.0, 30)
    one.end(31.0, 0.9)
    one.look(31.0, 0.0)
    assert one.slowdown == 1


def test_more_lost_frames_than_usual_slow_it_down():
    one = pace()
    received = lost = 0
    for _ in range(10):                               # a student that always loses half
        received, lost = received + 30, lost + 15
        one.student_counted(received, lost)
    assert one.slowdown == 1
    one.student_counted(received + 30, lost + 20)
    assert one.slowdown == 2
    assert one.trouble == 'the student loses 67% of its frames, usually 50%'
    one.student_counted(3, 0)                         # it was started anew
    one.student_counted(33, 15)
    assert one.slowdown == 2
