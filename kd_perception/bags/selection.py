"""
Selections: a JSON file that names frames of recordings, for labelling, training and cutting.

Recordings go by fingerprint, so a renamed copy is found and another recording under the old name
is not taken for it. Frames go by their place on the topic, as in their keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
import json
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.errors import BagError, ConfigError
from kd_perception.paths import atomic_file

_SCHEMA = 1
_NAMED = 5


@dataclass(frozen=True)
class SelectedRecording:
    """
    What is taken of one camera of one recording.

    :param name: of the file, for people.
    :param topic: image topic; empty for image folders and videos.
    :param frames: of which were chosen.
    :param indices: places of the chosen ones, ascending.
    :param scores: what each was chosen for, where the method has a number for it.
    """

    name: str
    fingerprint: str
    topic: str
    frames: int
    indices: tuple[int, ...]
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class Selection:
    """
    Chosen frames of some recordings.

    :param by: how they were chosen.
    :param made_with: settings and models of the choice, for people.
    :param path: file that it was read from, for messages.
    """

    by: str
    recordings: tuple[SelectedRecording, ...]
    made_with: Mapping[str, Any] = field(default_factory=dict)
    path: str = 'selection'

    def __len__(self) -> int:
        return sum(len(r.indices) for r in self.recordings)

    def of(self, fingerprint: str, topic: str, name: str) -> np.ndarray:
        """
        Return int64 ``[n]``: the chosen places of a recording, ascending.

        :param name: of the recording, for the message.
        :raises BagError: when the selection is of other recordings or of another topic.
        """
        topics = [r.topic for r in self.recordings if r.fingerprint == fingerprint]
        if not topics:
            known = ', '.join(f'{r.name} ({r.fingerprint[:8]})' for r in self.recordings[:_NAMED])
            more = ', …' if len(self.recordings) > _NAMED else ''
            raise BagError(f'{self.path}: selects frames of {known or "nothing"}{more}, not of '
                           f'{name} ({fingerprint[:8]}); give a recording that it was made of')
        for one in self.recordings:
            if (one.fingerprint, one.topic) == (fingerprint, topic):
                return np.array(one.indices, np.int64)
        raise BagError(f'{self.path}: selects frames of {name} {", ".join(topics)}, not of '
                       f'{topic}; choose that topic')

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """
        Write the file, whole or not at all.

        :raises ConfigError: when it exists and ``overwrite`` is false.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise ConfigError(f'{path}: exists; choose another --out or pass --overwrite')
        data = {'schema_version': _SCHEMA, 'by': self.by, 'count': len(self),
                'made_with': dict(self.made_with),
                'recordings': [asdict(r) for r in self.recordings]}
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(data) + '\n')


def load_selection(path: Path | str) -> Selection:
    """
    Read what ``save`` wrote.

    :raises ConfigError: when the file is missing, damaged or of another schema.
    """
    path = Path(path).expanduser()
    try:
        data = json.loads(path.read_text())
        if data['schema_version'] != _SCHEMA:
            raise ConfigError(f'{path}: schema_version {data["schema_version"]!r} is unknown to '
                              f'this release, which reads {_SCHEMA}')
        recordings = tuple(_recording(r) for r in data['recordings'])
        return Selection(str(data['by']), recordings, dict(data.get('made_with') or {}),
                         str(path))
    except OSError as error:
        raise ConfigError(f'{path}: cannot be read: {error.strerror}; make it with: kd_perception '
                          'select') from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f'{path}: is no selection ({type(error).__name__}: {error}); make one '
                          'with: kd_perception select') from None


def _recording(data: Mapping[str, Any]) -> SelectedRecording:
    indices = [int(i) for i in data['indices']]
    if indices != sorted(set(indices)) or (indices and not 0 <= indices[0] <= indices[-1]
                                           < int(data['frames'])):
        raise ValueError(f'indices of {data["name"]!r} are not ascending places of its frames')
    return SelectedRecording(str(data['name']), str(data['fingerprint']), str(data['topic']),
                             int(data['frames']), tuple(indices),
                             tuple(float(s) for s in data.get('scores') or ()))
