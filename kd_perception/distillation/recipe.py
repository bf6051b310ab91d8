"""
Recipes: everything that decides what a training or a distillation does.

A recipe is a YAML file in ``config/recipes`` or a path; unknown keys are refused with their dotted
path. The resolved recipe (defaults, command line and all) is stored in every run directory, and
its hash in the bundle that comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import hashlib
import json
from typing import Any

from kd_perception.distillation.recipe_checks import validate
from kd_perception.distillation.strict import to_plain
from kd_perception.distillation.student_recipe import (
    AssistantRecipe,
    NetworkRecipe,
    StudentRecipe,
)
from kd_perception.errors import ConfigError


@dataclass(frozen=True)
class SourceRecipe:
    """
    One recording: a bag, an image folder or a video.

    In a YAML file one entry may stand for several: ``path`` may be a folder or a pattern of
    recordings, and ``image_topic`` a list, or ``*`` for all cameras. The resolved recipe names
    each.

    :param path: where it is.
    :param image_topic: camera topic; needed only where a bag has several.
    :param label_topic: topic of label images.
    :param label_dir: folder of label images; default ``<path>_labels``.
    :param classes: class set of its labels, where the recording does not say.
    :param class_map: map to the recipe's classes; default ``<classes>_to_<recipe classes>``.
    :param rate_hz: take at most so many frames per second; 0 takes all.
    :param motion: skip frames that differ by less than so many percent from the last one taken;
        2.4 keeps driving and drops standing.
    :param count: take so many frames, evenly spaced; 0 takes all.
    :param limit: take only the first so many frames; 0 takes all.
    :param order: ``log`` or ``header``: the time of frames.
    :param selection: file of a selection (``kd_perception select``): only its frames are taken.
    :param labels: false leaves its labels unused.
    :param drive: name of the drive that all of it belongs to, where it does not show by itself
        (``bags/drives.py``).
    """

    path: str
    image_topic: str = ''
    label_topic: str = ''
    label_dir: str = ''
    classes: str = ''
    class_map: str = ''
    rate_hz: float = 0.0
    motion: float = 0.0
    count: int = 0
    limit: int = 0
    order: str = 'log'
    selection: str = ''
    labels: bool = True
    drive: str = ''


@dataclass(frozen=True)
class DataRecipe:
    """
    What is learned from and what is measured on.

    :param train: recordings to learn from.
    :param validation: labelled recordings that choose the best checkpoint.
    :param defaults: settings of ``SourceRecipe`` for recordings that do not give their own;
        ``selection`` and ``labels`` for those to learn from only.
    :param validation_share: without ``validation``, about so much is held out: whole drives,
        where there are enough of them, else the last part of each labelled training recording (a
        contiguous tail: neighbours in time look alike).
    :param allow_shared_drives: measure on drives that are learned from, too; the score flatters.
    :param labelled_share: share of labelled frames in each batch; 0 takes frames as they come.
    :param memory_gb: decoded frames, to learn from and to measure on each, are kept in memory up
        to so much on a machine, whose processes divide it, and decoded soft labels in what the
        former leave of it; the rest is read anew.
    """

    train: tuple[SourceRecipe, ...] = ()
    validation: tuple[SourceRecipe, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)
    validation_share: float = 0.1
    allow_shared_drives: bool = False
    labelled_share: float = 0.0
    memory_gb: float = 4.0


@dataclass(frozen=True)
class InputRecipe:
    """Size that frames are brought to, in training as on the vehicle, and normalisation."""

    height: int
    width: int
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class AugmentRecipe:
    """
    Random views of a frame; every sample is seeded, so a run can be repeated.

    :param crop: height and width of the view in pixels; empty takes the input size.
    :param scale: smallest and largest zoom, log-uniform; 2 shows half the width, doubled.
    :param aspect: largest relative stretch of the width against the height.
    :param flip: probability of mirroring.
    :param brightness: largest relative change; so are contrast and saturation.
    :param hue: largest turn, as a share of the circle.
    :param gamma: largest relative change of the exponent.
    :param blur: probability of a soft focus.
    :param noise: standard deviation of sensor noise at most, in grey levels.
    :param focus: probability that the view is centred on a pixel of a rarer class.
    """

    crop: tuple[int, ...] = ()
    scale: tuple[float, float] = (0.75, 2.0)
    aspect: float = 0.0
    flip: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.02
    gamma: float = 0.2
    blur: float = 0.0
    noise: float = 0.0
    focus: float = 0.0


@dataclass(frozen=True)
class OptimizationRecipe:
    """
    How the weights are found.

    The run ends when ``max(step / steps, minutes / budget_minutes)`` reaches 1, and the schedule
    follows that fraction, so the learning rate ends where it should either way.

    :param steps: optimisation steps; 0: not limited by steps.
    :param epochs: passes over the training frames; 0: not limited; exclusive with ``steps``.
    :param budget_minutes: wall time; 0: not limited.
    :param batch_size: samples per process and step.
    :param optimizer: ``adamw``, ``sgd``, ``momentum`` or ``adagrad``.
    :param weight_decay: of weights, not of norms and biases; so are ``l1`` and ``l2``.
    :param l1: factor of the sum of absolute weights in the loss; with ``l2`` the elastic net.
    :param l2: factor of half the sum of squared weights in the loss.
    :param momentum: share of the last step in the next, for ``optimizer: momentum``.
    :param warmup: share of the run in which the rate rises.
    :param gradient_clip: largest norm of the gradient; 0: no clipping.
    :param ema_decay: weight of the past in the average of weights; 0: no average.
    :param class_weights: ``none``, ``log`` (1 / ln(1.02 + share)) or ``median`` frequency.
    :param label_smoothing: share of the target spread over all classes.
    :param precision: ``auto`` takes what the device is fast at.
    :param validate_every: steps between validations; 0: ten times in the run.
    :param validation_frames: at most so many, evenly spread; 0: all.
    :param checkpoint_minutes: a kill loses at most so much.
    :param loader_threads: threads that prepare batches.
    :param channels_last: memory layout; faster on CPUs with bf16 and on GPUs.
    """

    steps: int = 0
    epochs: float = 0.0
    budget_minutes: float = 0.0
    batch_size: int = 8
    optimizer: str = 'adamw'
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    l1: float = 0.0
    l2: float = 0.0
    momentum: float = 0.9
    schedule: str = 'one_cycle'
    warmup: float = 0.1
    poly_power: float = 0.9
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    class_weights: str = 'none'
    label_smoothing: float = 0.0
    precision: str = 'auto'
    validate_every: int = 0
    validation_frames: int = 0
    checkpoint_minutes: float = 3.0
    log_every: int = 10
    loader_threads: int = 1
    channels_last: bool = True


@dataclass(frozen=True)
class WeightingRecipe:
    """
    What pixels count in the losses that are a mean over pixels; by default all the same.

    :param boundary: so much more within ``boundary_width`` of a boundary between classes.
    :param boundary_width: cells of the soft labels.
    :param confidence: exponent of the teacher's largest probability; below 0 dwells on pixels of
        which it is unsure.
    :param class_balance: exponent of 1 / share of the class; 1 gives all classes the same say.
    :param labelled: what pixels count whose frame has ground truth; 0: there the teacher has no
        say, in losses of any kind.
    """

    boundary: float = 0.0
    boundary_width: int = 1
    confidence: float = 0.0
    class_balance: float = 0.0
    labelled: float = 1.0

    @property
    def off(self) -> bool:
        """Whether all pixels count the same."""
        return self == WeightingRecipe(boundary_width=self.boundary_width)


@dataclass(frozen=True)
class ExitsRecipe:
    """
    How much the exits of a network count that has some (builder ``exits``).

    :param weight: of every exit, beside 1 for the network's own output.
    :param weights: of each exit, in the order of ``network.arguments.layers``, instead.
    """

    weight: float = 0.4
    weights: tuple[float, ...] = ()

    def by_layer(self, layers: Sequence[str]) -> tuple[tuple[str, float], ...]:
        """
        Return the layer of each exit with its weight.

        :raises ConfigError: when there are not as many weights as exits.
        """
        if self.weights and len(self.weights) != len(layers):
            raise ConfigError(f'distillation.exits.weights: {len(self.weights)} values for '
                              f'{len(layers)} exits of the network')
        return tuple(zip(layers, self.weights or (self.weight,) * len(layers), strict=True))


@dataclass(frozen=True)
class TeachersRecipe:
    """
    How several teachers teach together.

    :param combine: ``mean`` of their probabilities, or ``confident``: at each pixel those count
        more that are surer of it.
    :param weights: what each counts, in the order in which they are given; empty: all the same.
    """

    combine: str = 'mean'
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class DistillationRecipe:
    """
    What the student learns from the teacher.

    :param losses: settings by name of a loss, e.g. ``{kl: {temperature: 4}}``; every one has
        ``weight``, ``start`` and ``end``. ``cross_entropy`` is that on ground truth.
    :param view: ``warp``: cached logits are cropped, scaled and mirrored like the picture;
        ``views``: the cache holds what the teacher says of numbered views, and these are shown
        again; ``online``: the teacher is in the loop and looks at the very view.
    :param views: of ``view: views``, how many of the cache's views are shown; 0: all.
    :param views_seed: seed of these views, where it is not the recipe's (-1): several seeds of a
        student can then share a cache.
    :param exits: of a network that has exits, in ``train`` as in ``distill``.
    :param class_map: name or path of a map from the teacher's classes to the recipe's; default
        ``<teacher's classes>_to_<recipe's>``.
    :param teachers: how several teachers teach together.
    :param ema_teacher: the average of the student's own weights teaches it, on the view before
        its light was changed; needs ground truth beside.
    :param teacher_devices: ``one``, or ``auto``: a teacher in the loop that is too large for one
        device is spread over all of them, then the processor's memory, then the disk.
    :param teacher_memory: what it may take of each with ``auto``, e.g. ``{0: 20GiB, cpu: 60GiB}``.
    :param student: what the student takes over from the teacher before it learns.
    :param assistants: networks between teacher and student, each taught by the one before it.
    """

    losses: dict[str, Any] = field(default_factory=lambda: {'kl': {}})
    weighting: WeightingRecipe = field(default_factory=WeightingRecipe)
    view: str = 'warp'
    views: int = 0
    views_seed: int = -1
    exits: ExitsRecipe = field(default_factory=ExitsRecipe)
    class_map: str = ''
    teachers: TeachersRecipe = field(default_factory=TeachersRecipe)
    ema_teacher: bool = False
    teacher_devices: str = 'one'
    teacher_memory: dict[Any, Any] = field(default_factory=dict)
    student: StudentRecipe = field(default_factory=StudentRecipe)
    assistants: tuple[AssistantRecipe, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """
    All of a training or distillation.

    :param name: name of the bundle that comes out.
    :param role: ``teacher`` or ``student``, for people.
    :param classes: class set that the network predicts.
    :param weights_dtype: ``fp32`` or ``fp16`` on disk.
    :param seed: of initial weights, order and views.
    :param search: what ``--search`` may change: ranges or choices by dotted key
        (``search_space.py``).
    """

    name: str
    input: InputRecipe
    optimization: OptimizationRecipe
    network: NetworkRecipe = field(default_factory=NetworkRecipe)
    role: str = 'student'
    classes: str = 'driving'
    seed: int = 0
    data: DataRecipe = field(default_factory=DataRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    distillation: DistillationRecipe = field(default_factory=DistillationRecipe)
    weights_dtype: str = 'fp32'
    search: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        validate(self)

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of a training view."""
        crop = self.augment.crop or (self.input.height, self.input.width)
        return crop[0], crop[1]

    def to_dict(self) -> dict[str, Any]:
        """Return plain YAML types."""
        return to_plain(self)

    def hash(self) -> str:
        """Return the SHA-256 of the resolved recipe."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()
