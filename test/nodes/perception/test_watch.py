"""Faulty cameras and unfamiliar pictures, as the perception node tells of them."""

from __future__ import annotations

from types import SimpleNamespace

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import pytest
from sensor_msgs.msg import Image

from kd_perception.bundle import find_bundle, STATISTICS, write_bundle
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import header, image_message, values_of
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.perception.slots import Arrival
from kd_perception.nodes.perception.watch import InputWatch
from kd_perception.tasks.familiarity import picture_features, summarize

OK, WARN = b'\0', b'\1'
PERIOD_NS = 50_000_000
RNG = np.random.default_rng(0)


def street(light: float = 1.0) -> np.ndarray:
    """Return a picture of sky, road and things on it, other than all before."""
    picture = np.full((48, 64, 3), (90, 90, 95), np.float64)
    picture[:18] = (150, 180, 220)
    for _ in range(6):
        y, x = RNG.integers(10, 40), RNG.integers(0, 56)
        picture[y:y + 8, x:x + 8] = RNG.uniform(20, 230, 3)
    return np.clip(light * picture + RNG.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope='module')
def models(bundles, tmp_path_factory):
    """Return a models directory with ``plain``, ``watched`` and one with broken statistics."""
    folder = tmp_path_factory.mktemp('watched')
    one = find_bundle('one', bundles)
    files = {name: one.file(name) for name in one.files}
    known = summarize(np.stack([picture_features(street()) for _ in range(100)]), [0] * 100)
    write_bundle(folder / 'plain', one.spec, files)
    write_bundle(folder / 'watched', one.spec, {**files, STATISTICS: known.to_bytes()})
    write_bundle(folder / 'newer', one.spec, {**files, STATISTICS: b'{"schema_version": 7}'})
    return folder


class Looked:
    """An ``InputWatch`` with frames given to it one by one."""

    def __init__(self, models, model, cameras=('',)):
        self.models = models
        self.lines = []
        self.watch = InputWatch(cameras, tell=self.lines.append)
        self.now = self.stamp = 10_000_000_000
        self.serve(model)

    def serve(self, model):
        self.model = SimpleNamespace(bundle=find_bundle(model, self.models))

    def look(self, picture, camera=''):
        self.now += PERIOD_NS
        message = Image(header=header(self.now, 'c'))
        self.watch.look(SimpleNamespace(
            arrival=Arrival(camera, message, self.now), model=self.model,
            processed=SimpleNamespace(image=picture)))

    def told(self, monkeypatch, camera='', state='active', later_ns=0):
        monkeypatch.setattr('kd_perception.nodes.perception.watch.time', SimpleNamespace(
            monotonic_ns=lambda: self.now + later_ns))
        name = f'/p: pictures of {camera}' if camera else '/p: pictures'
        return next(s for s in self.watch.statuses('/p', state) if s.name == name)


def test_each_camera_is_judged_by_its_own_pictures(models, monkeypatch):
    looked = Looked(models, 'plain', ('front', 'left'))
    still = street()
    for _ in range(40):
        looked.look(still, 'front')
        looked.look(street(), 'left')
    front, left = (looked.told(monkeypatch, camera) for camera in ('front', 'left'))
    assert (front.level, front.message) == (WARN, 'camera front: frozen for 3.8 s')
    assert values_of(front) == {'schema_version': '1', 'camera': 'front', 'faults': 'frozen',
                                'fault_s': '3.8'}
    assert (left.level, left.message) == (OK, 'camera left: pictures as usual')
    assert looked.lines == ['camera front: frozen']
    # A camera that sends no more is not frozen: that it is silent is told elsewhere.
    silent = looked.told(monkeypatch, 'front', later_ns=3_000_000_000)
    assert silent.message == 'camera front: no pictures'
    assert looked.told(monkeypatch, 'front', state='inactive').level == OK


def test_unfamiliar_pictures_are_flagged_by_what_the_model_knows(models, monkeypatch):
    looked = Looked(models, 'watched')
    for _ in range(40):
        looked.look(street())
    day = looked.told(monkeypatch)
    assert (day.level, day.message) == (OK, 'camera: pictures as usual')
    assert values_of(day)['unfamiliar'] == 'False'
    assert float(values_of(day)['unfamiliar_score']) < 1
    for _ in range(80):
        looked.look(street(0.3))
    night = looked.told(monkeypatch)
    assert night.level == WARN
    assert 'unlike the training data for' in night.message
    assert float(values_of(night)['unfamiliar_score']) > 1
    assert float(values_of(night)['unfamiliar_share']) < 0.05
    # Another model may know them, or not say.
    looked.serve('plain')
    looked.look(street(0.3))
    assert looked.told(monkeypatch).level == OK
    assert 'unfamiliar' not in values_of(looked.told(monkeypatch))


def test_a_black_picture_is_not_called_unfamiliar_too(models, monkeypatch):
    looked = Looked(models, 'watched')
    for _ in range(80):
        looked.look((RNG.random((48, 64, 3)) * 8).astype(np.uint8))
    assert looked.told(monkeypatch).message in ('camera: black for 3.9 s',
                                                'camera: black for 4.0 s')


def test_statistics_that_cannot_be_read_are_told_and_no_more(models, monkeypatch):
    looked = Looked(models, 'newer')
    looked.look(street())
    told = looked.told(monkeypatch)
    assert told.level == WARN
    assert 'pictures are not scored' in told.message
    assert 'schema_version 7 is unknown' in told.message


def test_a_defect_while_looking_harms_no_frame(models, monkeypatch):
    looked = Looked(models, 'plain')
    looked.look(np.zeros((0, 0, 3), np.uint8))
    assert 'could not be looked at' in looked.told(monkeypatch).message


def test_the_log_has_one_line_when_something_changes(models, monkeypatch):
    looked = Looked(models, 'plain')
    still = street()
    for pictures in ([street()] * 2, [still] * 60, [street() for _ in range(40)]):
        for picture in pictures:
            looked.look(picture)
            looked.told(monkeypatch)
    assert looked.lines == ['camera: frozen', 'camera: pictures as usual again']


def test_after_a_pause_nothing_lasts(models, monkeypatch):
    looked = Looked(models, 'plain')
    still = street()

    def look(enabled, times):
        looked.watch.enabled = enabled
        for _ in range(times):
            looked.look(still)
    look(True, 40)
    assert looked.told(monkeypatch).level == WARN
    look(False, 40)
    assert looked.watch.statuses('/p', 'active') == []
    look(True, 10)
    assert looked.told(monkeypatch).level == OK
    look(True, 40)
    assert looked.told(monkeypatch).message == 'camera: frozen for 2.4 s'


class Cameras:
    """Publishes a picture on two cameras every 50 ms, and collects what is said of them."""

    def __init__(self, bench):
        self.bench = bench
        self.found = bench.collect(DiagnosticArray, '/diagnostics', qos.stream(10))
        self.masks = {c: bench.collect(Image, f'{c}/segmentation/mask', qos.stream(5))
                      for c in ('front', 'left')}
        self.outlets = {c: bench.node.create_publisher(Image, f'{c}/image', qos.stream(5))
                        for c in ('front', 'left')}
        for outlet in self.outlets.values():
            bench.spin_until(outlet.get_subscription_count)

    def until(self, condition, make_front):
        """Feed until ``condition`` holds for the messages of the statuses by camera."""
        stamp = iter(range(1, 10**9))

        def fed():
            self.bench.spin_for(0.05)
            for name, picture in (('front', make_front()), ('left', street())):
                self.outlets[name].publish(image_message(
                    picture, 'rgb8', header(next(stamp) * PERIOD_NS, name)))
            entries = self.found[-1].status if self.found else []
            said = {s.name.rpartition(' ')[2]: s for s in entries if ': pictures of ' in s.name}
            return said and condition(said)
        del self.found[:]
        self.bench.spin_until(fed, 30.0)


def test_the_node_tells_of_cameras_and_pictures(bench, models):
    options = {'models_dir': str(models), 'model': 'watched', 'engine': 'onnxruntime',
               'threads': 1, 'warmup_iterations': 0, 'cameras': ('front', 'left')}
    with bench.running(PerceptionNode, **options) as node:
        cameras = Cameras(bench)
        cameras.until(lambda said: 'unfamiliar' in values_of(said['front'])
                      and said['front'].level == said['left'].level == OK, street)
        still = street()
        cameras.until(lambda said: said['front'].message.startswith('camera front: frozen for ')
                      and said['front'].level == WARN and said['left'].level == OK, lambda: still)
        cameras.until(lambda said: 'camera front: pictures unlike the training data'
                      in said['front'].message and said['left'].level == OK,
                      lambda: street(0.3))
        assert bench.set_parameters('/perception', watch_input=False)[0].successful
        bench.spin_until(lambda: cameras.found and not any(
            'pictures' in s.name for s in cameras.found[-1].status))
        assert cameras.masks['front']
        assert cameras.masks['left']
        assert node.counters()['failed'] == 0
        assert not node.failure
