"""Frames of several cameras in one call of the engine."""

from dataclasses import replace
import threading
import time

import numpy as np
import pytest
from std_msgs.msg import Header

from kd_perception.bundle import DEPLOY, load_bundle, write_bundle
from kd_perception.errors import EngineError
from kd_perception.nodes.conversion import image_message
from kd_perception.nodes.perception import serving
from kd_perception.nodes.perception import slots as slots_module
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.perception.serving import ServingModel, ServingSettings
from kd_perception.nodes.perception.slots import Arrival, COUNTERS, FrameSlots

CAMERAS = ('front', 'left', 'right')
LONG_S = 20.0


@pytest.fixture
def calls(monkeypatch):
    """Return the number of images of each call of an engine; ``largest`` is what it takes."""
    made = Calls()
    load_engine = serving.load_engine
    monkeypatch.setattr(serving, 'load_engine', lambda *args, **more: Counting(
        load_engine(*args, **more), made))
    return made


class Calls(list):
    largest = 16


class Counting:
    """A real engine that notes the size of its batches, and refuses larger ones."""

    def __init__(self, engine, calls):
        self._engine, self._calls = engine, calls

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def infer(self, images):
        if len(images) > self._calls.largest:
            raise EngineError('the graph has a fixed batch')
        self._calls.append(len(images))
        return self._engine.infer(images)


@pytest.fixture
def settings(bundles):
    return ServingSettings(model='one', models_dir=str(bundles), engine='onnxruntime', threads=1)


def opened(cameras=CAMERAS):
    slots = FrameSlots(cameras)
    slots.open()
    return slots


def offer(slots, camera, number=0, received_ns=None):
    slots.offer(Arrival(camera, number, received_ns or time.monotonic_ns()))


def later(act):
    """Run ``act`` in a moment, in another thread."""
    timer = threading.Timer(0.05, act)
    timer.start()
    return timer


def test_nobody_waits_for_more_than_there_can_be():
    slots = opened()
    for camera in CAMERAS:
        offer(slots, camera)
    assert [a.camera for a in slots.take(0, 3, LONG_S)] == list(CAMERAS)
    for camera in CAMERAS:
        offer(slots, camera)
    assert len(slots.take(0, 2, LONG_S)) == 2


def test_it_waits_for_cameras_that_are_alive():
    slots = opened()
    for camera in ('front', 'left'):
        offer(slots, camera)
        for taken in slots.take(0):
            slots.finish(taken, 'published')
    offer(slots, 'front', 1)
    timer = later(lambda: offer(slots, 'left', 1))
    # Nothing ever came from the right one: it is not waited for.
    assert {a.camera for a in slots.take(0, 3, LONG_S)} == {'front', 'left'}
    timer.join()
    assert slots.snapshot()['in_flight'] == 2


def test_the_first_waits_no_longer_than_is_allowed(monkeypatch):
    monkeypatch.setattr(slots_module, '_ALIVE_NS', 10**15)
    slots, found, stop = opened(), [], threading.Event()
    for camera in CAMERAS:  # all are alive from now on
        offer(slots, camera)
    slots.take(0, 3)
    # It has waited long enough already.
    offer(slots, 'front', 1, time.monotonic_ns() - 2 * int(LONG_S * 1e9))
    waits = threading.Thread(target=lambda: found.append(slots.take(0, 3, LONG_S)))
    waits.start()
    waits.join(LONG_S / 2)
    assert [a.message for a in found[0]] == [1]

    def flood():
        while not stop.wait(0.001):
            offer(slots, 'front', 2)

    # A fast camera that overwrites its frame again and again does not put it off for ever.
    floods = threading.Thread(target=flood)
    floods.start()
    waits = threading.Thread(target=lambda: found.append(slots.take(LONG_S, 3, 0.1)))
    waits.start()
    waits.join(LONG_S / 2)
    stop.set()
    floods.join()
    slots.close()
    assert [a.message for a in found[1]] == [2]


def test_closing_ends_the_wait():
    slots = opened()
    offer(slots, 'left')
    slots.take(0)
    offer(slots, 'front')
    timer = later(slots.close)
    assert slots.take(0, 3, LONG_S) == []
    timer.join()
    assert slots.snapshot('front')['inactive'] == 1


def test_the_waiting_longest_goes_first():
    slots = opened()
    for camera in CAMERAS:
        offer(slots, camera)
    assert [a.camera for a in slots.take(0, 2, LONG_S)] == ['front', 'left']
    offer(slots, 'front')
    assert [a.camera for a in slots.take(0, 2, LONG_S)] == ['right', 'front']


def picture(seed, size=(48, 64)):
    rng = np.random.default_rng(seed)
    return image_message(rng.integers(0, 255, (*size, 3), np.uint8), 'rgb8', Header())


def test_a_batch_gives_what_single_frames_give(settings, calls):
    model = ServingModel.load(settings, 0, batch=3)
    assert model.max_batch == 3
    broken = picture(3)
    broken.encoding = '32FC1'
    messages = [picture(1), broken, picture(2, (120, 160))]
    single = [model.process(messages[0]), None, model.process(messages[2])]
    del calls[:]
    together = model.process_all(messages, confidence_threshold=0.0)
    assert calls == [2]
    assert 'depth' in str(together[1])
    for alone, shared in ((single[0], together[0]), (single[2], together[2])):
        assert np.array_equal(alone.result.mask, shared.result.mask)
        assert np.abs(alone.result.confidence.astype(int) - shared.result.confidence).max() <= 1
    assert together[0].stages_ns['inference'] == together[2].stages_ns['inference']
    assert isinstance(model.process_all([broken])[0], Exception)
    model.close()


@pytest.mark.parametrize('largest', [1, 2])
def test_engines_of_fixed_batch_take_what_they_can(settings, calls, largest):
    calls.largest = largest
    model = ServingModel.load(settings, 0, batch=3)
    assert model.max_batch == largest
    assert model.describe()['max_batch'] == largest
    model.close()


def test_every_call_that_warms_waits_for_its_moment(settings, calls):
    paused_at = []
    ServingModel.load(settings, 2, batch=3, pause=lambda: paused_at.append(len(calls))).close()
    assert calls == [1, 1, 2, 3]
    assert paused_at == [0, 1, 2, 3]


def test_a_real_graph_of_fixed_batch(settings, bundles, tmp_path):
    onnx = pytest.importorskip('onnx')
    bundle = load_bundle(bundles / 'one')
    model = onnx.load(bundle.file(DEPLOY))
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = 1
    write_bundle(tmp_path / 'fixed', bundle.spec, {DEPLOY: model.SerializeToString()})
    model = ServingModel.load(replace(settings, model=str(tmp_path / 'fixed')), 1, batch=3)
    assert model.max_batch == 1
    plain = ServingModel.load(settings, 1)
    found, expected = (m.process(picture(1)).result for m in (model, plain))
    assert np.array_equal(found.mask, expected.mask)
    model.close()
    plain.close()


@pytest.mark.parametrize('largest', [16, 1])
def test_cameras_share_calls_of_the_engine(bench, camera, bundles, calls, largest):
    calls.largest = largest
    with bench.running(PerceptionNode, models_dir=str(bundles), model='one', threads=1,
                       engine='onnxruntime', warmup_iterations=0, cameras=CAMERAS,
                       batch_wait_ms=200.0) as node:
        fed = [camera(name) for name in CAMERAS]
        del calls[:]

        sent = 0

        def together(encoding='rgb8'):
            nonlocal sent
            for one in fed:
                one.send(encoding='rgb8' if one is not fed[2] else encoding)
            sent += 3
            bench.spin_until(lambda: node.counters()['received'] == sent
                             and not node.counters()['in_flight'])
            return max(calls, default=0) == min(3, largest)

        # The first frames find the other cameras not alive yet.
        bench.spin_until(lambda: together() and sent > 6)
        # A frame that cannot be decoded fails alone.
        together('32FC1')
        counters = node.counters()
        assert max(calls) == min(3, largest)
        assert sum(calls) == counters['published']
        for name, one in zip(CAMERAS, fed):
            own = node._slots.snapshot(name)
            assert own['received'] == sum(own[c] for c in COUNTERS[1:])
            bench.spin_until(lambda o=one, n=own: len(o.masks) == n['published'])
            assert {m.header.frame_id for m in one.masks} <= {name}
        assert [node._slots.snapshot(c)['failed'] for c in CAMERAS] == [0, 0, 1]
