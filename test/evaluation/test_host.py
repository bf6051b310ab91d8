"""The small print of a report is found on this very machine."""

from __future__ import annotations

from kd_perception.evaluation.host import host_info, package_versions


def test_host_is_described_in_words():
    info = host_info()
    assert set(info) == {'cpu', 'cores', 'memory', 'gpu', 'system', 'python', 'load'}
    assert all(isinstance(v, str) and v for v in info.values())
    assert 'GiB' in info['memory']
    assert info['python'].startswith('3.')


def test_versions_of_what_is_installed(monkeypatch):
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    found = package_versions(('numpy', 'no-such-package-anywhere'))
    assert set(found) == {'numpy', 'ROS'}
    assert found['numpy'][0].isdigit()


def test_a_gpu_tool_that_fails_means_no_gpu(monkeypatch, tmp_path):
    tool = tmp_path / 'nvidia-smi'
    tool.write_text('#!/bin/sh\necho "no driver"; exit 9\n')
    tool.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path))
    assert host_info()['gpu'] == 'none'
    tool.write_text('#!/bin/sh\necho "Some GPU, 570.1"\n')
    assert host_info()['gpu'] == 'Some GPU, 570.1'
