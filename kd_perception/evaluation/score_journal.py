"""
Scores of frames on disk while they are made: hours of two networks are not lost to Ctrl-C.

One JSON line per frame behind a line that says what the scores are of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
import json
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from kd_perception.errors import ConfigError
from kd_perception.evaluation.metrics.disagreement import FrameScores


class ScoreJournal:
    """
    What is known of the frames so far, by place.

    :param path: the file; made when it is not there.
    :param plan: what the scores depend on; plain JSON types.
    :raises ConfigError: when the file is of another plan, or none of ours.
    """

    def __init__(self, path: Path, plan: Mapping[str, Any]) -> None:
        self._path = path
        self._plan = json.loads(json.dumps(plan))
        self.scores: dict[int, FrameScores | None] = {}
        self._file: TextIO | None = None

    def __enter__(self) -> ScoreJournal:
        whole = self._read()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open('r+' if whole else 'w')
            self._file.seek(whole)
            self._file.truncate()  # half a line, of a killed call
            if not whole:
                self._write(self._plan)
        except OSError as error:
            raise ConfigError(f'{self._path}: {error.strerror}') from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
        if not self.scores:
            self.remove()

    def add(self, place: int, scores: FrameScores | None) -> None:
        """Keep the scores of a frame; None for one that cannot be decoded."""
        self.scores[place] = scores
        self._write([place, None if scores is None else asdict(scores)])

    def remove(self) -> None:
        """Delete the file: it has served."""
        self._path.unlink(missing_ok=True)

    def _write(self, line: Any) -> None:
        assert self._file is not None
        self._file.write(f'{json.dumps(line)}\n')
        self._file.flush()

    def _read(self) -> int:
        """Take over what is there; return how many bytes of it are whole lines."""
        if not self._path.exists():
            return 0
        whole = 0
        try:
            with self._path.open('rb') as lines:
                for line in lines:
                    if not line.endswith(b'\n'):
                        break
                    known = json.loads(line)
                    if not whole and known != self._plan:
                        raise ConfigError(
                            f'{self._path}: holds the scores of other models, recordings or '
                            'settings; remove it or choose another --out')
                    if whole:
                        place, scores = known
                        self.scores[place] = None if scores is None else FrameScores(
                            **{**scores, 'by_class': tuple(scores['by_class'])})
                    whole += len(line)
        except (OSError, ValueError, TypeError, KeyError):
            raise ConfigError(f'{self._path}: holds no scores of frames; remove it or choose '
                              'another --out') from None
        return whole
