"""Defects in the ROS thread: they are logged, and the node goes on."""

from diagnostic_msgs.msg import DiagnosticArray
import pytest
from rclpy.logging import LoggingSeverity, set_logger_level

from kd_perception.nodes.conversion import values_of
from kd_perception.nodes.perception import camera_topics, diagnostics, model_switch, systemd
from kd_perception.nodes.perception import node as perception
from kd_perception.nodes.perception.model_switch import ModelSwitch
from kd_perception.nodes.perception.node import PerceptionNode


@pytest.fixture
def options(bundles):
    return {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
            'warmup_iterations': 0}


@pytest.fixture
def tracebacks(capfd):
    """Return what counts the tracebacks that the node has logged."""
    said = []

    def count():
        said.append(capfd.readouterr().err)
        return ''.join(said).count('ZeroDivisionError: a defect')

    set_logger_level('perception', LoggingSeverity.ERROR)
    yield count
    set_logger_level('perception', LoggingSeverity.FATAL)


def break_down(*_, **__):
    raise ZeroDivisionError('a defect')


def test_what_is_posted_behind_a_defect_is_done(bench, camera, options, tracebacks):
    with bench.running(PerceptionNode, **options) as node:
        front, done = camera(), []
        for act in (break_down, lambda: done.append(1), break_down, lambda: done.append(2)):
            node._ros.post(act)
        bench.spin_until(lambda: done == [1, 2])
        front.ask()
        assert not node.failure
        bench.spin_until(tracebacks)


def test_a_defect_that_comes_back_is_told_again(bench, camera, options, tracebacks):
    with bench.running(PerceptionNode, **options) as node:
        broken = [True, True, False, True]

        def act():
            if broken.pop(0):
                break_down()

        while broken:
            node._ros.guarded(act)
            node._ros.guarded(lambda: None)  # what others do is no matter
        bench.spin_until(lambda: tracebacks() == 2)


def test_an_engine_is_left_though_leaving_failed_once(bench, camera, options, monkeypatch):
    left = []

    def alternatives(*_, **__):
        left.append(1)
        break_down()

    monkeypatch.setattr(model_switch, 'alternatives', alternatives)
    with bench.running(PerceptionNode, **options) as node:
        camera().ask()
        model = node._worker.model
        for times in (1, 2):
            for _ in range(3):
                node._switch.engine_failed(model, 'no memory')
            bench.spin_until(lambda n=times: len(left) == n)
            node._switch._failed.clear()
        assert not node.failure


@pytest.mark.parametrize('broken', [
    (camera_topics.CameraTopics, 'heal'), (ModelSwitch, 'tick')], ids=['heal', 'tick'])
def test_diagnostics_go_on_beside_a_defect(bench, camera, options, tracebacks, monkeypatch,
                                           broken):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    monkeypatch.setattr(*broken, break_down)
    with bench.running(PerceptionNode, **options) as node:
        front = camera()
        front.ask()
        node._tick.timer_period_ns = 50_000_000
        bench.spin_until(tracebacks)
        count = len(found)
        bench.spin_until(lambda: len(found) > count + 3)
        front.ask()
        assert not node.failure
        # The same one is told once and not with each tick.
        assert tracebacks() == 1


def test_a_defect_in_the_diagnostics_ends_nothing(bench, camera, options, tracebacks,
                                                  monkeypatch):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    alive = []
    monkeypatch.setattr(systemd, 'alive', lambda: alive.append(1))
    with bench.running(PerceptionNode, **options) as node:
        front = camera()
        front.ask()
        node._tick.timer_period_ns = 50_000_000
        with monkeypatch.context() as patch:
            patch.setattr(diagnostics.Diagnostics, 'statuses', break_down)
            bench.spin_until(tracebacks)
            front.ask()
            # It serves, so the supervisor has no reason to end it.
            before = len(alive)
            bench.spin_until(lambda: len(alive) > before + 2)
        count = len(found)
        bench.spin_until(lambda: len(found) > count)
        assert values_of(found[-1].status[0])['state'] == 'active'
        assert not node.failure


def test_a_restored_parameter_that_fails_ends_nothing(bench, camera, options, tracebacks,
                                                      monkeypatch):
    monkeypatch.setattr(perception.PerceptionNode, '_restore_parameters', break_down)
    with bench.running(PerceptionNode, **options) as node:
        front = camera()
        front.ask()
        # Only the runtime knows that it has no such precision on the CPU.
        assert bench.set_parameters('/perception', precision='fp16')[0].successful
        bench.spin_until(tracebacks)
        front.ask()
        assert not node.failure
