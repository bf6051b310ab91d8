"""Engines that fail while the node serves: a fake failure at the boundary, all else is real."""

from dataclasses import replace
import json

from diagnostic_msgs.msg import DiagnosticArray
import pytest
from std_msgs.msg import String

from kd_perception import bundle as bundle_module
from kd_perception.errors import EngineError
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import values_of
from kd_perception.nodes.perception import loading, model_switch, serving
from kd_perception.nodes.perception.fallback import FallbackOptions
from kd_perception.nodes.perception.loading import load_first, LoadRequest
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.perception.serving import check_settings, ServingSettings
from kd_perception.nodes.perception.slots import COUNTERS
from kd_perception.paths import file_hash

NAME = '/perception'


class Fragile:
    """A real engine under the name of a runtime; fails as ``Runtimes`` says."""

    def __init__(self, name, engine, runtimes):
        self.name, self._engine, self._runtimes = name, engine, runtimes

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def infer(self, images):
        runtimes = self._runtimes
        if self.name in runtimes.broken or (self.name in runtimes.shy and images.any()):
            raise RuntimeError('CUDA error: out of memory\nand much more')
        return self._engine.infer(images)


class Runtimes:
    """
    Which runtimes fail, which only on real frames, which cannot be loaded, and which were tried.
    """

    def __init__(self):
        self.broken, self.shy, self.refused, self.tried = set(), set(), set(), []


@pytest.fixture
def runtimes(monkeypatch):
    """Return the switches of two runtimes; no other is installed."""
    made = Runtimes()

    def load(bundle, engine, **more):
        made.tried.append(engine)
        if engine in made.refused:
            raise EngineError('there is no memory')
        # OpenVINO takes seconds to import.
        return Fragile(engine, load_engine(bundle, 'onnxruntime', **more), made)

    load_engine = serving.load_engine
    monkeypatch.setattr(serving, 'load_engine', load)
    monkeypatch.setattr(model_switch, 'available_engines', lambda: {
        'openvino': '1', 'onnxruntime': '1', 'torch': 'missing: pip install torch'})
    monkeypatch.setattr(model_switch, 'OPTIONS', FallbackOptions(
        first_retry_s=0.3, longest_retry_s=1.0))
    return made


@pytest.fixture
def options(bundles):
    return {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
            'warmup_iterations': 0}


class Watch:
    """What the node says of itself."""

    def __init__(self, bench):
        self.models = bench.collect(String, 'perception/active_model', qos.latched())
        self.diagnostics = bench.collect(DiagnosticArray, '/diagnostics', 10)

    @property
    def model(self):
        return json.loads(self.models[-1].data) if self.models else {'engine': ''}

    @property
    def values(self):
        return values_of(self.diagnostics[-1].status[0]) if self.diagnostics else {}

    @property
    def fallback(self):
        return self.values.get('fallback', '')


def feed_until(bench, camera, condition):
    """Publish, without waiting for answers, until ``condition`` holds."""
    def step():
        camera.send()
        bench.spin_for(0.02)
        return condition()

    bench.spin_until(step)


def test_another_engine_takes_over_and_gives_back(bench, camera, options, runtimes):
    watch = Watch(bench)
    with bench.running(PerceptionNode, **options) as node:
        front = camera()
        front.ask()
        assert watch.model['engine'] == 'onnxruntime'
        runtimes.broken.add('onnxruntime')
        feed_until(bench, front, lambda: watch.model['engine'] == 'openvino')
        front.ask()
        assert watch.model['precision'] == 'fp32'
        assert watch.model['requested']['engine'] == 'onnxruntime'
        told = 'onnxruntime on cpu failed: onnxruntime failed: RuntimeError: CUDA error: out of'
        assert watch.model['stands_in'].startswith(told)
        bench.spin_until(lambda: 'openvino on cpu in fp32 serves in its place' in watch.fallback)
        assert 'much more' not in watch.fallback
        # The wanted engine is tried again, with a frame of its own, and refused while it fails.
        before = len(runtimes.tried)
        bench.spin_until(lambda: len(runtimes.tried) > before)
        assert runtimes.tried[-1] == 'onnxruntime'
        front.ask()
        assert watch.model['engine'] == 'openvino'
        assert bench.get_parameter(NAME, 'engine') == 'onnxruntime'
        runtimes.broken.clear()
        bench.spin_until(lambda: watch.model['engine'] == 'onnxruntime')
        assert watch.model['stands_in'] == ''
        front.ask()
        bench.spin_until(lambda: not watch.fallback)
        swap = watch.values['swap_1']
        assert 'one by openvino on cpu -> one by onnxruntime on cpu' in swap
        assert swap.endswith('serves')
        counters = node.counters()
        assert counters['failed'] >= 3
        assert counters['received'] == sum(counters[c] for c in COUNTERS[1:])


def test_a_failing_engine_that_nobody_can_replace(bench, camera, options, runtimes):
    watch = Watch(bench)
    runtimes.refused.add('openvino')
    with bench.running(PerceptionNode, **options):
        front = camera()
        front.ask()
        runtimes.broken.add('onnxruntime')
        feed_until(bench, front, lambda: 'no other engine serves: openvino on cpu: there is no'
                   in watch.fallback)
        runtimes.broken.clear()
        front.ask()
        bench.spin_until(lambda: not watch.fallback)


@pytest.mark.parametrize('other', ['refused', 'shy'])
def test_it_does_not_go_to_and_fro(bench, camera, options, runtimes, monkeypatch, other):
    """Neither where the other engine cannot be loaded, nor where it fails on frames as well."""
    monkeypatch.setattr(model_switch, 'OPTIONS', FallbackOptions(first_retry_s=600.0))
    getattr(runtimes, other).add('openvino')
    with bench.running(PerceptionNode, **options) as node:
        front = camera()
        front.ask()
        runtimes.shy.add('onnxruntime')
        feed_until(bench, front, lambda: node.counters()['failed'] > 3
                   and 'openvino' in runtimes.tried and not node._switch.loading)
        failed = node.counters()['failed']
        feed_until(bench, front, lambda: node.counters()['failed'] > failed + 15)
        bench.spin_until(lambda: not node._switch.loading)
        # Where it is refused, once in each precision; the wanted one waits for its time.
        assert runtimes.tried == ['onnxruntime'] + ['openvino'] * (2 if other == 'refused' else 1)


def test_what_is_asked_for_ends_the_substitute(bench, camera, options, runtimes):
    watch = Watch(bench)
    with bench.running(PerceptionNode, **options):
        front = camera()
        front.ask()
        runtimes.broken.add('onnxruntime')
        feed_until(bench, front, lambda: watch.model['engine'] == 'openvino')
        # A refused wish goes back to what is wanted, not to the substitute.
        assert bench.set_parameters(NAME, precision='int8')[0].successful
        bench.spin_until(lambda: bench.get_parameter(NAME, 'precision') == 'auto')
        assert bench.get_parameter(NAME, 'engine') == 'onnxruntime'
        assert bench.set_parameters(NAME, engine='openvino', model='two')[0].successful
        bench.spin_until(lambda: watch.model['name'] == 'two')
        assert watch.model['stands_in'] == ''
        front.ask()
        bench.spin_until(lambda: watch.values.get('model') == 'two' and not watch.fallback)


def test_bad_frames_are_no_failure_of_the_engine(bench, camera, options, runtimes):
    with bench.running(PerceptionNode, **options) as node:
        front = camera()
        for _ in range(6):
            front.send(encoding='32FC1')
            bench.spin_for(0.02)
        bench.spin_until(lambda: node.counters()['failed'] >= 1
                         and not node.counters()['in_flight'])
        front.ask()
        assert runtimes.tried == ['onnxruntime']


class OnGpu(Fragile):
    """The same under the name of a GPU, whose errors are those of CUDA."""

    def __init__(self, name, device, engine, runtimes):
        super().__init__(name, engine, runtimes)
        self.device = device

    def infer(self, images):
        if self.device != 'cpu' and self._runtimes.broken:
            raise EngineError(f'{self.name} failed: CUDA failure: {self._runtimes.words}')
        return self._engine.infer(images)


@pytest.mark.parametrize(('words', 'lost'), [
    ('700: an illegal memory access was encountered', True), ('2: out of memory', False)])
def test_a_lost_gpu_is_not_tried_again_in_this_process(bench, camera, options, runtimes,
                                                       monkeypatch, words, lost):
    runtimes.words = words
    load_fragile = serving.load_engine

    def load(bundle, engine, *, device, **more):
        fragile = load_fragile(bundle, engine, device='cpu', **more)
        runtimes.tried[-1] = device
        return OnGpu(engine, device, fragile._engine, runtimes)

    monkeypatch.setattr(serving, 'load_engine', load)
    monkeypatch.setattr(loading, 'is_prepared', lambda *_, **__: True)
    watch = Watch(bench)
    with bench.running(PerceptionNode, **{**options, 'warmup_iterations': 1,
                                          'device': 'cuda'}) as node:
        front = camera()
        front.ask()
        assert watch.model['device'] == 'cuda'
        runtimes.broken.add('the GPU')
        feed_until(bench, front, lambda: watch.model['device'] == 'cpu')
        front.ask()
        advice = 'restart the process to use the GPU again'
        bench.spin_until(lambda: words in watch.fallback)
        assert (advice in watch.fallback) == lost
        assert (advice in watch.model['stands_in']) == lost
        if lost:
            assert runtimes.tried == ['cuda', 'cpu'], 'not by another engine on it either'
            assert node._switch._fallback.retry_in_s(0) is None
            bench.spin_for(1.0)
            assert runtimes.tried == ['cuda', 'cpu']
            front.ask()
            # Who asks for it is told the same.
            assert bench.set_parameters(NAME, threads=2)[0].successful
            bench.spin_until(lambda: bench.get_parameter(NAME, 'threads') == 1)
            bench.spin_until(lambda: f'{words}; {advice}' in watch.values['swap_1'])
        else:
            before = len(runtimes.tried)
            bench.spin_until(lambda: 'cuda' in runtimes.tried[before:])


def test_candidates_of_one_request_are_hashed_once(bundles, monkeypatch):
    seen = []
    monkeypatch.setattr(bundle_module, 'file_hash',
                        lambda path: seen.append(path.name) or file_hash(path))
    wanted = ServingSettings(model='one', models_dir=str(bundles), engine='onnxruntime', threads=1)
    refused = replace(wanted, precision='bf16')  # by the runtime, after the file was read
    request = LoadRequest(wanted, check_settings(wanted), 1, 'fallback', (refused, wanted))
    for _ in range(2):
        model = load_first(request)
        assert model.settings == wanted
        model.close()
    # The next one reads again: it is tried later, and files may have changed.
    assert seen == ['deploy.onnx'] * 2
