"""
Who looks at the frames that are labelled: an engine at whole frames, or a network at their views.

Both are asked in two steps, so that pictures can be prepared by a thread ahead of time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch

from kd_perception.bundle import LOGITS, ModelBundle
from kd_perception.distillation.precision import choose_precision
from kd_perception.distillation.teachers.network import TeacherNetwork
from kd_perception.distillation.views import ViewPlan
from kd_perception.engines.engine import Engine
from kd_perception.engines.loader import load_engine
from kd_perception.errors import BundleError, EngineError
from kd_perception.frames import Frame
from kd_perception.imaging import resize_image
from kd_perception.tasks.placement import network_input, place

# Views that a network looks at in one go; all of a frame would not fit for large numbers.
_AT_ONCE = 8


class Labeller(Protocol):
    """Says what a teacher thinks of a frame; ``name`` and ``precision`` say what ran."""

    name: str
    precision: str

    def prepare(self, frame: Frame) -> Any:
        """Return the pictures that the teacher is to see; safe in another thread."""
        ...

    def look(self, frame: Frame,
             pictures: Any) -> Iterator[tuple[int | None, np.ndarray, tuple[int, int]]]:
        """
        Yield which view it is (None: the whole frame), logits and the size these stand for.

        Logits are float32 ``[K, h, w]``, the size is height and width of the picture.
        """
        ...

    def close(self) -> None:
        """Release the network."""
        ...


def load_labeller(teacher: ModelBundle, views: ViewPlan | None, *, engine: str = 'auto',
                  device: str = 'cpu', precision: str = 'auto', threads: int = 0,
                  spread: bool = False, memory: Mapping[Any, Any] | None = None) -> Labeller:
    """
    Load what labels frames, or numbered views of them.

    :param engine: what runs whole frames. Views run in torch, since graphs have one size.
    :param spread: over all devices, where one is too small (``spread_over``); runs in torch.
    :param memory: what it may take of each then.
    :raises KdPerceptionError: one line, where the teacher cannot.
    """
    _require_logits(teacher, graph=views is None and not spread)
    if views is None and not spread:
        return FrameLabeller(teacher, load_engine(teacher, engine, device=device, threads=threads,
                                                  precision=precision, graph='logits'))
    if engine not in ('auto', 'torch'):
        what = 'a teacher in parts runs in' if views is None else 'views are labelled by'
        raise EngineError(f'engine {engine} has graphs of one size and in one piece; {what} torch '
                          '(--engine auto)')
    if threads:
        torch.set_num_threads(threads)
    wanted = torch.device(device)
    if wanted.type == 'cuda' and not torch.cuda.is_available():
        raise EngineError('torch sees no CUDA device here; choose device cpu')
    network = TeacherNetwork(teacher, device=wanted, spread=spread, memory=memory,
                             precision=choose_precision(precision, wanted),
                             frame=None if views is None else views.size,
                             crop=None if views is None else views.crop)
    return FrameLabeller(teacher, NetworkEngine(network)) if views is None else ViewLabeller(
        network, views)


class FrameLabeller:
    """An engine that looks at whole frames, as it does on the vehicle."""

    def __init__(self, teacher: ModelBundle, engine: Engine | NetworkEngine) -> None:
        self._spec = teacher.spec.input
        self._engine = engine
        self.name, self.precision = engine.name, engine.precision

    def prepare(self, frame: Frame) -> np.ndarray:
        """Return the picture at the network's input size."""
        return network_input(frame.image, self._spec)

    def look(self, frame: Frame,
             pictures: np.ndarray) -> Iterator[tuple[int | None, np.ndarray, tuple[int, int]]]:
        """Yield the logits of the frame's part of the input."""
        where = place((frame.image.shape[0], frame.image.shape[1]), self._spec)
        logits = where.crop_grid(self._engine.infer(pictures[None])['logits'][0])
        yield None, logits, (where.height, where.width)

    def close(self) -> None:
        """Release the engine."""
        self._engine.close()


class NetworkEngine:
    """A network in parts, asked as an engine is."""

    def __init__(self, network: TeacherNetwork) -> None:
        self._network = network
        self._reverse = network.bundle.spec.input.channel_order == 'bgr'
        self.name, self.precision = network.name, network.precision

    def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return ``logits`` of uint8 ``[N, H, W, 3]`` in the bundle's order of channels."""
        pictures = torch.from_numpy(images[..., ::-1].copy() if self._reverse else images)
        return {'logits': self._network.look(pictures.to(self._network.device))[0].cpu().numpy()}

    def close(self) -> None:
        """Nothing to release."""


class ViewLabeller:
    """A network that looks at numbered views, as a student is shown them."""

    def __init__(self, network: TeacherNetwork, views: ViewPlan) -> None:
        self._views = views
        self._network = network
        self.name, self.precision = self._network.name, self._network.precision

    def prepare(self, frame: Frame) -> np.ndarray:
        """Return the pictures of all views, uint8 ``[count, *crop, 3]``."""
        image = resize_image(frame.image, *self._views.size)
        return np.stack([self._views.draw(image, frame.key, k)[1]
                         for k in range(self._views.count)])

    def look(self, frame: Frame,
             pictures: np.ndarray) -> Iterator[tuple[int | None, np.ndarray, tuple[int, int]]]:
        """Yield the logits of view after view."""
        for first in range(0, len(pictures), _AT_ONCE):
            part = torch.from_numpy(pictures[first:first + _AT_ONCE]).to(self._network.device)
            for number, logits in enumerate(self._network.look(part)[0], start=first):
                yield number, logits.cpu().numpy(), self._views.crop

    def close(self) -> None:
        """Nothing to release."""


def _require_logits(teacher: ModelBundle, *, graph: bool) -> None:
    if teacher.spec.task != 'segmentation':
        raise BundleError(f'{teacher.path}: task {teacher.spec.task!r} cannot label yet')
    if not teacher.has(LOGITS) and not teacher.spec.network.builder:
        raise BundleError(f'{teacher.path}: gives ids alone, of which there are no soft labels; '
                          'write its masks as PNGs and import them: kd_perception label --import')
    if graph and not teacher.has(LOGITS):
        raise BundleError(f'{teacher.path}: has no {LOGITS}, so it cannot label; export it with: '
                          f'kd_perception export {teacher.path}')
