import json
import os
import signal
import subprocess
import sys
import threading
import time

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import String

from kd_perception.bundle import BundleSpec, InputSpec, NetworkSpec
from kd_perception.classes import load_class_set
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import header, image_message, values_of
from kd_perception.nodes.perception.slots import COUNTERS

RATE_HZ = 30.0
# A process that waits for its turn on a busy machine must not look like one that is blocked: the
# middleware keeps a quarter of a second. To hash the teacher below takes longer.
DEPTH = 8


class FreeCamera:
    """Publishes at its rate and waits for nobody."""

    def __init__(self, bench):
        self.publisher = bench.node.create_publisher(Image, 'image', qos.stream(200))
        self.picture = np.zeros((120, 160, 3), np.uint8)
        self.sent = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def send(self):
        stamp = time.time_ns()
        self.publisher.publish(image_message(self.picture, 'rgb8', header(stamp, 'front')))
        self.sent += 1

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()

    def _run(self):
        due = time.monotonic()
        while not self._stop.wait(max(due - time.monotonic(), 0.0)):
            self.send()
            due += 1.0 / RATE_HZ


@pytest.fixture
def models(bundles, tmp_path):
    """Return a folder with a student and a teacher of some 200 MB."""
    import torch

    from kd_perception.networks.deploy import save_bundle
    from kd_perception.networks.registry import build

    classes, network = load_class_set('driving'), NetworkSpec('compact', {'width': 64})
    torch.manual_seed(2)
    spec = BundleSpec(name='teacher', task='segmentation', role='teacher', classes=classes,
                      input=InputSpec(64, 96), network=network)
    extra = np.random.default_rng(0).bytes(160_000_000)
    save_bundle(tmp_path / 'teacher', build(network, len(classes)).eval(), spec,
                extra_files={'statistics.bin': extra})
    (tmp_path / 'student').symlink_to(bundles / 'one')
    return tmp_path


@pytest.fixture
def served(models, ros_environment):
    """Run the node in a process of its own, as on a vehicle."""
    given = {'models_dir': models, 'model': 'student', 'engine': 'onnxruntime', 'threads': 1,
             'qos_overrides./image.subscription.depth': DEPTH,
             'qos_overrides./image.subscription.reliability': 'reliable'}
    command = [sys.executable, '-m', 'kd_perception.nodes.perception.node', '--ros-args']
    for name, value in given.items():
        command += ['-p', f'{name}:={value}']
    process = subprocess.Popen(command, env=dict(os.environ))
    yield process
    process.send_signal(signal.SIGINT)
    assert process.wait(30.0) == 0


def test_free_running_camera_loses_no_frame_while_models_are_exchanged(bench, served):
    diagnostics = bench.collect(DiagnosticArray, '/diagnostics', qos.stream(50))
    active = bench.collect(String, 'perception/active_model', qos.latched())
    camera = FreeCamera(bench)

    def counters():
        said = values_of(diagnostics[-1].status[0])
        return {name: int(said[name]) for name in COUNTERS}

    def met():
        camera.send()
        bench.spin_for(0.3)
        return diagnostics and counters()['received']

    bench.spin_until(lambda: active, 60.0)
    bench.spin_until(met)
    seen = len(diagnostics)
    bench.spin_until(lambda: len(diagnostics) > seen + 1)
    before, camera.sent = counters()['received'], 0
    with camera:
        for wanted in ('teacher', 'student', 'teacher'):
            assert bench.set_parameters('/perception', model=wanted)[0].successful
            name = 'teacher' if wanted == 'teacher' else 'one'
            bench.spin_until(lambda n=name: json.loads(active[-1].data)['name'] == n, 60.0)
            bench.spin_for(0.5)
    assert camera.sent > 3 * 0.5 * RATE_HZ / 2
    seen = len(diagnostics)
    bench.spin_until(lambda: len(diagnostics) > seen + 2 and not counters()['in_flight'])
    counts = counters()
    assert counts['received'] - before == camera.sent
    assert counts['received'] == counts['published'] + counts['overwritten']
    for message in diagnostics:
        said = values_of(message.status[0])
        assert int(said['received']) == sum(int(said[c]) for c in COUNTERS if c != 'received')
