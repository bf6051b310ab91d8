"""
A teacher's network, frozen, that looks at views: uint8 pictures in, logits and layers out.

A bundle that says how its network is built becomes a torch module, which takes views of any size.
A foreign graph runs in an engine and takes the one size that it was exported with. Normalisation
and order of channels are the teacher's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from kd_perception.bundle import LOGITS, ModelBundle
from kd_perception.distillation.memory import is_out_of_memory
from kd_perception.distillation.precision import autocast
from kd_perception.distillation.teachers.spread import spread_over
from kd_perception.engines.loader import load_engine
from kd_perception.errors import EngineError, first_line, TrainingError
from kd_perception.networks.deploy import load_module, Normalize
from kd_perception.networks.taps import Taps
from kd_perception.tasks.placement import place

_Look = Callable[[torch.Tensor], tuple[torch.Tensor, dict[str, torch.Tensor]]]


class TeacherNetwork:
    """
    A teacher that says something of pictures; nothing in it is ever trained.

    :param frame: height and width that whole frames are brought to. Where the teacher's own input
        is of another size, views are scaled by the same factor, so that things have the size
        that it was trained on. None: views are shown as they are.
    :param crop: height and width of the views; a foreign graph is checked against it.
    :param precision: ``fp32``, ``bf16`` or ``fp16``: what the module computes in.
    :param layers: names of submodules whose output is wanted as well.
    :param spread: put its parts onto all devices that there are (``spread_over``).
    :param memory: what it may take of each then.
    :raises KdPerceptionError: in one line, when the bundle gives no logits, a layer does not
        exist or the views are not of a foreign graph's size.
    """

    def __init__(self, bundle: ModelBundle, *, device: torch.device | str = 'cpu',
                 precision: str = 'fp32', layers: Sequence[str] = (),
                 frame: tuple[int, int] | None = None,
                 crop: tuple[int, int] | None = None, spread: bool = False,
                 memory: Mapping[Any, Any] | None = None) -> None:
        if bundle.spec.task != 'segmentation':
            raise TrainingError(f'{bundle.path}: task {bundle.spec.task!r} cannot teach '
                                'segmentation')
        self.bundle = bundle
        self.device = torch.device(device)
        self.precision = precision
        self.name = 'torch'
        self._reverse = bundle.spec.input.channel_order == 'bgr'
        self._factors = (1.0, 1.0)
        self._whole_batches = True
        self.places: str | None = None
        if bundle.spec.network.builder:
            self._look: _Look = self._by_module
            module = load_module(bundle)
            self._taps = Taps(module, layers, (bundle.spec.input.height, bundle.spec.input.width),
                              where=f'teacher {bundle.spec.name}')
            for parameter in module.parameters():
                parameter.requires_grad_(False)
            module.eval()
            if spread:
                self.places = spread_over(module, self.device, memory)
            else:
                # As pictures lie in memory already.
                module.to(self.device).to(
                    memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.module = module
            self._normalise = Normalize(bundle.spec.input).to(self.device)
            if frame is not None:
                where = place(frame, bundle.spec.input)
                self._factors = where.height / frame[0], where.width / frame[1]
        else:
            self._look = self._by_engine
            self._load_engine(layers, crop, spread)

    def look(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """
        Return what the teacher says of pictures, and the layers that were asked for.

        :param images: uint8 ``[N, H, W, 3]``, RGB, on the device.
        :returns: float32 logits ``[N, K, h, w]`` at the teacher's stride; layers by name.
        :raises TrainingError: when the network fails on pictures of this size, or says NaN.
        """
        with torch.no_grad():
            logits, layers = self._look(images.flip(-1) if self._reverse else images)
        if not bool(torch.isfinite(logits).all()):
            raise TrainingError(f'{self.bundle.path}: the teacher says NaN or infinity in '
                                f'{self.precision}; set optimization.precision to fp32')
        return logits, layers

    def look_inside(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Return the layers that were asked for, and compute nothing behind the last of them.

        :param images: uint8 ``[N, H, W, 3]``, RGB, on the device.
        """
        with torch.no_grad():
            return self._by_module(images.flip(-1) if self._reverse else images, stop=True)[1]

    def _by_module(self, images: torch.Tensor,
                   stop: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = torch.empty(0)  # what is left of them where the pass ends early
        size = (round(images.shape[1] * self._factors[0]),
                round(images.shape[2] * self._factors[1]))
        try:
            with autocast(self.precision, self.device), \
                    self._taps.open(self.module, size, stop=stop) as seen:
                pixels = self._normalise(_resized(images, size))
                logits = self.module(pixels).float().to(self.device)
        except RuntimeError as error:  # a network may not take every size
            if is_out_of_memory(error):
                raise
            if self.places is not None:
                raise TrainingError(f'{self.bundle.path}: does not run on {self.places}: '
                                    f'{first_line(error)}; set distillation.teacher_devices to '
                                    'one, or distillation.teacher_memory') from None
            raise TrainingError(f'{self.bundle.path}: fails on views of {size[1]}x{size[0]}: '
                                f'{first_line(error)}; set augment.crop to multiples of 32'
                                ) from None
        return logits, {name: value.to(self.device) for name, value in seen.items()}

    def _by_engine(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pictures = _resized(images, self._engine.input_shape).to(torch.uint8).cpu().numpy()
        parts = [pictures] if self._whole_batches else [p[None] for p in pictures]
        try:
            said = [self._engine.infer(np.ascontiguousarray(p))['logits'] for p in parts]
        except EngineError:
            if not self._whole_batches or len(pictures) == 1:
                raise
            self._whole_batches = False  # exported for one picture at a time
            return self._by_engine(images)
        return torch.from_numpy(np.concatenate(said)).to(self.device), {}

    def _load_engine(self, layers: Sequence[str], crop: tuple[int, int] | None,
                     spread: bool) -> None:
        bundle, spec = self.bundle, self.bundle.spec.input
        if not bundle.has(LOGITS):
            raise TrainingError(f'{bundle.path}: gives ids alone, which teach nothing softly; '
                                'write its masks as PNGs and import them: kd_perception label '
                                '--import')
        if spread:
            raise TrainingError(f'{bundle.path}: is a foreign graph, which cannot be spread over '
                                'devices; set distillation.teacher_devices to one')
        if layers:
            raise TrainingError(f'{bundle.path}: is a foreign graph, whose layers (here '
                                f'{layers[0]!r}) cannot be looked at; leave such losses out')
        if crop is not None and crop != (spec.height, spec.width):
            raise TrainingError(f'{bundle.path}: is a foreign graph that takes '
                                f'{spec.width}x{spec.height} alone, views are {crop[1]}x{crop[0]}:'
                                f' set augment.crop to [{spec.height}, {spec.width}]')
        # The fastest on CPUs first; on GPUs the one that knows them.
        engine = 'auto' if self.device.type == 'cpu' else 'onnxruntime'
        self._engine = load_engine(bundle, engine, device=str(self.device), graph='logits')
        self.name, self.precision = self._engine.name, self._engine.precision


def _resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return ``[N, H, W, 3]`` pictures at another size, rounded to grey levels."""
    if tuple(images.shape[1:3]) == tuple(size):
        return images
    pixels = functional.interpolate(images.permute(0, 3, 1, 2).float(), size=size,
                                    mode='bilinear', align_corners=False, antialias=True)
    return pixels.round().clamp(0, 255).permute(0, 2, 3, 1)
