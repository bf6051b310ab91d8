"""
The frames of a run on which an arm did worst, kept while they go by.

No ROS here. Nobody knows beforehand which frames will be the worst, so masks of the worst so far
are kept (compressed, a few kilobytes each); their pictures are fetched when the run is over.
Frames that follow each other fail alike, so of neighbours only the worst stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
import threading
import zlib

import numpy as np

from kd_perception.evaluation.comparison import SamplePicture
from kd_perception.evaluation.metrics.frame_accuracy import frame_miou
from kd_perception.imaging import resize_labels

Key = tuple[int, str]  # stamp, frame id
COUNT = 10
_SPARE = 3


@dataclass(frozen=True, eq=False)
class FinishedFrame:
    """
    A measured frame that no further result will come for.

    :param truth: uint8 ``[H, W]``, or None.
    :param masks: by arm that answered, uint8.
    :param counts: by arm, as in ``FrameRow``; empty without truth.
    """

    index: int
    key: Key
    truth: np.ndarray | None
    masks: Mapping[str, np.ndarray]
    counts: Mapping[str, tuple[tuple[int, int, int], ...]]


@dataclass(frozen=True, eq=False)
class _Packed:
    """A mask in little memory."""

    data: bytes
    shape: tuple[int, ...]

    @classmethod
    def of(cls, mask: np.ndarray) -> _Packed:
        """Return a mask in little memory."""
        return cls(zlib.compress(np.ascontiguousarray(mask).tobytes(), 1), mask.shape)

    def mask(self) -> np.ndarray:
        """Return the mask."""
        return np.frombuffer(zlib.decompress(self.data), np.uint8).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class _Kept:
    """One of the worst frames."""

    index: int
    key: Key
    score: float
    truth: _Packed | None
    masks: Mapping[str, _Packed]


def badness(frame: FinishedFrame, arms: Sequence[str]) -> float | None:
    """
    Return how bad a frame is, 0 … 1: one minus the lowest mIoU of the arms that are judged.

    Without ground truth it is the largest share of pixels on which an arm differs from the
    reference. None where nothing can be said.

    :param arms: of the run; the first is the reference, judged itself only when it is alone.
    """
    reference = arms[0]
    judged = [arm for arm in frame.masks if arm != reference or len(arms) == 1]
    if not judged:
        return None
    if frame.counts:
        found = [m for arm in judged if (m := frame_miou(frame.counts.get(arm, ()))) is not None]
        return 1.0 - min(found) if found else None
    first = frame.masks.get(reference)
    if first is None or judged == [reference]:
        return None
    return max(float((resize_labels(frame.masks[arm], *first.shape) != first).mean())
               for arm in judged)


class WorstFrames:
    """
    The worst frames so far; may be used from several threads.

    :param arms: of the run; the first is the reference.
    :param total: frames of the run; 0 where nobody knows.
    """

    def __init__(self, arms: Sequence[str], total: int, count: int = COUNT) -> None:
        self._arms = tuple(arms)
        self._count, self._total = count, total
        self._seen = 0
        self._kept: list[_Kept] = []
        self._images: dict[Key, np.ndarray] = {}
        self._lock = threading.Lock()

    def offer(self, frame: FinishedFrame) -> None:
        """Keep ``frame`` if it is one of the worst."""
        score = badness(frame, self._arms)
        if not score:  # nothing can be said, or nothing is wrong
            return
        with self._lock:
            self._seen = max(self._seen, frame.index + 1)
            gap = self._gap()
            near = [k for k in self._kept if abs(k.index - frame.index) < gap]
            if any(k.score >= score for k in near):
                return
            rest = [k for k in self._kept if k not in near]
            most = self._count * _SPARE  # some may turn out to be neighbours of worse ones
            if len(rest) >= most and rest[-1].score >= score:
                return
            rest.append(_Kept(frame.index, frame.key, score,
                              None if frame.truth is None else _Packed.of(frame.truth),
                              {arm: _Packed.of(mask) for arm, mask in frame.masks.items()}))
            rest.sort(key=lambda k: (-k.score, k.index))
            self._kept = rest[:most]

    def wanted(self) -> list[tuple[int, Key]]:
        """Return index and key of the frames whose picture is not there, worst first."""
        with self._lock:
            return [(k.index, k.key) for k in self._chosen() if k.key not in self._images]

    def add_image(self, key: Key, image: np.ndarray) -> None:
        """Take the picture of a frame: uint8 ``[H, W, 3]`` RGB."""
        with self._lock:
            self._images[key] = image

    def pictures(self, known: Iterable[SamplePicture] = ()) -> list[SamplePicture]:
        """
        Return the worst frames, worst first.

        :param known: pictures that the run has anyway; theirs are taken where a frame is among
            them.
        """
        images = {(p.index, p.stamp_ns): p.image for p in known}
        with self._lock:
            return [SamplePicture(
                k.index, k.key[0],
                self._images.get(k.key, images.get((k.index, k.key[0]))),
                None if k.truth is None else k.truth.mask(),
                {arm: packed.mask() for arm, packed in k.masks.items()}, worst=True)
                for k in self._chosen()]

    def _gap(self) -> int:
        """Return from how many frames apart two are no neighbours; it grows with endless runs."""
        return max(1, 2 * (self._total or self._seen) // (3 * max(1, self._count)))

    def _chosen(self) -> list[_Kept]:
        """Return the worst, thinned by the gap that the run has come to."""
        gap, out = self._gap(), list[_Kept]()
        for kept in self._kept:
            if all(abs(kept.index - other.index) >= gap for other in out):
                out.append(kept)
        return out[:self._count]
