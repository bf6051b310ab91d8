"""
Semantic segmentation as something to learn: a batch goes in, named loss terms come out.

The terms are already weighted; the trainer adds them up, logs them by name and names the one that
goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from kd_perception.bundle import InputSpec
from kd_perception.classes import UNLABELLED
from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.features import build_adapters, student_layers
from kd_perception.distillation.losses.cross_entropy import CrossEntropy
from kd_perception.distillation.losses.loss import FEATURES, LABELS, Loss, Signals
from kd_perception.distillation.losses.weighting import PixelWeighting
from kd_perception.distillation.precision import in_full
from kd_perception.distillation.processes import Processes, Stopped
from kd_perception.distillation.recipe import ExitsRecipe
from kd_perception.distillation.teachers.teacher import Guide, Teacher
from kd_perception.networks.exits import ExitNet
from kd_perception.networks.taps import Taps
from kd_perception.networks.upsample import upsample
from kd_perception.tasks.metrics import ConfusionMatrix

# Pictures with their truth, as much of them as is this process's.
Frames = Callable[[Processes], Iterable[tuple[np.ndarray, np.ndarray]]]


class SegmentationTarget:
    """
    The weighted losses of a recipe, on ground truth, on what a teacher says, or on both.

    :param input_spec: normalisation of the network's input.
    :param losses: by name; None: cross-entropy on ground truth.
    :param teacher: gives lessons; None: ground truth alone.
    :param guide: shows the layers that losses look at, and is asked only while one of these
        counts and the lesson does not have them.
    :param weighting: what the pixels that the teacher speaks of count; None: all the same.
    :param class_weights: float ``[K]`` for the cross-entropy, or None.
    """

    def __init__(self, input_spec: InputSpec, *, losses: Mapping[str, Loss] | None = None,
                 teacher: Teacher | None = None, guide: Guide | None = None,
                 weighting: PixelWeighting | None = None,
                 class_weights: np.ndarray | None = None,
                 label_smoothing: float = 0.0, device: torch.device | None = None,
                 channels_last: bool = True) -> None:
        self._device = device or torch.device('cpu')
        self._channels_last = channels_last
        self._mean, self._std = (
            torch.tensor(v, dtype=torch.float32, device=self._device)
            for v in (input_spec.mean, input_spec.std))
        self._scale = input_spec.scale
        self._reverse = input_spec.channel_order == 'bgr'
        self._losses = {'cross_entropy': CrossEntropy()} if losses is None else dict(losses)
        self._teacher = teacher
        self._guide = guide
        self._taps: Taps | None = None
        self._exits: tuple[tuple[str, float], ...] = ()
        self.adapters = nn.ModuleDict()
        self._weighting = weighting
        self._label_smoothing = label_smoothing
        self._class_weights = (None if class_weights is None else
                               torch.as_tensor(class_weights, device=self._device))

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Return uint8 ``[N, H, W, 3]`` RGB as the float32 ``[N, 3, H, W]`` a network sees."""
        count, height, width, _ = images.shape
        pixels = (images.flip(3) if self._reverse else images.contiguous()).to(
            torch.float32, copy=True)
        # By rows: three numbers repeated along a short last axis take ten times as long.
        rows = pixels.view(count * height, width * 3)
        mean, std = self._mean.repeat(width), self._std.repeat(width)
        rows.mul_(self._scale).sub_(mean).div_(std)
        pixels = pixels.permute(0, 3, 1, 2)  # channels last in memory already
        return pixels if self._channels_last else pixels.contiguous()

    @property
    def partial(self) -> bool:
        """Whether there are steps in which some parameters take no part."""
        return any(loss.start > 0 or loss.end < 1 for loss in self._losses.values()) or all(
            loss.looks_at == FEATURES for loss in self._losses.values())

    def attach(self, network: nn.Module, crop: tuple[int, int],
               exits: ExitsRecipe | None = None) -> None:
        """
        Look at the network once: find the layers that losses look at, build their adapters.

        :param network: on the CPU or on any device; its weights are left as they are.
        :param crop: height and width of training views.
        :param exits: how much the exits of an ``ExitNet`` count.
        :raises ConfigError: for layers that do not exist or cannot be compared, with the nearest
            names; for weights of exits that the network does not have.
        """
        self._exits = (exits or ExitsRecipe()).by_layer(
            network.layers if isinstance(network, ExitNet) else ())
        layers = student_layers(self._losses.values())
        if not layers:
            return
        self._taps = Taps(network, layers, crop, where='student')
        assert self._guide is not None
        nothing = Batch((), torch.zeros(1, *crop, 3, dtype=torch.uint8),
                        torch.full((1, *crop), UNLABELLED, dtype=torch.uint8),
                        torch.eye(2, 3)[None])
        seen = self._guide.look_inside(nothing.to(self._device))
        shapes = {name: (int(x.shape[1]), int(x.shape[2]), int(x.shape[3]))
                  for name, x in seen.items()}
        self.adapters = build_adapters(self._losses, self._taps.shapes, shapes).to(self._device)

    def losses(self, network: nn.Module, batch: Batch, at: float = 0.0,
               ) -> dict[str, torch.Tensor]:
        """
        Return the weighted terms of the loss; their sum is what is minimised.

        A network with exits is taught at each of them; these terms are named ``<loss>/<layer>``.

        :param at: share of the run that is done; a loss may count in a part of it only.
        """
        active = {n: loss for n, loss in self._losses.items() if loss.active(at)}
        outputs, features = self._forward(network, batch, active)
        # The network alone computes in less than float32: coordinates of a view would be off by
        # pixels, and products of small differences by percents.
        with in_full(self._device):
            signals = self._signals(outputs[0] if outputs else None, batch, active)
            signals = replace(signals,
                              student_features={n: x.float() for n, x in features.items()})
            terms = {name: loss.weight * loss(self._for(name, signals))
                     for name, loss in active.items()}
            for (layer, weight), logits in zip(self._exits, outputs[1:], strict=bool(outputs)):
                signals = self._seen_by(signals, logits.float())
                terms |= {f'{name}/{layer}': weight * loss.weight * loss(self._for(name, signals))
                          for name, loss in active.items() if loss.looks_at != FEATURES}
        return terms

    def predict(self, network: nn.Module, images: torch.Tensor, size: tuple[int, int],
                ) -> torch.Tensor:
        """Return ids, int64 ``[N, *size]``, of uint8 ``[N, H, W, 3]`` pictures."""
        logits = network(self.normalise(images))
        return upsample(logits.float(), size).argmax(1)

    def _forward(self, network: nn.Module, batch: Batch, active: Mapping[str, Loss],
                 ) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """
        Return the logits of the network and of its exits, and the layers that losses look at.

        Where losses look at layers alone, the pass ends behind the last of them, without logits.
        """
        images = self.normalise(batch.images)
        outputs: list[torch.Tensor] = []

        def run() -> None:
            if self._exits:
                assert isinstance(network, ExitNet)
                outputs.extend(network.all_logits(images))
            else:
                outputs.append(network(images))

        layers = student_layers(active.values())
        if self._taps is None or not layers:
            run()
            return outputs, {}
        size = (int(images.shape[2]), int(images.shape[3]))
        stop = all(loss.looks_at == FEATURES for loss in active.values())
        with self._taps.open(network, size, layers, stop=stop) as features:
            run()
        return outputs, features

    def _signals(self, logits: torch.Tensor | None, batch: Batch,
                 active: Mapping[str, Loss]) -> Signals:
        """Return what the losses look at; no teacher is asked when none of them needs it."""
        own = torch.empty(0, device=self._device) if logits is None else logits.float()
        signals = Signals(student=own, own=own, labels=batch.labels,
                          class_weights=self._class_weights,
                          label_smoothing=self._label_smoothing)
        looks_at = {loss.looks_at for loss in active.values()}
        features: Mapping[str, torch.Tensor] = {}
        with torch.no_grad():
            if logits is not None and self._teacher is not None and looks_at - {LABELS, FEATURES}:
                lesson = self._teacher.teach(batch, (own.shape[2], own.shape[3]))
                weights = lesson.valid.float()
                if self._weighting is not None:
                    weights = self._weighting(lesson.logits, weights, batch.labels)
                signals = replace(signals, teacher=lesson.logits, weights=weights)
                features = lesson.features
            if FEATURES in looks_at and self._guide is not None and not features:
                features = self._guide.look_inside(batch)
        if signals.teacher is not None:  # with a gradient, unlike all that the teacher says
            signals = replace(signals, student=_like(own, signals.teacher))
        return replace(signals, teacher_features=features)

    def _seen_by(self, signals: Signals, own: torch.Tensor) -> Signals:
        """Return the signals with other logits of the student, float32 ``[N, K, h', w']``."""
        if signals.teacher is None:
            return replace(signals, student=own, own=own)
        return replace(signals, student=_like(own, signals.teacher), own=own)

    def _for(self, name: str, signals: Signals) -> Signals:
        """Return what one loss looks at: the signals with the adapter that is its own."""
        return (replace(signals, adapter=self.adapters[name]) if name in self.adapters
                else signals)


class Validation:
    """
    Confusion matrix of a network on fixed frames.

    Several processes divide the frames, and each returns the matrix of all of them.

    :param frames: yields uint8 ``[H, W, 3]`` pictures and uint8 ``[H, W]`` truth of the frames
        that a process looks at, the same at every call.
    :param processes: which of them this is; its device is the network's.
    """

    def __init__(self, target: SegmentationTarget, num_classes: int, frames: Frames,
                 processes: Processes) -> None:
        self._target = target
        self._num_classes = num_classes
        self._frames = frames
        self._processes = processes

    def __call__(self, network: nn.Module,
                 stop: Callable[[], bool] = lambda: False) -> ConfusionMatrix:
        """
        Return the matrix; the network's mode is left as it was.

        :param stop: asked before every frame.
        :raises Stopped: when ``stop`` says so in any process.
        """
        matrix = ConfusionMatrix(self._num_classes)
        training, stopped = network.training, False
        network.eval()
        try:
            with torch.no_grad():
                for image, truth in self._frames(self._processes):
                    stopped = stop()
                    if stopped:
                        break
                    images = torch.from_numpy(image[None]).to(self._processes.device)
                    size = (truth.shape[0], truth.shape[1])
                    ids = self._target.predict(network, images, size)
                    matrix.update(truth, ids[0].to(torch.uint8).cpu().numpy())
        finally:
            network.train(training)
        # One who leaves alone would let the others wait for ever.
        told = self._processes.added_up(np.concatenate(
            [matrix.counts.ravel(), matrix.on_void, [int(stopped)]]))
        if told[-1]:
            raise Stopped
        matrix.counts = told[:matrix.counts.size].reshape(matrix.counts.shape)
        matrix.on_void = told[matrix.counts.size:-1]
        return matrix


def _like(logits: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return logits on the grid of others."""
    return upsample(logits, (int(other.shape[2]), int(other.shape[3])))
