"""A light model beside the wanted one, over real DDS; how slow engines are is made up."""

import json
import time

from diagnostic_msgs.msg import DiagnosticArray
import pytest
from std_msgs.msg import String

from kd_perception.nodes import qos
from kd_perception.nodes.conversion import values_of
from kd_perception.nodes.perception import serving, worker
from kd_perception.nodes.perception.latency_policy import LatencyPolicy, PolicyOptions
from kd_perception.nodes.perception.node import PerceptionNode

NAME = '/perception'
QUICK = PolicyOptions(window=6, fewest=4, first_wait_s=0.05)


class Slow:
    """A real engine that takes as long as its bundle's entry in ``delays`` says."""

    def __init__(self, engine, name, delays):
        self._engine, self._name, self._delays = engine, name, delays

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def infer(self, images):
        time.sleep(self._delays.get(self._name, 0.0))
        return self._engine.infer(images)


@pytest.fixture
def delays(monkeypatch):
    """Return seconds by bundle name."""
    made = {}
    load_engine = serving.load_engine
    monkeypatch.setattr(serving, 'load_engine', lambda bundle, *args, **more: Slow(
        load_engine(bundle, *args, **more), bundle.spec.name, made))
    monkeypatch.setattr(worker, 'LatencyPolicy', lambda: LatencyPolicy(QUICK))
    return made


@pytest.fixture
def options(bundles):
    return {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
            'warmup_iterations': 0, 'light_model': 'two'}


def test_the_light_model_serves_while_the_wanted_one_is_too_slow(bench, camera, options, delays):
    models = bench.collect(String, 'perception/active_model', qos.latched())
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)

    def serves(name):
        return lambda: front.ask() and json.loads(models[-1].data)['name'] == name

    def policy():
        return values_of(found[-1].status[0])['policy'] if found else ''

    with bench.running(PerceptionNode, latency_budget_ms=150.0, **options) as node:
        front = camera()
        for _ in range(10):
            front.ask()
        assert json.loads(models[-1].data)['name'] == 'one'
        assert len(models) == 1
        delays['one'] = 0.2
        bench.spin_until(serves('two'))
        told = json.loads(models[-1].data)
        assert told['stands_in'] == 'latency_budget_ms is exceeded'
        assert bench.get_parameter(NAME, 'model') == 'one'
        bench.spin_until(lambda: front.ask() and 'the budget is 150' in policy())
        assert values_of(found[-1].status[0])['model'] == 'two'
        del delays['one']
        bench.spin_until(serves('one'))
        assert json.loads(models[-1].data)['stands_in'] == ''
        bench.spin_until(lambda: front.ask() and policy() == '')
        # Without a budget the wanted model serves however slow it is.
        delays['one'] = 0.2
        assert bench.set_parameters(NAME, latency_budget_ms=0.0)[0].successful
        for _ in range(6):
            front.ask()
        assert json.loads(models[-1].data)['name'] == 'one'
        bench.spin_until(lambda: node.counters()['published'] == node.counters()['received'])
        assert node.counters()['published'] == len(front.masks)


def test_a_light_model_comes_and_goes_by_parameter(bench, camera, options, delays):
    models = bench.collect(String, 'perception/active_model', qos.latched())
    with bench.running(PerceptionNode, latency_budget_ms=150.0, **options):
        front = camera()
        front.ask()
        answer = bench.set_parameters(NAME, light_model='three')[0]
        assert not answer.successful
        assert "no model named 'three'" in answer.reason
        delays['one'] = 0.2
        bench.spin_until(lambda: front.ask() and json.loads(models[-1].data)['name'] == 'two')
        assert bench.set_parameters(NAME, light_model='')[0].successful
        bench.spin_until(lambda: front.ask() and json.loads(models[-1].data)['name'] == 'one')
        for _ in range(4):
            front.ask()
        assert json.loads(models[-1].data)['name'] == 'one'
