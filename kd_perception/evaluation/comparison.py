"""
The form in which an A/B comparison travels: from the monitor node to the report.

The monitor fills a ``ComparisonRun`` while frames go by; ``comparison_files`` stores and loads it;
``paired`` computes on it and ``report`` shows it. Plain values only, no ROS.

Times are nanoseconds of the steady clock (``CLOCK_MONOTONIC``, one host), except ``stamp_ns``,
which is a key and never subtracted. Confusion matrices are int64 ``[K, K+1]``: truth in rows,
prediction in columns, the last column for pixels that the arm left unlabelled (255).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kd_perception.classes import ClassSet, UNLABELLED
from kd_perception.errors import ConfigError
from kd_perception.evaluation.metrics.frame_detail import FrameDetail
from kd_perception.tasks.metrics import ConfusionMatrix

SOURCES = ('sim', 'carla', 'bag', 'topic')
PACINGS = ('lockstep', 'realtime', 'max')
PLACEMENTS = ('turns', 'concurrent', 'isolated', 'alternate')
STATUSES = ('ok', 'late', 'lost', 'ambiguous', 'duplicate', 'unknown')
ANSWERED = ('ok', 'late')
FRAMES = ('ok', 'late', 'lost', 'ambiguous')  # statuses of rows that stand for a published frame
STAGES = ('wait', 'decode', 'preprocess', 'inference', 'postprocess', 'publish', 'total')


@dataclass(frozen=True)
class ArmSpec:
    """
    What one arm was asked to be.

    :param name: namespace of the arm (``a``, ``b``, …).
    :param model: bundle name or path.
    :param engine: runtime, named; never ``auto`` once the run has begun.
    :param threads: threads of the runtime; 0 leaves it to the runtime.
    """

    name: str
    model: str
    engine: str
    device: str = 'cpu'
    precision: str = 'auto'
    threads: int = 0


@dataclass(frozen=True)
class ComparisonSpec:
    """
    What was to be compared, and how.

    :param source: one of ``SOURCES``.
    :param scenario: simulator scenario, bag path or topic, as the source needs it.
    :param frames: frames that count; 0 means "to the end of the source".
    :param warmup: frames served before them; their rows have ``index < warmup``.
    :param rate_hz: camera rate under ``realtime`` pacing.
    :param width: columns of the camera image; 0 means "as the source has it".
    :param height: rows of the camera image.
    :param class_map: name of the class map from source labels to model classes, or ''.
    :param margin_miou: loss of mIoU, in points of 100, up to which the arms count as equal.
    :param margin_latency_ms: milliseconds by which an arm may be slower; 0 for no such margin.
    :param duration_s: seconds after the warm-up at which the run ends, if frames did not end it
        before; 0 for no limit.
    :param swap_every: frames of a block in placement ``alternate``; 0 for the others.
    :param fingerprint: of the content of a recording, or of all that decides a drive in the
        street; empty where nothing tells one source from another of its name.
    :param image_topic: topic of the pictures in a recording that has topics.
    :param scenario_sha256: of the file of a scenario that is none of this package.
    """

    arms: tuple[ArmSpec, ...]
    source: str = 'sim'
    scenario: str = 'clear'
    seed: int = 0
    frames: int = 200
    warmup: int = 10
    pacing: str = 'lockstep'
    placement: str = 'turns'
    rate_hz: float = 30.0
    width: int = 0
    height: int = 0
    class_map: str = ''
    margin_miou: float = 2.0
    margin_latency_ms: float = 0.0
    duration_s: float = 0.0
    swap_every: int = 0
    fingerprint: str = ''
    image_topic: str = ''
    scenario_sha256: str = ''

    def __post_init__(self) -> None:
        for key, value, known in (('source', self.source, SOURCES),
                                  ('pacing', self.pacing, PACINGS),
                                  ('placement', self.placement, PLACEMENTS)):
            if value not in known:
                raise ConfigError(f'comparison: {key} {value!r} is unknown; one of {known}')
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f'comparison: arms need different names, not {names}')
        if self.frames < 0 or self.warmup < 0 or self.width < 0 or self.height < 0:
            raise ConfigError('comparison: frames, warmup, width and height must not be negative')
        if not 0 <= self.duration_s < float('inf'):
            raise ConfigError(f'comparison: duration_s must be 0 or more, not {self.duration_s}')
        if not self.rate_hz > 0:  # NaN is not above zero either
            raise ConfigError(f'comparison: rate_hz must be above zero, not {self.rate_hz}')


@dataclass(frozen=True)
class ArmInfo:
    """
    What one arm really was, read back from its node.

    :param precision: what the runtime executed, not what was asked.
    :param network: the network in words (builder and main arguments).
    :param parameters: number of weights; 0 where not known.
    :param input_height: rows of the network's input.
    :param class_names: classes of the model, the position is the id.
    """

    name: str
    bundle: str
    bundle_hash: str
    engine: str
    device: str
    precision: str
    threads: int = 0
    network: str = ''
    parameters: int = 0
    role: str = ''
    input_height: int = 0
    input_width: int = 0
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class FrameRow:
    """
    What became of one frame in one arm; a duplicate or unknown result has a row of its own.

    :param index: position of the frame in the source, warm-up included, from 0; -1 for a result
        that answers no published frame (status ``unknown``).
    :param published_ns: steady clock at the camera's publish call; None when unknown.
    :param received_ns: steady clock when the monitor had the result; None when it never came.
    :param status: ``ok``; ``late``: came after the monitor had given up waiting; ``lost``: never
        came; ``ambiguous``: a frame whose stamp others bear too; ``duplicate``: a second result
        for one frame; ``unknown``: for no published frame. ``joining`` has the policies.
    :param turn: place of the arm among those served with this frame, from 0; -1 when together.
    :param stages: milliseconds by stage (``STAGES``), as the node says of itself.
    :param counts: per class (correct, in truth, predicted) pixels over labelled truth, or None.
    :param block: placement ``alternate``: number of the block of frames, from 0; else -1.
    :param swapping: the model was being exchanged, or had just been.
    :param detail: counts of boundaries, objects and flicker, or None.
    """

    arm: str
    stamp_ns: int
    frame_id: str
    index: int
    published_ns: int | None
    received_ns: int | None
    status: str = 'ok'
    turn: int = -1
    stages: Mapping[str, float] = field(default_factory=dict)
    counts: tuple[tuple[int, int, int], ...] | None = None
    block: int = -1
    swapping: bool = False
    detail: FrameDetail | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ConfigError(f'frame row: status {self.status!r} is unknown; one of {STATUSES}')

    @property
    def key(self) -> tuple[int, str]:
        """The name under which arms are joined: stamp and frame id."""
        return self.stamp_ns, self.frame_id

    @property
    def latency_ms(self) -> float | None:
        """Publish call in the camera to result in the monitor; None when it never came."""
        if self.received_ns is None or self.published_ns is None:
            return None
        return (self.received_ns - self.published_ns) / 1e6


@dataclass(frozen=True)
class ResourceUsage:
    """
    What one arm's process used while frames were measured.

    :param cpu_percent: mean, 100 is one core.
    :param rss_mb: largest resident memory in MiB.
    :param gpu_mb: largest GPU memory in MiB, or None without a GPU.
    """

    cpu_percent: float
    rss_mb: float
    gpu_mb: float | None = None


@dataclass(frozen=True, eq=False)
class SamplePicture:
    """
    One frame as seen by all arms.

    :param image: uint8 ``[H, W, 3]`` RGB; None where it could not be had again.
    :param truth: uint8 ``[H, W]`` ids of the run's classes, or None without ground truth.
    :param masks: by arm, uint8 ``[H, W]``.
    :param worst: chosen because an arm did badly on it; else one of those spread over the run.
    """

    index: int
    stamp_ns: int
    image: np.ndarray | None
    truth: np.ndarray | None
    masks: Mapping[str, np.ndarray]
    worst: bool = False


@dataclass(frozen=True, eq=False)
class ComparisonRun:
    """
    A finished (or interrupted) comparison.

    :param rows: all rows of all arms, in the order in which the monitor closed them.
    :param classes: the class set of truth, masks and matrices.
    :param confusion: by arm, int64 ``[K, K+1]`` over measured frames; empty without truth.
    :param agreement: by arm but the first, int64 ``[K, K+1]``: the first arm's mask in rows.
    :param resources: by arm.
    :param counters: by arm, the node's own counters (received, published, overwritten, …).
    :param host: what the machine is, in words.
    :param versions: package versions by name.
    :param pictures: sample frames, spread over the run.
    :param notes: things a reader must know (a busy machine, an interrupted run, …).
    :param interrupted: the run ended before its frames were served.
    :param confidences: by arm, int64 ``[2, 256]``: pixels by confidence, and those that were right
        (``calibration.Calibration``); empty where it was not measured.
    :param flicker_method: how frames were brought together, one of ``flicker.METHODS``, or ''.
    """

    spec: ComparisonSpec
    arms: tuple[ArmInfo, ...]
    rows: tuple[FrameRow, ...]
    classes: ClassSet
    confusion: Mapping[str, np.ndarray] = field(default_factory=dict)
    agreement: Mapping[str, np.ndarray] = field(default_factory=dict)
    resources: Mapping[str, ResourceUsage] = field(default_factory=dict)
    counters: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    host: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    pictures: Sequence[SamplePicture] = ()
    notes: tuple[str, ...] = ()
    started: str = ''
    interrupted: bool = False
    confidences: Mapping[str, np.ndarray] = field(default_factory=dict)
    flicker_method: str = ''

    def arm_rows(self, arm: str, *, warmup: bool = False) -> tuple[FrameRow, ...]:
        """Return the rows of ``arm``, without those of the warm-up unless asked."""
        first = 0 if warmup else self.spec.warmup
        return tuple(r for r in self.rows
                     if r.arm == arm and (r.index >= first or r.status == 'unknown'))


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """
    Count pixels by true and predicted class.

    :param truth: uint8, ids or 255 for pixels that do not count.
    :param prediction: uint8 of the same shape; 255 and ids beyond the set count as unlabelled.
    :returns: int64 ``[K, K+1]``.
    :raises ImageError: for other types and other shapes.
    """
    matrix = ConfusionMatrix(num_classes)
    # A node must not fail over a stray id in one message: what is no class is unlabelled.
    known = [np.where(ids < num_classes, ids, np.uint8(UNLABELLED)) for ids in (truth, prediction)]
    matrix.update(*known)
    return matrix.counts


def class_counts(confusion: np.ndarray) -> tuple[tuple[int, int, int], ...]:
    """Return per class (correct, in truth, predicted) pixels, the form of ``FrameRow.counts``."""
    sums = ConfusionMatrix.from_counts(confusion).sums()
    return tuple((int(c), int(t), int(p)) for c, t, p in zip(*sums, strict=True))


