"""
Transitions of a managed node that fail in the way that the managed-node design asks for.

rclpy gives no sign when a transition callback raises, and a ``change_state`` request that the
state does not allow ends the whole node (rclpy#1209, in every distribution up to Jazzy). Here each
failure is one line in the log, and leads where the design says:

* what a user can mend (a ``KdPerceptionError`` in configure or activate) is undone: FAILURE, the
  node stays in the state in which it was;
* anything else is ERROR: ``on_error`` releases everything and the node is unconfigured, or
  finalized when even that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
import traceback
from typing import Any

from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from kd_perception.errors import KdPerceptionError

_SUCCESS = TransitionCallbackReturn.SUCCESS
_FAILURE, _ERROR = TransitionCallbackReturn.FAILURE, TransitionCallbackReturn.ERROR


class Transitions:
    """
    Runs the work of transitions for one node.

    :param on_failed: called with the reason of every failure.
    """

    def __init__(self, node: LifecycleNode, on_failed: Callable[[str], None]) -> None:
        self._node = node
        self._on_failed = on_failed
        self._guard_requests()

    def run(self, what: str, act: Callable[[], Any],
            undo: Callable[[], Any] | None = None) -> TransitionCallbackReturn:
        """
        Do the work of a transition and return how it went.

        :param act: what to do; its result counts if it is a result of a transition.
        :param undo: leads back to the state before, where the way back exists; without it every
            failure is ERROR: a node half way down must not count as being where it was.
        """
        result, reason = self._attempt(what, act)
        if result == _FAILURE:
            undone = self._attempt(f'undo {what}', undo)[0] if undo is not None else _ERROR
            result = _FAILURE if undone == _SUCCESS else _ERROR
        if result != _SUCCESS:
            self._on_failed(reason)
        return result

    def recover(self, release: Callable[[], Any]) -> TransitionCallbackReturn:
        """
        Release everything after ERROR.

        :returns: SUCCESS, after which the node is unconfigured, or FAILURE: finalized.
        """
        result, reason = self._attempt('recover', release)
        if result == _SUCCESS:
            return _SUCCESS
        self._node.get_logger().error('the node is finalized: end the process and start it again')
        self._on_failed(f'{reason}; the node is finalized: start it again')
        return _FAILURE

    def _attempt(self, what: str,
                 act: Callable[[], Any]) -> tuple[TransitionCallbackReturn, str]:
        logger = self._node.get_logger()
        try:
            result = act()
        except KdPerceptionError as error:
            result, reason = _FAILURE, str(error)
        except Exception as error:
            if not self._node.context.ok():
                # A signal took the context away; nothing in ROS works after that.
                return _ERROR, f'{what}: the process ends'
            logger.error(traceback.format_exc())
            result, reason = _ERROR, f'unexpected {type(error).__name__}: {error}'
        else:
            if not isinstance(result, TransitionCallbackReturn) or result == _SUCCESS:
                return _SUCCESS, ''
            reason = 'a managed publisher refused'
        logger.error(f'cannot {what}: {reason}')
        return result, reason

    def _guard_requests(self) -> None:
        """Answer requests that the state does not allow with ``success: false``, and live."""
        service = self._node._service_change_state
        act = service.callback

        def on_change_state(request: Any, response: Any) -> Any:
            machine = self._node._state_machine
            there = {t[0]: t[1] for t in machine.available_transitions}
            wanted = request.transition.label or request.transition.id
            if wanted not in (*there, *there.values()):
                self._node.get_logger().warning(
                    f'change_state: no transition {wanted} from {machine.current_state[1]}; '
                    f'there are: {", ".join(f"{n} ({i})" for i, n in there.items()) or "none"}')
                response.success = False
                return response
            try:
                return act(request, response)
            except Exception as error:
                # It would end the executor, and the node with it.
                self._node.get_logger().error(traceback.format_exc())
                self._on_failed(f'change_state: unexpected {type(error).__name__}: {error}')
                response.success = False
                return response

        service.callback = on_change_state


def each(acts: Iterable[Callable[[], Any]]) -> None:
    """
    Do all of ``acts``, also after one that raises.

    :raises Exception: the first one, when all were tried.
    """
    first: Exception | None = None
    for act in acts:
        try:
            act()
        except Exception as error:
            first = first or error
    if first is not None:
        raise first
