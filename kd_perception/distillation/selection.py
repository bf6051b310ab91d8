"""
Frame selection: which frames of recordings are worth a label.

Recordings go in, a ``Selection`` comes out. Looking at every frame with a network takes long, so
what was seen is kept in a file and a later call goes on behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, ExitStack
from dataclasses import dataclass
from functools import partial
import hashlib
import json
import logging
from pathlib import Path
import time
from typing import Any

import numpy as np
from safetensors import safe_open, SafetensorError
from safetensors.numpy import save_file

from kd_perception.bags.sampling import BadFrames, LabelError
from kd_perception.bags.selection import SelectedRecording, Selection
from kd_perception.bags.sequence import FrameSequence
from kd_perception.bundle import LOGITS, ModelBundle
from kd_perception.distillation import choice
from kd_perception.distillation.cache import SoftLabelCache
from kd_perception.distillation.memory import memory_advice
from kd_perception.distillation.pooled_features import has_features, PooledFeatures
from kd_perception.engines.loader import load_engine
from kd_perception.errors import ConfigError, ImageError, TrainingError
from kd_perception.evaluation.read_ahead import read_ahead
from kd_perception.frames import evenly, Frame, FrameKey, Progress
from kd_perception.paths import atomic_file
from kd_perception.tasks.placement import network_input, place

log = logging.getLogger(__name__)

METHODS = ('uniform', 'motion', 'uncertainty', 'disagreement', 'k-center')
# What is measured, the default first.
MEASURES = {'uncertainty': ('entropy', 'margin'), 'disagreement': ('argmax', 'kl')}
_SAVE_EVERY_S = 30.0
# What is seen of a frame: given its key and, where the picture is needed, the frame.
Look = Callable[[FrameKey, Frame | None], Any]


@dataclass(frozen=True)
class Models:
    """
    Who looks at the frames.

    :param teacher: runs, unless there is a cache.
    :param cache: what it said before; the pictures need not be decoded then.
    :param student: whose mistakes are looked for.
    :param engine: and the next three: of ``load_engine``.
    """

    teacher: ModelBundle | None = None
    cache: SoftLabelCache | None = None
    student: ModelBundle | None = None
    engine: str = 'auto'
    device: str = 'cpu'
    precision: str = 'auto'
    threads: int = 0


def select(sources: Sequence[FrameSequence], by: str, count: int, *, models: Models | None = None,
           measure: str = '', apart_s: float = 0.0, seed: int = 0, kept_in: Path | None = None,
           progress: Progress | None = None) -> Selection:
    """
    Choose frames of recordings.

    - ``uniform``: evenly spaced over all frames.
    - ``motion``: at equal steps of what has changed in the picture; a standing car gives nothing.
    - ``uncertainty``: where the teacher is least sure: mean entropy of its soft labels, or
      (measure ``margin``) the smallest distance between its two likeliest classes.
    - ``disagreement``: where teacher and student decide differently most often, or (measure
      ``kl``) by the largest divergence of the student from the teacher.
    - ``k-center``: so that no frame is far from a chosen one, by the teacher's features.

    :param sources: the recordings, one camera each; all of their chosen frames can be taken.
    :param apart_s: of ``uncertainty`` and ``disagreement``: neighbours within so many seconds are
        taken only when nothing else is left.
    :param seed: draws the first centre.
    :param kept_in: file that keeps what was seen, until the choice is made.
    :raises KdPerceptionError: for what does not fit together, or too few frames.
    """
    models = models or Models()
    measure = _checked(by, measure, models)
    total = sum(len(s) for s in sources)
    if not 0 < count <= total:
        raise ConfigError(f'count {count}: there are {total} frames to choose from; choose 1 to '
                          f'{total}')
    made: dict[str, Any] = {'count': count}
    scores: np.ndarray | None = None
    if by == 'uniform':
        places = np.array(evenly(total, count))
    elif by == 'motion':
        places = choice.at_equal_steps(_way(sources, progress), count)
    else:
        with memory_advice(models.device, 'while networks looked at the frames',
                           'choose a lower --precision, --device cpu, or the --cache of what the '
                           'teacher said'), \
                _looking(by, measure, models) as (look, pictures, said):
            made |= {'measure': measure, **said} if measure else said
            values = _values(sources, look, pictures, {'by': by, **made, 'count': 0}, kept_in,
                             progress)
        usable = int((~np.isnan(values).any(1)).sum())
        if usable < count:
            raise TrainingError(f'only {usable} of {total} frames can be decoded and are known; '
                                f'choose --count {usable} at most')
        if by == 'k-center':
            made['seed'] = seed
            places, scores = choice.k_center(
                values, count, seed,
                progress=None if progress is None else lambda n: progress(n, count, 'choosing'))
        else:
            made['apart_s'] = apart_s
            recordings = np.repeat(np.arange(len(sources)), [len(s) for s in sources])
            places = choice.highest(values[:, 0], count, apart_s=apart_s, recordings=recordings,
                                    times_ns=np.concatenate([s.times_ns for s in sources]))
            scores = values[places, 0]
    return Selection(by, tuple(_divided(sources, places, scores)), made)


def _checked(by: str, measure: str, models: Models) -> str:
    """Return the measure; refuse what does not fit together."""
    if by not in METHODS:
        raise ConfigError(f'no way to select named {by!r}; choose {", ".join(METHODS)}')
    known = MEASURES.get(by, ('',))
    if measure and measure not in known:
        raise ConfigError(f'{by} is not measured by {measure!r}'
                          + (f'; choose {", ".join(known)}' if known != ('',) else ''))
    if by in ('uniform', 'motion'):
        return ''
    if models.teacher is None and models.cache is None:
        raise ConfigError(f'{by} needs a teacher: give --teacher BUNDLE, or the --cache of what '
                          'it said')
    if models.cache is not None and (models.teacher is not None or models.cache.imported):
        models.cache.require(models.teacher)
    if (by == 'disagreement') != (models.student is not None):
        raise ConfigError('disagreement needs --student BUNDLE, and nothing else does')
    by_layers = by == 'k-center' and models.teacher is not None and has_features(models.teacher)
    asked = None if by_layers or models.cache is not None else models.teacher
    for bundle in (asked, models.student):
        if bundle is not None and not bundle.has(LOGITS):
            raise ConfigError(f'{bundle.path}: has no {LOGITS}; export it with: kd_perception '
                              f'export {bundle.path}')
    if models.student is not None:
        classes = models.cache.classes if models.cache is not None else \
            models.teacher.spec.classes.names if models.teacher is not None else ()
        if tuple(classes) != tuple(models.student.spec.classes.names):
            raise ConfigError(f'{models.student.path}: predicts other classes than the teacher, '
                              'so they cannot be compared')
    return measure or known[0]


@contextmanager
def _looking(by: str, measure: str,
             models: Models) -> Iterator[tuple[Look, bool, dict[str, Any]]]:
    """Yield what looks at frames, whether it needs the picture, and what is said of it."""
    with ExitStack() as stack:
        cache, teacher = models.cache, models.teacher
        if by == 'k-center' and cache is None and teacher is not None and has_features(teacher):
            features = PooledFeatures(teacher, models.device)
            yield (lambda key, frame: features(_image(frame)), True,
                   {'teacher': teacher.hash, 'features': features.layer})
            return
        if cache is not None:
            said: dict[str, Any] = {'teacher': cache.teacher_hash, **cache.made_with}
            logits: Look = partial(_cached, cache)
        else:
            assert teacher is not None
            logits, ran = _engine(stack, teacher, models)
            said = {'teacher': teacher.hash, 'precision': ran}
        if by == 'k-center':
            yield (lambda key, frame: choice.pooled(logits(key, frame)), cache is None,
                   {**said, 'features': 'soft labels'})
        elif by == 'uncertainty':
            doubt = {'entropy': choice.mean_entropy, 'margin': choice.mean_doubt}[measure]
            yield lambda key, frame: doubt(logits(key, frame)), cache is None, said
        else:
            assert models.student is not None
            other, _ = _engine(stack, models.student, models)
            differ = {'argmax': choice.disagreement, 'kl': choice.divergence}[measure]
            yield (lambda key, frame: differ(logits(key, frame), other(key, frame)), True,
                   {**said, 'student': models.student.hash})


def _engine(stack: ExitStack, bundle: ModelBundle, models: Models) -> tuple[Look, str]:
    """Return what gives the logits of a frame, and the precision in which it runs."""
    model = load_engine(bundle, models.engine, device=models.device, precision=models.precision,
                        threads=models.threads, graph='logits')
    stack.callback(model.close)
    spec = bundle.spec.input

    def logits(key: FrameKey, frame: Frame | None) -> np.ndarray:
        image = _image(frame)
        where = place((image.shape[0], image.shape[1]), spec)
        return where.crop_grid(model.infer(network_input(image, spec)[None])['logits'][0])
    return logits, model.precision


def _cached(cache: SoftLabelCache, key: FrameKey, frame: Frame | None) -> np.ndarray:
    return cache[key]


def _image(frame: Frame | None) -> np.ndarray:
    assert frame is not None
    return frame.image


def _way(sources: Sequence[FrameSequence], progress: Progress | None) -> np.ndarray:
    """Return how far the picture has changed up to each frame, over all recordings."""
    total = sum(len(s) for s in sources)
    parts: list[np.ndarray] = []
    done = 0
    for source in sources:
        def told(source: FrameSequence = source) -> Iterator[np.ndarray | None]:
            nonlocal done
            for small in source.thumbnails():
                done += 1
                if progress is not None:
                    progress(done, total, 'looking for motion')
                yield small
        before = parts[-1][-1] if parts else 0.0
        if len(source):
            parts.append(before + choice.travelled(told()))
    return np.concatenate(parts)


def _values(sources: Sequence[FrameSequence], look: Look, pictures: bool, made: dict[str, Any],
            kept_in: Path | None, progress: Progress | None) -> np.ndarray:
    """Return float32 ``[frames, d]``: what was seen of each frame; NaN of a damaged one."""
    total = sum(len(s) for s in sources)
    recordings = [(s.fingerprint, s.topic, len(s), s.chosen) for s in sources]
    identity = hashlib.sha256(json.dumps([made, recordings], sort_keys=True).encode()).hexdigest()
    rows = _kept(kept_in, identity)
    saved = time.monotonic()
    try:
        first = 0
        for source in sources:
            start = min(max(len(rows) - first, 0), len(source))
            first += len(source)
            for value in _seen(source, start, look, pictures):
                rows.append(value)
                if progress is not None:
                    progress(len(rows), total, source.name)
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    _keep(kept_in, identity, rows)
                    saved = time.monotonic()
    except BaseException:
        # Ctrl-C, or a full disk: what was seen is not lost.
        _keep(kept_in, identity, rows)
        raise
    return _stacked(rows)


def _seen(source: FrameSequence, start: int, look: Look, pictures: bool) -> Iterator[np.ndarray]:
    """Yield what is seen of the frames from ``start`` on."""
    failed = BadFrames(log, source.name, len(source))
    topic = source.topic

    def read(index: int) -> Frame | None:
        try:
            return source[index] if pictures else None
        except LabelError:
            raise
        except ImageError as error:
            failed.add(index, error)
            return None

    with closing(read_ahead(read, range(start, len(source)))) as stream:
        for index, frame in enumerate(stream, start):
            if frame is None and pictures:
                yield np.full(1, np.nan, np.float32)
                continue
            key = FrameKey(source.fingerprint, topic, source.position(index))
            yield np.atleast_1d(np.asarray(look(key, frame), np.float32))
    failed.sum_up()


def _stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    width = max((len(r) for r in rows), default=1)
    return np.stack([r if len(r) == width else np.full(width, np.nan, np.float32) for r in rows])


def _kept(kept_in: Path | None, identity: str) -> list[np.ndarray]:
    """Return what an earlier call has seen of the same frames by the same models."""
    if kept_in is None or not kept_in.is_file():
        return []
    try:
        with safe_open(kept_in, 'numpy') as file:
            if (file.metadata() or {}).get('identity') != identity:
                return []
            rows = list(file.get_tensor('values'))
    except (SafetensorError, OSError) as error:
        log.warning('%s: not readable (%s); frames are looked at anew', kept_in, error)
        return []
    log.info('%s: %d frames were seen before', kept_in, len(rows))
    return rows


def _keep(kept_in: Path | None, identity: str, rows: Sequence[np.ndarray]) -> None:
    if kept_in is not None and rows:
        with atomic_file(kept_in) as temporary:
            save_file({'values': _stacked(rows)}, temporary, metadata={'identity': identity})


def _divided(sources: Sequence[FrameSequence], places: np.ndarray,
             scores: np.ndarray | None) -> Iterator[SelectedRecording]:
    """Yield what is taken of each recording."""
    first = 0
    for source in sources:
        own = (places >= first) & (places < first + len(source))
        index = np.array([source.position(int(p) - first) for p in places[own]], np.int64)
        order = np.argsort(index)  # by header time frames need not be in their order
        told = () if scores is None else tuple(
            float(f'{s:.6g}') for s in np.asarray(scores)[own][order])
        yield SelectedRecording(source.name, source.fingerprint, source.topic,
                                source.frames, tuple(int(i) for i in index[order]), told)
        first += len(source)
