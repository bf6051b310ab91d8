"""
Accuracy of a model bundle on a labelled recording, through the engine that will drive.

The same engine, preprocessing and decoding as in the perception node: what is measured here is
what runs there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from contextlib import closing
from dataclasses import asdict, dataclass
import logging
import time
from typing import Any

import numpy as np

from kd_perception.bags.drives import Drive, drives_of, shared
from kd_perception.bags.sampling import LabelError
from kd_perception.bundle import ModelBundle
from kd_perception.classes import ClassMap, ClassSet, load_class_map, map_speaks_of
from kd_perception.engines.loader import load_engine
from kd_perception.errors import BagError, ConfigError, ImageError
from kd_perception.evaluation.metrics.boundary import boundary_score, BoundaryScore
from kd_perception.evaluation.metrics.calibration import reliabilities, Reliability
from kd_perception.evaluation.metrics.detail_counter import DetailCounter, FrameTruth, MEASURES
from kd_perception.evaluation.metrics.flicker import Flicker, flicker_share
from kd_perception.evaluation.metrics.frame_detail import FrameDetail
from kd_perception.evaluation.metrics.objects import object_recall, ObjectRecall
from kd_perception.evaluation.plain import plain
from kd_perception.evaluation.read_ahead import read_ahead
from kd_perception.frames import Frame, FrameSource, KnowingSource, KnownTruth, Progress
from kd_perception.tasks.metrics import ConfusionMatrix
from kd_perception.tasks.placement import network_input, place, Placement
from kd_perception.tasks.segmentation import decode

# Labels that lie farther apart say nothing of flicker.
_LONGEST_STEP_S = 0.25

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationResult:
    """
    What was measured, of what, on what, by what.

    :param matrix: pixels by truth and prediction, in the classes of ``classes``.
    :param frames: frames that were measured.
    :param bad_frames: frames that could not be decoded.
    :param unlabelled_frames: frames without ground truth, left out.
    :param precision: number format that really ran.
    :param class_map: ``<labels>-><model>`` where the truth was mapped to the model's classes,
        ``<model>-><labels>`` where the predictions were mapped; empty where nothing was.
    :param trained_on: drives of the recording that the model was trained on, as far as its bundle
        says: the score flatters.
    :param boundary, objects, flicker, calibration: None where not measured.
    """

    bundle: str
    bundle_hash: str
    source: str
    data_fingerprint: str
    classes: ClassSet
    matrix: ConfusionMatrix
    frames: int
    bad_frames: int
    unlabelled_frames: int
    engine: str
    device: str
    precision: str
    class_map: str
    seconds: float
    trained_on: tuple[str, ...] = ()
    boundary: BoundaryScore | None = None
    objects: ObjectRecall | None = None
    flicker: Flicker | None = None
    calibration: Reliability | None = None

    @property
    def mean_iou(self) -> float:
        """Mean IoU over all classes that occur."""
        return self.matrix.mean_iou()

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return {
            'bundle': self.bundle, 'bundle_hash': self.bundle_hash, 'source': self.source,
            'data_fingerprint': self.data_fingerprint, 'class_set': self.classes.name,
            'class_map': self.class_map, 'frames': self.frames, 'bad_frames': self.bad_frames,
            'unlabelled_frames': self.unlabelled_frames, 'engine': self.engine,
            'device': self.device, 'precision': self.precision,
            'trained_on': list(self.trained_on), 'seconds': round(self.seconds, 3),
            **self.matrix.to_dict(self.classes.names),
            **plain(self._details())}

    def _details(self) -> dict[str, Any]:
        """Return what was measured beside the matrix, as ``report.json`` has it."""
        out = {name: None if (found := getattr(self, name)) is None
               else {k: v for k, v in asdict(found).items() if k != 'arm'} for name in MEASURES}
        if self.boundary is not None:
            out['boundary'] = {'n': self.boundary.n, 'score': asdict(self.boundary.score),
                               'classes': self.boundary.rows(self.classes.names)}
        return out


def evaluate(bundle: ModelBundle, source: FrameSource, *, engine: str = 'auto',
             device: str = 'cpu', precision: str = 'auto', threads: int = 0,
             class_map: str = '', confidence_threshold: float = 0.0, limit: int = 0,
             measures: Collection[str] = MEASURES,
             progress: Progress | None = None) -> EvaluationResult:
    """
    Measure a segmentation bundle on a labelled recording.

    Predictions are brought to the size of the labels by nearest neighbour. Where the classes
    differ, the truth is mapped to the model's classes, or the predictions to those of the truth,
    whichever map exists.

    :param class_map: name or path of a map from the recording's classes to the model's, or from
        the model's to the recording's.
    :param confidence_threshold: predictions below it count as misses.
    :param limit: measure the first so many frames; 0: all.
    :param measures: what is measured beside the matrix, as far as the source knows the truth of
        it: instances for objects, depth and pose for flicker that is exact.
    :raises KdPerceptionError: when there are no labels, no map, or nothing can be read.
    """
    if bundle.spec.task != 'segmentation':
        raise ConfigError(f'{bundle.path}: task {bundle.spec.task!r} cannot be evaluated yet')
    if not 0 <= confidence_threshold <= 1:
        raise ConfigError(f'confidence threshold {confidence_threshold:g}: between 0 and 1')
    if not source.has_labels:
        raise BagError(f'{source.name}: has no labels to evaluate on; say where they are with '
                       '--label-dir or --label-topic')
    if source.label_classes is None:
        raise ConfigError(f'{source.name}: has labels, but what do their ids mean? Name their '
                          'class set with --classes')
    classes, map_truth, map_prediction = common_classes(source.label_classes, bundle.spec.classes,
                                               class_map)
    known_drives = drives_trained_on(bundle, source)
    if known_drives:
        log.warning('%s: %d of %d frames are of drives that %s was trained on (%s): the score '
                    'flatters', source.name, sum(known_drives.values()), len(source),
                    bundle.spec.name, ', '.join(known_drives))
    matrix = ConfusionMatrix(len(classes))
    counter = DetailCounter(measures, classes, map_truth, source.label_classes)
    details: list[FrameDetail] = []
    stamps = _Steps()
    measured = bad = unlabelled = 0
    total = min(len(source), limit) if limit else len(source)
    started = time.monotonic()
    model = load_engine(bundle, engine, device=device, precision=precision, threads=threads)
    try:
        def read(index: int) -> _Read | ImageError | None:
            try:
                # First what is known: a simulator then draws the frame once.
                known = source.known_truth(index) if measures and isinstance(
                    source, KnowingSource) else None
                frame = source[index]
            except LabelError:
                raise  # a defect of the whole recording, whereas a bad picture is one frame
            except ImageError as error:
                return error
            if frame.labels is None:
                return None
            where = place((frame.image.shape[0], frame.image.shape[1]), bundle.spec.input)
            return _Read(network_input(frame.image, bundle.spec.input), where, frame.labels,
                         frame, known)

        with closing(read_ahead(read, range(total))) as stream:
            for index, item in enumerate(stream):
                if isinstance(item, ImageError):
                    bad += 1
                elif item is None:
                    unlabelled += 1
                else:
                    labels = item.labels
                    result = decode(model.infer(item.input[None]),
                                    confidence_threshold=confidence_threshold,
                                    placement=item.where,
                                    output_size=(labels.shape[0], labels.shape[1]))
                    truth, mask = map_truth(labels), map_prediction(result.mask)
                    matrix.update(truth, mask)
                    whole = FrameTruth.of(truth, item.known, item.frame.image
                                          if item.frame.image.shape[:2] == truth.shape else None)
                    counter.lens = item.known.lens if item.known is not None else counter.lens
                    detail = counter.count('', stamps.position(item.frame), whole, mask)
                    details += [detail] if detail is not None else []
                    if 'calibration' in measures:
                        counter.calibrate('', truth, mask, result.confidence)
                    measured += 1
                if progress is not None:
                    note = f'mIoU {100 * matrix.mean_iou():.1f}' if measured else ''
                    progress(index + 1, total, note)
        if not measured:
            raise BagError(f'{source.name}: not one of {total} frames could be measured ({bad} '
                           f'not decodable, {unlabelled} without labels)')
        return EvaluationResult(
            bundle=bundle.spec.name, bundle_hash=bundle.hash, source=source.name,
            data_fingerprint=source.fingerprint, classes=classes, matrix=matrix, frames=measured,
            bad_frames=bad, unlabelled_frames=unlabelled, engine=model.name, device=model.device,
            precision=model.precision, seconds=time.monotonic() - started,
            class_map=_direction(source.label_classes, bundle.spec.classes, classes),
            trained_on=tuple(known_drives), **_details(details, counter))
    finally:
        model.close()


@dataclass(frozen=True, eq=False)
class _Read:
    """One frame, ready for the network."""

    input: np.ndarray
    where: Placement
    labels: np.ndarray
    frame: Frame
    known: KnownTruth | None


class _Steps:
    """Numbers frames so that those which follow each other closely have consecutive numbers."""

    def __init__(self) -> None:
        self._number = 0
        self._last_ns: int | None = None

    def position(self, frame: Frame) -> int:
        """Return the number of the next frame."""
        step = None if self._last_ns is None else frame.log_ns - self._last_ns
        self._last_ns = frame.log_ns
        self._number += 1 if step is not None and 0 < step <= _LONGEST_STEP_S * 1e9 else 2
        return self._number


def _details(details: list[FrameDetail], counter: DetailCounter) -> dict[str, Any]:
    """Return what the counts of all frames come to."""
    def counts(name: str) -> list[np.ndarray]:
        return [c for d in details if (c := getattr(d, name)) is not None]

    return {'boundary': boundary_score('', counts('boundary')),
            'objects': object_recall('', counts('objects')),
            'flicker': flicker_share('', counter.flicker_method, counts('flicker')),
            'calibration': reliabilities(counter.confidences).get('')}


def drives_trained_on(bundle: ModelBundle, source: FrameSource) -> Counter[str]:
    """Return frames by drive of a recording, of drives that the bundle says it was trained on."""
    held = drives_of(source)
    told = bundle.spec.statistics.get('drives')
    if told is not None:
        again = shared([Drive.from_dict(d) for d in told], held)
    else:
        again = [source.fingerprint in bundle.spec.lineage.data] * len(held)
    return Counter(drive.name for drive, known in zip(held, again, strict=True) if known)


def common_classes(truth: ClassSet, predicted: ClassSet,
          name: str) -> tuple[ClassSet, ClassMap, ClassMap]:
    """Return the classes to count in and the maps of truth and prediction to them."""
    try:
        return predicted, load_class_map(truth, predicted, name), _identity(predicted)
    except ConfigError as error:
        try:
            return truth, _identity(truth), load_class_map(predicted, truth, name)
        except ConfigError as other:
            backwards = (map_speaks_of(predicted, truth, name)
                         > map_speaks_of(truth, predicted, name))
            raise (other if backwards else error) from None


def _direction(truth: ClassSet, predicted: ClassSet, counted: ClassSet) -> str:
    """Return which classes were mapped to which."""
    if truth.names == predicted.names:
        return ''
    mapped = truth if counted is predicted else predicted
    return f'{mapped.name}->{counted.name}'


def _identity(classes: ClassSet) -> ClassMap:
    return ClassMap(classes.name, classes.name, classes.lookup())
