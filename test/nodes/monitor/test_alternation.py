"""One perception node whose model is exchanged between blocks: the books, then real nodes."""

from contextlib import ExitStack
import json

import numpy as np
import pytest

from kd_perception.bags.writer import BagWriter
from kd_perception.classes import load_class_set
from kd_perception.errors import ConfigError, GraphError
from kd_perception.evaluation.analysis import analyse
from kd_perception.evaluation.comparison import ArmInfo, ArmSpec, ComparisonSpec
from kd_perception.evaluation.comparison_files import load_run, RECORDING
from kd_perception.evaluation.joining import Published
from kd_perception.nodes.bringup.graph import arm_settings, SHARED
from kd_perception.nodes.camera.node import CameraNode
from kd_perception.nodes.monitor.alternate_recorder import AlternateRecorder
from kd_perception.nodes.monitor.node import MonitorNode
from kd_perception.nodes.monitor.recorder import Recorder
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.process import Finished

STAGES = {'inference': 1.0}
MASK = np.zeros((4, 4), np.uint8)


@pytest.fixture
def books():
    """Return a recorder, the one before it, and what exchanges are known."""
    classes = load_class_set('driving')
    spec = ComparisonSpec(tuple(ArmSpec(n, n, 'torch') for n in 'ab'), warmup=0,
                          placement='alternate')
    recorder = Recorder(spec, [ArmInfo(n, n, '', 'torch', 'cpu', 'fp32') for n in 'ab'], classes,
                        None)
    known = {1: 'a', 2: 'b'}
    return recorder, AlternateRecorder(recorder, known), known


def record(index, arm, *, swapping=False, block=0):
    return Published(arm, index, 'c', index, index * 100, 0, block=block, swapping=swapping)


def rows_of(recorder):
    run = recorder.run(patience_ms=1e3, resources={}, counters={}, started='', interrupted=False)
    return [(r.index, r.arm, r.status, r.swapping) for r in run.rows]


def test_a_frame_belongs_to_the_model_that_served_it(books):
    recorder, alternate, known = books
    for index, (expected, exchange) in enumerate([('a', 1), ('a', 2), ('b', 3)]):
        key = (index, 'c')
        alternate.on_published(record(index, expected))
        alternate.on_result(key, index * 100 + 50, MASK)
        alternate.on_timing(key, STAGES, exchange)
    assert not alternate.complete(SHARED, (2, 'c'), labelled=False)
    known[3] = 'b'
    alternate.resolve()
    assert alternate.complete(SHARED, (2, 'c'), labelled=False)
    # The second one is of the exchange: model b answered in a block of a.
    assert rows_of(recorder) == [
        (0, 'a', 'ok', False), (1, 'b', 'ok', True), (2, 'b', 'ok', False)]


def test_the_order_of_events_does_not_matter_and_losses_are_counted(books):
    recorder, alternate, _ = books
    alternate.on_timing((0, 'c'), STAGES, 2)
    alternate.on_result((0, 'c'), 50, MASK)
    alternate.on_published(record(0, 'b'))
    alternate.on_result((0, 'c'), 60, MASK)
    alternate.on_published(record(1, 'a', swapping=True))
    assert alternate.outstanding() == 1
    alternate.flush()
    assert sorted(rows_of(recorder)) == [
        (0, 'b', 'duplicate', False), (0, 'b', 'ok', False), (1, 'a', 'lost', True)]


def test_a_duplicate_before_the_timing_is_counted(books):
    recorder, alternate, _ = books
    alternate.on_published(record(0, 'a'))
    for received_ns in (5, 6):
        alternate.on_result((0, 'c'), received_ns, MASK)
    alternate.on_timing((0, 'c'), STAGES, 1)
    assert sorted(r[2] for r in rows_of(recorder)) == ['duplicate', 'ok']


@pytest.fixture(scope='module')
def drive(tmp_path_factory):
    """Return a labelled bag of ten pictures."""
    path = tmp_path_factory.mktemp('bag') / 'drive'
    rng = np.random.default_rng(0)
    with BagWriter(path) as writer:
        for n in range(10):
            stamp = (n + 1) * 100_000_000
            writer.write_image('camera/image', rng.integers(0, 255, (48, 64, 3), np.uint8), stamp)
            writer.write_labels('camera/labels', np.full((48, 64), n, np.uint8), stamp)
        writer.write_label_info('camera/labels_info', load_class_set('driving'), 1)
    return path


def finish(bench, bundles, drive, out, arms, **monitor):
    """Run camera, one perception node and a monitor; return what ended it."""
    first = arm_settings(arms[0])
    with ExitStack() as stack:
        stack.enter_context(bench.running(
            CameraNode, source='bag', bag=str(drive), pacing='lockstep', arms=(SHARED,),
            hold=True, loop=True))
        stack.enter_context(bench.running(
            PerceptionNode, SHARED, models_dir=str(bundles), warmup_iterations=1, **first))
        node = stack.enter_context(bench.running(
            MonitorNode, arms=tuple(a.name for a in arms), source='bag', out=str(out), warmup=2,
            placement='alternate', settings=tuple(json.dumps(arm_settings(a)) for a in arms),
            **monitor))
        bench.spin_until(lambda: not node.thread.is_alive(), 60.0)
        return node.failure[0]


def test_models_alternate_in_one_node(bench, bundles, drive, tmp_path):
    arms = (ArmSpec('a', 'one', 'onnxruntime', threads=1),
            ArmSpec('b', 'two', 'onnxruntime', threads=1))
    out = tmp_path / 'out'
    ended = finish(bench, bundles, drive, out, arms, frames=16, swap_every=4)
    assert isinstance(ended, Finished)
    run = load_run(out / RECORDING)
    steady = [r for r in run.rows if r.index >= 2 and not r.swapping]
    # Four rounds of two blocks of four frames, in the order a b, b a, …
    by_block = {b: [r.arm for r in steady if r.block == b] for b in range(8)}
    assert by_block == {b: ['abbaabba'[b]] * 4 for b in range(8)}
    assert {r.status for r in run.rows} == {'ok'}
    assert sorted(r.index for r in run.rows) == list(range(len(run.rows)))
    assert {a.name: a.bundle for a in run.arms} == {'a': 'one', 'b': 'two'}
    assert all(r.counts for r in steady)
    analysis = analyse(run)
    # Five frames after each of four exchanges at least; the first block needed none.
    assert sum(s.frames for s in analysis.swaps.values()) >= 4 * 5
    assert analysis.comparisons[0].latency.basis
    assert analysis.comparisons[0].accuracy.n == 16
    assert run.spec.swap_every == 4


def test_a_model_that_is_not_taken_ends_the_run(bench, bundles, drive, tmp_path):
    arms = (ArmSpec('a', 'one', 'onnxruntime'), ArmSpec('b', 'nobody', 'onnxruntime'))
    failure = finish(bench, bundles, drive, tmp_path / 'out', arms)
    assert isinstance(failure, GraphError)
    assert "the model of arm b was refused: no model named 'nobody'" in str(failure)


@pytest.mark.parametrize(('settings', 'reason'), [
    (('{}',), '1 for 2 arms'), (('{', '{}'), 'is no JSON'), (('{}', '{}'), 'must be an object')])
def test_settings_that_cannot_be_are_one_line(bench, settings, reason):
    with (pytest.raises(ConfigError, match=reason),
          bench.running(MonitorNode, placement='alternate', settings=settings)):
        pass
