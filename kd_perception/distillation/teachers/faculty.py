"""
Who teaches in a run: checked before anything is loaded or written, loaded when the run begins.

Bundles, caches and the recipe come in; one ``Teacher`` goes out, and what a run directory and the
lineage of a student must know of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kd_perception.bundle import ModelBundle
from kd_perception.classes import ClassSet
from kd_perception.distillation.cache import SoftLabelCache
from kd_perception.distillation.frame_store import FrameStore
from kd_perception.distillation.losses.loss import FEATURES, LABELS, Loss
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.recipe_checks import NUMBERED, ONLINE
from kd_perception.distillation.teachers.cached import CachedTeacher, ViewTeacher
from kd_perception.distillation.teachers.online import OnlineTeacher
from kd_perception.distillation.teachers.teacher import Guide, Teacher
from kd_perception.distillation.views import ViewPlan
from kd_perception.errors import TrainingError
from kd_perception.frames import FrameKey


@dataclass(frozen=True)
class Faculty:
    """
    The teachers of a run.

    :param bundle: the teacher's, None for imported labels.
    :param cache: what it said of the frames, None where it is in the loop.
    :param views: the numbered views that the cache is of; None: whole frames.
    """

    recipe: Recipe
    bundle: ModelBundle | None
    cache: SoftLabelCache | None
    views: ViewPlan | None = None

    @property
    def parents(self) -> tuple[str, ...]:
        """Return the hashes of the bundles that the student learns from."""
        return () if self.bundle is None else (self.bundle.hash,)

    @property
    def identity(self) -> dict[str, Any]:
        """Return what must agree when a run is resumed."""
        if self.cache is None:
            return {'teacher': self.parents[0], 'soft_labels': ONLINE}
        return {'teacher': self.cache.teacher_hash, 'soft_labels': self.cache.made_with}

    @property
    def caches(self) -> tuple[SoftLabelCache, ...]:
        """Return the caches that batches carry soft labels of."""
        return () if self.cache is None else (self.cache,)

    def known_part(self, frames: FrameStore) -> FrameStore:
        """Return the frames that are taught; of imported labels some may be missing."""
        if self.cache is not None and self.bundle is None:
            return self.cache.labelled_part(frames)
        return frames

    def require_frames(self, keys: Iterable[FrameKey]) -> None:
        """
        Check that every frame can be taught.

        :raises TrainingError: when a cache lacks some.
        """
        if self.cache is not None:
            self.cache.require_frames(keys)

    def teacher(self, device: torch.device, precision: str,
                layers: Sequence[str] = ()) -> Teacher:
        """
        Load the teacher.

        :param precision: what a network computes in.
        :param layers: names of its submodules that lessons are to carry.
        """
        frame = (self.recipe.input.height, self.recipe.input.width)
        if self.cache is not None:
            return CachedTeacher(frame) if self.views is None else ViewTeacher()
        return self._online(device, precision, layers)

    def guide(self, teacher: Teacher, device: torch.device, precision: str,
              layers: Sequence[str]) -> Guide | None:
        """
        Return who gives the layers that losses look at; None where there are none.

        :param teacher: who gives the logits: where it is in the loop, it gives the layers too.
        """
        if not layers:
            return None
        if isinstance(teacher, OnlineTeacher):
            return teacher
        return self._online(device, precision, layers)

    def _online(self, device: torch.device, precision: str,
                layers: Sequence[str]) -> OnlineTeacher:
        assert self.bundle is not None
        return OnlineTeacher(self.bundle, device=device, precision=precision, layers=layers,
                             frame=(self.recipe.input.height, self.recipe.input.width),
                             crop=self.recipe.crop)


def hire(recipe: Recipe, classes: ClassSet, losses: Mapping[str, Loss],
         bundle: ModelBundle | None, cache_dir: Path | str | None) -> Faculty:
    """
    Check that the teacher can teach what the recipe asks for.

    :raises TrainingError: one line that says what does not fit.
    """
    if recipe.distillation.view == ONLINE:
        if cache_dir is not None:
            raise TrainingError(f'{cache_dir}: a cache is not looked at with distillation.view '
                                'online; leave --cache out, or set the view to warp')
        if bundle is None:
            raise TrainingError('distillation.view online needs a teacher in the loop: give '
                                '--teacher BUNDLE')
        _same_classes(classes, bundle.spec.classes.names, bundle)
        return Faculty(recipe, bundle, None)
    if cache_dir is None:
        raise TrainingError(f'distillation.view {recipe.distillation.view} needs soft labels: '
                            'give --cache DIR (made by kd_perception label), or set '
                            '--distillation.view online')
    cache = SoftLabelCache(cache_dir)
    cache.require(bundle)
    views = None
    if recipe.distillation.view == NUMBERED:
        count = recipe.distillation.views or (cache.views or {}).get('count', 1)
        views = ViewPlan.of(recipe, count)
    cache.require_views(views)
    for name, loss in losses.items():
        if loss.looks_at not in (LABELS, FEATURES):  # a cache need not serve these
            cache.require_service(name, loss.looks_at, getattr(loss, 'temperature', 1.0))
    _same_classes(classes, cache.classes, bundle)
    return Faculty(recipe, bundle, cache, views)


def _same_classes(classes: ClassSet, names: tuple[str, ...], bundle: ModelBundle | None) -> None:
    if classes.names != names:
        what = 'imported labels are' if bundle is None else 'the teacher predicts'
        named = (f'{len(names)} other classes' if bundle is None
                 else repr(bundle.spec.classes.name))
        raise TrainingError(f'{what} {named}, the recipe asks for {classes.name!r}: set classes '
                            'in the recipe')
