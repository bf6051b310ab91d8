"""
Build what an engine needs in a process beside, while another model serves.

``python -m kd_perception.engines.build BUNDLE --engine tensorrt --device cuda`` fills the artefact
cache and ends: 0 done, 2 with one line on stderr. It may be killed at any moment. With ``--engine
auto`` it measures which engine is fastest, which leaves behind what was built for each of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
import os
import signal
import subprocess
import sys

import numpy as np

from kd_perception.bundle import load_bundle, ModelBundle
from kd_perception.engines.choice import load_fastest, remembered
from kd_perception.engines.engine import Engine, PRECISIONS
from kd_perception.engines.loader import ENGINES, is_built, load_engine
from kd_perception.errors import BuildError, EngineError, KdPerceptionError
from kd_perception.interrupts import end_with
from kd_perception.paths import child_environment, module_command

_NICENESS = 10  # what serves goes first
_WHY = 'cannot build: '  # begins the line that says why


def is_prepared(bundle: ModelBundle, engine: str, *, device: str = 'cpu',
                precision: str = 'auto', threads: int = 0, batch: int = 1) -> bool:
    """
    Return whether loading for a node takes no building and no measuring.

    :param batch: pictures that one call may have.
    """
    if engine == 'auto':
        choice = remembered(bundle, device=device, precision=precision, threads=threads)
        if choice is None or batch == 1:
            return choice is not None
        engine, precision = choice.engine, choice.precision
    return is_built(bundle, engine, device=device, precision=precision, batch=batch)


class SideBuild:
    """
    One build in a process of its own, begun at once.

    It ends with the thread that makes it, also where that is killed: what nobody waits for would
    take the cores for minutes.

    :raises OSError: when there can be no process.
    """

    def __init__(self, bundle: ModelBundle, engine: str, *, device: str = 'cpu',
                 precision: str = 'auto', threads: int = 0, batch: int = 1) -> None:
        self._what = f'building for {engine} on {device}'
        self._process = subprocess.Popen(
            module_command('kd_perception.engines.build', str(bundle.path), '--engine', engine,
                           '--device', device, '--precision', precision, '--threads',
                           str(threads), '--batch', str(batch), '--parent', str(os.getpid())),
            env=child_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, errors='replace',
            start_new_session=True)  # Ctrl-C is for whoever serves, who then stops this

    def wait(self) -> None:
        """
        Return when the artefact is there.

        :raises BuildError: why not, in one line.
        """
        _, words = self._process.communicate()
        code = self._process.returncode
        if code < 0:
            raise BuildError(f'{self._what} was killed by {signal.Signals(-code).name}')
        if code:
            lines = [line.strip() for line in words.splitlines() if line.strip()]
            # Libraries may warn behind it, at the very end of the process.
            told = [line.removeprefix(_WHY) for line in lines if line.startswith(_WHY)] or lines
            raise BuildError(told[-1] if told else f'{self._what} ended with {code}')

    def stop(self) -> None:
        """Kill the build if it still runs, from any thread; nothing half-built stays."""
        self._process.kill()


def main(arguments: Sequence[str] | None = None) -> int:
    """Build one artefact."""
    parser = argparse.ArgumentParser(prog='python -m kd_perception.engines.build',
                                     description='Fill the artefact cache for one engine.')
    parser.add_argument('bundle', help='directory of a model bundle')
    parser.add_argument('--engine', required=True, choices=('auto', *ENGINES))
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--precision', default='auto', choices=PRECISIONS)
    parser.add_argument('--threads', type=int, default=0)
    parser.add_argument('--batch', type=int, default=1, metavar='N',
                        help='also for calls with 2 to N pictures')
    parser.add_argument('--parent', type=int, metavar='PID', help='end when that process does')
    args = parser.parse_args(arguments)
    if args.parent is not None:
        end_with(args.parent, signal.SIGKILL)
    try:
        engine = _load(load_bundle(args.bundle, verify=False), args)
        with suppress(EngineError):  # a graph of fixed batch gets its pictures one by one
            for number in range(2, args.batch + 1):
                engine.infer(np.zeros((number, *engine.input_shape, 3), np.uint8))
        engine.close()
    except KdPerceptionError as error:
        print(f'{_WHY}{error}', file=sys.stderr)
        return 2
    return 0


def _load(bundle: ModelBundle, args: argparse.Namespace) -> Engine:
    wish = {'device': args.device, 'precision': args.precision, 'threads': args.threads}
    if args.engine == 'auto':
        return load_fastest(bundle, **wish)[0]
    return load_engine(bundle, args.engine, **wish)


if __name__ == '__main__':
    os.nice(_NICENESS)
    sys.exit(main())
