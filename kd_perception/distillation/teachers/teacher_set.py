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

import numpy as np
import torch

from kd_perception.bundle import ModelBundle
from kd_perception.classes import ClassMap, ClassSet, load_class_map, named_like
from kd_perception.distillation.cache import SoftLabelCache
from kd_perception.distillation.frame_store import FrameStore
from kd_perception.distillation.losses.loss import (
    FEATURES,
    LABELS,
    LOGITS,
    Loss,
    REST,
    SoftenedLoss,
    SOFTMAX,
)
from kd_perception.distillation.processes import world_size
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.recipe_checks import NUMBERED, ONLINE
from kd_perception.distillation.student_recipe import ASSISTANT
from kd_perception.distillation.teachers.average import AverageTeacher
from kd_perception.distillation.teachers.cached import CachedTeacher, ViewTeacher
from kd_perception.distillation.teachers.ensemble import Ensemble
from kd_perception.distillation.teachers.online import OnlineTeacher
from kd_perception.distillation.teachers.stopwatch import Stopwatch
from kd_perception.distillation.teachers.teacher import Guide, Teacher
from kd_perception.distillation.teachers.translated import TranslatedTeacher
from kd_perception.distillation.views import ViewPlan
from kd_perception.errors import ConfigError, TrainingError
from kd_perception.frames import FrameKey
from kd_perception.tasks.soft_labels import decided


@dataclass(frozen=True)
class Member:
    """
    One teacher.

    :param classes: number of its classes.
    :param bundle: None for imported labels.
    :param cache: what it said of the frames, None where it is in the loop.
    :param class_map: to the student's classes; None: they are the same.
    """

    classes: int
    bundle: ModelBundle | None
    cache: SoftLabelCache | None
    class_map: ClassMap | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """Return what must agree when a run is resumed."""
        if self.cache is not None:
            return {'teacher': self.cache.teacher_hash, 'soft_labels': self.cache.made_with}
        assert self.bundle is not None
        return {'teacher': self.bundle.hash, 'soft_labels': ONLINE}


@dataclass(frozen=True)
class TeacherSet:
    """
    The teachers of a run; none where the student's own average teaches.

    :param targets: number of the student's classes.
    :param views: the numbered views that the caches are of; None: whole frames.
    """

    recipe: Recipe
    targets: int
    members: tuple[Member, ...]
    views: ViewPlan | None = None

    @property
    def parents(self) -> tuple[str, ...]:
        """Return the hashes of the bundles that the student learns from, first hand last."""
        passed_on = (parent for b in self.bundles if b.spec.role == ASSISTANT
                     for parent in b.spec.lineage.parents)
        return (*passed_on, *(b.hash for b in self.bundles))

    @property
    def bundles(self) -> tuple[ModelBundle, ...]:
        """Return the teachers that are bundles."""
        return tuple(m.bundle for m in self.members if m.bundle is not None)

    @property
    def identity(self) -> dict[str, Any]:
        """Return what must agree when a run is resumed."""
        told = [m.identity for m in self.members]
        maps = [m.class_map.table[:m.classes].tolist() + list(m.class_map.dropped)
                for m in self.members if m.class_map is not None]
        return {**(told[0] if len(told) == 1 else {'teachers': told}),
                **({'class_maps': maps} if maps else {})}

    @property
    def caches(self) -> tuple[SoftLabelCache, ...]:
        """Return the caches that batches carry soft labels of."""
        return tuple(m.cache for m in self.members if m.cache is not None)

    @property
    def calm(self) -> bool:
        """Return whether batches must carry the views before their light was changed."""
        return not self.members

    def decide(self, softs: Sequence[np.ndarray]) -> np.ndarray:
        """Return where the first teacher sees which of the student's classes, uint8 ``[h, w]``."""
        class_map = self.members[0].class_map
        ids = decided(softs[0])
        return ids if class_map is None else class_map(ids)

    def known_part(self, frames: FrameStore) -> FrameStore:
        """Return the frames that are taught; of imported labels some may be missing."""
        for member in self.members:
            if member.cache is not None and member.bundle is None:
                frames = member.cache.labelled_part(frames)
        return frames

    def require_some(self, name: str, keys: Sequence[FrameKey]) -> None:
        """
        Check that imported soft labels say something of a camera, before anything is read.

        :param name: of its recording.
        :raises TrainingError: when one cache has none of its frames.
        """
        for cache in self.caches:
            if cache.imported:
                cache.require_some(name, keys)

    def keep(self, size: float) -> None:
        """Keep soft labels decoded, up to so many bytes in all."""
        for cache in self.caches:
            cache.keep(size / len(self.caches))

    def has_seen(self, key: FrameKey) -> bool:
        """Return whether all teachers with a cache have seen a frame, which was decoded then."""
        return all(key in cache for cache in self.caches if not cache.imported)

    def require_frames(self, keys: Iterable[FrameKey], *, undecoded: bool = False) -> None:
        """
        Check that every frame can be taught.

        :param undecoded: which of them can be decoded is not known yet (``SoftLabelCache``); of
            imported labels some may then be missing.
        :raises TrainingError: when a cache lacks some.
        """
        wanted = list(keys)
        for cache in self.caches:
            if not (undecoded and cache.imported):
                cache.require_frames(wanted, undecoded=undecoded)

    def require_truth(self, learn: Iterable[bool], check: Iterable[bool]) -> None:
        """
        Check that there is ground truth where the teacher alone would not do.

        :param learn: per training frame, whether it has labels.
        :param check: the same per validation frame.
        :raises TrainingError: when there is none.
        """
        if not self.members and not (any(learn) and all(check)):
            raise TrainingError('distillation.ema_teacher: a student that teaches itself needs '
                                'ground truth beside: labelled recordings to learn from and to '
                                'validate on')

    @property
    def online(self) -> bool:
        """Return whether a network teaches in the loop; one may also show its layers there."""
        return not self.members or any(m.cache is None for m in self.members)

    def load(self, device: torch.device, precision: str, layers: Sequence[str] = (),
             watch: Stopwatch | None = None) -> tuple[Teacher, Guide | None]:
        """
        Return the teacher, and who gives the layers that losses look at.

        :param precision: what a network computes in.
        :param layers: names of submodules of the first teacher; with none there is no guide.
        :param watch: counts the seconds of networks in the loop.
        """
        watch = watch or Stopwatch(device)
        if not self.members:
            return AverageTeacher(precision, watch), None
        guide: Guide | None = None
        loaded = []
        for place, member in enumerate(self.members):
            teacher: Teacher
            if member.cache is None:
                teacher = own = self._online(member, device, precision, () if place else layers,
                                             watch)
                guide = own if layers and not place else guide
            elif self.views is None:
                teacher = CachedTeacher((self.recipe.input.height, self.recipe.input.width), place)
            else:
                teacher = ViewTeacher(place)
            if member.class_map is not None:
                teacher = TranslatedTeacher(teacher, member.class_map, member.classes,
                                            self.targets)
            loaded.append(teacher)
        if layers and guide is None:
            first = next(m for m in self.members if m.bundle is not None)
            guide = self._online(first, device, precision, layers, watch)
        together = self.recipe.distillation.teachers
        return (loaded[0] if len(loaded) == 1 else
                Ensemble(loaded, together.combine, together.weights)), guide

    def _online(self, member: Member, device: torch.device, precision: str,
                layers: Sequence[str], watch: Stopwatch) -> OnlineTeacher:
        assert member.bundle is not None
        settings = self.recipe.distillation
        return OnlineTeacher(
            member.bundle, device=device, precision=precision, layers=layers,
            frame=(self.recipe.input.height, self.recipe.input.width), crop=self.recipe.crop,
            spread=settings.teacher_devices == 'auto', memory=settings.teacher_memory,
            watch=watch)


def choose_teachers(recipe: Recipe, classes: ClassSet, losses: Mapping[str, Loss],
                    bundles: Sequence[ModelBundle],
                    cache_dirs: Sequence[Path | str]) -> TeacherSet:
    """
    Check that the teachers can teach what the recipe asks for.

    :param bundles: teachers, in the order of their caches; imported labels have none.
    :raises TrainingError: one line that says what does not fit.
    """
    settings = recipe.distillation
    if settings.teacher_devices == 'auto' and world_size() > 1:
        raise ConfigError('distillation.teacher_devices auto: takes all devices for one process; '
                          'leave torchrun out, or set it to one')
    if settings.ema_teacher:
        _check_own_average(losses, bundles, cache_dirs)
        return TeacherSet(recipe, len(classes), ())
    if max(len(bundles), len(cache_dirs)) > 1:
        _require_for_several(losses)
    views = None
    if settings.view == ONLINE:
        if cache_dirs:
            raise TrainingError(f'{cache_dirs[0]}: a cache is not looked at with '
                                'distillation.view online; leave --cache out, or set the view to '
                                'warp')
        if not bundles:
            raise TrainingError('distillation.view online needs a teacher in the loop: give '
                                '--teacher BUNDLE')
        pairs: list[tuple[ModelBundle | None, SoftLabelCache | None]] = [(b, None)
                                                                         for b in bundles]
    else:
        if not cache_dirs:
            raise TrainingError(f'distillation.view {settings.view} needs soft labels: give '
                                '--cache DIR (made by kd_perception label), or set '
                                '--distillation.view online')
        caches = [SoftLabelCache(path) for path in cache_dirs]
        pairs = _paired(bundles, caches)
        if settings.view == NUMBERED:
            count = settings.views or min((c.views or {}).get('count', 1) for c in caches)
            views = ViewPlan.of(recipe, count)
        for cache in caches:
            cache.require_views(views)
            for name, loss in losses.items():
                if loss.looks_at not in (LABELS, FEATURES):  # a cache need not serve these
                    softened = loss.temperature if isinstance(loss, SoftenedLoss) else 1.0
                    cache.require_service(f'loss {name!r}', loss.looks_at, softened)
    weights = settings.teachers.weights
    if weights and len(weights) != len(pairs):
        raise TrainingError(f'distillation.teachers.weights: {len(weights)} weights for '
                            f'{len(pairs)} teachers')
    members = list[Member]()
    for bundle, own in pairs:
        names = own.classes if own is not None else _classes_of(bundle).names
        members.append(Member(len(names), bundle, own,
                              _class_map(settings.class_map, classes, names, bundle)))
    for member in members:
        # Merging classes or teachers, and trust in sure pixels, is about plain probabilities.
        for why, looks_at, asked in (
                ('a class map', SOFTMAX, member.class_map is not None),
                ('a class map that drops classes', REST,
                 member.class_map is not None and bool(member.class_map.dropped)),
                ('several teachers', SOFTMAX, len(members) > 1),
                ('weighting.confidence', SOFTMAX, bool(settings.weighting.confidence))):
            if member.cache is not None and asked:
                member.cache.require_service(why, looks_at, 1.0)
    if settings.class_map and all(m.class_map is None for m in members):
        raise TrainingError(f'distillation.class_map {settings.class_map}: the teacher predicts '
                            f'the classes of {classes.name!r} already; leave it out')
    return TeacherSet(recipe, len(classes), tuple(members), views)


def _paired(bundles: Sequence[ModelBundle], caches: Sequence[SoftLabelCache],
            ) -> list[tuple[ModelBundle | None, SoftLabelCache | None]]:
    """Return each cache with its teacher; of several caches, imported ones take none."""
    waiting, pairs = list(bundles), list[tuple[ModelBundle | None, SoftLabelCache | None]]()
    for cache in caches:
        alone = cache.imported and len(caches) > 1
        bundle = waiting.pop(0) if waiting and not alone else None
        if bundle is not None and bundle.hash != cache.teacher_hash and any(
                b.hash == cache.teacher_hash for b in bundles):
            raise TrainingError(f'{cache.path}: was labelled by another of the teachers; give '
                                'every --cache in the order of its --teacher')
        cache.require(bundle)
        pairs.append((bundle, cache))
    if waiting:
        raise TrainingError(f'{waiting[0].path}: there is no cache left for it; give a --cache '
                            'for every --teacher, in the same order')
    return pairs


def _check_own_average(losses: Mapping[str, Loss], bundles: Sequence[ModelBundle],
                       cache_dirs: Sequence[Path | str]) -> None:
    if bundles or cache_dirs:
        raise TrainingError('distillation.ema_teacher: the student teaches itself; leave '
                            '--teacher and --cache out')
    if not any(loss.looks_at == LABELS for loss in losses.values()):
        raise TrainingError('distillation.ema_teacher: needs a loss on ground truth beside, or '
                            'student and teacher would agree on anything: '
                            '--distillation.losses.cross_entropy.weight 1')
    for name, loss in losses.items():
        if loss.looks_at == FEATURES:
            raise TrainingError(f'loss {name!r} looks at layers of the teacher, which a student '
                                'that teaches itself (distillation.ema_teacher) does not show: '
                                'losses on outputs can be used (kl, mse, …); or give a finished '
                                'bundle as --teacher, without distillation.ema_teacher')


def _require_for_several(losses: Mapping[str, Loss]) -> None:
    """Refuse losses that no cache makes possible, before one is asked to serve them."""
    for name, loss in losses.items():
        if loss.looks_at == LOGITS:
            raise TrainingError(f'loss {name!r} looks at logits themselves, which several '
                                'teachers do not have together; leave it out, or all but one '
                                'of them')


def _classes_of(bundle: ModelBundle | None) -> ClassSet:
    assert bundle is not None
    return bundle.spec.classes


def _class_map(name: str, classes: ClassSet, names: tuple[str, ...],
               bundle: ModelBundle | None) -> ClassMap | None:
    """Return the map to the student's classes; None where they are the same."""
    if names == classes.names:
        return None
    source = named_like(names) if bundle is None else bundle.spec.classes
    try:
        return load_class_map(source, classes, name)
    except ConfigError as error:
        if name:
            raise
        what = 'imported labels are' if bundle is None else 'the teacher predicts'
        named = f'{len(names)} other classes' if bundle is None else repr(source.name)
        if 'no class map from' not in str(error):
            raise
        raise TrainingError(
            f'{what} {named}, the recipe asks for {classes.name!r}: set classes in the recipe, or '
            f'write config/classes/{source.name}_to_{classes.name}.yaml '
            '(distillation.class_map)') from None
