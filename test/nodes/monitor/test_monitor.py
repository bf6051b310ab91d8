"""The monitor with real nodes in one process; whole runs are in test_runner."""

from contextlib import closing, contextmanager, ExitStack
import json
import time

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import String

from kd_perception.bags.labels import classes_by_names
from kd_perception.bags.source import open_source
from kd_perception.bags.writer import BagWriter
from kd_perception.bundle import BundleSpec, InputSpec, NetworkSpec
from kd_perception.classes import ClassSet, load_class_set
from kd_perception.errors import ConfigError, GraphError
from kd_perception.evaluation.comparison_files import load_run, RECORDING
from kd_perception.evaluation.metrics.flicker import REPROJECTED
from kd_perception.nodes import qos
from kd_perception.nodes.camera.node import CameraNode
from kd_perception.nodes.monitor import counting
from kd_perception.nodes.monitor.node import MonitorNode
from kd_perception.nodes.monitor.pending import read_live, read_progress
from kd_perception.nodes.monitor.recorder import Recorder
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.process import Finished

FRAMES = 6


def write_bag(path, *, labelled=True, classes='driving', stamp_ns=None):
    rng = np.random.default_rng(0)
    with BagWriter(path) as writer:
        for n in range(FRAMES):
            log = 1_000_000_000 + n * 100_000_000
            stamp = log if stamp_ns is None else stamp_ns
            writer.write_image('camera/image', rng.integers(0, 255, (48, 64, 3), np.uint8), stamp,
                               'front', log_ns=log)
            if labelled:
                writer.write_labels('camera/labels', np.full((48, 64), n, np.uint8), stamp,
                                    'front')
        if labelled:
            writer.write_label_info('camera/labels_info', load_class_set(classes), 1_000_000_000)
    return path


@contextmanager
def comparing(bench, bundles, out, bag, models=('one', 'two'), camera=None, **monitor):
    """Run camera, arms and monitor; yield the monitor."""
    with ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        first.enter_context(bench.running(CameraNode, **{
            'source': 'bag', 'bag': str(bag), 'pacing': 'lockstep', 'placement': 'turns',
            'arms': ('a', 'b'), 'samples': 2, 'hold': True, **(camera or {})}))
        for arm, model in zip('ab', models):
            stack.enter_context(bench.running(
                PerceptionNode, arm, models_dir=str(bundles), model=model, threads=1,
                engine='onnxruntime', warmup_iterations=1))
        node = stack.enter_context(bench.running(
            MonitorNode, source='bag', scenario='drive', frames=0, out=str(out),
            progress_file=str(out) + '.json', **{'warmup': 1, **monitor}))
        node.end_camera = first.close
        yield node


def finish(bench, monitor):
    bench.spin_until(lambda: not monitor.thread.is_alive(), 60.0)
    return monitor.failure[0]


def test_a_labelled_bag_in_lockstep(bench, bundles, tmp_path):
    out = tmp_path / 'out'
    with comparing(bench, bundles, out, write_bag(tmp_path / 'bag')) as monitor:
        assert isinstance(finish(bench, monitor), Finished)
    run = load_run(out / RECORDING)
    assert len(run.arm_rows('a', warmup=True)) == FRAMES
    assert {r.status for r in run.rows} == {'ok'}
    assert {r.frame_id for r in run.rows} == {'front'}
    # The warm-up frame, all of class 0, counts in no matrix.
    assert run.confusion['a'].sum() == (FRAMES - 1) * 48 * 64
    assert run.confusion['a'][0].sum() == 0
    assert all((run.confusion['b'][k].sum() == 48 * 64) for k in range(1, FRAMES))
    assert (run.spec.width, run.spec.height) == (64, 48)
    spread = [p for p in run.pictures if not p.worst]
    assert [p.truth is not None for p in spread] == [True, True]
    # The models know nothing; each bad frame came once more from the bag.
    worst = [p for p in run.pictures if p.worst]
    assert len(worst) >= FRAMES - 2  # of one class all may be right
    with closing(open_source(str(tmp_path / 'bag'))) as source:
        for picture in worst:
            np.testing.assert_array_equal(picture.image, source[picture.index].image)
            assert set(picture.truth.ravel()) == {picture.index}
            assert set(picture.masks) == {'a', 'b'}
    live = {arm.arm: arm for arm in read_live(tmp_path / 'out.json')}
    assert (live['a'].served, live['a'].answered, live['a'].lost) == (FRAMES - 1, FRAMES - 1, 0)
    assert run.counters['b']['published'] == FRAMES
    assert not run.interrupted
    assert read_progress(tmp_path / 'out.json') == (1, 1, 'writing the report')
    assert json.loads((out / 'report.json').read_text())['arms']['b']['accuracy']


def test_the_street_in_lockstep_is_measured_where_it_matters(bench, bundles, tmp_path):
    out = tmp_path / 'out'
    with comparing(bench, bundles, out, '', camera={
            'source': 'sim', 'frames': 4, 'width': 96, 'height': 64}) as monitor:
        assert isinstance(finish(bench, monitor), Finished)
    run = load_run(out / RECORDING)
    assert run.flicker_method == REPROJECTED
    assert all(r.detail.boundary.sum() and len(r.detail.objects) for r in run.rows)
    # The first frames may go out before every topic is connected.
    for arm in 'ab':
        assert all(r.detail.flicker[1] > 500 for r in run.arm_rows(arm) if r.index > 1)
        assert run.confidences[arm].sum() > 0
    report = json.loads((out / 'report.json').read_text())['arms']['b']
    assert report['objects']['cells']
    assert report['boundary']['score']['estimate'] < 0.9


def test_realtime_with_both_arms_together_and_no_labels(bench, bundles, tmp_path):
    out = tmp_path / 'out'
    bag = write_bag(tmp_path / 'bag', labelled=False)
    with comparing(bench, bundles, out, bag, pacing='realtime', placement='concurrent',
                   camera={'pacing': 'realtime', 'placement': 'concurrent',
                           'rate_hz': 10.0}) as monitor:
        assert isinstance(finish(bench, monitor), Finished)
    run = load_run(out / RECORDING)
    assert len(run.rows) == 2 * FRAMES
    assert run.confusion == {}
    assert run.agreement['b'].sum() > 0
    assert {r.turn for r in run.rows} == {-1}


def test_a_monitor_that_does_not_keep_up_loses_no_result(bench, bundles, tmp_path, monkeypatch):
    monkeypatch.setattr(counting, 'MOST_WAITING', 0)
    out = tmp_path / 'out'
    bag = write_bag(tmp_path / 'bag', labelled=False)
    with comparing(bench, bundles, out, bag, pacing='realtime', placement='concurrent',
                   camera={'pacing': 'realtime', 'placement': 'concurrent',
                           'rate_hz': 20.0}) as monitor:
        assert isinstance(finish(bench, monitor), Finished)
    run = load_run(out / RECORDING)
    assert [r.status for r in run.rows] == ['ok'] * 2 * FRAMES
    assert run.agreement['b'].sum() == 0
    assert any(f'{2 * FRAMES} of {2 * FRAMES} masks' in note for note in run.notes)


def test_results_that_wait_for_the_counting_thread_are_not_lost(bench, bundles, tmp_path,
                                                                monkeypatch):
    slow = Recorder.on_result

    def on_result(self, *arguments):
        time.sleep(0.15)
        slow(self, *arguments)

    monkeypatch.setattr(Recorder, 'on_result', on_result)
    out = tmp_path / 'out'
    bag = write_bag(tmp_path / 'bag', labelled=False)
    with comparing(bench, bundles, out, bag, pacing='realtime', placement='concurrent',
                   timeout_s=0.3, camera={'pacing': 'realtime', 'placement': 'concurrent',
                                          'rate_hz': 30.0}) as monitor:
        finish(bench, monitor)
    assert {r.status for r in load_run(out / RECORDING).rows} <= {'ok', 'late'}


def test_an_arm_that_does_not_answer_is_counted_as_lost(bench, bundles, tmp_path):
    out = tmp_path / 'out'
    with comparing(bench, bundles, out, write_bag(tmp_path / 'bag'),
                   timeout_s=0.4, warmup=0) as monitor:
        bench.spin_until(lambda: monitor._recorder and monitor._recorder.answered >= 3)
        bench.call(ChangeState, '/b/perception/change_state', ChangeState.Request(
            transition=Transition(id=Transition.TRANSITION_DEACTIVATE)))
        assert isinstance(finish(bench, monitor), Finished)
    run = load_run(out / RECORDING)
    lost = {r.arm for r in run.rows if r.status == 'lost'}
    assert lost == {'b'}
    assert {r.status for r in run.rows if r.arm == 'a'} == {'ok'}
    last = max(r.index for r in run.rows)
    assert next(r for r in run.rows if r.arm == 'b' and r.index == last).status == 'lost'
    assert run.counters['b']['inactive'] > 0


@pytest.mark.parametrize('pacing', ['lockstep', 'realtime'])
def test_a_camera_that_goes_away_ends_the_run(bench, bundles, tmp_path, pacing):
    out = tmp_path / 'out'
    with comparing(bench, bundles, out, write_bag(tmp_path / 'bag'), timeout_s=1.0, pacing=pacing,
                   camera={'loop': True, 'stamps': 'clock', 'pacing': pacing,
                           'rate_hz': 10.0}) as monitor:
        bench.spin_until(lambda: monitor._recorder and monitor._recorder.answered >= 6, 40.0)
        monitor.end_camera()
        failure = finish(bench, monitor)
    assert isinstance(failure, GraphError)
    assert 'the camera went away' in str(failure)
    assert load_run(out / RECORDING).interrupted


def test_a_camera_that_hangs_ends_the_run(bench, bundles, tmp_path, monkeypatch):
    monkeypatch.setattr(CameraNode, '_serve_next', lambda self: time.sleep(4.0) or [])
    with comparing(bench, bundles, tmp_path / 'out', write_bag(tmp_path / 'bag')) as monitor:
        bench.spin_until(lambda: monitor._recorder and monitor._source._future, 40.0)
        monitor._values['start_timeout_s'] = 1.0
        failure = finish(bench, monitor)
    assert isinstance(failure, GraphError)
    assert 'has not answered camera/step for 1 s' in str(failure)
    # Nothing was measured, so nothing is left.
    assert not (tmp_path / 'out').exists()


def test_isolated_arms_over_a_bag_without_stamps(bench, bundles, tmp_path):
    out = tmp_path / 'out'
    bag = write_bag(tmp_path / 'bag', labelled=False, stamp_ns=0)
    with comparing(bench, bundles, out, bag, warmup=0, placement='isolated',
                   camera={'placement': 'isolated'}) as monitor:
        assert isinstance(finish(bench, monitor), Finished)
        # All frames may have to wait for the other arm.
        assert monitor._recorder.kept_frames >= FRAMES
    run = load_run(out / RECORDING)
    assert [r.status for r in run.rows] == ['ok'] * 2 * FRAMES
    assert run.agreement['b'].sum() == FRAMES * 48 * 64
    assert any('zero or repeat' in note for note in run.notes)


def test_a_report_that_cannot_be_written_is_said_before_anything_is_measured(bench, bundles,
                                                                             tmp_path):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'mine' / RECORDING).mkdir(parents=True)
    (tmp_path / 'mine' / RECORDING / 'drive.mcap').write_text('')
    bag = write_bag(tmp_path / 'bag')
    with comparing(bench, bundles, tmp_path / 'out', bag, camera={'arms': ('x',)}):
        for out, reason in (('file/out', 'cannot be written there'),
                            ('mine', 'is no recorded comparison')):
            with bench.running(MonitorNode, out=str(tmp_path / out)) as other:
                failure = finish(bench, other)
            assert isinstance(failure, ConfigError)
            assert reason in str(failure)
            assert other._recorder is None
    assert list((tmp_path / 'mine' / RECORDING).iterdir()) == [
        tmp_path / 'mine' / RECORDING / 'drive.mcap']


def test_a_run_that_is_stopped_keeps_what_was_measured(bench, bundles, tmp_path):
    out = tmp_path / 'out'
    with comparing(bench, bundles, out, write_bag(tmp_path / 'bag'),
                   camera={'loop': True, 'stamps': 'clock'}) as monitor:
        bench.spin_until(lambda: monitor._recorder and monitor._recorder.answered >= 8, 40.0)
    run = load_run(out / RECORDING)
    assert run.interrupted
    assert len([r for r in run.rows if r.status == 'ok']) >= 8


def test_a_class_map_that_does_not_exist_is_one_line(bench, bundles, tmp_path):
    bag = write_bag(tmp_path / 'bag', classes='camvid')
    with comparing(bench, bundles, tmp_path / 'out', bag, class_map='nowhere') as monitor:
        failure = finish(bench, monitor)
    assert isinstance(failure, ConfigError)
    assert "no classes named 'nowhere'" in str(failure)


def test_labels_of_foreign_classes_leave_accuracy_out(bench, bundles, tmp_path):
    out = tmp_path / 'out'
    bag = write_bag(tmp_path / 'bag', classes='camvid')
    with comparing(bench, bundles, out, bag) as monitor:
        assert isinstance(finish(bench, monitor), Finished)
    run = load_run(out / RECORDING)
    assert run.confusion == {}
    assert 'accuracy was not measured: no class map' in run.notes[0]


def test_arms_of_different_classes_cannot_be_compared(bench, bundles, tmp_path):
    torch = pytest.importorskip('torch')
    from kd_perception.networks.deploy import save_bundle
    from kd_perception.networks.registry import build

    classes = ClassSet.from_names('two', ['ground', 'rest'])
    network = NetworkSpec('compact', {'width': 8})
    torch.manual_seed(0)
    save_bundle(tmp_path / 'other', build(network, 2).eval(), BundleSpec(
        'other', 'segmentation', 'student', classes, InputSpec(32, 32), network))
    with comparing(bench, bundles, tmp_path / 'out', write_bag(tmp_path / 'bag'),
                   models=('one', str(tmp_path / 'other'))) as monitor:
        failure = finish(bench, monitor)
    assert isinstance(failure, ConfigError)
    assert 'arms a and b have different classes: driving and two' in str(failure)
    assert not (tmp_path / 'out').exists()


def test_what_is_missing_is_named(bench, tmp_path):
    with bench.running(MonitorNode, start_timeout_s=1.0, out=str(tmp_path / 'out')) as monitor:
        failure = finish(bench, monitor)
    assert isinstance(failure, GraphError)
    assert 'arm a (no active model), arm b (no active model), the camera' in str(failure)


@pytest.mark.parametrize('placement', ['turns', 'alternate'])
def test_an_arm_that_is_cleaned_up_is_not_ready(bench, tmp_path, placement):
    settings = tuple(json.dumps({'model': name, 'engine': 'auto', 'device': 'cpu',
                                 'precision': 'auto', 'threads': 0}) for name in ('one', 'two'))
    given = {'settings': settings} if placement == 'alternate' else {}
    arm = 'shared' if given else 'a'
    publisher = bench.node.create_publisher(String, f'{arm}/perception/active_model',
                                            qos.latched())
    with bench.running(MonitorNode, placement=placement, out=str(tmp_path / 'out'),
                       **given) as monitor:
        for told in ({'hash': 'x', 'model': 'one', 'threads': 0, 'exchange': 1, 'requested': {
                'engine': 'auto', 'device': 'cpu', 'precision': 'auto'}},
                     {'schema_version': 1, 'model': '', 'name': '', 'hash': '', 'exchange': 1}):
            publisher.publish(String(data=json.dumps(told)))
            served = bool(told['hash']) or placement == 'alternate'
            bench.spin_until(lambda s=served: bool(monitor._arms['a'].model) is s)
        bench.spin_for(0.3)
        assert not monitor.failure


def test_known_class_sets_are_found_by_their_names():
    assert classes_by_names(load_class_set('carla').names, 'source').name == 'carla'
    assert classes_by_names(['x', 'y'], 'source').name == 'source'


def test_a_running_comparison_can_be_looked_at(bench, bundles, tmp_path):
    """The summary tells every arm's figures; the picture is drawn while somebody looks."""
    out = tmp_path / 'out'
    told, seen = [], []
    with comparing(bench, bundles, out, write_bag(tmp_path / 'bag')) as monitor:
        bench.node.create_subscription(DiagnosticArray, '/monitor/summary', told.append, 10)
        bench.node.create_subscription(Image, '/monitor/disagreement', seen.append, 10)
        assert isinstance(finish(bench, monitor), Finished)
        bench.spin_until(lambda: told and seen, 5.0)
    assert [s.hardware_id for s in told[-1].status] == ['a', 'b']
    assert {v.key for v in told[-1].status[0].values} >= {'p50_ms', 'p95_ms', 'miou', 'lost'}
    # Two masks and the differences, 4 pixels apart.
    assert (seen[0].height, seen[0].width, seen[0].encoding) == (48, 3 * 64 + 2 * 4, 'rgb8')
    assert seen[0].header.frame_id == 'front'
