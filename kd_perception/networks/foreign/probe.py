"""
Runs graphs of other makers in a child process, with a limit of memory and of time.

A graph may ask for all memory, loop for ever or crash its runtime; then the child dies and the
import says so. Run as ``python -m kd_perception.networks.foreign.probe FOLDER``: the folder holds
``jobs.json`` and ``feed.npz``; ``<n>.npz`` or ``<n>.txt`` (the reason) come out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from kd_perception.errors import BundleError
from kd_perception.paths import child_environment, module_command

TIMEOUT_S = 300.0
MEMORY_SHARE = 0.7


@dataclass(frozen=True)
class Job:
    """
    One graph to run once.

    :param runtime: ``onnxruntime`` or ``openvino``.
    :param feed: which picture to feed.
    :param shape: of the input, for runtimes that want it beforehand.
    """

    model: str
    runtime: str
    feed: str
    shape: tuple[int, ...]


def run(jobs: Sequence[Job], feeds: Mapping[str, np.ndarray], where: str, *,
        timeout_s: float = TIMEOUT_S) -> list[dict[str, np.ndarray] | str]:
    """
    Return, for each job, the outputs by name, or why it failed.

    :raises BundleError: when the child died or took too long; the message names ``where``.
    """
    with tempfile.TemporaryDirectory(prefix='kd_perception_probe_') as name:
        folder = Path(name)
        (folder / 'jobs.json').write_text(json.dumps(
            [{**asdict(j), 'model': os.path.abspath(j.model)} for j in jobs]))
        np.savez(folder / 'feed.npz', **feeds)  # type: ignore[arg-type]
        try:
            # Modules that lie beside a downloaded graph are not to be run.
            child = subprocess.run(module_command('kd_perception.networks.foreign.probe', name),
                                   env=child_environment(), cwd=folder, check=False,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise BundleError(f'{where}: one frame took more than {timeout_s:.0f} s; the graph '
                              'does not end or is too slow') from None
        results: list[dict[str, np.ndarray] | str] = []
        for number in range(len(jobs)):
            if (folder / f'{number}.txt').is_file():
                results.append((folder / f'{number}.txt').read_text())
            elif (folder / f'{number}.npz').is_file():
                with np.load(folder / f'{number}.npz', allow_pickle=False) as file:
                    results.append({str(n): file[f'v{i}'] for i, n in enumerate(file['names'])})
            else:
                last = child.stderr.decode(errors='replace').strip().splitlines()
                why = f'signal {-child.returncode}' if child.returncode < 0 else (
                    last[-1] if last else f'code {child.returncode}')
                raise BundleError(f'{where}: {jobs[number].runtime} died of this graph ({why}); '
                                  'it is damaged or needs more memory than there is')
        return results


def _limit_memory() -> None:
    try:
        import resource
        whole = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (ImportError, ValueError, OSError):
        return
    limit = int(whole * MEMORY_SHARE)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _onnxruntime(job: dict[str, Any], picture: np.ndarray) -> dict[str, np.ndarray]:
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(job['model'], options,
                                           providers=['CPUExecutionProvider'])
    names = [o.name for o in session.get_outputs() if o.type.startswith('tensor(')]
    values = session.run(names, {session.get_inputs()[0].name: picture})
    return {n: np.asarray(v) for n, v in zip(names, values, strict=True)}


def _openvino(job: dict[str, Any], picture: np.ndarray) -> dict[str, np.ndarray]:
    import openvino
    core = openvino.Core()
    model = core.read_model(job['model'])
    model.reshape(list(job['shape']))
    compiled = core.compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    result = compiled([picture])
    # A tensor may also carry names of the exporter or of the runtime's passes.
    ours = {'mask', 'confidence', 'logits', 'probabilities'}
    return {min(ours & o.get_names() or o.get_names()): np.asarray(result[o])
            for o in compiled.outputs}


def main(folder: Path) -> None:
    """Run the jobs of a folder one by one."""
    _limit_memory()
    with np.load(folder / 'feed.npz', allow_pickle=False) as file:
        feeds = {k: file[k] for k in file.files}
    runtimes = {'onnxruntime': _onnxruntime, 'openvino': _openvino}
    for number, job in enumerate(json.loads((folder / 'jobs.json').read_text())):
        try:
            outputs = runtimes[job['runtime']](job, feeds[job['feed']])
        except Exception as error:  # runtimes raise whatever they like
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            # The reason is first with ONNX Runtime and last with OpenVINO.
            line = lines[0 if job['runtime'] == 'onnxruntime' else -1] if lines else ''
            (folder / f'{number}.txt').write_text((line or type(error).__name__)[:300])
            continue
        # By position: names are the graph's, and one may be that of an argument here.
        values: dict[str, Any] = {f'v{i}': v for i, v in enumerate(outputs.values())}
        np.savez(folder / f'.{number}.npz', names=np.array(list(outputs)), **values)
        os.replace(folder / f'.{number}.npz', folder / f'{number}.npz')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
