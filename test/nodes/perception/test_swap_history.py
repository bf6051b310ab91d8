"""What the node remembers of changes of its model, and that it keeps nothing else of them."""

import gc
import json
import weakref

from diagnostic_msgs.msg import DiagnosticArray
import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import String

from kd_perception.nodes import qos
from kd_perception.nodes.conversion import values_of
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.perception.serving import ServingModel
from kd_perception.nodes.perception.swap_history import Swap, SwapHistory

NAME = '/perception'


@pytest.fixture
def options(bundles):
    return {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
            'warmup_iterations': 0}


def test_the_last_five_are_kept_the_newest_first():
    history = SwapHistory()
    assert history.values() == {'swaps': '0'}
    for n in range(7):
        history.add(Swap(1_700_000_000.0 + n, f'm{n}', f'm{n + 1}', 12.4, 'serves'))
    values = history.values()
    assert values['swaps'] == '7'
    assert [k for k in values if k.startswith('swap_')] == [f'swap_{n}' for n in range(1, 6)]
    assert values['swap_1'] == '2023-11-14T22:13:26Z m6 -> m7, 12 ms: serves'
    assert values['swap_5'].startswith('2023-11-14T22:13:22Z m2 -> m3')


def test_swaps_are_told_in_diagnostics(bench, camera, options, tmp_path):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)

    def said(key, words):
        return lambda: found and words in values_of(found[-1].status[0]).get(key, '')

    with bench.running(PerceptionNode, **options):
        camera().ask()
        assert bench.set_parameters(NAME, model='two')[0].successful
        bench.spin_until(said('swap_1', 'one by onnxruntime on cpu -> two by onnxruntime on cpu'))
        assert bench.set_parameters(NAME, precision='int8')[0].successful
        bench.spin_until(said('swap_1', 'ms: not taken: '))
        values = values_of(found[-1].status[0])
        assert values['swap_2'].endswith(' ms: serves')
        assert values['swaps'] == '2'


def test_nothing_keeps_the_old_model(bench, camera, options, monkeypatch):
    made = []
    load = ServingModel.load.__func__

    def watched(cls, *args, **more):
        model = load(cls, *args, **more)
        made.append((weakref.ref(model), weakref.ref(model.engine._session)))
        return model

    monkeypatch.setattr(ServingModel, 'load', classmethod(watched))
    active = bench.collect(String, 'perception/active_model', qos.latched())
    overlays = bench.collect(Image, 'overlay', qos.stream())
    with bench.running(PerceptionNode, **options):
        front = camera()
        bench.spin_until(lambda: front.ask() and overlays)
        # The last picture that was painted must not keep its model either.
        assert bench.set_parameters(NAME, publish_overlay=False)[0].successful
        for wanted in ('two', 'one', 'two'):
            front.ask()
            assert bench.set_parameters(NAME, model=wanted)[0].successful
            bench.spin_until(lambda n=wanted: json.loads(active[-1].data)['name'] == n)
        front.ask()

        def freed():
            gc.collect()
            return [[r() is None for r in refs] for refs in made] == [[True, True]] * 3 + [
                [False, False]]

        bench.spin_until(freed)
