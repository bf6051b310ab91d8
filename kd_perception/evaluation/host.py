"""
What machine this is and which packages run on it: the small print of every report.

Out: plain words by key. No torch, no ROS; a GPU is looked for by its driver's files and tool.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
import os
import platform
import shutil
import subprocess

import psutil

from kd_perception.engines.machine import cpu_model

PACKAGES = ('kd_perception', 'numpy', 'opencv-python-headless', 'opencv-python', 'onnxruntime',
            'onnxruntime-gpu', 'openvino', 'torch', 'tensorrt', 'timm',
            'segmentation-models-pytorch', 'safetensors', 'rosbags', 'moderngl', 'carla',
            'ros-rclpy', 'ros-fastrtps')


def host_info() -> dict[str, str]:
    """Return CPU, cores, memory, GPU, system, Python and the load."""
    cores = psutil.cpu_count(logical=False) or 0
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        usable = os.cpu_count() or 0
    return {
        'cpu': cpu_model(),
        'cores': f'{usable} usable, {cores or "unknown"} physical',
        'memory': f'{psutil.virtual_memory().total / 2**30:.1f} GiB',
        'gpu': gpu_model() or 'none',
        'system': _system(),
        'python': platform.python_version(),
        'load': '1, 5, 15 min: ' + ', '.join(f'{v:.2f}' for v in os.getloadavg()),
    }


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    distribution = os.environ.get('ROS_DISTRO')
    if distribution:
        found['ROS'] = distribution
    return found


def gpu_model() -> str:
    """Return the names of NVIDIA GPUs, or '' without any."""
    tool = shutil.which('nvidia-smi')
    if tool is None:
        return ''
    try:
        done = subprocess.run([tool, '--query-gpu=name,driver_version', '--format=csv,noheader'],
                              capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ''
    if done.returncode != 0:
        return ''
    return '; '.join(line.strip() for line in done.stdout.splitlines() if line.strip())


def _system() -> str:
    try:
        name = platform.freedesktop_os_release().get('PRETTY_NAME', platform.system())
    except OSError:
        name = platform.system()
    return f'{name}, kernel {platform.release()}, {platform.machine()}'
