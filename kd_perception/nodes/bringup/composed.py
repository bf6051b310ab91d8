"""
Several nodes in one process, each on a thread and an executor of its own: for benchmarks.

Images still go through the middleware (rclpy has no shortcut), but no second process has to be
scheduled, which takes that share out of a latency. The nodes share one interpreter, so a camera
that draws costs the others time: on a vehicle run one process per node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass
import importlib
import os
import threading
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter

from kd_perception.errors import ConfigError, GraphError
from kd_perception.nodes.bringup.graph import NodeSpec, RunGraph
from kd_perception.nodes.environment import isolation, reserved_domain, tuning
from kd_perception.nodes.process import Finished

_PATIENCE_S = 30.0


@dataclass
class Running:
    """
    A node with the thread that spins it.

    :param failure: what ended the thread, if it was an error.
    """

    node: Any
    executor: SingleThreadedExecutor
    thread: threading.Thread | None = None
    failure: BaseException | None = None

    def spin(self) -> None:
        """Spin until the executor is shut down; releases what the node holds in this thread."""
        try:
            self.executor.spin()
        except (Finished, ExternalShutdownException):
            pass
        except BaseException as error:
            self.failure = error
        finally:
            # In the thread that used it, as a renderer needs it.
            self.node.close()


@contextmanager
def composed(graph: RunGraph, *, isolated: bool = True) -> Iterator[Mapping[str, Any]]:
    """
    Run all nodes of ``graph`` in this process while the block lasts.

    Settings of malloc are read when a process starts: set ``environment.tuning()`` before that.

    :param isolated: in a private DDS domain on this host alone; else in the user's own.
    :returns: the nodes by title, e.g. ``a/perception``.
    :raises ConfigError: for nodes that need variables of their own.
    :raises GraphError: at the end, when a node failed.
    """
    with ExitStack() as stack:
        variables = {k: v for k, v in tuning().items() if not k.startswith('MALLOC')}
        if isolated:
            variables.update(isolation(stack.enter_context(reserved_domain())))
        stack.enter_context(_environment(variables))
        context = Context()
        rclpy.init(context=context, args=[])
        stack.callback(rclpy.try_shutdown, context=context)
        makers = {spec.title: _maker(spec, context) for spec in graph.nodes}
        running = stack.enter_context(_spinning(makers, context))
        yield {title: entry.node for title, entry in running.items()}
    for title, entry in running.items():
        if entry.failure is not None:
            raise GraphError(f'node {title} failed: {entry.failure}') from entry.failure


def _maker(spec: NodeSpec, context: Context) -> Callable[[], Any]:
    if spec.environment:
        raise ConfigError(f'node {spec.title}: variables of its own need a process of its own')
    arguments = ['--ros-args', '-r', f'__node:={spec.name}']
    for source, target in spec.remappings:
        arguments += ['-r', f'{source}:={target}']
    overrides = [Parameter(name, value=(list(value) or ['']) if isinstance(value, tuple)
                           else value) for name, value in spec.parameters.items()]
    kind = getattr(importlib.import_module(spec.module), f'{spec.executable.capitalize()}Node')
    return lambda: kind(
        context=context, namespace=spec.namespace, cli_args=arguments,
        parameter_overrides=overrides)


@contextmanager
def _spinning(makers: Mapping[str, Callable[[], Any]],
              context: Context) -> Iterator[dict[str, Running]]:
    running: dict[str, Running] = {}
    try:
        for title, make in makers.items():
            entry = Running(make(), SingleThreadedExecutor(context=context))
            running[title] = entry
            entry.executor.add_node(entry.node)
            entry.thread = threading.Thread(target=entry.spin, name=title)
            entry.thread.start()
        yield running
    finally:
        for entry in reversed(running.values()):
            entry.executor.shutdown(timeout_sec=5.0)
            if entry.thread is not None:
                entry.thread.join(_PATIENCE_S)
            entry.node.destroy_node()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
