"""
What the monitor gathers while frames go by, and the ``ComparisonRun`` that comes of it.

No ROS here. Events come in any order: a result may arrive before the record of its publish call.
A recorder belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple
import zlib

import numpy as np

from kd_perception.classes import ClassMap, ClassSet
from kd_perception.evaluation.comparison import (
    ArmInfo,
    class_counts,
    ComparisonRun,
    ComparisonSpec,
    confusion_matrix,
    ResourceUsage,
    SamplePicture,
)
from kd_perception.evaluation.host import host_info, package_versions
from kd_perception.evaluation.joining import join_events, Published, Received
from kd_perception.evaluation.metrics.detail_counter import (
    DetailCounter,
    FrameTruth,
    Lens,
    OBJECTS,
)
from kd_perception.evaluation.metrics.frame_detail import FrameDetail
from kd_perception.frames import CameraPlace, InstanceTable
from kd_perception.imaging import resize_labels
from kd_perception.nodes.monitor.worst_frames import FinishedFrame

Key = tuple[int, str]  # stamp, frame id
FRESH_FRAMES = 16


@dataclass
class _Answer:
    """One result of one arm, gathered from its mask and its timing."""

    received_ns: int
    stages: Mapping[str, float] = field(default_factory=dict)
    counts: tuple[tuple[int, int, int], ...] | None = None
    detail: FrameDetail | None = None
    seen: bool = True


class _Packed(NamedTuple):
    """An array in little memory: maps of classes and instances shrink to a tenth and less."""

    data: bytes
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def of(cls, array: np.ndarray) -> _Packed:
        return cls(zlib.compress(array.tobytes(), 1), array.shape, array.dtype)

    def array(self) -> np.ndarray:
        return np.frombuffer(zlib.decompress(self.data), self.dtype).reshape(self.shape)


@dataclass
class _FrameState:
    """What is kept of a frame until every arm has answered."""

    known: FrameTruth = field(default_factory=FrameTruth)
    confidences: dict[str, np.ndarray] = field(default_factory=dict)
    image: np.ndarray | None = None
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    index: int | None = None
    served: set[str] = field(default_factory=set)
    counted: set[str] = field(default_factory=set)
    calibrated: set[str] = field(default_factory=set)
    packed: dict[str, _Packed] = field(default_factory=dict)
    packed_truth: dict[str, _Packed] = field(default_factory=dict)

    @property
    def truth(self) -> np.ndarray | None:
        """Return the labels, uint8 ``[H, W]`` in the counted classes, or None."""
        return self.known.labels

    def pack(self, *, truth_returns: bool) -> None:
        """
        Keep the frame in little memory, for an arm that answers much later.

        Not its depth: what is that far behind does not answer the next frame too, and flicker is
        between two of them.

        :param truth_returns: truth and picture come again with that arm.
        """
        self.packed.update({arm: _Packed.of(mask) for arm, mask in self.masks.items()})
        self.masks.clear()
        self.confidences.clear()
        known, self.image = self.known, None
        if truth_returns:
            self.known = FrameTruth()
            return
        for name in ('labels', 'instances'):
            if (array := getattr(known, name)) is not None:
                self.packed_truth[name] = _Packed.of(array)
        self.known = FrameTruth(table=known.table, parts=known.parts & {OBJECTS})

    def unpack(self) -> None:
        """Bring masks and truth back."""
        for arm, packed in self.packed.items():
            self.masks[arm] = packed.array()
        for name, packed in self.packed_truth.items():
            setattr(self.known, name, packed.array())
        self.packed.clear()
        self.packed_truth.clear()


class Recorder:
    """
    Joins publish records, results, timings and ground truth of all arms.

    :param class_map: from the ids of the labels to those of the models; None without truth.
    :param source: class set of the labels, to see ids that it does not have.
    :param measures: what to count beside confusion matrices, of ``detail_counter.MEASURES``.
    :param kept_frames: frames that are kept while an arm has not answered; may be set later. All
        but those that were touched last are packed.
    """

    def __init__(self, spec: ComparisonSpec, arms: Sequence[ArmInfo], classes: ClassSet,
                 class_map: ClassMap | None, *, source: ClassSet | None = None,
                 measures: Collection[str] = (), kept_frames: int = FRESH_FRAMES) -> None:
        self.spec = spec
        self.arms = tuple(arms)
        self.classes = classes
        self._class_map = class_map
        self._source = source
        self._details = DetailCounter(measures, classes, class_map, source)
        self._sure: set[str] = set()  # arms that publish their confidence
        self.kept_frames = kept_frames
        self.ignored: Collection[Key] = ()  # frames of the time before the run
        self._published: list[Published] = []
        self._answers: dict[tuple[str, Key], list[_Answer]] = {}
        self._frames: dict[Key, _FrameState] = {}
        self._stages: dict[tuple[str, Key], list[Mapping[str, float]]] = {}
        k = len(classes)
        names = [arm.name for arm in arms]
        self._confusion = {n: np.zeros((k, k + 1), np.int64) for n in names}
        self._agreement = {n: np.zeros((k, k + 1), np.int64) for n in names[1:]}
        self._pictures: list[SamplePicture] = []
        self._saw_truth = False
        self._labelled: set[Key] = set()
        self._size = (0, 0)
        self._skipped: set[int] = set()
        self._unseen = 0
        self.notes: list[str] = []
        self.watchers: list[Callable[[FinishedFrame], None]] = []

    @property
    def published(self) -> int:
        """Return how many publish calls are on record."""
        return len(self._published)

    @property
    def answered(self) -> int:
        """Return how many results came."""
        return sum(map(len, self._answers.values()))

    def outstanding(self) -> int:
        """Return how many publish calls have no result yet."""
        return sum((p.arm, (p.stamp_ns, p.frame_id)) not in self._answers
                   for p in self._published)

    def measured(self) -> bool:
        """Return whether a frame beyond the warm-up was answered."""
        indices = {(p.arm, (p.stamp_ns, p.frame_id)): p.index for p in self._published}
        return any(indices.get(key, -1) >= self.spec.warmup for key in self._answers)

    def on_published(self, record: Published) -> None:
        """Take the record of one publish call."""
        self._published.append(record)
        key = (record.stamp_ns, record.frame_id)
        frame = self._frame(key)
        frame.index, frame.known.parts = record.index, frozenset(record.truth)
        frame.served.add(record.arm)
        self._settle(key)

    def on_skipped(self, index: int) -> None:
        """Take note of a frame that the camera could not decode."""
        self._skipped.add(index)

    def on_labels(self, key: Key, labels: np.ndarray) -> None:
        """Take the ground truth of a frame: uint8 ``[H, W]``, ids of the source."""
        if self._class_map is not None:
            self._saw_truth = True
            if self._source is not None and (strange := self._source.unknown_ids(labels)):
                self.notes.append(f'labels hold ids {strange} that the class set '
                                  f'{self._source.name} does not have; they were left out')
            self._labelled.add(key)
            self._frame(key).known.labels = self._class_map(labels)
            self._settle(key)

    def on_instances(self, key: Key, instances: np.ndarray) -> None:
        """Take the instance ids of a frame: uint16 ``[H, W]``."""
        self._frame(key).known.instances = instances
        self._settle(key)

    def on_table(self, key: Key, table: InstanceTable) -> None:
        """Take what is known of the instances of a frame."""
        self._frame(key).known.table = table
        self._settle(key)

    def on_depth(self, key: Key, depth: np.ndarray) -> None:
        """Take the depth of a frame: float32 ``[H, W]`` metres, not finite for the sky."""
        self._frame(key).known.depth = depth
        self._settle(key)

    def on_place(self, key: Key, place: CameraPlace) -> None:
        """Take where the camera was."""
        self._frame(key).known.place = place
        self._settle(key)

    def on_lens(self, lens: Lens) -> None:
        """Take fx, fy, cx, cy of the camera in pixels."""
        self._details.lens = lens

    def on_confidence(self, arm: str, key: Key, confidence: np.ndarray) -> None:
        """Take the confidence of a result: uint8 ``[H, W]``."""
        self._sure.add(arm)
        # The mask came before it; a frame that is gone by now needs no new entry.
        if key in self._frames and self._class_map is not None:
            self._frame(key).confidences[arm] = confidence
            self._settle(key)

    def on_sample(self, key: Key, image: np.ndarray) -> None:
        """Take the picture of a frame for the report: uint8 ``[H, W, 3]`` RGB."""
        self._frame(key).image = image

    def on_result(self, arm: str, key: Key, received_ns: int, mask: np.ndarray | None) -> None:
        """Take one result: uint8 ``[H, W]``, ids of the model; None where nobody looks at it."""
        if key in self.ignored:
            return
        answers = self._answers.setdefault((arm, key), [])
        answer = _Answer(received_ns, seen=mask is not None)
        waiting = self._stages.get((arm, key))
        if waiting:
            answer.stages = waiting.pop(0)
        answers.append(answer)
        if mask is None:
            self._unseen += 1
            return
        self._size = self._size if any(self._size) else mask.shape[:2]
        if len(answers) == 1:
            self._frame(key).masks[arm] = mask
            self._settle(key)

    def on_stages(self, arm: str, key: Key, stages: Mapping[str, float]) -> None:
        """Take what a node says of the time that a frame took, milliseconds by stage."""
        for answer in self._answers.get((arm, key), ()):
            if not answer.stages:
                answer.stages = stages
                return
        self._stages.setdefault((arm, key), []).append(stages)

    def complete(self, arm: str, key: Key, *, labelled: bool) -> bool:
        """
        Return whether all is there that will ever be known of a frame in one arm.

        :param labelled: whether the camera publishes ground truth for this frame.
        """
        answers = self._answers.get((arm, key))
        frame = self._frames.get(key)
        if not answers or not answers[0].stages or (frame is not None and frame.index is None):
            return False
        return not labelled or self._class_map is None or answers[0].counts is not None

    def run(self, *, patience_ms: float, resources: Mapping[str, ResourceUsage],
            counters: Mapping[str, Mapping[str, int]], started: str, interrupted: bool,
            published_at: Mapping[Key, int] | None = None,
            stopped_ns: int | None = None) -> ComparisonRun:
        """
        Return everything as a ``ComparisonRun``.

        :param published_at: better times of publishing than were on record, by frame.
        :param stopped_ns: when the run was ended while frames still came; later results of frames
            that are not on record belong to those.
        """
        for key in list(self._frames):
            self._let_go(key)
        received = [Received(arm, key[0], key[1], a.received_ns, a.stages, a.counts, a.detail)
                    for (arm, key), answers in self._answers.items() for a in answers]
        if stopped_ns is not None:
            known = {(p.arm, p.stamp_ns, p.frame_id) for p in self._published}
            received = [r for r in received if r.received_ns <= stopped_ns
                        or (r.arm, r.stamp_ns, r.frame_id) in known]
        times = published_at or {}
        published = [replace(p, published_ns=times.get((p.stamp_ns, p.frame_id), p.published_ns))
                     for p in self._published]
        rows = join_events(published, received, patience_ms)
        notes = list(dict.fromkeys(self.notes))
        if self._skipped:
            served = len({p.index for p in self._published})
            notes.append(f'{len(self._skipped)} of {len(self._skipped) + served} frames of the '
                         'source could not be decoded and were skipped.')
        if self._unseen:
            notes.append(f'The monitor did not keep up: it has not looked at {self._unseen} of '
                         f'{self.answered} masks. They count for latency and losses, not for '
                         'accuracy and agreement.')
        notes += [*self._late_answers(published), *self._unheard(published)]
        height, width = self._size
        return ComparisonRun(
            spec=replace(self.spec, width=width, height=height), arms=self.arms,
            rows=tuple(rows), classes=self.classes,
            confusion=self._confusion if self._saw_truth else {}, agreement=self._agreement,
            resources=resources, counters=counters, host=host_info(),
            versions=package_versions(), pictures=tuple(self._pictures),
            notes=tuple(notes), started=started, interrupted=interrupted,
            confidences=self._details.confidences,
            flicker_method=self._details.flicker_method)

    def _late_answers(self, published: Sequence[Published]) -> list[str]:
        """Return notes on answers that found the truth of their frame gone."""
        notes = []
        for arm in self.arms:
            known = _frames_of(published, arm.name) & self._labelled
            first = {key: answers[0] for (name, key), answers in self._answers.items()
                     if name == arm.name and key in known}
            late = sum(answer.seen and answer.counts is None for answer in first.values())
            if late:
                notes.append(
                    f'{late} of {len(first)} answers of arm {arm.name} to labelled frames came so '
                    'late that the labels were no longer kept. They count for latency and '
                    'losses, not for accuracy.')
        return notes

    def _unheard(self, published: Sequence[Published]) -> list[str]:
        """Return notes on masks that a node published, by its timing, and that never came here."""
        notes = []
        for arm in self.arms:
            known = _frames_of(published, arm.name)
            lost = sum(name == arm.name and key in known and (name, key) not in self._answers
                       for name, key in self._stages)
            if lost:
                notes.append(f'{lost} masks of arm {arm.name} were published, as its timing '
                             'tells, and did not reach the monitor. They count as lost, which '
                             'is hardly the fault of the model.')
        return notes

    def _frame(self, key: Key) -> _FrameState:
        """Return what is known of a frame, which is then the one that was touched last."""
        frame = self._frames.pop(key, None) or _FrameState()
        self._frames[key] = frame
        while len(self._frames) > self.kept_frames:
            self._let_go(next(iter(self._frames)))
        for resting in islice(reversed(self._frames.values()), FRESH_FRAMES, FRESH_FRAMES + 1):
            resting.pack(truth_returns=self.spec.placement == 'isolated'
                         and len(resting.served) < len(self.arms))
        frame.unpack()
        return frame

    def _settle(self, key: Key) -> None:
        """Count pixels for every arm of which mask, truth and index are there."""
        frame = self._frames[key]
        if frame.index is None:
            return
        if self._class_map is not None and frame.known.complete(self._details.measures):
            self._count(key, frame, frame.index)
        if len(frame.masks) == len(self.arms) and (self._class_map is None or (
                len(frame.counted) == len(self.arms) and self._sure <= frame.calibrated)):
            self._let_go(key)

    def _count(self, key: Key, frame: _FrameState, index: int) -> None:
        truth = frame.truth
        if truth is None:
            return
        for arm, mask in frame.masks.items():
            if arm not in frame.counted:
                frame.counted.add(arm)
                fitting = resize_labels(mask, *truth.shape)
                matrix = confusion_matrix(truth, fitting, len(self.classes))
                answer = self._answers[arm, key][0]
                answer.counts = class_counts(matrix)
                answer.detail = self._details.count(arm, index, frame.known, fitting)
                if index >= self.spec.warmup:
                    self._confusion[arm] += matrix
            confidence = frame.confidences.pop(arm, None)
            if confidence is not None:
                frame.calibrated.add(arm)
                if index >= self.spec.warmup:
                    self._details.calibrate(arm, truth, mask, confidence)

    def _let_go(self, key: Key) -> None:
        """Compare the arms on a frame, keep its picture if it has one, and forget its pixels."""
        frame = self._frames.pop(key)
        frame.unpack()
        if frame.index is not None and self._class_map is not None:
            self._count(key, frame, frame.index)  # parts of the truth may have been lost
        if frame.index is None or frame.index < self.spec.warmup or not frame.masks:
            return
        first = self.arms[0].name
        reference = frame.masks.get(first)
        for arm, mask in frame.masks.items():
            if reference is not None and arm != first:
                self._agreement[arm] += confusion_matrix(
                    reference, resize_labels(mask, *reference.shape), len(self.classes))
        finished = FinishedFrame(
            frame.index, key, frame.truth, dict(frame.masks),
            {arm: counts for arm in frame.masks
             if (counts := self._answers[arm, key][0].counts) is not None})
        for watch in self.watchers:
            watch(finished)
        if frame.image is not None and len(frame.masks) == len(self.arms):
            self._pictures.append(SamplePicture(
                frame.index, key[0], frame.image, frame.truth, dict(frame.masks)))


def _frames_of(published: Sequence[Published], arm: str) -> set[Key]:
    return {(p.stamp_ns, p.frame_id) for p in published if p.arm == arm}
