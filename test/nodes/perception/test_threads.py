import threading
import time

import numpy as np
import pytest

from kd_perception.nodes.perception import loading
from kd_perception.nodes.perception import worker as worker_module
from kd_perception.nodes.perception.loading import LoadRequest, ModelLoader
from kd_perception.nodes.perception.model_switch import ModelSwitch
from kd_perception.nodes.perception.overlay import OverlayPainter
from kd_perception.nodes.perception.serving import check_settings, ServingModel, ServingSettings
from kd_perception.nodes.perception.slots import Arrival, FrameSlots
from kd_perception.nodes.perception.worker import FrameResult, InferenceWorker


class Picture:
    """An image message, as far as decoding looks."""

    height, width, encoding, is_bigendian, step = 48, 64, 'rgb8', 0, 192
    data = bytes(48 * 192)
    header = None


@pytest.fixture
def settings(bundles):
    return ServingSettings(model='one', models_dir=str(bundles), engine='onnxruntime', threads=1)


def wait_for(condition):
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def refuse(*_):
    raise RuntimeError('publisher is gone')


def test_the_inference_thread_outlives_a_failed_announcement(settings):
    slots, results, failures = FrameSlots(), [], []
    worker = InferenceWorker(slots, results.append, refuse,
                             lambda camera, reason: failures.append(reason))
    worker.start()
    worker.exchange(ServingModel.load(settings, 0))
    wait_for(lambda: failures)
    assert 'publisher is gone' in failures[0]
    slots.offer(Arrival('', Picture(), time.monotonic_ns()))
    wait_for(lambda: results)
    assert worker.running
    worker.close()
    assert slots.snapshot()['published'] == 1


@pytest.mark.parametrize('on_failure', [lambda *_: None, refuse])
def test_the_loader_is_free_again_after_a_failed_handover(settings, on_failure):
    told = threading.Event()

    def fail(failed, error, took_ms):
        assert failed.wanted == settings
        assert took_ms > 0
        assert 'publisher is gone' in str(error)
        told.set()
        on_failure()

    loader = ModelLoader(refuse, fail)
    for _ in range(2):
        told.clear()
        loader.request(LoadRequest(settings, check_settings(settings), 0))
        assert told.wait(20.0)
        wait_for(lambda: not loader.busy)
    loader.close()


def test_what_is_built_beside_is_built_for_all_frames_of_a_call(settings, monkeypatch):
    asked = []
    monkeypatch.setattr(loading, 'is_prepared', lambda bundle, engine, **more: (
        asked.append((engine, more['batch']))) or True)
    loader = ModelLoader(lambda model, *_: model.close(), refuse)
    loader.request(LoadRequest(settings, check_settings(settings), 0, batch=3))
    wait_for(lambda: not loader.busy)
    loader.close()
    assert asked == [('onnxruntime', 3)]


def test_the_painter_outlives_a_picture_that_fails(settings):
    model = ServingModel.load(settings, 0)
    frame = FrameResult(Arrival('', Picture(), 0), model, model.process(Picture()), 0, 0)
    pictures, failures = [], []

    def publish(camera, picture, header):
        if not failures:
            refuse()
        pictures.append(picture)

    painter = OverlayPainter(publish, failures.append)
    painter.offer(frame)
    wait_for(lambda: failures)
    painter.offer(frame)
    wait_for(lambda: pictures)
    painter.close()
    model.close()
    assert failures == ['overlay: RuntimeError: publisher is gone']
    assert isinstance(pictures[0], np.ndarray)


def test_another_model_is_warmed_between_two_frames(settings, monkeypatch):
    slots, results, order = FrameSlots(), [], []
    worker = InferenceWorker(slots, results.append, lambda model: None, refuse)
    worker.wait_for_gap()  # nobody serves: at once
    worker.exchange(ServingModel.load(settings, 0))
    worker.start()
    monkeypatch.setattr(worker_module, '_GAP_S', 60.0)

    def wait():
        before = len(results)
        InferenceWorker.wait_for_gap(worker)
        order.append(len(results) - before)

    monkeypatch.setattr(worker, 'wait_for_gap', wait)
    switch = ModelSwitch(worker, post=refuse, warn=refuse, on_refused=refuse)
    switch.request(settings, check_settings(settings), 2)

    def offer():
        slots.offer(Arrival('', Picture(), time.monotonic_ns()))
        return not switch.loading

    wait_for(offer)
    switch.close()
    worker.close()
    assert len(order) == 2
    assert min(order) >= 1
