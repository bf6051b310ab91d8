"""The doctor finds what is there, and names the cure for what is not."""

from __future__ import annotations

import json
from pathlib import Path
import stat
import sys

import pytest

from kd_perception.cli import checks, ros_checks
from kd_perception.cli.main import main


def by_name(found: list[checks.Check]) -> dict[str, checks.Check]:
    return {c.name: c for c in found}


def test_json_on_this_machine(capsys):
    code = main(['doctor', '--json'])
    data = json.loads(capsys.readouterr().out)
    states = {c['name']: c['state'] for c in data['checks']}
    assert states['core'] == 'ok'
    assert set(states.values()) <= {'ok', 'warn', 'missing'}
    assert code == (2 if 'missing' in states.values() else 0)
    for check in data['checks']:
        assert check['detail']
        assert check['fix'] or check['state'] == 'ok'


def test_page_keeps_square_brackets(capsys, monkeypatch):
    """Markup would swallow the extras in "kd_perception[train]"."""
    monkeypatch.setattr('kd_perception.cli.doctor.general_checks', lambda: [
        checks.Check('packages', 'training', 'warn', 'torch', "pip install 'x[train]'")])
    monkeypatch.setattr('kd_perception.cli.doctor.ros_checks', lambda: [
        checks.Check('ROS', 'rclpy', 'missing', 'not found', 'source it')])
    monkeypatch.setattr('kd_perception.cli.doctor.carla_checks', lambda server: [])
    assert main(['doctor']) == 2
    page = capsys.readouterr().out
    assert "pip install 'x[train]'" in page
    assert '0 ok, 1 to look at, 1 missing' in page


def test_absent_packages_are_missing_or_warned(monkeypatch):
    absent = {'rosbags', 'timm', 'moderngl'}
    find = checks.installed
    monkeypatch.setattr(checks, 'installed', lambda m: m not in absent and find(m))
    found = by_name(checks.general_checks())
    assert found['core'].state == 'missing'
    assert 'rosbags' in found['core'].detail
    assert found['training'].state == 'warn'
    assert '[train]' in found['training'].fix
    assert found['moderngl'].state == 'warn'
    assert '[sim]' in found['moderngl'].fix


@pytest.mark.parametrize(('gpu', 'state'), [('', 'ok'), ('NVIDIA H200', 'warn')])
def test_tensorrt_is_missed_where_there_is_a_gpu(monkeypatch, gpu, state):
    monkeypatch.setattr(checks, 'gpu_model', lambda: gpu)
    monkeypatch.setattr(checks, 'available_engines', lambda: {
        'onnxruntime': '1', 'tensorrt': 'missing: pip install x'})
    assert by_name(checks._engines())['tensorrt'].state == state


def test_no_engine_at_all_is_missing(monkeypatch):
    monkeypatch.setattr(checks, 'available_engines', lambda: {'x': 'missing: pip install x'})
    found = by_name(checks.general_checks())
    assert found['x'].state == 'missing'
    assert found['x'].fix == 'pip install x'
    monkeypatch.setattr(checks, 'available_engines', lambda: {'x': 'missing: y', 'z': '1'})
    assert by_name(checks.general_checks())['x'].state == 'warn'


@pytest.mark.parametrize(('line', 'state'), [
    (f'#!{sys.executable}', 'ok'),
    ('#!/usr/bin/env sh', 'warn'),
    ('#!/no/such/python3', 'warn'),
    ('no interpreter', 'warn')])
def test_shebang_trap(tmp_path, line, state):
    script = tmp_path / 'kd_perception'
    script.write_text(f'{line}\nimport sys\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    check = checks.shebang(str(script))
    assert check.state == state
    assert bool(check.fix) == (state == 'warn')


def test_shebang_of_a_file_that_went_away(tmp_path):
    assert checks.shebang(str(tmp_path / 'gone')).state == 'warn'


def test_shared_memory(tmp_path, monkeypatch):
    assert checks.shared_memory(tmp_path / 'none').state == 'warn'
    gib = 2 ** 30

    def usage(total: int, free: int) -> None:
        monkeypatch.setattr(checks.shutil, 'disk_usage',
                            lambda _: type('U', (), {'total': total, 'free': free})())

    usage(gib, gib // 2)
    assert checks.shared_memory(tmp_path).state == 'ok'
    usage(gib, 2 ** 20)
    assert '--shm-size' in checks.shared_memory(tmp_path).fix
    usage(2 ** 24, 2 ** 24)
    assert checks.shared_memory(tmp_path).state == 'warn'


def test_probe_reports_crashes_errors_and_hangs():
    assert checks.probe('print("a"); print("b")') == (True, 'b')
    assert checks.probe('raise ValueError("broken")') == (False, 'ValueError: broken')
    assert checks.probe('import os, signal; os.kill(os.getpid(), signal.SIGSEGV)') == (
        False, 'crashed by signal 11')
    works, reason = checks.probe('import time; time.sleep(9)', timeout_s=0.5)
    assert not works
    assert 'no answer' in reason


def test_gpu_that_torch_cannot_use(monkeypatch):
    monkeypatch.setattr(checks, 'gpu_model', lambda: 'Some GPU')
    monkeypatch.setattr(checks, 'probe', lambda *_: (True, 'False'))
    assert by_name(checks.general_checks())['GPU'].state == 'warn'


def test_missing_share_files(monkeypatch):
    from kd_perception.errors import ConfigError

    def gone() -> Path:
        raise ConfigError('nothing there')

    monkeypatch.setattr(checks, 'share_directory', gone)
    found = by_name(checks.general_checks())
    assert found['shared files'].state == 'missing'
    assert 'own models' not in found


def test_without_ros_only_nodes_are_missing(monkeypatch):
    monkeypatch.setattr(ros_checks, 'ros_source', lambda _: '')
    found = by_name(ros_checks.ros_checks({}))
    assert found['rclpy'].state == 'missing'
    assert 'tools.pip_ros' in found['rclpy'].fix
    assert found['image codec'].state == 'ok'


def test_ros_of_this_environment():
    if not checks.installed('vision_msgs'):  # importing it here would replace the process
        pytest.skip('no ROS in this environment')
    found = by_name(ros_checks.ros_checks())
    assert found['rclpy'].state == 'ok'
    assert found['messages'].state == 'ok'
    assert found['vision_msgs'].state == 'ok'


def test_sourced_ros_is_told_from_wheels(tmp_path, monkeypatch):
    package = tmp_path / 'opt' / 'lib' / 'rclpy'
    package.mkdir(parents=True)
    (package / '__init__.py').touch()
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, 'rclpy', raising=False)
    assert ros_checks.ros_source({'AMENT_PREFIX_PATH': str(tmp_path / 'opt')}) == 'sourced'
    assert ros_checks.ros_source({}) == 'sourced'  # outside of this environment


@pytest.mark.parametrize(('environment', 'state', 'word'), [
    ({}, 'ok', 'compare'),
    ({'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp'}, 'ok', 'cyclonedds'),
    ({'FASTDDS_DEFAULT_PROFILES_FILE': '/x.xml'}, 'warn', 'ignores'),
    ({'FASTRTPS_DEFAULT_PROFILES_FILE': '/no/such.xml'}, 'warn', 'does not exist'),
    ({'FASTRTPS_DEFAULT_PROFILES_FILE': __file__}, 'ok', 'your own')])
def test_dds_profile(environment, state, word):
    (check,) = ros_checks.dds_profile(environment)
    assert check.state == state
    assert word in check.detail


def test_variables_that_hurt(monkeypatch):
    monkeypatch.setattr(ros_checks, 'probe', lambda *_: (True, 'works'))
    monkeypatch.setattr(ros_checks, 'ros_source', lambda _: 'wheels')
    monkeypatch.setattr(ros_checks.shutil, 'which', lambda _: '/usr/bin/ros2')
    found = by_name(ros_checks.ros_checks({'ROS_PYTHON_CHECK_FIELDS': '1'}))
    assert found['ROS_PYTHON_CHECK_FIELDS'].state == 'warn'
    assert found['AMENT_PREFIX_PATH'].fix == f'export AMENT_PREFIX_PATH={sys.prefix}'


def test_broken_rclpy_and_cv_bridge(monkeypatch):
    monkeypatch.setattr(ros_checks, 'probe', lambda *_: (False, 'ImportError: numpy'))
    monkeypatch.setattr(ros_checks, 'installed', lambda m: m != 'launch')
    monkeypatch.setattr(ros_checks, 'ros_source', lambda _: 'sourced')
    monkeypatch.setattr(ros_checks, 'probe_cv_bridge',
                        lambda: (frozenset(), 'cv_bridge fails its self-test'))
    found = by_name(ros_checks.ros_checks({}))
    assert found['rclpy'].state == 'missing'
    assert 'ImportError: numpy' in found['rclpy'].detail
    assert found['image codec'].detail == 'own codec (imaging); cv_bridge fails its self-test'


def test_cv_bridge_is_named_where_it_is_used(monkeypatch):
    monkeypatch.setattr(ros_checks, 'probe_cv_bridge',
                        lambda: (frozenset({'rgb8'}), 'passes its self-test'))
    assert ros_checks.image_codec().detail == 'cv_bridge; passes its self-test'
