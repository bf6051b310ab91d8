"""What an engine must build first: in a process beside, while another model serves."""

from dataclasses import replace
import json
import threading
import time

from diagnostic_msgs.msg import DiagnosticArray
import pytest
from std_msgs.msg import String

from kd_perception.engines.artefacts import ArtefactCache
from kd_perception.engines.build import SideBuild
from kd_perception.engines.gpu_loss import ADVICE
from kd_perception.errors import BuildError, EngineError
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import values_of
from kd_perception.nodes.perception import loading, model_switch, serving
from kd_perception.nodes.perception.fallback import FallbackOptions
from kd_perception.nodes.perception.loading import LoadRequest, ModelLoader
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.perception.serving import check_settings, ServingSettings

NAME = '/perception'


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return an empty cache."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return ArtefactCache()


@pytest.fixture
def options(bundles):
    return {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
            'precision': 'fp32', 'warmup_iterations': 0}


def active(bench):
    models = bench.collect(String, 'perception/active_model', qos.latched())
    return lambda: json.loads(models[-1].data) if models else {'engine': '', 'model': ''}


def test_a_swap_lets_a_process_beside_build(bench, camera, options, cache, monkeypatch):
    pytest.importorskip('openvino')
    built = []

    class Watched(SideBuild):
        def __init__(self, bundle, engine, **more):
            built.append((engine, more['precision']))
            super().__init__(bundle, engine, **more)

    monkeypatch.setattr(loading, 'SideBuild', Watched)
    model = active(bench)
    with bench.running(PerceptionNode, **options):
        front = camera()
        front.ask()
        assert built == []
        assert all(r.successful for r in bench.set_parameters(NAME, engine='openvino'))
        bench.spin_until(lambda: model()['engine'] == 'openvino')
        front.ask()
        assert built == [('openvino', 'fp32')]
        assert len(list(cache.directory.glob('*.blob'))) == 1
        # What was built is there for the next time.
        assert all(r.successful for r in bench.set_parameters(NAME, engine='onnxruntime'))
        bench.spin_until(lambda: model()['engine'] == 'onnxruntime')
        assert all(r.successful for r in bench.set_parameters(NAME, engine='openvino'))
        bench.spin_until(lambda: model()['engine'] == 'openvino')
        assert len(built) == 1


class Build:
    """Stands for minutes of TensorRT, which is not here."""

    made: list

    def __init__(self, bundle, engine, **more):
        self.engine = engine
        self.ended, self.stopped = threading.Event(), False
        self.reason = ''
        Build.made.append(self)

    def wait(self):
        assert self.ended.wait(60)
        if self.stopped or self.reason:
            raise BuildError(self.reason or 'was killed by SIGKILL')

    def stop(self):
        self.stopped = True
        self.ended.set()


@pytest.fixture
def tensorrt(monkeypatch, options):
    """Let TensorRT be installed and nothing built; its engine is ONNX Runtime's in disguise."""
    load_engine = serving.load_engine

    def load(bundle, engine, **more):
        made = load_engine(bundle, 'onnxruntime', **{**more, 'device': 'cpu'})
        made.name = engine
        return made

    Build.made = []
    monkeypatch.setattr(serving, 'load_engine', load)
    monkeypatch.setattr(loading, 'SideBuild', Build)
    monkeypatch.setattr(loading, 'is_prepared', lambda bundle, engine, **_: engine != 'tensorrt')
    monkeypatch.setattr(loading, 'is_built', lambda bundle, engine, **_: False)
    monkeypatch.setattr(model_switch, 'available_engines', lambda: {
        'openvino': 'missing: pip install openvino', 'onnxruntime': '1', 'tensorrt': '11'})
    return {**options, 'engine': 'tensorrt', 'device': 'cuda'}


def test_another_engine_serves_while_the_first_model_is_built(bench, camera, tensorrt):
    model = active(bench)
    told = bench.collect(DiagnosticArray, '/diagnostics', 10)
    with bench.running(PerceptionNode, **tensorrt):
        front = camera()
        front.ask()
        assert model()['engine'] == 'onnxruntime'
        assert model()['stands_in'] == 'tensorrt is being built for cuda'
        bench.spin_until(
            lambda: told and 'being built' in values_of(told[-1].status[0])['fallback'])
        bench.spin_until(lambda: float(values_of(told[-1].status[0])['loading_s']) > 1)
        assert bench.get_parameter(NAME, 'engine') == 'tensorrt'
        Build.made[0].ended.set()
        bench.spin_until(lambda: model()['engine'] == 'tensorrt')
        front.ask()
        assert model()['stands_in'] == ''
        bench.spin_until(lambda: not values_of(told[-1].status[0])['fallback'])
        bench.spin_until(lambda: values_of(told[-1].status[0])['loading_s'] == '0')


def test_nothing_that_must_be_built_stands_in(bundles, tensorrt, monkeypatch):
    """TensorRT is one of the engines that could take the GPU without its provider."""
    tried = []
    load = serving.load_engine

    def noted(bundle, engine, *, device, **more):
        tried.append((engine, device))
        if device != 'cpu':
            raise EngineError('there is none')
        return load(bundle, engine, device=device, **more)

    monkeypatch.setattr(serving, 'load_engine', noted)
    settings = ServingSettings(model='one', models_dir=str(bundles), engine='onnxruntime',
                               device='tensorrt', precision='fp32')
    model = model_switch.load_soon(settings, 0, 1)
    assert model.stands_in == 'onnxruntime is being built for tensorrt'
    assert tried == [('onnxruntime', 'cuda'), ('onnxruntime', 'cuda'), ('onnxruntime', 'cpu')]
    model.close()


def test_a_build_that_fails_is_told_and_the_other_engine_goes_on(bench, camera, tensorrt):
    told = bench.collect(DiagnosticArray, '/diagnostics', 10)
    with bench.running(PerceptionNode, **tensorrt):
        front = camera()
        front.ask()
        Build.made[0].reason = 'tensorrt refuses the graph: no such layer'
        Build.made[0].ended.set()
        bench.spin_until(lambda: told and 'no such layer; one by onnxruntime on cpu serves'
                         in values_of(told[-1].status[0])['fallback'])
        front.ask()


def test_a_build_that_fails_is_tried_again(bench, camera, tensorrt, monkeypatch):
    monkeypatch.setattr(model_switch, 'OPTIONS', FallbackOptions(first_retry_s=0.3))
    model = active(bench)
    with bench.running(PerceptionNode, **tensorrt):
        front = camera()
        front.ask()
        Build.made[0].stop()  # as by a kernel without memory
        bench.spin_until(lambda: len(Build.made) > 1)
        assert model()['engine'] == 'onnxruntime'
        Build.made[1].ended.set()
        bench.spin_until(lambda: model()['engine'] == 'tensorrt')
        front.ask()
        assert model()['stands_in'] == ''


def test_a_gpu_that_a_build_loses_is_not_lost_here(bench, camera, tensorrt, monkeypatch):
    monkeypatch.setattr(model_switch, 'OPTIONS', FallbackOptions(first_retry_s=0.3))
    told = bench.collect(DiagnosticArray, '/diagnostics', 10)
    model = active(bench)
    with bench.running(PerceptionNode, **tensorrt) as node:
        camera().ask()
        words = 'tensorrt failed: CUDA failure 700: an illegal memory access was encountered'
        Build.made[0].reason = words
        Build.made[0].ended.set()
        bench.spin_until(lambda: told and words in values_of(told[-1].status[0])['fallback'])
        assert ADVICE not in values_of(told[-1].status[0])['fallback']
        assert not node._switch._lost
        bench.spin_until(lambda: len(Build.made) > 1)
        Build.made[1].ended.set()
        bench.spin_until(lambda: model()['engine'] == 'tensorrt')


def test_nothing_that_must_be_built_takes_over_from_what_fails(bundles, tensorrt, monkeypatch):
    """In the process of the node, where frames fail meanwhile."""
    settings = ServingSettings(model='one', models_dir=str(bundles), engine='onnxruntime',
                               device='tensorrt')
    slow = replace(settings, engine='tensorrt', device='cuda')
    quick = replace(settings, device='cpu')
    tried, ended = [], []
    load = serving.load_engine
    monkeypatch.setattr(serving, 'load_engine', lambda bundle, engine, **more: (
        tried.append(engine), load(bundle, engine, **more))[1])
    loader = ModelLoader(lambda model, *_: ended.append(model),
                         lambda request, error, _: ended.append(error))
    for candidates in ((slow, quick), (slow,)):
        loader.request(LoadRequest(settings, check_settings(settings), 0, 'fallback', candidates,
                                   'onnxruntime failed'))
        deadline = time.monotonic() + 60
        while loader.busy and time.monotonic() < deadline:
            time.sleep(0.01)
    loader.close()
    assert tried == ['onnxruntime']
    assert ended[0].settings == quick
    ended[0].close()
    assert str(ended[1]) == 'every other engine would have to be built first'


def test_a_newer_wish_ends_the_build(bench, camera, tensorrt):
    model = active(bench)
    with bench.running(PerceptionNode, **tensorrt):
        camera().ask()
        bench.spin_until(lambda: Build.made)
        assert bench.set_together(
            NAME, engine='onnxruntime', device='cpu', model='two').successful
        bench.spin_until(lambda: model()['model'] == 'two')
        assert Build.made[0].stopped
        assert model()['stands_in'] == ''


def test_the_end_of_the_node_ends_the_build(bench, camera, tensorrt):
    with bench.running(PerceptionNode, **tensorrt):
        camera().ask()
        bench.spin_until(lambda: Build.made)
    assert Build.made[0].stopped
