"""Engines and devices that cannot go together are refused at once, and the way is told."""

from types import SimpleNamespace

import pytest
from rclpy.logging import LoggingSeverity, set_logger_level

from kd_perception.bundle import load_bundle
from kd_perception.engines import choice, loader
from kd_perception.engines.engine import DEVICES
from kd_perception.errors import EngineError
from kd_perception.nodes.parameters import PERCEPTION, SHADOW
from kd_perception.nodes.perception import node as perception
from kd_perception.nodes.perception import possible
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.perception.possible import check_together, idle_gpu
from kd_perception.nodes.perception.serving import ServingSettings

NAME = '/perception'
INSTALLED = {'openvino': '1', 'onnxruntime': '1', 'torch': '1', 'tensorrt': '11'}
CUDA, TENSORRT = 'CUDAExecutionProvider', 'TensorrtExecutionProvider'


@pytest.fixture
def bundle(bundles):
    return load_bundle(bundles / 'one')


@pytest.fixture
def options(bundles):
    return {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
            'warmup_iterations': 0}


@pytest.fixture
def machine(monkeypatch):
    """Return what makes a machine: engines that are installed, and providers of ONNX Runtime."""
    def make(engines, providers=()):
        found = {k: v if k in engines else 'missing: no' for k, v in INSTALLED.items()}
        for module in (choice, loader):
            monkeypatch.setattr(module, 'available_engines', lambda: found)
        monkeypatch.setitem(possible.sys.modules, 'onnxruntime', SimpleNamespace(
            get_available_providers=lambda: ['CPUExecutionProvider', *providers]))
    return make


@pytest.mark.parametrize(('engine', 'device', 'words'), [
    ('onnxruntime', 'cuda', 'built without CUDAExecutionProvider'),
    ('onnxruntime', 'tensorrt:1', 'built without TensorrtExecutionProvider'),
    ('onnxruntime', 'gpu', "onnxruntime has no device 'gpu'"),
    ('tensorrt', 'cpu', "tensorrt has no device 'cpu'"),
    ('openvino', 'cuda', "openvino has no device 'cuda'")])
def test_a_named_engine_without_the_device_is_refused_with_the_way(machine, bundle, engine, device,
                                                                   words):
    machine(INSTALLED)
    with pytest.raises(EngineError) as caught:
        check_together(ServingSettings(engine=engine, device=device), bundle)
    told = str(caught.value)
    assert words in told
    assert 'set engine and device in one call' in told
    assert 'engine to auto first' in told
    assert '\n' not in told


@pytest.mark.parametrize(('engines', 'providers', 'engine', 'device'), [
    (INSTALLED, (), 'onnxruntime', 'cpu'), (INSTALLED, (CUDA,), 'onnxruntime', 'cuda:1'),
    (INSTALLED, (CUDA, TENSORRT), 'onnxruntime', 'tensorrt'), (INSTALLED, (), 'tensorrt', 'cuda'),
    (INSTALLED, (), 'torch', 'cuda'), (INSTALLED, (), 'openvino', 'gpu'),
    (INSTALLED, (), 'auto', 'gpu'), (INSTALLED, (CUDA,), 'auto', 'cuda'),
    (('torch',), (), 'auto', 'cuda')])
def test_what_may_be_is_left_to_loading(machine, bundle, engines, providers, engine, device):
    machine(engines, providers)
    check_together(ServingSettings(engine=engine, device=device), bundle)


@pytest.mark.parametrize(('engines', 'device', 'words'), [
    (('openvino',), 'cuda', "no engine that is installed has a device 'cuda'"),
    (('openvino', 'onnxruntime'), 'cuda', 'auto finds nothing else for cuda'),
    (('onnxruntime', 'torch'), 'tensorrt', 'built without TensorrtExecutionProvider')])
def test_auto_without_an_engine_for_the_device_is_refused(machine, bundle, engines, device, words):
    machine(engines)
    with pytest.raises(EngineError, match=words):
        check_together(ServingSettings(device=device), bundle)


@pytest.mark.parametrize(('files', 'fits'), [
    (['shared', 'cuda'], True), (['shared'], False), ([], True)])
def test_an_onnxruntime_that_is_not_imported_is_known_by_its_files(
        machine, bundle, tmp_path, monkeypatch, files, fits):
    machine(INSTALLED)
    monkeypatch.delitem(possible.sys.modules, 'onnxruntime')
    (tmp_path / 'capi').mkdir()
    for name in files:
        (tmp_path / 'capi' / f'libonnxruntime_providers_{name}.so').touch()
    monkeypatch.setattr(possible.util, 'find_spec', lambda name: SimpleNamespace(
        origin=str(tmp_path / '__init__.py')))
    wanted = ServingSettings(engine='onnxruntime', device='cuda')
    if fits:
        check_together(wanted, bundle)
    else:
        with pytest.raises(EngineError, match='built without'):
            check_together(wanted, bundle)
    assert 'onnxruntime' not in possible.sys.modules


def test_the_gpu_is_not_opened_to_look_what_is_built(machine, bundle, monkeypatch):
    asked = []
    monkeypatch.setattr(choice, 'is_built', lambda *_, **__: asked.append(1) or False)
    machine(INSTALLED, (CUDA,))
    check_together(ServingSettings(device='cuda'), bundle)
    assert not asked


def test_an_onnxruntime_that_is_half_imported_refuses_nothing(machine, bundle, monkeypatch):
    machine(INSTALLED)
    monkeypatch.setitem(possible.sys.modules, 'onnxruntime', SimpleNamespace())
    check_together(ServingSettings(engine='onnxruntime', device='cuda'), bundle)
    monkeypatch.setattr(possible, 'nvidia', lambda: 'GeForce')
    monkeypatch.setattr(possible.util, 'find_spec', lambda name: None)
    assert idle_gpu(ServingSettings()) == ''


def test_a_node_refuses_and_keeps_what_serves(bench, camera, options, machine):
    with bench.running(PerceptionNode, **options):
        front = camera()
        front.ask()
        machine(INSTALLED)
        for name, value in (('device', 'cuda'), ('engine', 'tensorrt')):
            before = bench.get_parameter(NAME, name)
            answer = bench.set_parameters(NAME, **{name: value})[0]
            assert not answer.successful
            assert 'in one call' in answer.reason
            assert bench.get_parameter(NAME, name) == before
        together = bench.set_together(NAME, engine='openvino', device='cuda')
        assert not together.successful
        assert "openvino has no device 'cuda'" in together.reason
        front.ask()


def test_the_way_out_is_open(bench, camera, options, machine, monkeypatch):
    with bench.running(PerceptionNode, **options) as node:
        camera().ask()
        machine(INSTALLED)
        asked = []
        monkeypatch.setattr(node._switch, 'request', lambda wanted, *_: asked.append(wanted))
        assert bench.set_together(NAME, engine='tensorrt', device='cuda').successful
        assert (asked[-1].engine, asked[-1].device) == ('tensorrt', 'cuda')
        # What has nothing to do with engines is no matter.
        assert bench.set_parameters(NAME, threads=2)[0].successful
        assert bench.set_together(NAME, engine='auto', device='cpu').successful
        machine(INSTALLED, (CUDA,))
        for name, value in (('device', 'cuda'), ('engine', 'tensorrt')):
            assert bench.set_parameters(NAME, **{name: value})[0].successful


@pytest.mark.parametrize('table', [PERCEPTION, SHADOW], ids=['perception', 'shadow'])
def test_every_kind_of_device_is_described(table):
    told, = (spec.description for spec in table if spec.name == 'device')
    for kind in {kind for kinds in DEVICES.values() for kind in kinds}:
        assert kind in told
    assert 'no GPU is considered' in told


def test_a_gpu_that_lies_idle_is_told(machine, monkeypatch):
    monkeypatch.setattr(possible, 'nvidia', lambda: 'GeForce')
    monkeypatch.setattr(possible.util, 'find_spec', lambda name: None)
    machine(INSTALLED)
    assert idle_gpu(ServingSettings()) == ''
    machine(INSTALLED, (CUDA,))
    assert idle_gpu(ServingSettings()).startswith('ONNX Runtime could use GeForce; engine auto')
    for settings in (ServingSettings(engine='openvino'), ServingSettings(device='cuda')):
        assert idle_gpu(settings) == ''
    monkeypatch.setattr(possible, 'nvidia', lambda: '')
    assert idle_gpu(ServingSettings()) == ''


def test_the_node_tells_of_an_idle_gpu_once(bench, camera, options, monkeypatch, capfd):
    monkeypatch.setattr(perception, 'idle_gpu', lambda settings: 'TensorRT could use GeForce')
    set_logger_level('perception', LoggingSeverity.INFO)
    try:
        with bench.running(PerceptionNode, **options):
            camera().ask()
    finally:
        set_logger_level('perception', LoggingSeverity.FATAL)
    assert capfd.readouterr().err.count('TensorRT could use GeForce') == 1
