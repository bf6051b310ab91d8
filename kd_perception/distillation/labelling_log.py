"""
How long labelling took: ``labelling.jsonl`` in a cache, one line per shard.

Beside the shards and not in them: the bytes of a cache depend on teacher and frames alone, so that
any number of processes, on whatever machines, write the same ones. Of these the log says what it
cost. Losing it loses nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import json
import logging
from pathlib import Path
import time
from typing import Any

LABELLING_LOG = 'labelling.jsonl'
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabellingCost:
    """
    What labelling took, over all processes.

    :param frames: that the teacher has looked at; twice where a shard was labelled again.
    :param seconds: of wall time, reading and writing with it, added up over processes.
    :param teacher_s: of these, spent in the teacher.
    :param ran_on: engines, devices and precisions, e.g. ``onnxruntime cpu fp32``.
    """

    frames: int
    seconds: float
    teacher_s: float
    ran_on: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain types."""
        return {'frames': self.frames, 'seconds': round(self.seconds, 3),
                'teacher_s': round(self.teacher_s, 3), 'ran_on': list(self.ran_on)}


def append(cache: Path, shard: str, frames: int, seconds: float, teacher_s: float,
           ran_on: str) -> None:
    """Append a line; a disk that refuses costs a warning, never the labels."""
    line = {'time': round(time.time(), 3), 'shard': shard, 'frames': frames,
            'seconds': round(seconds, 4), 'teacher_s': round(teacher_s, 4), 'ran_on': ran_on}
    try:
        # One write in append mode: lines of several processes do not mix.
        with (cache / LABELLING_LOG).open('a') as stream:
            stream.write(json.dumps(line) + '\n')
    except OSError as error:
        log.warning('%s: %s; the time that labelling took is not kept', cache / LABELLING_LOG,
                    error.strerror or error)


def read_cost(caches: Iterable[Path]) -> LabellingCost | None:
    """Return what the labelling of caches took; None where nothing is known."""
    lines = [entry for cache in caches for entry in _lines(cache / LABELLING_LOG)]
    if not lines:
        return None
    return LabellingCost(
        sum(int(e['frames']) for e in lines), sum(float(e['seconds']) for e in lines),
        sum(float(e['teacher_s']) for e in lines),
        tuple(dict.fromkeys(str(e['ran_on']) for e in lines)))


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    out = []
    for line in path.read_text(errors='replace').splitlines():
        try:
            entry = json.loads(line)
            if {'frames', 'seconds', 'teacher_s', 'ran_on'} <= set(entry):
                out.append(entry)
        except (ValueError, TypeError):
            continue  # cut off by a kill
    return out
