"""The verbs ``train`` and ``distill``: from a recipe to a run directory with a bundle in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
import logging
from pathlib import Path
from typing import Any

from accelerate import Accelerator
import numpy as np
import torch

from kd_perception import __version__
from kd_perception.bundle import (
    BundleSpec,
    InputSpec,
    Lineage,
    load_bundle,
    METRICS,
    ModelBundle,
)
from kd_perception.classes import ClassSet, load_class_set
from kd_perception.distillation.assistants import assistant_recipes, through_assistants
from kd_perception.distillation.dataset import Batches
from kd_perception.distillation.features import require_layers_of, teacher_layers
from kd_perception.distillation.frame_store import FrameStore, LabelledSource, open_sources
from kd_perception.distillation.held_out import (
    HeldOut,
    read_frames,
    tell_of_teachers,
    VALIDATION,
)
from kd_perception.distillation.initialise import initialise, resolve_networks, spec_of
from kd_perception.distillation.loop import Loop, State
from kd_perception.distillation.losses import build_losses, loss_kinds, require_batch
from kd_perception.distillation.losses.cross_entropy import class_weights_from_pixels
from kd_perception.distillation.losses.loss import LABELS, Loss
from kd_perception.distillation.losses.weighting import PixelWeighting
from kd_perception.distillation.memory import keep_freed_memory, memory_advice
from kd_perception.distillation.order import require_share
from kd_perception.distillation.picture_statistics import statistics_file
from kd_perception.distillation.processes import Processes
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.run_directory import FRAMES, RunDirectory
from kd_perception.distillation.strict import to_plain
from kd_perception.distillation.targets.segmentation import (
    Frames,
    SegmentationTarget,
    Validation,
)
from kd_perception.distillation.teachers.lessons import Lessons
from kd_perception.distillation.teachers.teacher_set import choose_teachers, TeacherSet
from kd_perception.errors import TrainingError
from kd_perception.evaluation.host import host_info, package_versions
from kd_perception.evaluation.study import spread
from kd_perception.frames import Progress
from kd_perception.networks.deploy import save_bundle
from kd_perception.networks.exits import without_unused_exits
from kd_perception.networks.registry import build

log = logging.getLogger(__name__)
# What validation measures against; a student of bags without labels has but its teacher.
GROUND_TRUTH, TEACHER = 'ground truth', 'teacher'
# Held-out frames that a run remembers the places of.
_MOST_PLACES = 1000


def train(recipe: Recipe, out_dir: Path | str, *, progress: Progress | None = None,
          overwrite: bool = False) -> ModelBundle:
    """
    Train a network on ground truth.

    An unfinished run of the same recipe in ``out_dir`` is resumed.

    :param progress: called with (done, total, note).
    :param overwrite: remove a run that is there first.
    :raises KdPerceptionError: one line, for bad data, a run of another recipe, a loss of NaN.
    """
    if not recipe.network.builder:
        raise TrainingError('network.builder: is missing, and train has no teacher to derive a '
                            'network from; name one')
    classes = load_class_set(recipe.classes)
    with _opened(recipe, classes, progress) as (learn, check):
        if not any(s.class_map for s in learn):
            raise TrainingError(f'{_names(learn)}: has no labels to learn from; give label_dir or '
                                'label_topic (data.defaults), or distil from a teacher')
        require_share(recipe.data.labelled_share, [True])
        accelerator = _accelerator()
        identity = {'data': [s.identity for s in [*learn, *check]],
                    'processes': accelerator.num_processes}
        with RunDirectory(out_dir, recipe, 'train', identity, overwrite=overwrite,
                          main=accelerator.is_main_process) as run:
            accelerator.wait_for_everyone()  # until what was there before is gone
            frames, held, how = read_frames(recipe, learn, check, labels_only=True,
                                            progress=progress)
            return _fit(recipe, classes, frames, _truth(held), run, accelerator, held_out=how,
                        progress=progress)


def distill(recipe: Recipe, out_dir: Path | str, *,
            teacher: ModelBundle | Sequence[ModelBundle] | None,
            cache_dir: Path | str | Sequence[Path | str] | None, progress: Progress | None = None,
            overwrite: bool = False) -> ModelBundle:
    """
    Train a student on the soft labels that ``label`` has written, or on what a teacher in the
    loop says (``distillation.view: online``).

    Validation is on ground truth where the recipe has some (``data.validation``, or labelled
    training recordings), else on agreement with the teacher on held-out frames.

    :param teacher: what the cache must have been made with, or several; None for imported labels.
    :param cache_dir: soft labels of all training frames, or several in the order of the
        teachers; None with a teacher in the loop, or without any (``distillation.ema_teacher``).
        Where the recipe has assistants, the first of them learns from these.
    :raises KdPerceptionError: as ``train``, and when the cache is of another teacher or lacks
        frames.
    """
    recipe, classes, losses, teachers = _prepared(recipe, teacher, cache_dir)
    with _opened(recipe, classes, progress) as (learn, check):
        if not any(s.class_map for s in learn):
            _require_no_truth(losses, _names(learn))
            require_share(recipe.data.labelled_share, [False])
        for entry in learn:
            teachers.require_some(entry.source.name, entry.keys)
        if check or not any(s.class_map for s in learn):
            # Else some are held out, which needs no soft labels. Reading may take hours.
            teachers.require_frames([k for s in learn for k in s.keys], undecoded=True)
        accelerator = _accelerator()
        identity = {'data': [s.identity for s in [*learn, *check]],
                    'processes': accelerator.num_processes, **teachers.identity}
        with RunDirectory(out_dir, recipe, 'distill', identity, overwrite=overwrite,
                          main=accelerator.is_main_process) as run:
            accelerator.wait_for_everyone()  # until what was there before is gone
            teachers = through_assistants(recipe, classes, losses, teachers, learn, run,
                                          accelerator, distill=distill, progress=progress)
            frames, held, how = read_frames(recipe, learn, check, labels_only=False,
                                            decodable=teachers.has_seen, progress=progress)
            tell_of_teachers(teachers.bundles, held)
            frames = teachers.known_part(frames)
            require_share(recipe.data.labelled_share, frames.has_labels)
            if not recipe.distillation.weighting.labelled and all(frames.has_labels):
                log.warning('distillation.weighting.labelled is 0 and every frame has ground '
                            'truth: nothing is learned from what the teacher decides')
            labelled = all(held.has_labels)
            teachers.require_truth(frames.has_labels, held.has_labels)
            teachers.require_frames(frames.keys if labelled else [*frames.keys, *held.keys])
            teachers.keep(frames.spare)
            lessons = Lessons(teachers, accelerator.device, recipe.optimization.precision,
                              teacher_layers(losses.values()))
            truth = _truth(held) if labelled else lessons.pseudo_truth(held)
            return _fit(recipe, classes, frames, truth, run, accelerator, losses=losses,
                        lessons=lessons, held_out=how, progress=progress,
                        against=GROUND_TRUTH if labelled else TEACHER)


def require_teachable(recipe: Recipe, *, teacher: ModelBundle | Sequence[ModelBundle] | None,
                      cache_dir: Path | str | Sequence[Path | str] | None) -> None:
    """
    Check what ``distill`` checks before it looks at recordings; arguments as there.

    :raises KdPerceptionError: where teachers or soft labels cannot serve the recipe.
    """
    _prepared(recipe, teacher, cache_dir)


def _prepared(recipe: Recipe, teacher: ModelBundle | Sequence[ModelBundle] | None,
              cache_dir: Path | str | Sequence[Path | str] | None,
              ) -> tuple[Recipe, ClassSet, dict[str, Loss], TeacherSet]:
    """Return the recipe with all spelled out, and what it learns from; all checked."""
    losses = build_losses(recipe.distillation.losses)
    recipe = replace(recipe, distillation=replace(recipe.distillation, losses=to_plain(losses)))
    if not recipe.distillation.weighting.off and not any(x.per_pixel for x in losses.values()):
        takers = ', '.join(n for n, kind in loss_kinds().items() if kind.per_pixel)
        raise TrainingError(f'distillation.weighting: none of the losses {", ".join(losses)} is a '
                            f'mean over pixels that it could weigh; these are: {takers}')
    bundles = [teacher] if isinstance(teacher, ModelBundle) else list(teacher or ())
    caches = [cache_dir] if isinstance(cache_dir, (str, Path)) else list(cache_dir or ())
    first = bundles[0] if bundles else None
    recipe = resolve_networks(recipe, first)
    classes = load_class_set(recipe.classes)
    teachers = choose_teachers(recipe, classes, losses, bundles, caches)
    # What makes no sense in an assistant is told before anything is written, too.
    for learner in (*assistant_recipes(recipe), recipe):
        require_batch(losses, learner.optimization.batch_size)
        require_layers_of(losses, spec_of(learner.network), len(classes), first)
    return recipe, classes, losses, teachers


def _fit(recipe: Recipe, classes: ClassSet, frames: FrameStore,
         truth: Frames, run: RunDirectory, accelerator: Accelerator, *, held_out: HeldOut,
         losses: Mapping[str, Loss] | None = None, lessons: Lessons | None = None,
         against: str = GROUND_TRUTH, progress: Progress | None = None) -> ModelBundle:
    """Build the parts, run the loop, write metrics and bundle."""
    keep_freed_memory()
    torch.manual_seed(recipe.seed)
    optimization = recipe.optimization
    processes = Processes(accelerator.process_index, accelerator.num_processes,
                          accelerator.device)
    input_spec = InputSpec(recipe.input.height, recipe.input.width, mean=recipe.input.mean,
                           std=recipe.input.std)
    network_spec = spec_of(recipe.network)
    network = build(network_spec, len(classes))
    taken = (None if lessons is None else
             initialise(network, recipe, classes, lessons.teachers))
    pixels = _class_pixels(frames, len(classes), run, processes)
    weighting = recipe.distillation.weighting
    seen = pixels
    if lessons is not None and not pixels.any() and (recipe.augment.focus or not weighting.off):
        with memory_advice(accelerator.device, 'while the teacher looked at some frames',
                           'lower input.height and input.width of the recipe'):
            seen = lessons.seen(frames, len(classes))
    target = SegmentationTarget(
        input_spec, losses=losses, teacher=None if lessons is None else lessons.teacher,
        guide=None if lessons is None else lessons.guide,
        weighting=None if weighting.off else PixelWeighting(weighting, seen, accelerator.device),
        class_weights=class_weights_from_pixels(pixels, optimization.class_weights),
        label_smoothing=optimization.label_smoothing, device=accelerator.device,
        channels_last=optimization.channels_last)
    with memory_advice(accelerator.device, 'while layers were looked at',
                       'lower augment.crop'):
        target.attach(network, recipe.crop, recipe.distillation.exits)
    batches = Batches(frames, recipe.augment, crop=recipe.crop, seed=recipe.seed,
                      batch_size=optimization.batch_size,
                      labelled_share=recipe.data.labelled_share,
                      **({} if lessons is None else lessons.shown),
                      focus_weights=_focus_weights(seen),
                      rank=processes.rank, world=processes.world)
    validation = Validation(target, len(classes), truth, processes)
    loop = Loop(network, target, batches, optimization, run, accelerator, validate=validation,
                score='mIoU' if against == GROUND_TRUTH else 'mIoU against the teacher',
                teacher_s=None if lessons is None or not lessons.online else lessons.seconds,
                progress=progress)
    if lessons is not None:
        lessons.begin(loop.shipped, target.normalise)
    state = loop.fit()
    accelerator.wait_for_everyone()
    metrics = {**_metrics(loop, state, validation, against, classes),
               'held_out': held_out.to_dict(),
               **({} if taken is None else {'from_teacher': taken})}
    if run.main:
        run.write_json(METRICS, metrics)
        shipped, network_spec = without_unused_exits(loop.shipped, network_spec)
        spec = BundleSpec(
            name=recipe.name, task='segmentation', role=recipe.role, classes=classes,
            input=input_spec, network=network_spec,
            lineage=Lineage(parents=() if lessons is None else lessons.teachers.parents,
                            data=frames.fingerprints, recipe=recipe.hash(),
                            code_version=__version__),
            statistics=_statistics(frames, classes, lessons))
        save_bundle(run.bundle, shipped.cpu().float(), spec,
                    extra_files={METRICS: run.path / METRICS, **statistics_file(frames)},
                    weights_dtype='fp16' if recipe.weights_dtype == 'fp16' else None)
        taught = len(frames) + (len(held_out.places) if against == TEACHER else 0)
        run.event('finished', state.step, taught_frames=taught,
                  **_circumstances(held_out, lessons, accelerator))
    accelerator.wait_for_everyone()
    return load_bundle(run.bundle)


def _statistics(frames: FrameStore, classes: ClassSet,
                lessons: Lessons | None) -> dict[str, Any]:
    """Return what the bundle says of its data; what its teachers knew, it has heard of."""
    out = frames.statistics(classes)
    if lessons is not None and 'drives' in out:
        for bundle in lessons.teachers.bundles:
            out['drives'] += [d for d in bundle.spec.statistics.get('drives', [])
                              if d not in out['drives']]
    return out


def _metrics(loop: Loop, state: State, validation: Validation, against: str,
             classes: ClassSet) -> dict[str, Any]:
    """Return what ``metrics.json`` says: the best weights on validation, in full precision."""
    matrix = validation(loop.shipped)
    return {'steps': state.step, 'best_step': state.best_step,
            'training_minutes': round(state.elapsed_s / 60, 2), 'precision': loop.precision,
            **({'teacher_s': round(state.teacher_s, 3)} if loop.taught_in_loop else {}),
            'validation_against': against, 'validation': matrix.to_dict(classes.names)}


def _circumstances(held_out: HeldOut, lessons: Lessons | None,
                   accelerator: Accelerator) -> dict[str, Any]:
    """Return what a report on the run must know that no other file of it says."""
    places = held_out.places
    kept = [places[i] for i in spread(len(places), _MOST_PLACES)]
    teachers = None if lessons is None else lessons.teachers
    return {
        'held_out': {'of': 'validation' if held_out.by == VALIDATION else 'train',
                     'frames': len(places), 'places': kept},
        'teachers': [{'path': str(b.path.resolve()), 'hash': b.hash} for b in teachers.bundles]
        if teachers else [],
        'caches': [str(c.path.resolve()) for c in teachers.caches] if teachers else [],
        'device': str(accelerator.device), 'processes': accelerator.num_processes,
        'host': host_info(), 'versions': package_versions()}


def _accelerator() -> Accelerator:
    # Autocast and gradient scaling are the loop's own: accelerate keeps its precision in process
    # state that a second run could not change.
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision='no')


@contextmanager
def _opened(recipe: Recipe, classes: ClassSet, progress: Progress | None,
            ) -> Iterator[tuple[list[LabelledSource], list[LabelledSource]]]:
    """Open training and validation recordings and close them in the end."""
    if not recipe.data.train:
        raise TrainingError('no training data: give --data PATH, or data.train in the recipe')
    learn: list[LabelledSource] = []
    check: list[LabelledSource] = []
    try:
        learn += open_sources(recipe.data.train, classes, progress)
        check += open_sources(recipe.data.validation, classes, progress)
        for entry in check:
            if entry.class_map is None:
                raise TrainingError(f'{entry.source.name}: validation data has no labels')
        yield learn, check
    finally:
        for entry in [*learn, *check]:
            entry.source.close()


def _truth(store: FrameStore) -> Frames:
    """Return pictures with their ground truth."""
    def frames(processes: Processes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for position in processes.own(len(store)):
            sample = store.own(position)
            if sample is not None and sample.labels is not None:
                yield sample.image, sample.labels
    return frames


def _class_pixels(frames: FrameStore, classes: int, run: RunDirectory,
                  processes: Processes) -> np.ndarray:
    """
    Return int64 ``[K]``: labelled pixels per class of the frames that are learned from.

    All of them are read for it, by all processes together and once in a run.
    """
    known = run.read_json(FRAMES).get('labelled_pixels') if run.main else None
    if not isinstance(known, list) or len(known) != 256:
        known = None
    # Nobody but the first process looks, or two could see different things on a slow disk.
    told = processes.added_up(np.array([known is not None, *(known or [0] * 256)], np.int64))
    if told[0]:
        frames.pixels = told[1:]
    pixels = frames.class_pixels(256, processes)
    run.write_json(FRAMES, {'labelled_pixels': pixels.tolist()})
    return pixels[:classes]


def _focus_weights(pixels: np.ndarray) -> np.ndarray | None:
    """Return the chance of each class to be looked at: the rarer, the more, but bounded."""
    if pixels.sum() == 0:
        return None
    share = pixels / pixels.sum()
    return np.where(share > 0, 1 / np.sqrt(np.maximum(share, 1e-4)), 0.0)


def _require_no_truth(losses: Mapping[str, Loss], names: str) -> None:
    for name, loss in losses.items():
        if loss.looks_at == LABELS:
            raise TrainingError(f'{names}: has no labels, which loss {name!r} learns from; leave '
                                f'it out (--distillation.losses.{name} null)')


def _names(sources: Sequence[LabelledSource]) -> str:
    return ', '.join(s.source.name for s in sources)
