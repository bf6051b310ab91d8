"""
Whether things are found: recall of objects by distance and by how much of them can be seen.

A picture's mean IoU is decided by road, building and sky. A pedestrian at 60 m is some fifty
pixels; whether those are right is what this module says. An instance is found when at least half
of its visible pixels have its class; pixel recall is the share of all visible pixels that do.
Both are given with the number of instances behind them, because these are often few.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
import math

import numpy as np

from kd_perception.classes import ClassMap, ClassSet, UNLABELLED
from kd_perception.evaluation.comparison import FrameRow
from kd_perception.evaluation.statistics.bootstrap import (
    block_length,
    bootstrap,
    CONFIDENCE,
    Interval,
    RESAMPLES,
)
from kd_perception.evaluation.statistics.shares import (
    drawn_sums,
    measured_pairs,
    PairedShare,
    share_intervals,
    wilson,
)
from kd_perception.frames import InstanceTable

KINDS = ('pedestrian', 'rider', 'traffic sign', 'traffic light', 'vehicle')
DISTANCES_M = (0, 10, 20, 40, 80)
VISIBLE = (0.0, 0.25, 0.5, 0.75)
FOUND = 0.5  # of an instance's visible pixels
_KIND_OF = {
    'pedestrian': 0, 'pedestrians': 0, 'person': 0, 'human': 0, 'rider': 1, 'bicyclist': 1,
    'traffic_sign': 2, 'traffic_signs': 2, 'sign': 2, 'traffic_light': 3, 'traffic_lights': 3,
    'vehicle': 4, 'car': 4, 'truck': 4, 'bus': 4, 'train': 4, 'motorcycle': 4, 'bicycle': 4}
_IDS = 1 << 16


class ObjectCounter:
    """
    Counts the right pixels of every instance of a picture.

    :param source: class set of the instance table, whose names say what is a pedestrian, a sign, …
    :param truth_map: from the ids of ``source`` to the classes in which masks are.
    """

    def __init__(self, source: ClassSet, truth_map: ClassMap) -> None:
        self._kind = np.full(256, -1, np.int32)
        for ident, name in enumerate(source.names):
            self._kind[ident] = _KIND_OF.get(name.lower().replace(' ', '_'), -1)
        self._target = truth_map.table
        # What cannot be right is not asked for.
        self._kind[self._target == UNLABELLED] = -1

    @property
    def useful(self) -> bool:
        """Return whether the source has any class of a known kind."""
        return bool((self._kind >= 0).any())

    def count(self, table: InstanceTable, instances: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """
        Return int32 ``[N, 6]``: id, kind, distance in mm, visible share in ‰, pixels, right ones.

        :param instances: uint16 ``[H, W]``, 0 for none.
        :param mask: uint8 ``[H, W]``, ids of the counted classes.
        """
        kind = self._kind[table.classes]
        wanted = kind >= 0
        ids = table.ids[wanted].astype(np.int64)
        target = np.full(_IDS, UNLABELLED, np.uint8)
        target[ids] = self._target[table.classes[wanted]]
        flat = np.flatnonzero(instances)
        found = instances.ravel()[flat]
        asked = target[found]
        kept = asked != UNLABELLED
        pixels = np.bincount(found[kept], minlength=_IDS)[ids]
        right = np.bincount(found[kept & (mask.ravel()[flat] == asked)], minlength=_IDS)[ids]
        out = np.stack([ids, kind[wanted], np.round(1e3 * table.distance_m[wanted]),
                        np.round(1e3 * table.visible[wanted]), pixels, right], axis=1)
        return out[pixels > 0].astype(np.int32)


@dataclass(frozen=True)
class ObjectCell:
    """
    One line of the table.

    :param kind: one of ``KINDS``, or ``all``.
    :param distance: a band such as ``10-20 m``, or ``all``.
    :param visible: a part such as ``0.25-0.5``, or ``all``.
    :param n: instances, each counted in every frame that shows it.
    :param things: different instances. The intervals are bootstraps over frames, but no narrower
        than the score interval of so many independent things.
    :param found: share of instances with at least half of their pixels right.
    :param pixel_recall: share of their pixels that are right.
    """

    kind: str
    distance: str
    visible: str
    n: int
    things: int
    found: Interval
    pixel_recall: Interval


@dataclass(frozen=True)
class ObjectRecall:
    """
    Recall of one arm.

    :param n: frames.
    :param cells: that hold any instance: each kind and all together, over everything, by distance
        and by visible share.
    """

    arm: str
    n: int
    cells: tuple[ObjectCell, ...]

    def cell(self, kind: str = 'all', distance: str = 'all',
             visible: str = 'all') -> ObjectCell | None:
        """Return one cell, or None when no instance falls into it."""
        return next((c for c in self.cells
                     if (c.kind, c.distance, c.visible) == (kind, distance, visible)), None)

    def rows(self) -> list[dict[str, str | int | float]]:
        """Return one row per cell: kind, distance, visible, n, things, found, pixel_recall."""
        return [{'kind': c.kind, 'distance': c.distance, 'visible': c.visible, 'n': c.n,
                 'things': c.things, 'found': c.found.estimate, 'found_low': c.found.low,
                 'found_high': c.found.high, 'pixel_recall': c.pixel_recall.estimate}
                for c in self.cells]


def distance_names() -> tuple[str, ...]:
    """Return the names of the bands: ``0-10 m`` … ``80+ m``."""
    return (*(f'{a}-{b} m' for a, b in zip(DISTANCES_M, DISTANCES_M[1:])), f'{DISTANCES_M[-1]}+ m')


def visible_names() -> tuple[str, ...]:
    """Return the names of the visible shares: ``0-0.25`` … ``0.75-1``."""
    return tuple(f'{a:g}-{b:g}' for a, b in zip(VISIBLE, (*VISIBLE[1:], 1)))


def object_recall(arm: str, frames: Sequence[np.ndarray], *, resamples: int = RESAMPLES,
                  seed: int = 0) -> ObjectRecall | None:
    """
    Return the recall over frames, or None when there was no instance.

    :param frames: in time order, int32 ``[N, 6]`` of ``ObjectCounter.count``.
    """
    if not any(len(f) for f in frames):
        return None
    names = _cells()
    every = np.concatenate(frames)
    member = _members(every, names)
    counts = _by_frame(every, member, [len(f) for f in frames])
    used = counts[:, :, 0].any(axis=0)
    instances, pixels = counts[:, used, 0], counts[:, used, 2]
    found = share_intervals(counts[:, used, 1], instances, resamples=resamples, seed=seed)
    recall = share_intervals(counts[:, used, 3], pixels, resamples=resamples, seed=seed)
    things = [len(np.unique(every[member[:, i], 0])) for i in np.flatnonzero(used)]
    cells = tuple(
        ObjectCell(*names[i], n=int(instances[:, k].sum()), things=things[k],
                   found=_at_least(found[k], things[k]),
                   pixel_recall=_at_least(recall[k], things[k]))
        for k, i in enumerate(np.flatnonzero(used)))
    return ObjectRecall(arm, len(frames), cells)


def paired_objects(rows: Iterable[FrameRow], reference: str, other: str, kind: str = 'all', *,
                   resamples: int = RESAMPLES, seed: int = 0,
                   confidence: float = CONFIDENCE) -> PairedShare | None:
    """
    Return the difference of the share of found instances; None where it was not measured.

    :param kind: one of ``KINDS``, or ``all``.
    """
    pairs = [(a, b) for a, b in measured_pairs(rows, reference, other, 'objects')
             if len(a) == len(b)]
    if kind != 'all':
        pairs = [(a[a[:, 1] == KINDS.index(kind)], b[b[:, 1] == KINDS.index(kind)])
                 for a, b in pairs]
    # Columns: instances, found by the first, found by the other.
    counts = np.array([[len(a), found_of(a).sum(), found_of(b).sum()] for a, b in pairs],
                      float).reshape(-1, 3)
    if not counts[:, 0].any():
        return None

    def difference(indices: np.ndarray) -> np.ndarray:
        total = drawn_sums(counts, indices)
        return (total[:, 2] - total[:, 1]) / np.maximum(total[:, 0], 1)

    series = (counts[:, 2] - counts[:, 1]) / np.maximum(counts[:, 0], 1)
    found = bootstrap(difference, len(pairs), block_length(series), resamples=resamples,
                      seed=seed, confidence=confidence, bounds=(-1.0, 1.0))
    change = np.concatenate([found_of(b) - found_of(a) for a, b in pairs])
    things = len(np.unique(np.concatenate([a[:, 0] for a, _ in pairs])))
    return PairedShare(reference, other, len(pairs), _no_surer(
        found, float((change > 0).mean()), float((change < 0).mean()), things))


def _no_surer(interval: Interval, gained: float, lost: float, things: int) -> Interval:
    """
    Return the interval of a difference that is no narrower than so many things allow.

    The difference is the share that only the other arm finds minus the share that only the first
    finds. Both have Wilson's interval; their ends are combined as squares (Newcombe 1998).

    :param gained: share of instances that only the other finds; ``lost``: that only the first.
    """
    up, down = (wilson(share, things, interval.confidence) for share in (gained, lost))
    low = gained - lost - math.hypot(gained - up[0], down[1] - lost)
    high = gained - lost + math.hypot(up[1] - gained, lost - down[0])
    return Interval(interval.estimate, max(-1.0, min(interval.low, low)),
                    min(1.0, max(interval.high, high)), interval.confidence)


def _at_least(interval: Interval, things: int) -> Interval:
    """
    Return an interval that is no narrower than so many things allow.

    A bootstrap over frames that all show one found sign would be sure of 100 %.
    """
    low, high = wilson(interval.estimate, things, interval.confidence)
    return Interval(interval.estimate, min(interval.low, low), max(interval.high, high),
                    interval.confidence)


def _cells() -> list[tuple[str, str, str]]:
    out = []
    for kind in (*KINDS, 'all'):
        out.append((kind, 'all', 'all'))
        out += [(kind, band, 'all') for band in distance_names()]
        out += [(kind, 'all', part) for part in visible_names()]
    return out


def _members(objects: np.ndarray, names: Sequence[tuple[str, str, str]]) -> np.ndarray:
    """Return bool ``[N, cells]``: which instance falls into which cells."""
    band = np.searchsorted(1000 * np.array(DISTANCES_M), objects[:, 2], side='right') - 1
    part = np.searchsorted(1000 * np.array(VISIBLE), objects[:, 3], side='right') - 1
    kinds, bands, parts = KINDS, distance_names(), visible_names()
    columns = [((kind == 'all') | (objects[:, 1] == (kinds.index(kind) if kind != 'all' else -1)))
               & ((distance == 'all')
                  | (band == (bands.index(distance) if distance != 'all' else -1)))
               & ((visible == 'all')
                  | (part == (parts.index(visible) if visible != 'all' else -1)))
               for kind, distance, visible in names]
    return np.stack(columns, axis=1)


def _by_frame(objects: np.ndarray, member: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Return int64 ``[n, cells, 4]``: instances, found ones, pixels, right pixels."""
    out = np.zeros((len(sizes), member.shape[1], 4), np.int64)
    some = np.flatnonzero(sizes)  # sums over nothing are not what reduceat gives
    starts = np.cumsum([0, *sizes])[:-1][some]
    for k, values in enumerate((np.ones(len(objects), np.int64), found_of(objects),
                                objects[:, 4], objects[:, 5])):
        out[some, :, k] = np.add.reduceat(member * values[:, None].astype(np.int64), starts)
    return out


def found_of(objects: np.ndarray) -> np.ndarray:
    """Return int64 ``[N]``, 1 for what is found, of ``[N, 6]`` of ``ObjectCounter.count``."""
    return (objects[:, 5] >= FOUND * objects[:, 4]).astype(np.int64)
