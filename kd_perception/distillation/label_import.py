"""
``label --import``: labels that a team already has become a soft-label cache.

All labels are looked at before anything is written: what does not fit is counted and refused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
import logging
from pathlib import Path
import secrets

import numpy as np

from kd_perception.bags.sampling import BadFrames, LabelError
from kd_perception.classes import ClassSet
from kd_perception.distillation.cache_shards import (
    imported_provenance,
    LabelledFrame,
    open_for_writing,
    recording_id,
    shard_path,
    write_shard,
)
from kd_perception.distillation.label_files import (
    guess_kind,
    guess_match,
    key_of,
    KINDS,
    label_files,
    LabelFile,
    MATCHES,
    scores,
    shares,
)
from kd_perception.distillation.staged_shards import staged_shards
from kd_perception.errors import ConfigError, ImageError, TrainingError
from kd_perception.frames import FrameKey, FrameSource, Progress
from kd_perception.tasks.soft_labels import SoftLabelCodec, VALID

log = logging.getLogger(__name__)
# Sizes may differ, since networks are smaller than cameras; what they show must not.
_ASPECT_SLACK = 0.03


@dataclass(frozen=True)
class ImportReport:
    """
    What was imported.

    :param imported: frames with a label.
    :param missing: frames without one.
    :param unused: labels without a frame.
    :param match: by what they belong together.
    """

    imported: int
    missing: int
    unused: int
    bad: int
    kind: str
    match: str


@dataclass(frozen=True)
class _Seen:
    """A frame as far as labels care."""

    key: FrameKey
    stamp_ns: int
    log_ns: int
    frame_id: str
    size: tuple[int, int]


@dataclass
class _Problems:
    """Labels that do not fit, by kind, with the first of each."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        self.counts[kind] += 1
        self.first.setdefault(kind, example)

    def refuse(self, where: Path, labels: int) -> None:
        """Raise when there is one."""
        if self.counts:
            told = '; '.join(f'{n} {kind} (first: {self.first[kind]})'
                             for kind, n in self.counts.most_common(3))
            raise TrainingError(f'{where}: {sum(self.counts.values())} of {labels} labels do not '
                                f'fit: {told}; nothing was imported')


def import_labels(path: Path | str, source: FrameSource, cache_dir: Path | str,
                  classes: ClassSet, *, kind: str = 'auto', match: str = 'auto',
                  smoothing: float = 0.1, partial: bool = False, tolerance_ms: float = 0.0,
                  codec: SoftLabelCodec | None = None, shard_size: int = 64,
                  progress: Progress | None = None) -> ImportReport:
    """
    Bring labels of a recording's frames into a soft-label cache.

    :param path: a folder of label files, or one ``.npz``.
    :param classes: what the labels' ids or channels mean.
    :param kind: ``probabilities``, ``logits`` or ``ids``; ``auto`` looks at the first.
    :param match: ``stamp``, ``index`` or ``name``; ``auto`` looks at the names.
    :param smoothing: of ids: the share spread over all classes; 0 makes hard labels.
    :param partial: whether frames may lack a label.
    :param tolerance_ms: how far a stamp may be off.
    :raises KdPerceptionError: one line with counts, when labels do not fit.
    """
    path, cache, codec = Path(path), Path(cache_dir), codec or SoftLabelCodec()
    _check(kind, match, smoothing, tolerance_ms, shard_size)
    files = label_files(path)
    frames, bad = _frames(source, progress)
    pictures = _names(source, frames)
    by = guess_match(files, set(pictures.values())) if match == 'auto' else match
    pairs, unused = _paired(files, frames, pictures, by, round(tolerance_ms * 1e6), path)
    missing = [i for i in range(len(frames)) if i not in pairs]
    if not pairs:
        raise TrainingError(f'{path}: none of {len(files)} labels belongs to a frame of '
                            f'{source.name} by {by}; {_examples(files, frames, by)}')
    if missing and not partial:
        raise TrainingError(f'{path}: {len(missing)} of {len(frames)} frames of {source.name} '
                            f'have no label by {by}, the first is frame {missing[0]} (stamp '
                            f'{frames[missing[0]].stamp_ns}); pass --partial to go on without '
                            'them')
    chosen = _kind(kind, pairs)
    _check_all(path, pairs, frames, classes, chosen, codec, smoothing)
    how = {'kind': chosen, **({'smoothing': smoothing} if chosen == 'ids' else {})}
    open_for_writing(cache, {**imported_provenance(f'imported from {path.name}', classes.names,
                                                   codec, how), 'shard_size': shard_size})
    # A name of its own for every import: old shards stay whole until all new ones are written.
    recording = recording_id([frames[0].key, frames[-1].key], len(frames), secrets.token_hex(8))
    written = 0
    with staged_shards(cache, (f.key for f in frames)) as staged:
        for number, part in enumerate(_parts(sorted(pairs), frames, shard_size)):
            write_shard(shard_path(staged, recording, number), [
                _labelled(frames[i], pairs[i], classes, chosen, codec, smoothing) for i in part])
            written += len(part)
            if progress is not None:
                progress(written, len(pairs), 'written')
    log.info('%s: %d labels imported', path, written)
    return ImportReport(written, len(missing), unused, bad, chosen, by)


def _check(kind: str, match: str, smoothing: float, tolerance_ms: float,
           shard_size: int) -> None:
    if kind not in ('auto', *KINDS) or match not in ('auto', *MATCHES):
        raise ConfigError(f'kind {kind!r} or match {match!r}: choose auto, {", ".join(KINDS)} and '
                          f'auto, {", ".join(MATCHES)}')
    if not 0 <= smoothing < 1:
        raise ConfigError(f'smoothing {smoothing:g}: at least 0 (hard labels) and below 1')
    if not 0 <= tolerance_ms < 1e6 or shard_size < 1:
        raise ConfigError(f'tolerance {tolerance_ms:g} ms and shard size {shard_size}: not '
                          'negative, at least one frame per file')


def _frames(source: FrameSource, progress: Progress | None) -> tuple[list[_Seen], int]:
    """Return all frames that can be decoded; a stamp of zero becomes the log's."""
    failures = BadFrames(log, source.name, len(source))
    seen = []
    for index in range(len(source)):
        try:
            frame = source[index]
        except LabelError:
            raise
        except ImageError as error:
            failures.add(index, error)
            continue
        seen.append(_Seen(frame.key, frame.stamp_ns or frame.log_ns, frame.log_ns,
                          frame.frame_id, (frame.image.shape[0], frame.image.shape[1])))
        if progress is not None:
            progress(index + 1, len(source), 'reading frames')
    failures.sum_up()
    if not seen:
        raise TrainingError(f'{source.name}: not one of {len(source)} frames can be decoded')
    return seen, len(source) - len(seen)


def _names(source: FrameSource, frames: Sequence[_Seen]) -> dict[int, str]:
    """Return the names of the pictures, by frame, where the source is a folder."""
    file = getattr(source, 'file', None)
    return {} if file is None else {i: file(f.key.index).stem for i, f in enumerate(frames)}


def _paired(files: Iterable[LabelFile], frames: Sequence[_Seen], pictures: dict[int, str],
            match: str, tolerance_ns: int, where: Path) -> tuple[dict[int, LabelFile], int]:
    """Return labels by frame, and how many belong to none."""
    wanted: dict[int | str, list[int]] = defaultdict(list)
    for i, frame in enumerate(frames):
        named: dict[str, int | str] = {
            'stamp': frame.stamp_ns, 'index': frame.key.index, 'name': pictures.get(i, '')}
        wanted[named[match]].append(i)
    stamps = np.array(sorted(k for k in wanted if isinstance(k, int)), np.int64)
    problems, pairs, unused, total = _Problems(), {}, 0, 0
    for file in files:
        total += 1
        key = file.stem if match == 'name' else key_of(file.stem)
        if match == 'stamp' and tolerance_ns and isinstance(key, int) and key not in wanted:
            nearest = int(stamps[np.abs(stamps - key).argmin()])
            key = nearest if abs(nearest - key) <= tolerance_ns else key
        places = wanted.get(key, []) if key is not None else []
        if len(places) > 1:
            problems.add('have a stamp that several frames share', file.where)
        elif not places:
            unused += 1
        elif places[0] in pairs:
            problems.add('are second labels of a frame', file.where)
        else:
            pairs[places[0]] = file
    problems.refuse(where, total)
    return pairs, unused


def _parts(order: Sequence[int], frames: Sequence[_Seen], size: int) -> Iterator[list[int]]:
    """Yield the frames of each shard; none holds two recordings, as each is replaced alone."""
    recordings: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in order:
        recordings[frames[i].key.fingerprint, frames[i].key.topic].append(i)
    for members in recordings.values():
        for first in range(0, len(members), size):
            yield members[first:first + size]


def _kind(kind: str, pairs: dict[int, LabelFile]) -> str:
    if kind != 'auto':
        return kind
    first = pairs[min(pairs)]
    try:
        return guess_kind(first.read(), first.where)
    except ConfigError as error:
        raise TrainingError(str(error) if first.where in str(error)
                            else f'{first.where}: {error}') from None


def _check_all(where: Path, pairs: dict[int, LabelFile], frames: Sequence[_Seen],
               classes: ClassSet, kind: str, codec: SoftLabelCodec, smoothing: float) -> None:
    """Read every label once and refuse all that do not fit together, with counts."""
    problems = _Problems()
    for i, file in pairs.items():
        try:
            array = file.read()
            _record(array, frames[i].size, classes, kind, codec, smoothing)
        except ConfigError as error:
            problems.add('cannot be used', f'{file.where}: {error}')
        except _SizeError as error:
            problems.add('are not of the shape of their frame', f'{file.where}: {error}')
    problems.refuse(where, len(pairs))


class _SizeError(Exception):
    """A label shows another part of the world than its frame."""


def _record(array: np.ndarray, size: tuple[int, int], classes: ClassSet, kind: str,
            codec: SoftLabelCodec, smoothing: float) -> dict[str, np.ndarray]:
    if kind == 'ids':
        _same_aspect(array.shape[:2], size)
        grid = codec.grid((array.shape[0], array.shape[1]), size)
        logits, known = shares(array, classes, grid, smoothing)
        return {**codec.encode(logits, size), VALID: known}
    logits = scores(array, classes, kind)
    _same_aspect(logits.shape[1:], size)
    return codec.encode(logits, size)


def _same_aspect(label: Sequence[int], frame: tuple[int, int]) -> None:
    if len(label) != 2 or min(label) < 1:
        raise ConfigError('is empty')
    # A map of stride 32 rounds its sides up.
    slack = _ASPECT_SLACK + 1 / label[0] + 1 / label[1]
    if abs(np.log(label[1] / label[0] * frame[0] / frame[1])) > slack:
        raise _SizeError(f'{label[1]}x{label[0]} for a frame of {frame[1]}x{frame[0]}')


def _labelled(frame: _Seen, file: LabelFile, classes: ClassSet, kind: str,
              codec: SoftLabelCodec, smoothing: float) -> LabelledFrame:
    record = _record(file.read(), frame.size, classes, kind, codec, smoothing)
    return LabelledFrame(frame.key, frame.stamp_ns, frame.log_ns, frame.frame_id, record)


def _examples(files: Sequence[LabelFile], frames: Sequence[_Seen], match: str) -> str:
    mine = {'stamp': frames[0].stamp_ns, 'index': frames[0].key.index}.get(match, 'of a picture')
    return f'the first label is {files[0].stem!r}, the first frame {mine}'
