"""
What a run is measured on: nothing of a drive that it learned from, unless that was asked for.

Frames of one drive look alike, so a score on the rest of a drive says how well it was remembered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
import logging
from typing import Any

from kd_perception.bags.drives import Drive, drives_of, groups, shared
from kd_perception.bundle import ModelBundle
from kd_perception.distillation.frame_store import FrameStore, LabelledSource
from kd_perception.distillation.processes import processes_here
from kd_perception.distillation.recipe import Recipe
from kd_perception.errors import TrainingError
from kd_perception.frames import evenly, FrameKey, Progress

log = logging.getLogger(__name__)

# How held-out frames were found.
VALIDATION, WHOLE_DRIVES, TAIL = 'data.validation', 'whole drives', 'tail of each recording'
_NAMED = 8


@dataclass(frozen=True)
class HeldOut:
    """
    What is said of the frames that a run is measured on.

    :param by: how they were found.
    :param drives: their drives.
    :param shared: of these, frames by name of the drive that is learned from, too.
    :param pictures: frames whose very picture is learned from, as far as was read beforehand.
    :param places: which recording each frame is of, and its position there: of the validation
        recordings, where there are some, else of those that are learned from.
    """

    by: str
    drives: tuple[str, ...] = ()
    shared: dict[str, int] = field(default_factory=dict)
    pictures: int = 0
    places: tuple[tuple[int, int], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for ``metrics.json``."""
        out: dict[str, Any] = {'by': self.by, 'drives': list(self.drives)}
        if self.shared or self.pictures:
            out |= {'shared_drives': self.shared, 'shared_pictures': self.pictures}
        return out


def read_frames(recipe: Recipe, learn: Sequence[LabelledSource], check: Sequence[LabelledSource],
                *, labels_only: bool, decodable: Callable[[FrameKey], bool] | None = None,
                progress: Progress | None = None) -> tuple[FrameStore, FrameStore, HeldOut]:
    """
    Read the frames to learn from, as far as memory goes, and those to measure on.

    Frames to learn from that are read later, and whose very picture is measured on, are not
    learned from then.

    :param check: recordings to measure on; without any, a part of the others is held out.
    :param labels_only: learn from labelled frames alone.
    :param decodable: of which frames it is known that they can be decoded (``FrameStore``).
    :raises TrainingError: when both share a drive or a picture and the recipe does not allow it.
    """
    size, data = (recipe.input.height, recipe.input.width), recipe.data
    # Told before frames are read, which may take long.
    leaked = shared_drives(learn, check, labels_only=labels_only)
    told(leaked, 0, sum(len(s.source) for s in check), allowed=data.allow_shared_drives)
    memory: dict[str, Any] = {'memory_gb': data.memory_gb, 'sharers': processes_here()}
    frames = FrameStore(learn, size, labels_only=labels_only, decodable=decodable,
                        digests=bool(check), progress=progress, **memory)
    if check:
        held = FrameStore(check, size, labels_only=True, whole=True, digests=True,
                          progress=progress, **memory)
        pictures = shared_pictures(frames, held)
        if not leaked:
            told({}, pictures, len(held), allowed=data.allow_shared_drives)
        if not data.allow_shared_drives:
            frames.avoid(d for d in held.digests or () if d is not None)
        how = HeldOut(VALIDATION, drive_names(held.drives), leaked, pictures)
    else:
        frames, held, how = hold_out(frames, data.validation_share)
    limit = recipe.optimization.validation_frames
    if 0 < limit < len(held):
        held = held.subset(evenly(len(held), limit))
    return frames, held, replace(how, places=held.places)


def shared_drives(learn: Sequence[LabelledSource], check: Sequence[LabelledSource], *,
                  labels_only: bool) -> dict[str, int]:
    """
    Return held-out frames by name of the drive that is learned from, too.

    The same frames of the same recording count, whatever drive somebody said they are of.

    :param labels_only: recordings without labels are not learned from.
    """
    used = [s for s in learn if s.class_map is not None or not labels_only]
    learned, held = ([d for s in part for d in drives_of(s.source, s.drive)]
                     for part in (used, check))
    return dict(Counter(drive.name for drive, again, same in zip(
        held, shared(learned, held), _shared_frames(used, check), strict=True) if again or same))


def shared_pictures(frames: FrameStore, held: FrameStore) -> int:
    """
    Return how many held-out frames are, at input size, the same picture as one learned from.

    :param frames: made with ``digests``, as ``held`` is.
    """
    seen = set(frames.digests or ())
    return sum(d in seen for d in held.digests or ())


def told(shared: dict[str, int], pictures: int, total: int, *, allowed: bool) -> None:
    """
    Refuse held-out frames that are learned from, or warn of them.

    :param total: of the held-out frames.
    :raises TrainingError: in a line, unless ``allowed``.
    """
    if not shared and not pictures:
        return
    if shared:
        what = (f'{sum(shared.values())} of {total} validation frames are of '
                f'{_names(shared)}, which the training data is of, too')
    else:
        what = f'{pictures} of {total} validation frames are the same pictures as training frames'
    if not allowed:
        raise TrainingError(
            f'{what}: the score would flatter; hold out other drives, name them where they are '
            'others (drive: NAME in the entry), or set data.allow_shared_drives: true')
    log.warning('%s: the score flatters (data.allow_shared_drives)', what)


def tell_of_teachers(teachers: Sequence[ModelBundle], held: FrameStore) -> None:
    """Warn of held-out frames of drives that a teacher says it was trained on."""
    for bundle in teachers:
        drives = [Drive.from_dict(d) for d in bundle.spec.statistics.get('drives', [])]
        known = Counter(drive.name for drive, again in zip(
            held.drives, shared(drives, held.drives), strict=True) if again)
        if known:
            log.warning('teacher %s was trained on %s of the held-out frames: it knows them, and '
                        'the score flatters', bundle.spec.name, _names(dict(known)))


def hold_out(frames: FrameStore, share: float) -> tuple[FrameStore, FrameStore, HeldOut]:
    """
    Divide frames into those to learn from and those to measure on.

    Whole drives are held out where about ``share`` of the frames can be had so: at most twice as
    many, spread evenly over the drives. Else the tail of each recording is, which shares its
    drive. Where some frames have labels, only such are held out, but of a drive that is held out
    nothing is learned.

    :raises TrainingError: when nothing would be left on either side.
    """
    labelled_only = any(frames.has_labels)
    usable = [p for p in range(len(frames)) if frames.has_labels[p] or not labelled_only]
    numbers = groups(frames.drives)
    chosen = _spread(Counter(numbers[p] for p in usable), share)
    if not chosen:
        learn, held = frames.split_tail(share, labelled_only=labelled_only)
        return learn, held, HeldOut(TAIL, drive_names(held.drives))
    learn = frames.subset([p for p, n in enumerate(numbers) if n not in chosen])
    held = frames.subset([p for p in usable if numbers[p] in chosen])
    return learn, held, HeldOut(WHOLE_DRIVES, drive_names(held.drives))


def drive_names(drives: Sequence[Drive]) -> tuple[str, ...]:
    """Return the names of drives, each once."""
    return tuple(dict.fromkeys(d.name for d in drives))


def _spread(sizes: Counter[int], share: float) -> set[int]:
    """
    Return the drives to hold out, or none where whole ones do not come near the share.

    :param sizes: frames by drive, in order.
    """
    total, owed, chosen = sum(sizes.values()), 0.0, set()
    for number, size in sizes.items():
        owed += share * size
        if owed >= size / 2 - 1e-9:
            chosen.add(number)
            owed -= size
    held = sum(sizes[n] for n in chosen)
    return chosen if 0 < held <= 2 * share * total and len(chosen) < len(sizes) else set()


def _shared_frames(learn: Sequence[LabelledSource],
                   check: Sequence[LabelledSource]) -> list[bool]:
    """Return, for each held-out frame, whether this very frame is learned from."""
    seen = {key for entry in learn for key in entry.keys}
    return [key in seen for entry in check for key in entry.keys]


def _names(shared: dict[str, int]) -> str:
    """Return ``drive 0016E5 (101 frames)``, or so, of several the first ones."""
    listed = [f'{name} ({count} frame{"s" * (count > 1)})' for name, count in shared.items()]
    more = f' and {len(listed) - _NAMED} more' if len(listed) > _NAMED else ''
    return f'drive{"s" * (len(listed) > 1)} {", ".join(listed[:_NAMED])}{more}'
