"""What ``train.jsonl`` of a run says: curves, how often it was resumed, how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import json
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.errors import TrainingError

# Scalars of a training event that are no term of the loss.
_NO_TERMS = ('event', 'step', 'time', 'loss', 'learning_rate', 'gradient', 'step_s', 'wait_s',
             'teacher_s', 'elapsed_s')


@dataclass(frozen=True, eq=False)
class Curve:
    """
    Values over steps.

    :param steps: int64 ``[n]``, rising.
    :param values: float64 ``[n]``.
    """

    steps: np.ndarray
    values: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Return plain types."""
        return {'steps': self.steps.tolist(), 'values': self.values.tolist()}


@dataclass(frozen=True)
class RunLog:
    """
    :param terms: terms of the loss by name.
    :param scalars: the other scalars of training: ``loss``, ``learning_rate``, ``step_s``, ….
    :param validation: scalars of validations by name.
    :param resumed: how often the run went on after a stop.
    :param finished: what its last event says of where it ran, and on what; empty for runs of
        early releases.
    """

    terms: Mapping[str, Curve]
    scalars: Mapping[str, Curve]
    validation: Mapping[str, Curve]
    resumed: int = 0
    finished: Mapping[str, Any] = field(default_factory=dict)


def read_log(run: Path) -> RunLog:
    """
    Read the log of a run directory.

    A kill may have cut a line off, and steps that a resumed run took again are there twice: the
    last ones count.

    :raises TrainingError: when there is none.
    """
    path = run / 'train.jsonl'
    events: list[dict[str, Any]] = []
    try:
        lines = path.read_text(errors='replace').splitlines()
    except OSError as error:
        raise TrainingError(f'{path}: {error.strerror}; is {run} a run directory?') from None
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get('step'), int):
            events.append(event)
    training = _curves([e for e in events if e.get('event') == 'train'])
    ends = [e for e in events if e.get('event') == 'finished']
    return RunLog(
        terms={k: c for k, c in training.items() if k not in _NO_TERMS},
        scalars={k: c for k, c in training.items() if k in _NO_TERMS},
        validation=_curves([e for e in events if e.get('event') == 'validation']),
        resumed=sum(e.get('event') == 'resumed' for e in events),
        finished=ends[-1] if ends else {})


def _curves(events: list[dict[str, Any]]) -> dict[str, Curve]:
    by_step = {e['step']: e for e in events}
    names = dict.fromkeys(k for e in by_step.values() for k, v in e.items()
                          if k not in ('event', 'step', 'time') and isinstance(v, (int, float)))
    out = {}
    for name in names:
        steps = sorted(s for s, e in by_step.items() if name in e)
        out[name] = Curve(np.array(steps, np.int64),
                          np.array([by_step[s][name] for s in steps], float))
    return out
