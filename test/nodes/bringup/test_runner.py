"""Whole runs through child processes and real DDS."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import psutil
import pytest

from kd_perception.errors import GraphError
from kd_perception.evaluation.comparison import ArmSpec, ComparisonSpec
from kd_perception.evaluation.comparison_files import load_run
from kd_perception.nodes.bringup.graph import (
    comparison_graph,
    NodeSpec,
    perception_graph,
    perception_node,
    RunGraph,
    simulation_graph,
)
from kd_perception.nodes.bringup.runner import _end, check, Child, command, run_graph, started
from kd_perception.nodes.environment import isolation, PARENT_VARIABLE
from kd_perception.simulation.source import SimulatorSource

pytest.importorskip('rclpy')

SMALL = {'width': 160, 'height': 96}


def comparison(bundles, out, arms=('one', 'two'), monitor=None, **more):
    settings = {'frames': 6, 'warmup': 2, 'rate_hz': 10.0, **SMALL, **more}
    spec = ComparisonSpec(tuple(ArmSpec(name, model, 'onnxruntime', threads=1)
                                for name, model in zip('ab', arms)), **settings)
    return comparison_graph(spec, str(out), perception={'models_dir': str(bundles)},
                            monitor=monitor)


def test_a_monitor_has_the_time_to_write_its_report(tmp_path, monkeypatch):
    monkeypatch.setattr('kd_perception.nodes.bringup.graph._PATIENCE_S', 0.1)
    slow = ('import signal, sys, time\n'
            'signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.6), sys.exit(0)))\n'
            'print("ready", flush=True)\nsignal.pause()')
    children = []
    for name in ('camera', 'monitor'):
        process = subprocess.Popen([sys.executable, '-c', slow], stdout=subprocess.PIPE)
        process.stdout.readline()
        children.append(Child(NodeSpec(name, name), process, tmp_path / name))
    _end(children[:1])
    _end(children[1:])
    assert [c.process.returncode for c in children] == [-signal.SIGTERM, 0]


DEAF = '''
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('ready', flush=True)
time.sleep(60)
'''
IMPATIENT = '''
import subprocess, sys
from pathlib import Path
from kd_perception.interrupts import interruptible
from kd_perception.nodes.bringup.graph import NodeSpec
from kd_perception.nodes.bringup.runner import _end, Child
process = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE,
                           start_new_session=True)
process.stdout.readline()
print(process.pid, flush=True)
with interruptible():
    try:
        _end([Child(NodeSpec('monitor', 'monitor'), process, Path('log'))])
    except KeyboardInterrupt:
        print('interrupted', process.poll(), flush=True)
'''


def test_no_child_outlives_a_user_without_patience(tmp_path):
    runner = subprocess.Popen([sys.executable, '-c', IMPATIENT, DEAF], stdout=subprocess.PIPE,
                              text=True)
    child = psutil.Process(int(runner.stdout.readline()))
    for _ in range(2):
        time.sleep(0.5)
        assert child.is_running()
        runner.send_signal(signal.SIGINT)
    said, _ = runner.communicate(timeout=20)
    assert said == f'interrupted {-signal.SIGKILL}\n'
    assert not child.is_running()


def children_of(pid):
    return [p for p in psutil.Process(pid).children(recursive=True)
            if 'kd_perception.nodes' in ' '.join(p.cmdline())]


def gone(processes, timeout_s=30.0):
    _, alive = psutil.wait_procs(processes, timeout_s)
    return not alive


def test_a_comparison_end_to_end(bundles, tmp_path):
    told = []
    run_graph(comparison(bundles, tmp_path / 'out'), tmp_path / 'logs',
              progress=lambda *now: told.append(now))
    run = load_run(tmp_path / 'out' / 'recording')
    assert len(run.rows) == 16
    assert {r.status for r in run.rows} == {'ok'}
    assert all(r.latency_ms > 0 and r.counts for r in run.rows)
    # What the node says of itself lies within what the monitor saw from outside.
    assert all(r.stages['inference'] <= r.stages['total'] <= r.latency_ms + r.stages['publish']
               for r in run.rows)
    for arm in 'ab':
        assert run.counters[arm]['received'] == run.counters[arm]['published'] == 8
        assert run.confusion[arm].sum() > 0
        assert run.resources[arm].rss_mb > 10
    # Only pixels of measured frames, and the same ones for both arms.
    assert run.confusion['a'].sum() == run.confusion['b'].sum() <= 6 * 160 * 96
    assert run.agreement['b'].sum() == 6 * 160 * 96
    assert [a.precision for a in run.arms] == ['fp32', 'fp32']
    assert run.pictures
    assert (tmp_path / 'out' / 'report.html').is_file()
    report = json.loads((tmp_path / 'out' / 'report.json').read_text())
    assert report['arms']['a']['accuracy'] is not None
    assert report['spec']['fingerprint'] == SimulatorSource(
        'clear', seed=0, frames=1, rate_hz=10.0, **SMALL).fingerprint
    assert told[-1] == (1, 1, 'writing the report')
    done = [now[0] for now in told if now[2] in ('warm-up', 'measuring')]
    assert done == sorted(done)


def test_realtime_comparison(bundles, tmp_path):
    run_graph(comparison(bundles, tmp_path / 'out', pacing='realtime', placement='concurrent'),
              tmp_path / 'logs')
    run = load_run(tmp_path / 'out' / 'recording')
    assert len(run.rows) == 16
    assert {r.turn for r in run.rows} == {-1}
    received = run.counters['a']
    assert received['received'] == sum(v for k, v in received.items() if k != 'received')


def test_a_node_that_cannot_start_ends_the_run_with_its_reason(bundles, tmp_path):
    with pytest.raises(GraphError, match="arm b: no model named 'three'"):
        run_graph(comparison(bundles, tmp_path / 'out', arms=('one', 'three')), tmp_path / 'logs')
    assert not (tmp_path / 'out').exists()
    assert gone(children_of(os.getpid()), 1.0)


def test_bad_source_ends_the_run_with_its_reason(bundles, tmp_path):
    graph = comparison(bundles, tmp_path / 'out', source='bag', scenario=str(tmp_path / 'none'),
                       frames=0)
    with pytest.raises(GraphError, match='node camera ended with 2: .*no such file'):
        run_graph(graph, tmp_path / 'logs')


def test_a_killed_arm_ends_the_run(bundles, tmp_path):
    with started(comparison(bundles, tmp_path / 'out', frames=5000), tmp_path) as children:
        arm = next(c for c in children if c.node.title == 'b/perception')
        time.sleep(1.0)
        arm.process.kill()
        arm.process.wait()
        with pytest.raises(GraphError, match='node b/perception ended with -9'):
            check(children)
    assert all(c.process.poll() is not None for c in children)


def test_a_node_that_is_stopped_ends_the_run(tmp_path):
    """Its exit code is 0, and nobody else would ever end."""
    with started(simulation_graph(**SMALL), tmp_path) as children:
        camera, = children
        assert not check(children, 'monitor')
        deadline = time.monotonic() + 30
        while 'frames for' not in camera.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        camera.process.terminate()
        assert camera.process.wait(20) == 0
        with pytest.raises(GraphError, match='node camera was stopped before the run was done'):
            check(children, 'monitor')
        # The end of the last node counts whoever has ended before it.
        assert check(children, 'camera')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_nodes_end_with_zero_on_a_signal(bundles, tmp_path, number):
    nodes = (*perception_graph('one', models_dir=str(bundles), engine='onnxruntime').nodes,
             *simulation_graph(**SMALL).nodes)
    with started(RunGraph(nodes), tmp_path) as children:
        serving = tmp_path / 'perception.log'
        deadline = time.monotonic() + 30
        while 'serving one' not in serving.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.3)  # frames flow
        for child in children:
            child.process.send_signal(number)
        assert [c.process.wait(20) for c in children] == [0, 0]
    assert 'Traceback' not in serving.read_text()
    assert 'Traceback' not in (tmp_path / 'camera.log').read_text()


SCRIPT = '''
import sys
from pathlib import Path
from kd_perception.evaluation.comparison import ArmSpec, ComparisonSpec
from kd_perception.nodes.bringup.graph import comparison_graph
from kd_perception.nodes.bringup.runner import run_graph
models, out = sys.argv[1:]
spec = ComparisonSpec((ArmSpec('a', 'one', 'onnxruntime', threads=1),
                       ArmSpec('b', 'two', 'onnxruntime', threads=1)),
                      frames=5000, warmup=2, width=160, height=96)
run_graph(comparison_graph(spec, out, perception={'models_dir': models}), Path(out + '_logs'),
          progress=lambda *now: print(*now, flush=True))
'''


def measuring_runner(bundles, out):
    """Start a runner in a process of its own; return it when it measures, with its children."""
    runner = subprocess.Popen([sys.executable, '-c', SCRIPT, str(bundles), str(out)],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              start_new_session=True)
    for line in runner.stdout:
        if 'measuring' in line:
            return runner, children_of(runner.pid)
    pytest.fail(f'the runner ended: {runner.stderr.read()}')
    return None


def test_interrupt_writes_what_was_measured_and_leaves_no_child(bundles, tmp_path):
    runner, children = measuring_runner(bundles, tmp_path / 'out')
    assert len(children) == 4
    runner.send_signal(signal.SIGINT)
    _, errors = runner.communicate(timeout=60)
    assert runner.returncode != 0
    assert 'KeyboardInterrupt' in errors
    assert gone(children, 1.0)
    run = load_run(tmp_path / 'out' / 'recording')
    assert run.interrupted
    assert run.arm_rows('a')
    assert json.loads((tmp_path / 'out' / 'report.json').read_text())['interrupted'] is True


def test_children_end_when_the_runner_is_killed(bundles, tmp_path):
    runner, children = measuring_runner(bundles, tmp_path / 'out')
    runner.kill()
    runner.wait()
    runner.stdout.close()
    runner.stderr.close()
    assert gone(children)


LISTENER = '''
import sys
import time
import rclpy
wanted, patience = sys.argv[1], float(sys.argv[2])
rclpy.init()
node = rclpy.create_node('listener')
deadline, seen = time.monotonic() + patience, set()
while time.monotonic() < deadline and wanted not in seen:
    rclpy.spin_once(node, timeout_sec=0.1)
    seen |= {t for t, _ in node.get_topic_names_and_types()}
    seen |= {space for _, space in node.get_node_names_and_namespaces()}
print(*sorted(seen))
node.destroy_node()
rclpy.shutdown()
'''


def listen(environment, wanted, patience_s):
    return subprocess.Popen([sys.executable, '-c', LISTENER, wanted, str(patience_s)],
                            env=environment, stdout=subprocess.PIPE, text=True)


def test_the_default_domain_hears_nothing(bundles, tmp_path):
    space = f'private_{os.getpid()}'
    # The default domain, but of this host: a test has no business in a vehicle's network.
    outside = {**os.environ, **isolation(0)}
    graph = perception_graph('one', namespace=space, models_dir=str(bundles),
                             engine='onnxruntime')
    with started(graph, tmp_path) as children:
        inner = psutil.Process(children[0].process.pid).environ()
        assert {k: inner[k] for k in isolation(0)} == isolation(int(inner['ROS_DOMAIN_ID']))
        inside = {**outside, 'ROS_DOMAIN_ID': inner['ROS_DOMAIN_ID']}
        topic = f'/{space}/segmentation/mask'
        insider, outsider = listen(inside, topic, 30), listen(outside, topic, 4)
        assert topic in insider.communicate(timeout=60)[0]
        assert space not in outsider.communicate(timeout=60)[0]


def test_no_torch_where_the_engine_needs_none(bundles, tmp_path):
    graph = perception_graph('one', models_dir=str(bundles), engine='onnxruntime')
    with started(graph, tmp_path) as children:
        deadline = time.monotonic() + 30
        while 'serving one' not in children[0].log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        maps = Path(f'/proc/{children[0].process.pid}/maps').read_text()
    assert 'libtorch' not in maps
    assert 'onnxruntime' in maps


def test_command_line_of_a_node(tmp_path):
    node = perception_node('a', model='m')
    told = command(node, tmp_path / 'p.yaml')
    assert told[3:5] == ['kd_perception.nodes.perception.node', '--ros-args']
    assert '__ns:=/a' in told
    assert told[-2:] == ['--params-file', str(tmp_path / 'p.yaml')]


def start_badly(tmp_path, module, *arguments):
    """Start a node that must refuse; return the last line that it says."""
    environment = {k: v for k, v in os.environ.items() if k != PARENT_VARIABLE}
    done = subprocess.run(
        [sys.executable, '-m', f'kd_perception.nodes.{module}.node', '--ros-args', *arguments],
        env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert 'Traceback' not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_bad_ros_arguments_end_a_node_with_two(ros_environment, tmp_path):
    broken = tmp_path / 'broken.yaml'
    broken.write_text('camera: [')
    for arguments, reason in ((('--params-file', str(tmp_path / 'none.yaml')), 'none.yaml'),
                              (('--params-file', str(broken)), 'broken.yaml'),
                              (('-r', '__node:=a-b'), 'a-b')):
        assert reason in start_badly(tmp_path, 'camera', *arguments)


def test_a_file_that_is_gone_ends_a_node_with_two(ros_environment, tmp_path):
    (tmp_path / 'clip').mkdir()
    (tmp_path / 'clip' / '0.png').symlink_to(tmp_path / 'gone.png')
    line = start_badly(tmp_path, 'camera', '-p', 'source:=bag', '-p', f'bag:={tmp_path / "clip"}')
    assert 'clip' in line


def test_bad_parameter_values_end_a_node_with_two(ros_environment):
    environment = {k: v for k, v in os.environ.items() if k != PARENT_VARIABLE}
    done = subprocess.run(
        [sys.executable, '-m', 'kd_perception.nodes.perception.node', '--ros-args', '-p',
         'engine:=magic'], env=environment, capture_output=True, text=True, timeout=60,
        check=False)
    assert done.returncode == 2
    assert "engine: 'magic' is not one of" in done.stderr
    assert 'Traceback' not in done.stderr
