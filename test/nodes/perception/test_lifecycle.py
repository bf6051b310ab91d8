"""Every transition of the perception node failing at every step, and how the node ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
import pytest
from rclpy.lifecycle import LifecycleNode
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo

from kd_perception.errors import EngineError
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import header, image_message, label_info_names
from kd_perception.nodes.perception.camera_topics import CameraTopics
from kd_perception.nodes.perception.loading import ModelLoader
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.perception.overlay import OverlayPainter
from kd_perception.nodes.perception.serving import ServingModel
from kd_perception.nodes.perception.worker import InferenceWorker

NAME = '/perception'
CONFIGURE, ACTIVATE, DEACTIVATE, CLEANUP, SHUTDOWN = (
    'configure', 'activate', 'deactivate', 'cleanup', 'shutdown')
WAY = {'unconfigured': (), 'inactive': (CONFIGURE,), 'active': (CONFIGURE, ACTIVATE)}


@pytest.fixture
def options(bundles):
    return {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
            'warmup_iterations': 0, 'autostart': False}


def change(bench, label='', number=0, name=NAME):
    request = ChangeState.Request(transition=Transition(id=number, label=label))
    return bench.call(ChangeState, f'{name}/change_state', request, 60.0).success


def state(bench, name=NAME):
    answer = bench.call(GetState, f'{name}/get_state', GetState.Request(), 60.0)
    return answer.current_state.label


def refuse(*_, **__):
    raise EngineError('the runtime refuses')


def break_down(*_, **__):
    raise ZeroDivisionError('a defect')


class Once:
    """Breaks down at the first call alone."""

    def __init__(self, owner, name):
        self.original = getattr(owner, name)
        self.broken = False

    def __get__(self, instance, owner):
        return lambda *given: self(instance, *given)

    def __call__(self, *given):
        if not self.broken:
            self.broken = True
            break_down()
        return self.original(*given)


# From, transition, where it fails, how, and the state that the managed-node design asks for.
MENDED = [
    ('unconfigured', CONFIGURE, (ServingModel, 'load'), refuse, 'unconfigured'),
    ('unconfigured', CONFIGURE, (ServingModel, 'load'), break_down, 'unconfigured'),
    ('unconfigured', CONFIGURE, (CameraTopics, '_create'), break_down, 'unconfigured'),
    ('unconfigured', CONFIGURE, (OverlayPainter, '__init__'), break_down, 'unconfigured'),
    ('unconfigured', CONFIGURE, (InferenceWorker, 'exchange'), break_down, 'unconfigured'),
    ('unconfigured', CONFIGURE, (LifecycleNode, 'on_configure'), break_down, 'unconfigured'),
    ('inactive', ACTIVATE, (InferenceWorker, 'start'), refuse, 'inactive'),
    ('inactive', ACTIVATE, (InferenceWorker, 'start'), break_down, 'unconfigured'),
    ('inactive', ACTIVATE, (LifecycleNode, 'on_activate'), break_down, 'unconfigured'),
    ('active', DEACTIVATE, (InferenceWorker, 'stop'), Once, 'unconfigured'),
    ('inactive', CLEANUP, (CameraTopics, 'destroy'), Once, 'unconfigured'),
    ('active', SHUTDOWN, (OverlayPainter, 'close'), Once, 'unconfigured'),
]
# What cannot even be released by on_error.
FINAL = [
    ('active', DEACTIVATE, (LifecycleNode, 'on_deactivate'), refuse, 'finalized'),
    ('inactive', CLEANUP, (ModelLoader, 'close'), break_down, 'finalized'),
    ('active', SHUTDOWN, (CameraTopics, 'destroy'), refuse, 'finalized'),
]


def fail(bench, node, monkeypatch, case):
    """Drive one failing transition; return what diagnostics say."""
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    node._tick.timer_period_ns = 50_000_000
    start, transition, (owner, name), how, end = case
    for step in WAY[start]:
        assert change(bench, step)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, Once(owner, name) if how is Once else how)
        assert not change(bench, transition)
    assert state(bench) == end
    words = 'refuses' if how is refuse else 'unexpected ZeroDivisionError: a defect'
    return bench.spin_until(lambda: next((
        m.status[0].message for m in found if m.status[0].level == b'\x02'
        and words in m.status[0].message), None))


def test_after_a_failure_the_node_can_be_configured_again(bench, options, monkeypatch):
    with bench.running(PerceptionNode, **options) as node:
        for case in MENDED:
            fail(bench, node, monkeypatch, case)
            assert not node.failure
            if case[-1] == 'inactive':
                assert change(bench, CLEANUP)
            left = [t.topic_name for t in (*node.subscriptions, *node.publishers)]
            assert not [t for t in left if 'image' in t or 'mask' in t]
        assert change(bench, CONFIGURE)
        assert change(bench, ACTIVATE)
        masks = bench.collect(Image, 'segmentation/mask', qos.stream(5))
        camera = bench.node.create_publisher(Image, 'image', qos.stream(5))
        bench.spin_until(camera.get_subscription_count)
        bench.spin_until(lambda: bench.node.count_publishers('segmentation/mask'))
        camera.publish(image_message(np.zeros((48, 64, 3), np.uint8), 'rgb8', header(1, 'c')))
        bench.spin_until(lambda: masks)


@pytest.mark.parametrize('case', FINAL, ids=lambda case: case[1])
def test_what_cannot_be_released_is_finalized(bench, options, monkeypatch, case):
    with bench.running(PerceptionNode, **options) as node:
        assert 'start it again' in fail(bench, node, monkeypatch, case)
        assert not change(bench, CONFIGURE)
        assert not node.failure


def test_requests_that_the_state_does_not_allow_are_answered(bench, options):
    with bench.running(PerceptionNode, **options) as node:
        for number in (Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_CLEANUP, 77):
            assert not change(bench, number=number)
        assert not change(bench, 'fly')
        assert change(bench, CONFIGURE)
        assert not change(bench, CONFIGURE)
        assert state(bench) == 'inactive'
        assert node.thread.is_alive()
        assert not node.failure


def test_the_clock_is_the_simulators_under_sim_time(bench, options):
    infos = bench.collect(LabelInfo, '/car/segmentation/label_info', qos.latched())
    clock = bench.node.create_publisher(Clock, '/clock', qos.stream())
    given = {**options, 'use_sim_time': True}
    with bench.running(PerceptionNode, namespace='car', **given) as node:
        message = Clock()
        message.clock.sec = 77

        def told():
            clock.publish(message)
            bench.spin_for(0.02)
            return node.get_clock().now().nanoseconds == 77_000_000_000

        bench.spin_until(told)
        assert change(bench, CONFIGURE, name='/car/perception')
        bench.spin_until(lambda: infos)
        assert infos[0].header.stamp.sec == 77


def test_names_follow_namespace_and_remapping(bench, options, bundles):
    def make(**given):
        return PerceptionNode(cli_args=[
            '--ros-args', '-r', 'image:=/sensing/camera/camera0/image_raw',
            '-r', 'segmentation/mask:=masks', '-r', '__node:=eyes'], **given)

    with bench.running(make, namespace='/car', **options) as node:
        assert change(bench, CONFIGURE, name='/car/eyes')
        assert {'/sensing/camera/camera0/image_raw', '/car/camera_info'} <= {
            s.topic_name for s in node.subscriptions}
        assert {'/car/masks', '/car/segmentation/confidence', '/car/segmentation/label_info',
                '/car/eyes/timing', '/car/eyes/active_model', '/diagnostics'} <= {
            p.topic_name for p in node.publishers}


def test_who_comes_late_learns_the_classes(bench, other_bench, options):
    with bench.running(PerceptionNode, **{**options, 'autostart': True}):
        bench.spin_until(lambda: state(bench) == 'active')
        infos = other_bench.collect(LabelInfo, 'segmentation/label_info', qos.latched())
        other_bench.spin_until(lambda: infos)
        assert 'road' in ' '.join(label_info_names(infos[0]))
        # Once, and not once for each second.
        other_bench.spin_for(0.2)
        assert len(infos) == 1


ENDS = [(label, number) for label in ('unconfigured', 'inactive', 'active', 'finalized')
        for number in (signal.SIGINT, signal.SIGTERM)]
# One process that has imported everything becomes all nodes: eight imports would take longest.
NODES = '''
import json, os, sys
from kd_perception.nodes.perception.node import main
children = []
for index in range(int(sys.argv[1])):
    child = os.fork()
    if not child:
        # Not by sys.exit: what LTTng ends at the exit are threads that a fork does not have.
        os._exit(main(['--ros-args', '-r', f'__ns:=/n{index}', *sys.argv[2:]]))
    children.append(child)
print('children', *children, file=sys.stderr, flush=True)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children]))
'''


def test_every_state_ends_with_0_on_a_signal(bench, bundles):
    command = [sys.executable, '-c', NODES, str(len(ENDS)), '--log-level', 'warn']
    for name, value in {'models_dir': bundles, 'model': 'one', 'engine': 'onnxruntime',
                        'threads': 1, 'autostart': 'false'}.items():
        command += ['-p', f'{name}:={value}']
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=dict(os.environ), text=True, start_new_session=True)
    try:
        words = process.stderr.readline().split()
        assert words[0] == 'children'
        for index, (label, number) in enumerate(ENDS):
            name = f'/n{index}/perception'
            for step in WAY.get(label, (SHUTDOWN,)):
                assert change(bench, step, name=name)
            assert state(bench, name) == label
            os.kill(int(words[1 + index]), number)
        codes, said = process.communicate(timeout=60)
        assert json.loads(codes) == [0] * len(ENDS), said
        assert 'Traceback' not in said
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_process_outlives_a_model_that_cannot_be_used(bench, bundles):
    """A new one would meet the same model; this one can be given another."""
    command = [sys.executable, '-m', 'kd_perception.nodes.perception.node', '--ros-args']
    for name, value in {'models_dir': bundles, 'model': 'three', 'engine': 'onnxruntime',
                        'threads': 1}.items():
        command += ['-p', f'{name}:={value}']
    told = bench.collect(DiagnosticArray, '/diagnostics', 10)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=dict(os.environ), text=True)
    try:
        bench.spin_until(lambda: told and "no model named 'three'" in told[-1].status[0].message,
                         60.0)
        assert state(bench) == 'unconfigured'
        assert bench.set_parameters(NAME, model='one')[0].successful
        assert change(bench, CONFIGURE)
        assert change(bench, ACTIVATE)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 0, said
    finally:
        process.kill()
        process.wait()


# Both hold still for a moment, after which nothing in ROS works any more.
SLOW = '''
import sys, time
from kd_perception.nodes.perception import node as perception, serving
load = serving.ServingModel.load.__func__
def slow(*given, **more):
    print('waiting', flush=True)
    time.sleep(0.5)
    return load(*given, **more)
serving.ServingModel.load = classmethod(slow)
sys.exit(perception.main(sys.argv[1:]))
'''
LATE = '''
import sys, time
from kd_perception.nodes import process
from kd_perception.nodes.perception import node as perception
def make():
    print('waiting', flush=True)
    time.sleep(0.5)
    return perception.PerceptionNode()
sys.exit(process.run_node(make, sys.argv[1:]))
'''


@pytest.mark.parametrize('script', [SLOW, LATE], ids=['while a model is loaded', 'at the start'])
def test_a_signal_at_a_bad_moment_ends_with_0_and_no_fuss(bundles, ros_environment, script):
    running = []
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            command = [sys.executable, '-c', script, '--ros-args']
            for name, value in {'models_dir': bundles, 'model': 'one', 'threads': 1,
                                'engine': 'onnxruntime'}.items():
                command += ['-p', f'{name}:={value}']
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       env=dict(os.environ), text=True)
            stack.callback(process.kill)  # or the tests that follow would hear it, too
            running.append((number, process))
        for number, process in running:
            assert process.stdout.readline() == 'waiting\n'
            process.send_signal(number)
        for number, process in running:
            said = process.communicate(timeout=60)[0]
            assert (process.returncode, said) == (0, ''), number
