"""
Semantic segmentation as something to learn: a batch goes in, named loss terms come out.

The terms are already weighted; the trainer adds them up, logs them by name and names the one that
goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from kd_perception.bundle import InputSpec
from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.losses.cross_entropy import cross_entropy, upsample
from kd_perception.distillation.losses.kl import kl_divergence
from kd_perception.distillation.recipe import DistillationRecipe
from kd_perception.tasks.metrics import ConfusionMatrix


class SegmentationTarget:
    """
    Cross-entropy on ground truth, divergence from cached logits, or both.

    :param input_spec: normalisation of the network's input.
    :param class_weights: float ``[K]`` for the cross-entropy, or None.
    :param soft: weights of a distillation; None: ground truth alone.
    """

    def __init__(self, input_spec: InputSpec, *, class_weights: np.ndarray | None = None,
                 label_smoothing: float = 0.0, soft: DistillationRecipe | None = None,
                 device: torch.device | None = None, channels_last: bool = True) -> None:
        self._device = device or torch.device('cpu')
        self._channels_last = channels_last
        self._mean, self._std = (
            torch.tensor(v, dtype=torch.float32, device=self._device).view(1, 3, 1, 1)
            for v in (input_spec.mean, input_spec.std))
        self._scale = input_spec.scale
        self._frame_size = (input_spec.height, input_spec.width)
        self._reverse = input_spec.channel_order == 'bgr'
        self._label_smoothing = label_smoothing
        self._soft = soft
        self._class_weights = (None if class_weights is None else
                               torch.as_tensor(class_weights, device=self._device))

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Return uint8 ``[N, H, W, 3]`` RGB as the float32 ``[N, 3, H, W]`` a network sees."""
        pixels = images.permute(0, 3, 1, 2).float()  # channels last in memory already
        if self._reverse:
            pixels = pixels.flip(1)
        pixels = (pixels * self._scale - self._mean) / self._std
        return pixels if self._channels_last else pixels.contiguous()

    def losses(self, network: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the weighted terms of the loss; their sum is what is minimised."""
        logits = network(self.normalise(batch.images))
        soft = self._soft
        if soft is None:
            return {'cross_entropy': self._hard(logits, batch)}
        terms: dict[str, torch.Tensor] = {}
        if soft.soft_weight and batch.soft is not None:
            terms['kl'] = soft.soft_weight * self._divergence(logits, batch, soft.temperature)
        if soft.hard_weight:
            terms['cross_entropy'] = soft.hard_weight * self._hard(logits, batch)
        return terms

    def predict(self, network: nn.Module, images: torch.Tensor, size: tuple[int, int],
                ) -> torch.Tensor:
        """Return ids, int64 ``[N, *size]``, of uint8 ``[N, H, W, 3]`` pictures."""
        logits = network(self.normalise(images))
        return upsample(logits.float(), *size).argmax(1)

    def _hard(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return cross_entropy(logits, batch.labels, class_weights=self._class_weights,
                             label_smoothing=self._label_smoothing)

    def _divergence(self, logits: torch.Tensor, batch: Batch, temperature: float) -> torch.Tensor:
        """Bring the teacher's logits into the view, the student's onto their grid; compare."""
        assert batch.soft is not None
        teacher, valid = warp_logits(batch.soft, batch.theta,
                                     self._grid_size(batch, logits))
        return kl_divergence(upsample(logits.float(), *teacher.shape[-2:]), teacher, temperature,
                             valid=valid)

    def _grid_size(self, batch: Batch, logits: torch.Tensor) -> tuple[int, int]:
        """Return the finer of both grids, that of the cache taken at zoom 1."""
        assert batch.soft is not None
        rows, columns = (
            min(crop, max(own, round(crop * cached / frame)))
            for crop, own, cached, frame in zip(batch.images.shape[1:3], logits.shape[-2:],
                                                batch.soft.shape[-2:], self._frame_size,
                                                strict=True))
        return rows, columns


def warp_logits(logits: torch.Tensor, theta: torch.Tensor,
                size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return logits of whole frames as a view shows them.

    :param logits: float32 ``[N, K, h, w]`` of whole frames.
    :param theta: float32 ``[N, 2, 3]`` (``View.theta``).
    :param size: rows and columns that come out.
    :returns: float32 ``[N, K, *size]`` and bool ``[N, *size]``, false beyond the frame and
        where the logits are NaN (nothing is known).
    """
    count, classes = logits.shape[:2]
    grid = functional.affine_grid(theta, [count, classes, *size], align_corners=False)
    warped = functional.grid_sample(logits, grid, mode='bilinear', padding_mode='border',
                                    align_corners=False)
    valid = (grid.abs() <= 1).all(-1)
    unknown = warped[:, 0].isnan()
    return warped.nan_to_num(nan=0.0), valid & ~unknown


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
