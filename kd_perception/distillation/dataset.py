"""
Batches for training, made by threads ahead of time and repeatable by seed.

What a sample shows depends on the seed, the step and its place in the batch alone: a resumed run
sees exactly what the uninterrupted one would have seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from kd_perception.classes import UNLABELLED
from kd_perception.distillation.augmentation import (
    draw_view,
    jitter,
    rare_pixel,
    View,
    view_image,
    view_labels,
)
from kd_perception.distillation.cache import SoftLabelCache
from kd_perception.distillation.frame_store import FrameStore, Sample
from kd_perception.distillation.order import FrameOrder
from kd_perception.distillation.recipe import AugmentRecipe
from kd_perception.distillation.views import ViewPlan
from kd_perception.tasks.soft_labels import decided


@dataclass(frozen=True)
class Batch:
    """
    Samples of one step.

    :param keys: of the frames.
    :param images: uint8 ``[N, H, W, 3]``, RGB.
    :param labels: uint8 ``[N, H, W]``, 255 where unlabelled.
    :param theta: float32 ``[N, 2, 3]``, view to whole frame (``View.theta``).
    :param soft: float32 ``[N, K, h, w]``, logits of the teacher: of whole frames, or of
        numbered views; None without a cache.
    :param winners: uint8 ``[N, H', W']``, its decision, finer than ``soft``; None if not kept.
    :param further: ``soft`` and ``winners`` of further teachers.
    :param calm: uint8 ``[N, H, W, 3]``, the views before their light was changed, or None.
    :param names: what people find the frames by.
    """

    keys: tuple[str, ...]
    images: torch.Tensor
    labels: torch.Tensor
    theta: torch.Tensor
    soft: torch.Tensor | None = None
    winners: torch.Tensor | None = None
    further: tuple[tuple[torch.Tensor, torch.Tensor | None], ...] = ()
    calm: torch.Tensor | None = None
    names: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        def moved(tensor: torch.Tensor | None) -> Any:
            return None if tensor is None else tensor.to(device, non_blocking=True)
        return replace(self, images=moved(self.images), labels=moved(self.labels),
                       theta=moved(self.theta), soft=moved(self.soft),
                       winners=moved(self.winners), calm=moved(self.calm),
                       further=tuple((moved(soft), moved(w)) for soft, w in self.further))

    def cached(self, which: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the logits and winners of the teacher ``which``, counted from 0."""
        if which:
            return self.further[which - 1]
        assert self.soft is not None
        return self.soft, self.winners


@dataclass(frozen=True)
class _Sample:
    """One of a batch, as arrays."""

    frame: Sample
    image: np.ndarray
    labels: np.ndarray
    theta: np.ndarray
    softs: Sequence[tuple[np.ndarray, np.ndarray | None]]
    calm: np.ndarray | None = None


class Batches:
    """
    An endless, seeded sequence of augmented batches.

    :param store: frames to draw from; each is seen once before any is seen again (with
        ``labelled_share``: of its kind).
    :param crop: height and width of samples.
    :param focus_weights: float ``[K]``, chance of a class to be looked at (``augment.focus``).
    :param labelled_share: share of labelled frames in every step (to one frame), drawn apart from
        the others; 0 takes frames as they come.
    :param caches: soft labels of all frames of the store, by teacher.
    :param views: samples are these numbered views, of which the caches hold soft labels; view
        number: how often the frame was drawn before, modulo their count. None: every sample is a
        new view.
    :param decide: what decoded soft labels, one array per cache, say of where classes are.
    :param calm: also give the views as they were before their light was changed.
    :param rank: which of ``world`` processes this is; each gets its own part of every step.
    :raises TrainingError: when a share is asked for of frames of which there are none.
    """

    def __init__(self, store: FrameStore, augment: AugmentRecipe, *, crop: tuple[int, int],
                 batch_size: int, seed: int, focus_weights: np.ndarray | None = None,
                 labelled_share: float = 0.0, caches: Sequence[SoftLabelCache] = (),
                 views: ViewPlan | None = None,
                 decide: Callable[[Sequence[np.ndarray]], np.ndarray] | None = None,
                 calm: bool = False, rank: int = 0, world: int = 1) -> None:
        self._store = store
        self._augment = augment
        self._crop = crop
        self._batch_size = batch_size
        self._seed = seed
        self._focus_weights = focus_weights
        self._caches = tuple(caches)
        self._views = views
        self._decide = decide or (lambda softs: decided(softs[0]))
        self._calm = calm
        self._rank = rank
        self._world = world
        self._order = FrameOrder(store.has_labels if labelled_share else len(store), seed,
                                 labelled_share)

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every frame is seen once."""
        return len(self._store) / (self._batch_size * self._world)

    def batch(self, step: int) -> Batch:
        """Return the batch of ``step``, counted from 0."""
        first = (step * self._world + self._rank) * self._batch_size
        samples = [self._sample(first + i) for i in range(self._batch_size)]
        return _collated(samples)

    def seed_at(self, step: int) -> int:
        """Return a seed for what is drawn beside the views of a step in this process."""
        words = np.random.SeedSequence((self._seed, 3, step, self._rank))
        return int(words.generate_state(1, np.uint64)[0])

    def prefetch(self, first_step: int, threads: int = 1) -> Iterator[Batch]:
        """Yield the batches from ``first_step`` on, prepared by ``threads`` ahead of time."""
        pool = ThreadPoolExecutor(threads, thread_name_prefix='batches')
        waiting: deque[Future[Batch]] = deque()
        step = first_step
        try:
            while True:
                while len(waiting) < threads + 2:
                    waiting.append(pool.submit(self.batch, step))
                    step += 1
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _sample(self, number: int) -> _Sample:
        position, times = self._order.draw(number)
        if self._views is not None:
            return _numbered(self._store[position], self._caches, self._views,
                             times % self._views.count, self._calm)
        rng = np.random.default_rng((self._seed, 1, number))
        sample = self._store[position]
        height, width = sample.image.shape[:2]
        softs = [cache.lesson(sample.key) for cache in self._caches]
        centre = None
        if self._focus_weights is not None and rng.random() < self._augment.focus:
            # Without ground truth the teacher's own decision says where rare things are.
            ids = sample.labels[::4, ::4] if sample.labels is not None else (
                self._decide([logits for logits, _ in softs]) if softs else None)
            if ids is not None:
                centre = rare_pixel(rng, ids, self._focus_weights, (height, width))
        view = draw_view(rng, self._augment, (height, width), self._crop, centre)
        calm = view_image(sample.image, view, self._crop)
        return _Sample(sample, jitter(rng, self._augment, calm),
                       _labels(sample, view, self._crop), view.theta(height, width), softs,
                       calm if self._calm else None)


def still(sample: Sample, caches: Sequence[SoftLabelCache] = (),
          views: ViewPlan | None = None) -> Batch:
    """Return a batch of one frame as it is, or of its first view, with its soft labels."""
    if views is not None:
        return _collated([_numbered(sample, caches, views, 0)])
    height, width = sample.image.shape[:2]
    whole = View(0, 0, height, width)
    return _collated([_Sample(sample, sample.image,
                              _labels(sample, whole, (height, width)),
                              whole.theta(height, width),
                              [cache.lesson(sample.key) for cache in caches])])


def _numbered(sample: Sample, caches: Sequence[SoftLabelCache], views: ViewPlan, number: int,
              calm: bool = False) -> _Sample:
    view, image, before = views.draw(sample.image, sample.key, number)
    return _Sample(sample, image, _labels(sample, view, views.crop),
                   view.theta(*sample.image.shape[:2]),
                   [cache.lesson(sample.key, number) for cache in caches],
                   before if calm else None)


def _labels(sample: Sample, view: View, crop: tuple[int, int]) -> np.ndarray:
    if sample.labels is None:
        return np.full(crop, UNLABELLED, np.uint8)
    return view_labels(sample.labels, view, crop)


def _collated(samples: Sequence[_Sample]) -> Batch:
    softs = []
    for each in zip(*(s.softs for s in samples), strict=True):
        logits, winners = zip(*each, strict=True)
        softs.append((_stack(logits),
                      None if any(w is None for w in winners) else _stack(winners)))
    soft, winner = softs[0] if softs else (None, None)
    calm = [s.calm for s in samples if s.calm is not None]
    return Batch(tuple(str(s.frame.key) for s in samples), _stack([s.image for s in samples]),
                 _stack([s.labels for s in samples]), _stack([s.theta for s in samples]),
                 soft, winner, tuple(softs[1:]), _stack(calm) if calm else None,
                 tuple(s.frame.name for s in samples))


def _stack(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays))
