"""
Starts the nodes of a graph as child processes, without ``launch``, and sees them off.

No child outlives the runner: they are interrupted, then terminated, then killed, the sooner the
more often the user presses Ctrl-C; and a child asks the kernel for an interrupt for the case that
the runner itself is killed. Runs are isolated (see
``environment``) unless they are told to join the user's own domain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, ExitStack, nullcontext
from dataclasses import dataclass, replace
import json
import os
from pathlib import Path
import signal
import subprocess
import tempfile
import time

from kd_perception.errors import GraphError
from kd_perception.interrupts import deferred
from kd_perception.nodes.bringup.graph import NodeSpec, parameter_yaml, RunGraph
from kd_perception.nodes.environment import (
    isolation,
    PARENT_VARIABLE,
    reserved_domain,
    tuning,
)
from kd_perception.nodes.monitor.live_figures import LiveArm
from kd_perception.nodes.monitor.pending import read_live, read_progress
from kd_perception.paths import child_environment, module_command

ProgressCallback = Callable[[int, int, str], None]
ArmsCallback = Callable[[Sequence[LiveArm]], None]
_POLL_S = 0.1
_PATIENCE_S = 5.0  # after all signals but the first


@dataclass(frozen=True)
class Child:
    """A node that was started."""

    node: NodeSpec
    process: subprocess.Popen[bytes]
    log: Path

    def last_words(self) -> str:
        """Return the last line of the node's log that says something."""
        lines = [line.strip() for line in self.log.read_text(errors='replace').splitlines()]
        said = [line for line in lines if line]
        wrong = [line for line in said if 'ERROR' in line or 'Error' in line]
        return (wrong or said or ['it said nothing'])[-1]


def run_graph(graph: RunGraph, log_dir: Path, *, progress: ProgressCallback | None = None,
              arms: ArmsCallback | None = None, isolated: bool = True,
              environment: Mapping[str, str] | None = None) -> None:
    """
    Start all nodes and wait until the node with which the run ends is done.

    :param log_dir: output of each node goes to ``<title>.log`` in it.
    :param progress: called with (done, total, note) while the run goes on.
    :param arms: called before that with the figures of the arms, where the monitor tells them.
    :param isolated: run in a private DDS domain on this host alone.
    :param environment: variables that win over all others.
    :raises GraphError: when a node dies or another one ends first, with what it said last.
    :raises KeyboardInterrupt: passed on when every child has ended.
    """
    with tempfile.TemporaryDirectory(prefix='kd_perception.') as scratch:
        told = Path(scratch) / 'progress.json'
        with started(_telling(graph, told), log_dir, isolated=isolated,
                     environment=environment) as children:
            last: tuple[int, int, str] | None = None
            while True:
                ended = check(children, graph.ends_with)
                now = read_progress(told)
                if arms is not None and (figures := read_live(told)):
                    arms(figures)
                if progress is not None and now is not None and now != last:
                    progress(*now)
                if ended:
                    return
                last = now
                time.sleep(_POLL_S)


@contextmanager
def started(graph: RunGraph, log_dir: Path, *, isolated: bool = True,
            environment: Mapping[str, str] | None = None) -> Iterator[list[Child]]:
    """Start all nodes of ``graph``, and end them when the block is left, however it is left."""
    log_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        domain = stack.enter_context(reserved_domain() if isolated else nullcontext(None))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='kd_perception.')))
        variables = {**child_environment(), **tuning(), PARENT_VARIABLE: str(os.getpid()),
                     'PYTHONUNBUFFERED': '1'}
        if domain is not None:
            variables.update(isolation(domain))
        variables.update(environment or {})
        children: list[Child] = []
        stack.callback(_end, children)
        for node in graph.nodes:
            with deferred():  # a child that nobody knows would be left
                children.append(_start(node, scratch, log_dir, variables))
        yield children


def check(children: Sequence[Child], ends_with: str = '') -> bool:
    """
    Return whether the run is done, which is when the node ``ends_with`` has ended well.

    :raises GraphError: when a node has failed, or another one has ended: without it the run would
        never come to its end.
    """
    codes = [(child, child.process.poll()) for child in children]
    for child, code in codes:
        if code:
            raise GraphError(f'node {child.node.title} ended with {code}: {child.last_words()} '
                             f'(log: {child.log})')
    if any(code == 0 and child.node.title == ends_with for child, code in codes):
        return True
    for child, code in codes:
        if code == 0:
            raise GraphError(f'node {child.node.title} was stopped before the run was done: '
                             f'{child.last_words()} (log: {child.log})')
    return False


def command(node: NodeSpec, parameter_file: Path) -> list[str]:
    """Return the command line that starts ``node`` in this interpreter."""
    # Logs go to the console alone, which the runner keeps.
    out = module_command(node.module, '--ros-args', '--disable-external-lib-logs',
                         '-r', f'__node:={node.name}')
    if node.namespace:
        out += ['-r', f'__ns:=/{node.namespace}']
    for source, target in node.remappings:
        out += ['-r', f'{source}:={target}']
    return [*out, '--params-file', str(parameter_file)]


def _start(node: NodeSpec, scratch: Path, log_dir: Path, variables: Mapping[str, str]) -> Child:
    stem = node.title.replace('/', '_')
    parameters = scratch / f'{stem}.yaml'
    # JSON is YAML in which every string is quoted: no name turns into a number or a truth value.
    parameters.write_text(json.dumps(parameter_yaml(node.parameters)))
    log = log_dir / f'{stem}.log'
    with log.open('wb') as stream:
        # A session of its own: Ctrl-C reaches the children through the runner, in order.
        process = subprocess.Popen(
            command(node, parameters), stdin=subprocess.DEVNULL, stdout=stream,
            stderr=subprocess.STDOUT, env={**variables, **node.environment},
            start_new_session=True)
    return Child(node, process, log)


def _end(children: Sequence[Child]) -> None:
    """
    Interrupt, then terminate, then kill what still runs.

    Who is interrupted meanwhile, by a user without patience, goes on to the next signal at once.
    """
    with deferred() as impatient:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            running = [c for c in children if c.process.poll() is None]
            for child in running:
                child.process.send_signal(number)
            began, known = time.monotonic(), len(impatient)
            while len(impatient) == known and any(
                    c.process.poll() is None and time.monotonic() - began < (
                        c.node.patience_s if number == signal.SIGINT else _PATIENCE_S)
                    for c in running):
                time.sleep(0.02)


def _telling(graph: RunGraph, path: Path) -> RunGraph:
    """Return ``graph`` with monitors that tell their progress into ``path``."""
    return replace(graph, nodes=tuple(
        replace(node, parameters={**node.parameters, 'progress_file': str(path)})
        if node.executable == 'monitor' else node for node in graph.nodes))
