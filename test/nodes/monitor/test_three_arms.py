"""Three arms on one camera, in every placement."""

from contextlib import ExitStack

import numpy as np
import pytest

from kd_perception.bags.writer import BagWriter
from kd_perception.classes import load_class_set
from kd_perception.evaluation.analysis import analyse
from kd_perception.evaluation.comparison_files import load_run, RECORDING
from kd_perception.nodes.camera.node import CameraNode
from kd_perception.nodes.monitor.node import MonitorNode
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.process import Finished

FRAMES, WARMUP = 20, 1
ARMS = {'a': ('one', 'onnxruntime'), 'b': ('one', 'openvino'), 'c': ('two', 'onnxruntime')}


@pytest.fixture(scope='module')
def drive(tmp_path_factory):
    """Return a labelled bag."""
    path = tmp_path_factory.mktemp('bag') / 'drive'
    rng = np.random.default_rng(0)
    with BagWriter(path) as writer:
        for n in range(FRAMES + WARMUP):
            stamp = (n + 1) * 100_000_000
            writer.write_image('camera/image', rng.integers(0, 255, (48, 64, 3), np.uint8), stamp)
            writer.write_labels('camera/labels', np.full((48, 64), n % 12, np.uint8), stamp)
        writer.write_label_info('camera/labels_info', load_class_set('driving'), 1)
    return path


# Eight frames are the fewest that are compared.
@pytest.mark.parametrize(('placement', 'frames'), [
    ('turns', FRAMES), ('concurrent', 8), ('isolated', 8)])
def test_three_arms(bench, bundles, drive, tmp_path, placement, frames):
    with ExitStack() as stack:
        stack.enter_context(bench.running(
            CameraNode, source='bag', bag=str(drive), pacing='lockstep', placement=placement,
            frames=frames + WARMUP, arms=tuple(ARMS), hold=True))
        for arm, (model, engine) in ARMS.items():
            stack.enter_context(bench.running(
                PerceptionNode, arm, models_dir=str(bundles), model=model, threads=1,
                engine=engine, precision='fp32', warmup_iterations=1))
        monitor = stack.enter_context(bench.running(
            MonitorNode, arms=tuple(ARMS), frames=frames, warmup=WARMUP, placement=placement,
            source='bag', out=str(tmp_path / 'out'), truth='required'))
        bench.spin_until(lambda: not monitor.thread.is_alive(), 60.0)
        assert isinstance(monitor.failure[0], Finished)
    run = load_run(tmp_path / 'out' / RECORDING)
    assert len(run.rows) == 3 * (frames + WARMUP)
    assert {r.status for r in run.rows} == {'ok'}
    assert [a.engine for a in run.arms] == ['onnxruntime', 'openvino', 'onnxruntime']
    analysis = analyse(run)
    assert [(c.reference, c.other) for c in analysis.comparisons] == [('a', 'b'), ('a', 'c')]
    for comparison in analysis.comparisons:
        assert comparison.latency.n == frames
        assert comparison.latency.unpaired == 0
        assert comparison.accuracy.n == frames
    # The same network on two runtimes, and another one.
    assert analysis.comparisons[0].agreement > 0.98 > analysis.comparisons[1].agreement
