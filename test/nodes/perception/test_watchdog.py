"""A runtime that hangs: it is told, counted around, and the process can be ended all the same."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

from diagnostic_msgs.msg import DiagnosticArray
import pytest

from kd_perception.nodes.conversion import values_of
from kd_perception.nodes.perception import serving, systemd, watchdog
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.perception.slots import COUNTERS, FrameSlots
from kd_perception.nodes.perception.watchdog import Watchdog
from kd_perception.nodes.perception.worker import InferenceWorker


@pytest.fixture
def clock(monkeypatch):
    """Return the seconds of a clock that stands still."""
    now = [100.0]
    monkeypatch.setattr(watchdog.time, 'monotonic_ns', lambda: int(now[0] * 1e9))
    return now


@pytest.mark.parametrize(('limit_s', 'took_s', 'usual', 'patience_s'), [
    (0.0, 0.02, True, 5.0), (0.0, 0.4, True, 20.0), (0.0, None, True, 60.0),
    (0.0, 0.02, False, 60.0), (0.7, 0.4, True, 0.7), (8.0, 0.02, True, 8.0)])
def test_what_is_too_long_depends_on_what_is_usual(clock, limit_s, took_s, usual, patience_s):
    dog = Watchdog(limit_s)
    for _ in range(20 if took_s else 0):
        dog.at('inference', 'student')
        dog.rest(took_s)
    assert dog.stuck() is None
    dog.at('inference', 'student', usual=usual)
    clock[0] += patience_s - 0.1
    assert dog.stuck() is None
    clock[0] += 0.2
    assert str(dog.stuck()).startswith('inference of student has not returned for ')
    dog.rest()
    assert dog.stuck() is None


def test_another_model_is_not_held_to_the_times_of_the_last(clock):
    dog = Watchdog()
    dog.rest(0.02)
    dog.forget()
    dog.at('inference', 'teacher')
    clock[0] += 30.0
    assert dog.stuck() is None


def test_a_thread_that_has_ended_is_told():
    worker = InferenceWorker(FrameSlots(), lambda frame: None, lambda model: None,
                             lambda camera, why: None)
    assert worker.trouble == ''
    worker._serve = lambda: None
    worker.start()
    worker._thread.join()
    assert 'has ended' in worker.trouble
    worker.close()
    assert worker.trouble == ''


def test_a_runtime_that_hangs(bench, camera, bundles, monkeypatch):
    hold, held = threading.Event(), threading.Event()
    load_engine = serving.load_engine

    class Hanging:
        def __init__(self, engine):
            self._engine = engine

        def __getattr__(self, name):
            return getattr(self._engine, name)

        def infer(self, images):
            if images.any() and not held.is_set():
                held.set()
                hold.wait(60.0)
            return self._engine.infer(images)

    monkeypatch.setattr(serving, 'load_engine', lambda *a, **k: Hanging(load_engine(*a, **k)))
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)

    def told(level, words):
        status = found[-1].status[0] if found else None
        return status is not None and (status.level, words in status.message) == (level, True)

    with bench.running(PerceptionNode, models_dir=str(bundles), model='one', threads=1,
                       engine='onnxruntime', hang_timeout_s=0.2) as node:
        front = camera()
        front.send()
        bench.spin_until(held.is_set)
        for number in (2, 3, 4):
            front.send()
            bench.spin_until(lambda n=number: node.counters()['received'] == n)
        bench.spin_until(lambda: told(
            b'\x02', 'inference of one by onnxruntime on cpu has not returned for'))
        counts = node.counters()
        assert (counts['in_flight'], counts['overwritten']) == (2, 2)
        assert counts['received'] == sum(counts[c] for c in COUNTERS[1:])
        assert values_of(found[-1].status[0])['state'] == 'active'
        # Its memory must not be released below it: the node is done with, and says so.
        node.trigger_deactivate()
        assert node._state() == 'finalized'
        assert node._worker.model is not None
        assert node.hangs
        hold.set()
        bench.spin_until(lambda: not node._worker.running)


def test_a_thread_that_never_returns_does_not_keep_the_process(ros_environment):
    script = ('import sys, threading, rclpy, rclpy.node\n'
              'from kd_perception.nodes import process\n'
              'class Node(rclpy.node.Node):\n'
              '    exit_code, hangs = 0, True\n'
              '    def close(self): pass\n'
              'def make():\n'
              '    threading.Thread(target=threading.Event().wait, name="inference").start()\n'
              '    node = Node("one")\n'
              '    node.create_timer(0.0, rclpy.shutdown)\n'
              '    return node\n'
              'sys.exit(process.run_node(make))\n')
    done = subprocess.run([sys.executable, '-c', script], env=dict(os.environ), text=True,
                          capture_output=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.endswith('ended in spite of a thread that does not return\n')


def test_systemd_is_told_of_life(tmp_path, monkeypatch):
    monkeypatch.delenv('NOTIFY_SOCKET', raising=False)
    systemd.alive()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / 'notify'))
        supervisor.setblocking(False)
        monkeypatch.setenv('NOTIFY_SOCKET', str(tmp_path / 'notify'))
        systemd.alive()
        assert supervisor.recv(100) == b'WATCHDOG=1'
    systemd.alive()  # nobody is there any more
