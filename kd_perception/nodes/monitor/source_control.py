"""What the monitor needs of a source of frames, be it the camera node or somebody's topic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from kd_perception.evaluation.joining import Published
from kd_perception.nodes.monitor.pending import Pending

Key = tuple[int, str]  # stamp, frame id


@dataclass(frozen=True)
class Events:
    """
    What a source tells the monitor, in the ROS thread.

    :param published: a frame was given to an arm.
    :param skipped: a frame (its index) could not be decoded, so that no arm gets it.
    :param sample: the message of a frame that is to be shown in the report.
    :param served: there is something new to wait for.
    :param wake: call ``advance`` soon.
    """

    published: Callable[[Published], None]
    skipped: Callable[[int], None]
    sample: Callable[[Key, Any], None]
    served: Callable[[], None]
    wake: Callable[[], None]


class SourceControl(Protocol):
    """
    A source of frames; everything happens in the ROS thread.

    ``ended_ns`` is when the source ended on the steady clock, ``stopped_ns`` the same where the
    monitor has stopped it (more frames may be published, which do not count), ``total`` how many
    frames will come, 0 where that is not known; ``identity`` holds what tells the source from
    others of its name, fields of ``ComparisonSpec``.
    """

    notes: list[str]
    identity: dict[str, Any]
    total: int
    ended_ns: int | None
    stopped_ns: int | None
    pending: Pending | None

    def missing(self) -> str:
        """Return what must come before frames can be served, in words; empty when all is there."""
        ...

    def begin(self) -> None:
        """Let frames count from now on."""
        ...

    def advance(self) -> None:
        """
        Do what is due; called often.

        :raises GraphError: when no frames will come any more that should.
        """
        ...

    def stop(self) -> None:
        """End the run as soon as that leaves no frame half served."""
        ...
