"""
Scores of frames on disk while they are made: hours of two networks are not lost to Ctrl-C.

One JSON line per frame behind a line that says what the scores are of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
import fcntl
import json
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

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
        self._file: BinaryIO | None = None

    def __enter__(self) -> ScoreJournal:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open('a+b')
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.seek(0)
            whole = self._read(self._file)
            self._file.truncate(whole)  # half a line, of a killed call
        except BlockingIOError:
            raise self._refused('is being written by another call') from None
        except OSError as error:
            raise self._refused(error.strerror or str(error)) from None
        if not whole:
            self._write(self._plan)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if not self.scores:
            self.remove()
        if self._file is not None:
            self._file.close()

    def add(self, place: int, scores: FrameScores | None) -> None:
        """Keep the scores of a frame; None for one that cannot be decoded, which is not stored."""
        self.scores[place] = scores
        if scores is not None:
            self._write([place, asdict(scores)])

    def remove(self) -> None:
        """Delete the file: it has served."""
        self._path.unlink(missing_ok=True)

    def _write(self, line: Any) -> None:
        assert self._file is not None
        self._file.write(_line(line))
        self._file.flush()

    def _read(self, file: BinaryIO) -> int:
        """
        Take over what is there; return how many bytes of it are whole lines.

        :raises ConfigError: when it is not of this plan.
        """
        whole = 0
        try:
            for line in file:
                if not line.endswith(b'\n'):
                    if not whole and not _line(self._plan).startswith(line):
                        raise ValueError
                    break
                known = json.loads(line)
                if whole:
                    place, scores = known
                    self.scores[place] = FrameScores(
                        **{**scores, 'by_class': tuple(scores['by_class'])})
                elif known != self._plan:
                    raise self._refused('holds the scores of other models, recordings or '
                                        'settings; remove it or choose another --out')
                whole += len(line)
        except (ValueError, TypeError, KeyError):
            raise self._refused('holds no scores of frames; remove it or choose another '
                                '--out') from None
        return whole

    def _refused(self, why: str) -> ConfigError:
        return ConfigError(f'{self._path}: {why}')


def _line(content: Any) -> bytes:
    return f'{json.dumps(content)}\n'.encode()
