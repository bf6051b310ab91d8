"""
How every node of the package starts, runs on one thread, and ends.

SIGINT and SIGTERM end a node with exit code 0; bad parameters, ROS arguments and files with 2 and
one line on stderr. A node started by the runner ends when the runner dies, however it dies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import logging
import os
import signal
import sys
from typing import Any, Protocol

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import uninstall_signal_handlers

from kd_perception.errors import KdPerceptionError
from kd_perception.interrupts import answered, end_with
from kd_perception.nodes.environment import PARENT_VARIABLE

# A thread that finishes its numpy work asks for the interpreter lock; the default of 5 ms before
# another thread must yield it would show as latency.
_SWITCH_INTERVAL_S = 0.0005
_WAKE_S = 1.0


class RunnableNode(Protocol):
    """
    What ``run_node`` needs of a node beside being an rclpy node.

    A node may have ``hangs``: that a thread of its own did not return when it was closed.
    """

    exit_code: int

    def close(self) -> None:
        """Stop own threads and release what was opened."""
        ...


class Finished(Exception):  # noqa: N818 (a request, not an error)
    """Raised in a callback by a node whose work is done; ends the process with its exit code."""


def run_node(make: Callable[[], Any], args: Sequence[str] | None = None, *,
             executor_type: type[SingleThreadedExecutor] = SingleThreadedExecutor) -> int:
    """
    Create a node, spin it until a signal or its own end, and return the exit code.

    :param make: called after ``rclpy.init``; returns the node.
    :param executor_type: which executor spins it.
    """
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s %(name)s: %(message)s')
    end_with_parent()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        rclpy.init(args=None if args is None else list(args))
    except Exception as error:
        return _refused(None, f'ROS did not take the arguments: {error}')
    node: Any = None
    executor = executor_type()
    code = 0
    try:
        node = make()
        # rclpy wakes the executor first and closes the context then: one that has gone to sleep in
        # between would not hear of the signal before something else wakes it.
        node.create_timer(_WAKE_S, _look, clock=Clock(clock_type=ClockType.STEADY_TIME))
        executor.add_node(node)
        executor.spin()
        code = node.exit_code
    except (KeyboardInterrupt, ExternalShutdownException):
        code = 0
    except Finished:
        code = node.exit_code
    except KdPerceptionError as error:
        code = _refused(node, str(error))
    except OSError as error:
        where = f'{error.filename}: ' if error.filename else ''
        code = _refused(node, f'{where}{error.strerror or error}')
    except Exception as error:
        # A signal takes the context away at once; what is done in ROS after that may fail.
        if rclpy.ok():
            if node is not None or not type(error).__module__.startswith('rclpy'):
                raise
            # A name or a parameter override that ROS itself refuses.
            code = _refused(node, str(error))
    finally:
        hear_no_more_signals()
        executor.shutdown(timeout_sec=1.0)
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
        answered()
    if getattr(node, 'hangs', False):
        # Python would wait for that thread for ever.
        print('kd_perception: ended in spite of a thread that does not return', file=sys.stderr,
              flush=True)
        sys.stdout.flush()
        os._exit(1)
    return code


def _look() -> None:
    """Do nothing: the executor looks at its context when it is awake."""


def hear_no_more_signals() -> None:
    """
    Let things close in peace; to be called before the executor of a signalled process shuts down.

    A second signal must not leave threads behind. And rclpy answers the first one in a thread of
    its own, which wakes the executors by a list that an executor frees when it shuts down: were it
    not waited for, it would read freed memory now and then (SIGSEGV).
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    uninstall_signal_handlers()


def end_with_parent() -> None:
    """Ask Linux for SIGINT when the runner dies, if it was the runner that started this."""
    parent = os.environ.get(PARENT_VARIABLE, '')
    if not parent.isdigit() or not sys.platform.startswith('linux'):
        return
    if os.getppid() != int(parent):
        # Started by something in between (a shell, a debugger), or the runner is gone already.
        if not os.path.exists(f'/proc/{parent}'):
            sys.exit(0)
        return
    end_with(int(parent), signal.SIGINT)


def _refused(node: Any, reason: str) -> int:
    """Print why the node cannot run, in one line; return the exit code."""
    name = 'kd_perception' if node is None else node.get_name()
    print(f'{name}: {" ".join(reason.split())}', file=sys.stderr)
    return 2
