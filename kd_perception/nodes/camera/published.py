"""
What the camera says on ``~/published``: publish calls, frames that it skips, the end.

The header of a record is that of its image, so it joins with results by stamp and frame id; the
time is the steady clock right before the publish call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray

from kd_perception.evaluation.joining import Published
from kd_perception.nodes.conversion import header, stamp_to_ns, status, statuses, values_of

_NAME = 'published'
_SKIPPED = 'skipped'
_END = 'end'


@dataclass(frozen=True)
class Skipped:
    """A frame of the source that could not be decoded, so that no arm gets it."""

    index: int


def published_message(record: Published) -> DiagnosticArray:
    """Return a record under the header of its image."""
    values = {'arm': record.arm, 'index': record.index, 'turn': record.turn,
              'published_ns': record.published_ns, 'truth': ' '.join(record.truth)}
    return statuses(header(record.stamp_ns, record.frame_id), status(_NAME, record.arm, values))


def skipped_message(index: int) -> DiagnosticArray:
    """Return the message that says that a frame cannot be decoded."""
    return statuses(header(0, ''), status(_SKIPPED, '', {'index': index}))


def end_message() -> DiagnosticArray:
    """Return the message that says that the camera's source has ended."""
    return statuses(header(0, ''), status(_END, '', {}))


def parse_published(message: Any) -> Published | Skipped | None:
    """Return what a message says; None is the end of the source."""
    entry = message.status[0]
    if entry.name == _END:
        return None
    values = values_of(entry)
    if entry.name == _SKIPPED:
        return Skipped(int(values['index']))
    return Published(arm=values['arm'], stamp_ns=stamp_to_ns(message.header.stamp),
                     frame_id=message.header.frame_id, index=int(values['index']),
                     published_ns=int(values['published_ns']), turn=int(values['turn']),
                     truth=tuple(values.get('truth', '').split()))
