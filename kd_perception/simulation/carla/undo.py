"""
What has to be taken back in a CARLA server when a drive ends, however it ends.

A server that is left in synchronous mode stands still for everybody, so each step is tried even
where another one has failed, and none of it ever hides the error that led here.
"""

from __future__ import annotations

from collections.abc import Callable
import logging
from typing import Any

from kd_perception.errors import first_line

_log = logging.getLogger(__name__)
# A server that is gone must not hold up the end of a process for long.
_PATIENCE_S = 3.0


def spawn_into(actors: list[Any], spawn: Callable[..., Any], *arguments: Any) -> Any:
    """
    Spawn an actor that is in ``actors`` whatever happens; return it, or None for none.

    A Ctrl-C during the call is raised behind it, before its value can be assigned, and most of the
    time of a set-up is spent in such calls. So the list takes the value within one call.

    :param actors: what is taken back; ends with None where there is no place.
    """
    actors.extend(map(spawn, *([a] for a in arguments)))
    return actors[-1]


class Undo:
    """
    Steps that are taken back in reverse order, once.

    :param server: host and port, for messages.
    :param client: of ``carla``.
    """

    def __init__(self, server: str, client: Any) -> None:
        self._server, self._client = server, client
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def add(self, what: str, action: Callable[[], object]) -> None:
        """Add a step; to be called before what it takes back is done, so that no gap is left."""
        self._steps.append((what, action))

    def run(self) -> None:
        """
        Take everything back; never raises.

        A Ctrl-C meanwhile cuts the step short that it meets and ends nothing else; whoever begins
        new work finds it by ``interrupts.raise_swallowed``.
        """
        steps, self._steps = self._steps[::-1], []
        failed = []
        self._try(lambda: self._client.set_timeout(_PATIENCE_S))
        for what, action in steps:
            reason = self._try(action)
            if reason:
                failed.append(f'{what} ({reason})')
                if self._try(self._client.get_server_version):
                    _log.warning('CARLA at %s does not answer any more, so it was not left as it '
                                 'was found: %s', self._server, failed[-1])
                    return
        if failed:
            _log.warning('CARLA at %s was not left as it was found: %s', self._server,
                         '; '.join(failed))

    @staticmethod
    def _try(action: Callable[[], object]) -> str:
        """Return why ``action`` failed, or an empty string."""
        try:
            action()
        except BaseException as error:
            return first_line(error)
        return ''
