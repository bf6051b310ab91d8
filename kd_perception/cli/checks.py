"""
What ``doctor`` looks at besides ROS: packages, runtimes, GPU, simulator, machine, own files.

Out: ``Check`` s. Whatever may hang, crash or replace the process (a GL driver, the bootstrap of
the ROS wheels) is tried in a child process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
import importlib.util
import os
from pathlib import Path
import platform
import shutil
import subprocess
import sys

import psutil

from kd_perception.engines.choice import remembered_choices
from kd_perception.engines.loader import available_engines
from kd_perception.engines.machine import cpu_model
from kd_perception.errors import KdPerceptionError
from kd_perception.evaluation.host import gpu_model, package_versions
from kd_perception.paths import (
    cache_directory,
    child_environment,
    code_command,
    models_directory,
    share_directory,
)

OK, WARN, MISSING = 'ok', 'warn', 'missing'
_GIB = 2 ** 30

# Import name and distribution names by what needs them.
_CORE = {'numpy': ('numpy',), 'cv2': ('opencv-python-headless', 'opencv-python'),
         'yaml': ('PyYAML',), 'safetensors': ('safetensors',), 'rosbags': ('rosbags',),
         'mcap': ('mcap',), 'zstandard': ('zstandard',), 'matplotlib': ('matplotlib',)}
_TRAINING = {'torch': ('torch',), 'torchvision': ('torchvision',), 'timm': ('timm',),
             'segmentation_models_pytorch': ('segmentation-models-pytorch',),
             'accelerate': ('accelerate',), 'onnx': ('onnx',), 'tensorboard': ('tensorboard',)}


@dataclass(frozen=True)
class Check:
    """
    One line of ``doctor``.

    :param state: ``ok``; ``warn``: works, but not as well as it could, or a part is absent;
        ``missing``: something that everything needs.
    :param fix: what to do, or ''.
    """

    topic: str
    name: str
    state: str
    detail: str
    fix: str = ''


def general_checks() -> list[Check]:
    """Return all checks of this module, in reading order."""
    groups: tuple[Callable[[], Iterable[Check]], ...] = (
        _python, _packages, _engines, _simulator, _gpu, _machine, _files)
    return [check for group in groups for check in group()]


def probe(code: str, timeout_s: float = 30.0) -> tuple[bool, str]:
    """
    Run Python ``code`` in a child.

    :returns: (whether it ended well, the last line that it printed or the reason).
    """
    try:
        done = subprocess.run(code_command(code), capture_output=True, text=True,
                              env=child_environment(), timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return False, f'no answer within {timeout_s:.0f} s'
    text = (done.stdout if done.returncode == 0 else done.stderr).strip()
    if done.returncode < 0:
        return False, f'crashed by signal {-done.returncode}'
    return done.returncode == 0, text.splitlines()[-1] if text else ''


def installed(module: str) -> bool:
    """Return whether ``module`` can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _python() -> Iterable[Check]:
    version = platform.python_version()
    state = OK if sys.version_info >= (3, 10) else MISSING
    yield Check('python', 'interpreter', state, f'{version} at {sys.executable}',
                '' if state == OK else 'use Python 3.10 or newer')
    yield shebang()


def shebang(script: str | None = None) -> Check:
    """
    Check which interpreter the ``kd_perception`` on the path runs.

    Scripts made by colcon carry the system's Python, which sees nothing of a virtual environment.
    """
    name = 'kd_perception command'
    found = script or shutil.which('kd_perception')
    if not found:
        return Check('python', name, OK,
                     'not on the path; python -m kd_perception.cli.main does the same')
    try:
        first = Path(found).read_bytes()[:300].split(b'\n')[0].decode(errors='replace')
    except OSError as error:
        return Check('python', name, WARN, f'{found}: {error.strerror}')
    words = first[2:].split() if first.startswith('#!') else []
    interpreter = words[-1] if words and words[0].endswith('/env') else ''.join(words[:1])
    resolved = shutil.which(interpreter) if interpreter else None
    here = Path(sys.executable)
    if resolved and Path(resolved).parent.resolve() == here.parent.resolve():
        return Check('python', name, OK, found)
    if not resolved:
        return Check('python', name, WARN, f'{found} asks for {interpreter or "no interpreter"}, '
                     'which does not exist', 'install the package again')
    return Check(
        'python', name, WARN,
        f'{found} runs {resolved}, not {here}: packages of this environment are not seen by it',
        'make the environment with "python3 -m venv --system-site-packages", activate it, and '
        'build with "python -m colcon build", so that scripts carry its interpreter')


def _packages() -> Iterable[Check]:
    absent = [m for m in _CORE if not installed(m)]
    yield Check('packages', 'core', MISSING if absent else OK,
                f'missing: {", ".join(absent)}' if absent else _versions(_CORE),
                'pip install kd_perception' if absent else '')
    absent = [m for m in _TRAINING if not installed(m)]
    yield Check('packages', 'training', WARN if absent else OK,
                f'missing: {", ".join(absent)}; train, label, distill and export need them'
                if absent else _versions(_TRAINING),
                "pip install 'kd_perception[train]'" if absent else '')


def _engines() -> Iterable[Check]:
    engines = available_engines()
    usable = [name for name, state in engines.items() if not state.startswith('missing')]
    for name, state in engines.items():
        if name in usable:
            yield Check('engines', name, OK, state)
        elif name == 'tensorrt' and usable and not gpu_model():
            yield Check('engines', name, OK, 'not installed; it needs an NVIDIA GPU')
        else:
            yield Check('engines', name, WARN if usable else MISSING, 'not installed',
                        state.partition(': ')[2])
    for choice in remembered_choices()[:3]:
        yield Check('engines', 'fastest', OK, f'{choice["model"]}: {choice["reason"]}')


def _gpu() -> Iterable[Check]:
    found = gpu_model()
    if not found:
        yield Check('machine', 'GPU', OK, 'none found by nvidia-smi; everything runs on the CPU')
        return
    detail, fix, state = found, '', OK
    if installed('torch'):
        _, answer = probe('import torch; print(torch.cuda.is_available())', 60)
        if answer != 'True':
            state, detail = WARN, f'{found}; but torch cannot use it'
            fix = 'update the driver, or install the torch build for its CUDA version'
    yield Check('machine', 'GPU', state, detail, fix)


def _simulator() -> Iterable[Check]:
    if not installed('moderngl'):
        yield Check('simulator', 'moderngl', WARN, 'not installed: no embedded simulator',
                    "pip install 'kd_perception[sim]'")
        return
    works, answer = probe(
        'import moderngl\n'
        "c = moderngl.create_context(standalone=True, backend='egl', require=330,\n"
        "    libgl='libGL.so.1', libegl='libEGL.so.1')\n"
        "print(c.info['GL_RENDERER'])")
    yield Check('simulator', 'OpenGL by EGL', OK if works else WARN, answer or 'no context',
                '' if works else 'sudo apt-get install libegl1 libgl1 libgl1-mesa-dri')


def _machine() -> Iterable[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    yield Check('machine', 'CPU', OK, f'{cores} cores, {cpu_model()}')
    memory = psutil.virtual_memory()
    enough = memory.available > 3 * _GIB
    yield Check('machine', 'memory', OK if enough else WARN,
                f'{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free',
                '' if enough else 'end other programs: training and the demo want 3 GiB')
    free = shutil.disk_usage(Path.cwd()).free
    enough = free > 5 * _GIB
    yield Check('machine', 'disk', OK if enough else WARN, f'{free / _GIB:.0f} GiB free here',
                '' if enough else 'free some space: the demo wants 5 GiB')
    yield shared_memory()


def shared_memory(folder: Path = Path('/dev/shm')) -> Check:
    """Check the space through which Fast DDS hands images from process to process."""
    if not folder.is_dir():
        return Check('machine', 'shared memory', WARN, f'{folder} is missing: images go by UDP',
                     f'mount a tmpfs at {folder}')
    usage = shutil.disk_usage(folder)
    detail = f'{usage.free / 2**20:.0f} of {usage.total / 2**20:.0f} MiB free in {folder}'
    # Docker gives 64 MB; a comparison of two arms holds up to seven segments of 16 MB.
    if usage.total < 60 * 2**20 or usage.free < 48 * 2**20:
        return Check('machine', 'shared memory', WARN, detail + ': images may be lost',
                     'end old ROS nodes, remove stale fastrtps_* there, or start the container '
                     'with --shm-size=512m')
    return Check('machine', 'shared memory', OK, detail)


def _files() -> Iterable[Check]:
    try:
        share = share_directory()
        yield Check('files', 'shared files', OK, str(share))
    except KdPerceptionError as error:
        yield Check('files', 'shared files', MISSING, str(error), 'install the package again')
        return
    shipped = sorted(p.parent.name for p in share.glob('models/*/bundle.yaml'))
    yield Check('files', 'shipped models', OK if shipped else WARN,
                ', '.join(shipped) or 'none', '' if shipped else 'get the whole repository')
    own = sorted(p.parent.name for p in models_directory().glob('*/bundle.yaml'))
    yield Check('files', 'own models', OK, f'{", ".join(own) or "none"} in {models_directory()}')
    yield _writable('models directory', models_directory())
    yield _writable('cache directory', cache_directory())


def _writable(name: str, folder: Path) -> Check:
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if os.access(existing, os.W_OK):
        return Check('files', name, OK, str(folder))
    return Check('files', name, WARN, f'{folder} cannot be written',
                 'set XDG_DATA_HOME and XDG_CACHE_HOME to directories of your own')


def _versions(table: Mapping[str, tuple[str, ...]]) -> str:
    versions = package_versions(name for names in table.values() for name in names)
    return ', '.join(f'{name} {version}' for name, version in versions.items() if name != 'ROS')
