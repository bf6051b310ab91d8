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
from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.losses.cross_entropy import CrossEntropy, upsample
from kd_perception.distillation.losses.loss import LABELS, Loss, Signals
from kd_perception.distillation.losses.weighting import PixelWeighting
from kd_perception.distillation.teachers.teacher import Teacher
from kd_perception.tasks.metrics import ConfusionMatrix


class SegmentationTarget:
    """
    The weighted losses of a recipe, on ground truth, on what a teacher says, or on both.

    :param input_spec: normalisation of the network's input.
    :param losses: by name; None: cross-entropy on ground truth.
    :param teacher: gives lessons; None: ground truth alone.
    :param weighting: what the pixels that the teacher speaks of count; None: all the same.
    :param class_weights: float ``[K]`` for the cross-entropy, or None.
    """

    def __init__(self, input_spec: InputSpec, *, losses: Mapping[str, Loss] | None = None,
                 teacher: Teacher | None = None, weighting: PixelWeighting | None = None,
                 class_weights: np.ndarray | None = None,
                 label_smoothing: float = 0.0, device: torch.device | None = None,
                 channels_last: bool = True) -> None:
        self._device = device or torch.device('cpu')
        self._channels_last = channels_last
        self._mean, self._std = (
            torch.tensor(v, dtype=torch.float32, device=self._device).view(1, 3, 1, 1)
            for v in (input_spec.mean, input_spec.std))
        self._scale = input_spec.scale
        self._reverse = input_spec.channel_order == 'bgr'
        self._losses = {'cross_entropy': CrossEntropy()} if losses is None else dict(losses)
        self._teacher = teacher
        self._weighting = weighting
        self._label_smoothing = label_smoothing
        self._class_weights = (None if class_weights is None else
                               torch.as_tensor(class_weights, device=self._device))

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Return uint8 ``[N, H, W, 3]`` RGB as the float32 ``[N, 3, H, W]`` a network sees."""
        pixels = images.permute(0, 3, 1, 2).float()  # channels last in memory already
        if self._reverse:
            pixels = pixels.flip(1)
        pixels = (pixels * self._scale - self._mean) / self._std
        return pixels if self._channels_last else pixels.contiguous()

    def losses(self, network: nn.Module, batch: Batch, at: float = 0.0,
               ) -> dict[str, torch.Tensor]:
        """
        Return the weighted terms of the loss; their sum is what is minimised.

        :param at: share of the run that is done; a loss may count in a part of it only.
        """
        logits = network(self.normalise(batch.images))
        active = {n: loss for n, loss in self._losses.items() if loss.active(at)}
        signals = self._signals(logits, batch, active)
        return {name: loss.weight * loss(signals) for name, loss in active.items()}

    def predict(self, network: nn.Module, images: torch.Tensor, size: tuple[int, int],
                ) -> torch.Tensor:
        """Return ids, int64 ``[N, *size]``, of uint8 ``[N, H, W, 3]`` pictures."""
        logits = network(self.normalise(images))
        return upsample(logits.float(), *size).argmax(1)

    def _signals(self, logits: torch.Tensor, batch: Batch,
                 active: Mapping[str, Loss]) -> Signals:
        """Return what the losses look at; no teacher is asked when none of them needs it."""
        own = logits.float()
        signals = Signals(student=own, own=own, labels=batch.labels,
                          class_weights=self._class_weights,
                          label_smoothing=self._label_smoothing)
        if self._teacher is None or all(x.looks_at == LABELS for x in active.values()):
            return signals
        with torch.no_grad():
            lesson = self._teacher.teach(batch, (own.shape[2], own.shape[3]))
            weights = lesson.valid.float()
            if self._weighting is not None:
                weights = self._weighting(lesson.logits, weights, batch.labels)
        return replace(signals, student=upsample(own, *lesson.logits.shape[-2:]),
                       teacher=lesson.logits, weights=weights,
                       teacher_features=lesson.features)


class Validation:
    """
    Confusion matrix of a network on fixed frames.

    :param frames: yields uint8 ``[H, W, 3]`` pictures and uint8 ``[H, W]`` truth, the same frames
        at every call.
    """

    def __init__(self, target: SegmentationTarget, num_classes: int,
                 frames: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]],
                 device: torch.device) -> None:
        self._target = target
        self._num_classes = num_classes
        self._frames = frames
        self._device = device

    def __call__(self, network: nn.Module,
                 stop: Callable[[], bool] = lambda: False) -> ConfusionMatrix:
        """
        Return the matrix; the network's mode is left as it was.

        :param stop: asked before every frame.
        :raises KeyboardInterrupt: when ``stop`` says so.
        """
        matrix = ConfusionMatrix(self._num_classes)
        training = network.training
        network.eval()
        try:
            with torch.no_grad():
                for image, truth in self._frames():
                    if stop():
                        raise KeyboardInterrupt
                    images = torch.from_numpy(image[None]).to(self._device)
                    size = (truth.shape[0], truth.shape[1])
                    ids = self._target.predict(network, images, size)
                    matrix.update(truth, ids[0].to(torch.uint8).cpu().numpy())
        finally:
            network.train(training)
        return matrix
