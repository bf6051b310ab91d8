"""
Parts of a recording, message by message as they are: nothing is decoded or encoded again.

A part keeps the storage, definitions, quality of service, custom data, log and publish times and
sequence numbers of its recording. Messages are written unpacked; MCAP chunks are packed as they
were. A stretch of a video topic begins at the key frame before it, without which its first
pictures could not be decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import fnmatch
import logging
import math
from pathlib import Path

import numpy as np

from kd_perception.bags.drives import stretches
from kd_perception.bags.layout import is_only_a_bag
from kd_perception.bags.messages import VIDEO_TYPES
from kd_perception.bags.metadata import is_latched
from kd_perception.bags.output import RawBagWriter
from kd_perception.bags.pictures import TopicPictures
from kd_perception.bags.reader import BagReader, Timeline
from kd_perception.bags.selection import Selection
from kd_perception.bags.unfinished import already_there, unfinished_directory
from kd_perception.errors import BagError, ConfigError
from kd_perception.frames import Progress

_log = logging.getLogger(__name__)

_LONGEST_S = 1e9
_MOST_PARTS = 10_000


@dataclass(frozen=True)
class Part:
    """
    A recording that was cut out.

    :param messages: written.
    :param damaged: left out, for they could not be read.
    """

    path: Path
    messages: int
    damaged: int
    duration_s: float


def cut_bag(source: Path | str, out: Path | str, *, start_s: float = 0.0,
            end_s: float = math.inf, topics: Sequence[str] = (),
            selection: Selection | None = None, latched: bool = True, overwrite: bool = False,
            progress: Progress | None = None) -> Part:
    """
    Write a stretch of a recording, or some of its topics, as a recording.

    :param source: any recording, an unfinished one too: its whole messages are recovered.
    :param start_s: seconds after the first message of the recording; so is ``end_s``, exclusive.
    :param topics: names or patterns (``/camera/*``); all by default.
    :param selection: of the camera topics that it names, write only the frames that it names.
    :param latched: begin with the last message before ``start_s`` of each latched topic, such as
        the meaning of labels.
    :raises BagError: when ``out`` exists, nothing is in the stretch, or it cannot be written.
    :raises ConfigError: for an impossible stretch.
    """
    if not 0 <= start_s < end_s:
        raise ConfigError(f'a stretch from {start_s:g} to {end_s:g} s is not possible')
    with BagReader(source) as reader:
        line = reader.timeline(_matching(reader, topics))
        first = reader.start_ns
        begin, end = (len(line.log_ns) if s > _LONGEST_S else
                      int(np.searchsorted(line.log_ns, first + round(s * 1e9)))
                      for s in (start_s, end_s))
        if begin >= end:
            raise BagError(f'{source}: has no message of the chosen topics from {start_s:g} to '
                           f'{end_s:g} s; it is {reader.duration_s:.1f} s long')
        keep = None if selection is None else _selected(reader, line, selection)
        before = {*_lead(reader, line, begin, end, {}),
                  *(_latched(reader, line, begin) if latched else ())}
        return _write(reader, line, before, begin, end, Path(out), overwrite, progress, keep)


def split_bag(source: Path | str, out: Path | str, *, length_s: float = 0.0, gap_s: float = 0.0,
              topics: Sequence[str] = (), latched: bool = True, overwrite: bool = False,
              progress: Progress | None = None) -> tuple[Part, ...]:
    """
    Write a recording as several: ``<out>/<name>_000``, ….

    :param length_s: seconds of each part.
    :param gap_s: or: a new part, a drive, begins after so many seconds without any message.
    :param out: folder to make; it appears when all parts are written.
    :raises ConfigError: unless one of the two is given.
    :raises BagError: when ``out`` exists or cannot be written.
    """
    if (length_s > 0) == (gap_s > 0) or not math.isfinite(length_s + gap_s):
        raise ConfigError('split by length or by gap: give one of them, in seconds above 0')
    out = Path(out).expanduser().absolute()
    if out.exists() and not (overwrite and _holds_parts(out)):
        raise already_there(out)
    with BagReader(source) as reader:
        line = reader.timeline(_matching(reader, topics))
        if not len(line.log_ns):
            raise BagError(f'{source}: holds no messages')
        borders = _borders(line.log_ns, length_s, gap_s)
        suffix = '.bag' if reader.storage == 'ros1' else ''
        if len(borders) > _MOST_PARTS + 1:
            raise ConfigError(f'{source}: would come to {len(borders) - 1} parts; choose a longer '
                              'length or gap')
        stem = reader.path.stem if reader.path.is_file() else reader.path.name
        parts = []
        videos: dict[str, TopicPictures] = {}
        with unfinished_directory(out, overwrite=overwrite) as folder:
            for number, (begin, end) in enumerate(zip(borders, borders[1:])):
                def report(done: int, total: int, note: str, before: int = begin) -> None:
                    if progress is not None:
                        # What is latched is written more than once.
                        progress(min(before + done, borders[-1]), borders[-1], note)

                name = f'{stem}_{number:03d}{suffix}'
                # Behind a gap nothing leads on from the key frame before it.
                earlier = {*(() if gap_s > 0 else _lead(reader, line, begin, end, videos)),
                           *(_latched(reader, line, begin) if latched else ())}
                part = _write(reader, line, earlier, begin, end, folder / name, False, report)
                parts.append(Part(out / name, part.messages, part.damaged, part.duration_s))
        return tuple(parts)


def _borders(log_ns: np.ndarray, length_s: float, gap_s: float) -> list[int]:
    """Return the places where parts begin, and the end."""
    if gap_s > 0:
        return stretches(log_ns, gap_s)
    number = (log_ns - log_ns[0]) // max(1, round(length_s * 1e9))
    begins = np.flatnonzero(np.diff(number)) + 1
    return [0, *(int(b) for b in begins), len(log_ns)]


def _write(reader: BagReader, line: Timeline, before: set[int], begin: int, end: int, out: Path,
           overwrite: bool, progress: Progress | None, keep: np.ndarray | None = None) -> Part:
    """Write messages ``begin`` … ``end`` of ``line``, of them those to ``keep`` (bool [n])."""
    rows = [*sorted(before), *(r for r in range(begin, end) if keep is None or keep[r])]
    if not rows:
        raise BagError(f'{reader.path}: no selected frame is in the stretch')
    latched = {r for r in before if _is_latched(reader, line.names[line.which[r]])}
    first_ns = int(line.log_ns[min(before - latched, default=begin)])
    damaged = 0
    with RawBagWriter(out, storage=reader.storage, compression=reader.compression,
                      overwrite=overwrite, source=reader.metadata) as writer:
        for done, row in enumerate(rows):
            index = reader.index(line.names[line.which[row]])
            position = int(line.position[row])
            try:
                data, publish_ns, sequence = index.raw(position)
            except BagError as error:
                damaged += 1
                _log.log(logging.WARNING if damaged == 1 else logging.DEBUG, 'left out: %s', error)
                continue
            # What is latched was recorded before; it begins the part.
            writer.write(writer.add(index.channel(position)),
                         max(int(line.log_ns[row]), first_ns), data, publish_ns, sequence)
            if progress is not None:
                progress(done + 1, len(rows), '')
        if not writer.messages:
            raise BagError(f'{reader.path}: none of its {len(rows)} messages can be read')
    if damaged > 1:
        _log.warning('%s: %d of %d messages left out: they are damaged', reader.path, damaged,
                     len(rows))
    return Part(out, writer.messages, damaged,
                (int(line.log_ns[end - 1]) - first_ns) / 1e9)


def _lead(reader: BagReader, line: Timeline, begin: int, end: int,
          videos: dict[str, TopicPictures]) -> list[int]:
    """
    Return the messages before ``begin`` that the pictures from ``begin`` to ``end`` need.

    :param videos: by topic, of the recording; kept from part to part.
    """
    rows: list[int] = []
    for number, name in enumerate(line.names):
        index = reader.index(name)
        here = np.flatnonzero(line.which == number)
        first = int(np.searchsorted(here, begin))
        if index.channels[0][1].type in VIDEO_TYPES and first < len(here) and here[first] < end:
            video = videos.setdefault(name, TopicPictures(index))
            rows += here[video.needed_from(first):first].tolist()
    return sorted(rows)


def _latched(reader: BagReader, line: Timeline, begin: int) -> list[int]:
    """Return the last message before ``begin`` of each latched topic, in log order."""
    rows = []
    for number, name in enumerate(line.names):
        if _is_latched(reader, name):
            before = np.flatnonzero(line.which[:begin] == number)
            rows += [int(before[-1])] if len(before) else []
    return sorted(rows)


def _is_latched(reader: BagReader, topic: str) -> bool:
    return any(is_latched(c) for _, c in reader.index(topic).channels)


def _selected(reader: BagReader, line: Timeline, selection: Selection) -> np.ndarray:
    """Return bool ``[n]``: messages that a selection keeps; topics that it does not name stay."""
    keep = np.ones(len(line.log_ns), bool)
    here = [r.topic for r in selection.recordings if r.fingerprint == reader.fingerprint]
    for topic in here or ['']:
        chosen = selection.of(reader.fingerprint, topic, reader.path.name)
        if reader.index(topic).channels[0][1].type in VIDEO_TYPES:
            raise ConfigError(f'{reader.path}: {topic} is a video stream, whose pictures depend '
                              'on those between; label it with --selection instead')
        if topic in line.names:
            keep &= (line.which != line.names.index(topic)) | np.isin(line.position, chosen)
    return keep


def _matching(reader: BagReader, patterns: Sequence[str]) -> list[str]:
    """Return the topics that names or patterns stand for."""
    known = [t.name for t in reader.topics]
    out: list[str] = []
    for pattern in patterns:
        if any(c in pattern for c in '*?['):
            wanted = '/' + pattern.lstrip('/')
            found = [n for n in known if fnmatch.fnmatchcase('/' + n.lstrip('/'), wanted)]
            if not found:
                raise BagError(f'{reader.path}: no topic matches {pattern!r}; it has: '
                               f'{", ".join(known) or "none"}')
            out += found
        else:
            out.append(reader.resolve(pattern))
    return out


def _holds_parts(folder: Path) -> bool:
    """Return whether a folder holds what a split makes, and nothing else."""
    return folder.is_dir() and all(is_only_a_bag(p) for p in folder.iterdir())
