"""
Build what an engine needs in a process beside, while another engine serves.

``python -m kd_perception.engines.build BUNDLE --engine tensorrt --device cuda`` fills the artefact
cache and ends: 0 done, 2 with one line on stderr. It may be killed at any moment.
``load_or_build`` is what a node calls: what was built before is loaded; else a fallback is, and
the build begins.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
import os
import signal
import subprocess
import sys
import threading

from kd_perception.bundle import load_bundle, ModelBundle
from kd_perception.engines.engine import DEVICES, Engine, PRECISIONS
from kd_perception.engines.loader import available_engines, ENGINES, GRAPHS, is_built, load_engine
from kd_perception.errors import EngineError, KdPerceptionError
from kd_perception.paths import child_environment, module_command

_NICENESS = 10  # what serves goes first


class SideBuild:
    """
    One build in a process of its own, begun at once.

    :param on_done: called once, in a thread of its own, with '' when the artefact is there, else
        with the reason why not; never after ``close`` has returned.
    """

    def __init__(self, bundle: ModelBundle, engine: str, *, device: str = 'cpu',
                 precision: str = 'auto', threads: int = 0, graph: str = 'deploy',
                 on_done: Callable[[str], None]) -> None:
        self._on_done = on_done
        self._lock = threading.Lock()
        self._closed = False
        self._process = subprocess.Popen(
            module_command('kd_perception.engines.build', str(bundle.path), '--engine', engine,
                           '--device', device, '--precision', precision, '--threads',
                           str(threads), '--graph', graph),
            env=child_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, errors='replace',
            start_new_session=True)  # Ctrl-C is for whoever serves, who then closes this
        self._thread = threading.Thread(target=self._wait, name='engine build')
        self._thread.start()

    @property
    def running(self) -> bool:
        """Return whether it still builds."""
        return self._process.poll() is None

    def close(self) -> None:
        """Kill the build if it still runs; nothing half-built stays under its name."""
        with self._lock:
            self._closed = True
        if self._process.poll() is None:
            self._process.kill()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _wait(self) -> None:
        _, words = self._process.communicate()
        code, reason = self._process.returncode, ''
        if code < 0:
            reason = f'building was killed by {signal.Signals(-code).name}'
        elif code:
            lines = [line.strip() for line in words.splitlines() if line.strip()]
            reason = lines[-1] if lines else f'building ended with exit code {code}'
        with self._lock:
            if not self._closed:
                self._on_done(reason)


@dataclass(frozen=True)
class Loaded:
    """
    An engine that can serve now.

    :param engine: what was asked for, or a fallback while ``build`` is not None.
    """

    engine: Engine
    build: SideBuild | None


def load_or_build(bundle: ModelBundle, engine: str, *, device: str = 'cpu',
                  precision: str = 'auto', threads: int = 0,
                  on_done: Callable[[str], None]) -> Loaded:
    """
    Load a named engine where it is built; else build it beside and load a fallback.

    Where nothing else can run the bundle, it is built here and now.

    :param on_done: as of :class:`SideBuild`; after '' the same call loads the engine.
    :raises EngineError: when neither the engine nor a fallback can be had.
    :raises BundleError: when the graph is missing or damaged.
    """
    def load(name: str, where: str, wish: str) -> Engine:
        return load_engine(bundle, name, device=where, precision=wish, threads=threads)

    if is_built(bundle, engine, device=device, precision=precision):
        return Loaded(load(engine, device, precision), None)
    for name, where in _fallbacks(bundle, engine, device):
        try:
            fallback = load(name, where, 'auto')
        except EngineError:
            continue
        try:
            return Loaded(fallback, SideBuild(
                bundle, engine, device=device, precision=precision, threads=threads,
                on_done=on_done))
        except OSError as error:
            fallback.close()
            raise EngineError(f'no process to build {engine} in: {error.strerror}') from None
    return Loaded(load(engine, device, precision), None)


def _fallbacks(bundle: ModelBundle, engine: str, device: str) -> list[tuple[str, str]]:
    """Return other engines with their devices: on the same device first, ready ones first."""
    present = [name for name, state in available_engines().items()
               if not state.startswith('missing') and name != engine]
    pairs = [(name, where) for where in dict.fromkeys((device, 'cpu'))
             for name in ENGINES if name in present and where.partition(':')[0] in DEVICES[name]]
    return sorted(pairs, key=lambda pair: (pair[1] != device, not is_built(
        bundle, pair[0], device=pair[1])))


def main(arguments: Sequence[str] | None = None) -> int:
    """Build one artefact."""
    parser = argparse.ArgumentParser(prog='python -m kd_perception.engines.build',
                                     description='Fill the artefact cache for one engine.')
    parser.add_argument('bundle', help='directory of a model bundle')
    parser.add_argument('--engine', required=True, choices=ENGINES)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--precision', default='auto', choices=PRECISIONS)
    parser.add_argument('--threads', type=int, default=0)
    parser.add_argument('--graph', default='deploy', choices=tuple(GRAPHS))
    args = parser.parse_args(arguments)
    try:
        load_engine(load_bundle(args.bundle, verify=False), args.engine, device=args.device,
                    precision=args.precision, threads=args.threads, graph=args.graph).close()
    except KdPerceptionError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    os.nice(_NICENESS)
    sys.exit(main())
