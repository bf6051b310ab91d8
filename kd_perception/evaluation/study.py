"""
What models say of the same frames: a student beside its teacher and a baseline.

Every model runs its deployable graph in an engine, with the preprocessing and decoding of the
perception node, as ``evaluate`` has it. All figures stream: frames are never held together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
import heapq
from typing import Any, Protocol

import numpy as np

from kd_perception.bags.sampling import LabelError
from kd_perception.bundle import ModelBundle
from kd_perception.classes import ClassMap, ClassSet, UNLABELLED
from kd_perception.engines.engine import Engine
from kd_perception.errors import BagError, ImageError
from kd_perception.evaluation.accuracy import Accuracy, accuracy, paired_accuracy, PairedAccuracy
from kd_perception.evaluation.comparison import class_counts, FrameRow
from kd_perception.evaluation.metrics.agreement import Agreement
from kd_perception.evaluation.metrics.calibration import Calibration
from kd_perception.evaluation.read_ahead import read_ahead
from kd_perception.evaluation.reports.pictures import fit_image
from kd_perception.frames import evenly, Progress
from kd_perception.imaging import resize_labels
from kd_perception.tasks.merged_classes import merged_outputs
from kd_perception.tasks.metrics import ConfusionMatrix
from kd_perception.tasks.placement import network_input, place
from kd_perception.tasks.segmentation import decode, SegmentationResult

STUDENT, TEACHER, BASELINE = 'student', 'teacher', 'baseline'
WORST = 6
_WIDTH = 360  # pixels of the pictures that are kept


@dataclass(frozen=True)
class StudyFrame:
    """
    One frame.

    :param name: for people.
    :param image: uint8 ``[H, W, 3]``, RGB.
    :param truth: uint8 ``[H, W]`` ids of the study's classes, or None.
    """

    name: str
    image: np.ndarray
    truth: np.ndarray | None = None


class StudyFrames(Protocol):
    """Frames by position; one that cannot be decoded raises ``ImageError``."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> StudyFrame: ...


@dataclass(frozen=True)
class Member:
    """
    A model that is looked at.

    :param role: ``student``, ``teacher`` or ``baseline``; each once.
    :param label: what it is called.
    :param class_map: from its classes to the study's; None: they are the same. An engine of logits
        lets probabilities of merged classes add up; of another one the decision is mapped.
    """

    role: str
    label: str
    bundle: ModelBundle
    engine: Engine
    class_map: ClassMap | None = None

    @property
    def adds_up(self) -> bool:
        """Whether probabilities of merged classes are added up."""
        return 'logits' in self.engine.output_names

    def answer(self, image: np.ndarray, size: tuple[int, int]) -> SegmentationResult:
        """
        Return mask and confidence of a frame in the study's classes.

        :param size: height and width of the result.
        """
        spec = self.bundle.spec.input
        where = place((image.shape[0], image.shape[1]), spec)
        outputs = self.engine.infer(network_input(image, spec)[None])
        if self.class_map is not None and self.adds_up:
            outputs = merged_outputs(outputs['logits'], self.class_map, (spec.height, spec.width))
        said = decode(outputs, placement=where, output_size=size)
        if self.class_map is None or self.adds_up:
            return said
        return SegmentationResult(self.class_map(said.mask), said.confidence)


@dataclass(frozen=True, eq=False)
class WorstFrame:
    """
    One of the frames on which the student errs most, made small.

    :param score: share of its pixels that are wrong; without ground truth, on which it differs
        from the teacher.
    :param masks: uint8 ``[h, w]`` by role.
    :param wrong: share of pixels that are wrong by role, where there is ground truth.
    """

    name: str
    score: float
    image: np.ndarray
    truth: np.ndarray | None
    masks: Mapping[str, np.ndarray]
    wrong: Mapping[str, float]


@dataclass(eq=False)
class Study:
    """
    What was found; roles are keys throughout.

    :param matrices: pixels by truth and prediction, over labelled frames.
    :param frames: by frame: name, and ``wrong`` and ``differs`` where they are known, 0 … 1.
    :param bad: frames that could not be decoded.
    :param called: what roles are called on a page, where it is not the role.
    """

    classes: ClassSet
    members: tuple[Member, ...]
    called: Mapping[str, str] = field(default_factory=dict)
    matrices: dict[str, ConfusionMatrix] = field(default_factory=dict)
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    accuracies: dict[str, Accuracy] = field(default_factory=dict)
    differences: dict[str, PairedAccuracy] = field(default_factory=dict)
    agreement: Agreement | None = None
    frames: list[dict[str, Any]] = field(default_factory=list)
    worst: tuple[WorstFrame, ...] = ()
    labelled: int = 0
    bad: int = 0

    @property
    def roles(self) -> tuple[str, ...]:
        """Return who was looked at, the student first."""
        return tuple(m.role for m in self.members)

    def name(self, role: str) -> str:
        """Return what a role is called on a page."""
        return self.called.get(role, role)


def study(frames: StudyFrames, members: Sequence[Member], classes: ClassSet, *,
          called: Mapping[str, str] | None = None, worst: int = WORST,
          progress: Progress | None = None) -> Study:
    """
    Look at all frames with all members.

    :param members: the student first.
    :param called: what roles are called on a page, where it is not the role.
    :param worst: so many of the worst frames are kept as pictures.
    :raises BagError: when not one frame can be decoded.
    """
    found = Study(classes, tuple(members), called or {},
                  {m.role: ConfusionMatrix(len(classes)) for m in members},
                  {m.role: Calibration() for m in members},
                  agreement=Agreement(len(classes)) if any(m.role == TEACHER for m in members)
                  else None)
    rows: list[FrameRow] = []
    kept: list[tuple[float, int, WorstFrame]] = []

    def read(position: int) -> StudyFrame | ImageError:
        try:
            return frames[position]
        except LabelError:
            raise
        except ImageError as error:
            return error

    with closing(read_ahead(read, range(len(frames)))) as stream:
        for position, frame in enumerate(stream):
            if isinstance(frame, ImageError):
                found.bad += 1
            else:
                answers = _look(found, frame, position, rows)
                score = found.frames[-1].get('wrong', found.frames[-1].get('differs'))
                # Of equal scores the earlier frame stays.
                if score is not None and (len(kept) < worst or (score, -position) > kept[0][:2]):
                    heapq.heappush(kept, (score, -position, _small(frame, score, answers)))
                    if len(kept) > worst:
                        heapq.heappop(kept)
            if progress is not None:
                progress(position + 1, len(frames), 'report: looking at frames')
    if not found.frames:
        raise BagError(f'not one of {len(frames)} frames can be decoded')
    found.worst = tuple(w for _, _, w in sorted(kept, key=lambda k: k[:2], reverse=True))
    _conclude(found, rows)
    return found


def _look(found: Study, frame: StudyFrame, position: int,
          rows: list[FrameRow]) -> dict[str, SegmentationResult]:
    """Count one frame and return what every member says of it."""
    truth = frame.truth
    size = (frame.image.shape[:2] if truth is None else truth.shape)
    answers = {m.role: m.answer(frame.image, (size[0], size[1])) for m in found.members}
    entry: dict[str, Any] = {'name': frame.name}
    if truth is not None and (truth != UNLABELLED).any():
        found.labelled += 1
        for role, said in answers.items():
            matrix = ConfusionMatrix(len(found.classes))
            matrix.update(truth, said.mask)
            found.matrices[role].merge(matrix)
            found.calibrations[role].update(truth, said.mask, said.confidence)
            rows.append(FrameRow(role, position, '', position, 0, 0,
                                 counts=class_counts(matrix.counts)))
            if role == STUDENT:
                entry['wrong'] = round(1 - matrix.pixel_accuracy(), 6)
    if found.agreement is not None:
        entry['differs'] = round(found.agreement.update(
            answers[TEACHER].mask, answers[STUDENT].mask, truth), 6)
    found.frames.append(entry)
    return answers


def _conclude(found: Study, rows: Sequence[FrameRow]) -> None:
    for role in found.roles:
        own = accuracy(role, rows)
        if own is not None:
            found.accuracies[role] = own
        if role != STUDENT:
            pair = paired_accuracy(rows, role, STUDENT)
            if pair is not None:
                found.differences[role] = pair


def _small(frame: StudyFrame, score: float,
           answers: Mapping[str, SegmentationResult]) -> WorstFrame:
    image = fit_image(frame.image, _WIDTH)
    height, width = image.shape[:2]

    def shrunk(ids: np.ndarray) -> np.ndarray:
        return resize_labels(ids, height, width)

    return WorstFrame(frame.name, score, image,
                      None if frame.truth is None else shrunk(frame.truth),
                      {role: shrunk(said.mask) for role, said in answers.items()},
                      {} if frame.truth is None else
                      {role: _wrong(frame.truth, said.mask) for role, said in answers.items()})


def _wrong(truth: np.ndarray, mask: np.ndarray) -> float:
    known = truth != UNLABELLED
    return int(((mask != truth) & known).sum()) / max(1, int(known.sum()))


def spread(count: int, most: int) -> list[int]:
    """Return at most so many positions of ``count``, evenly spread; 0: all."""
    return evenly(count, most if most > 0 else count)


def close(members: Sequence[Member]) -> None:
    """
    Release the engines, the last one first.

    Every OpenVINO core puts a stack for signals in place and, when it goes, the one that was there
    before: in another order the process is left with a stack that is freed, and dies on Ctrl-C.
    """
    for member in reversed(members):
        member.engine.close()
