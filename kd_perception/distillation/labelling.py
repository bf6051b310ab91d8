"""
Labelling: a teacher looks at every frame of a recording, and what it says goes into the cache.

The teacher runs in an engine, as it does on the vehicle, or looks at numbered views. A stop at
any instant leaves whole shards, and the next call goes on behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, ExitStack
from dataclasses import dataclass
import logging
from pathlib import Path
import time
from typing import Any

import numpy as np
import torch

from kd_perception.bags.sampling import BadFrames, LabelError
from kd_perception.bundle import ModelBundle
from kd_perception.distillation.cache import SoftLabelCache
from kd_perception.distillation.cache_shards import (
    held,
    LabelledFrame,
    open_for_writing,
    provenance,
    read_sidecar,
    recording_id,
    shard_path,
    write_shard,
)
from kd_perception.distillation.labellers import Labeller, load_labeller
from kd_perception.distillation.labelling_log import append
from kd_perception.distillation.losses.kl import kl_divergence
from kd_perception.distillation.memory import memory_advice
from kd_perception.distillation.teachers.cached import settle
from kd_perception.distillation.views import ViewPlan
from kd_perception.errors import ConfigError, ImageError, TrainingError
from kd_perception.evaluation.read_ahead import read_ahead
from kd_perception.frames import evenly, Frame, FrameKey, FrameSource, Progress
from kd_perception.networks.upsample import upsample
from kd_perception.tasks.soft_labels import SoftLabelCodec

log = logging.getLogger(__name__)
CHECK_TEMPERATURES = (1.0, 4.0)
# What helps where a teacher does not fit.
_LOWER = 'choose a lower --precision, --shard-teacher or --device cpu'


@dataclass(frozen=True)
class LabellingReport:
    """
    What ``label`` did.

    :param labelled: frames that the teacher saw now.
    :param present: frames that were labelled before.
    :param bad: frames that could not be decoded.
    """

    labelled: int
    present: int
    bad: int
    engine: str
    precision: str


@dataclass(frozen=True)
class CheckReport:
    """
    How near the cache is to the teacher, at the teacher's input size.

    :param agreement: share of pixels with the same most likely class.
    :param divergence: mean KL divergence in nats by temperature, without the factor tau squared.
    """

    frames: int
    agreement: float
    divergence: dict[float, float]


def label(teacher: ModelBundle, source: FrameSource, cache_dir: Path | str, *,
          codec: SoftLabelCodec | None = None, engine: str = 'auto', device: str = 'cpu',
          precision: str = 'auto', threads: int = 0, shard_size: int = 64,
          views: ViewPlan | None = None, rank: int = 0, world: int = 1, spread: bool = False,
          memory: Mapping[Any, Any] | None = None,
          progress: Progress | None = None) -> LabellingReport:
    """
    Write the teacher's soft labels of all frames of ``source`` into the cache.

    Shards that are there already are kept, so an interrupted labelling goes on, and further
    recordings are added to a cache by further calls. Several processes, on one machine or many
    that share a disk, divide the shards among them; what they write does not depend on how many
    they are.

    :param codec: how logits are stored; None: the task's default.
    :param shard_size: frames per file; what a stop loses at most.
    :param views: label these numbered views of every frame; None: whole frames.
    :param rank: which of ``world`` processes this is.
    :param spread: put parts of a teacher that is too large for one device onto all that there
        are; it then runs in torch.
    :param memory: what it may take of each then, e.g. ``{0: '20GiB', 'cpu': '60GiB'}``.
    :raises TrainingError: when the directory holds labels of another teacher or codec, or memory
        runs out.
    """
    if shard_size < 1:
        raise ConfigError(f'shard size {shard_size}: at least one frame per file')
    codec = codec or SoftLabelCodec()
    cache = Path(cache_dir)
    with memory_advice(device, f'while {source.name} was labelled', _LOWER), \
            ExitStack() as opened:
        model = load_labeller(teacher, views, engine=engine, device=device, precision=precision,
                              threads=threads, spread=spread, memory=memory)
        opened.callback(model.close)
        # Before anything is written: a recording without a single picture raises here.
        failures = BadFrames(log, source.name, len(source))
        recording = recording_id(_end_keys(source), len(source), source.chosen)
        open_for_writing(cache, {**provenance(teacher, codec, model.precision, views),
                                 'shard_size': shard_size})
        opened.enter_context(held(cache))
        wanted, present = _plan(cache, recording, len(source), shard_size)
        labelled, bad = 0, len(source) - sum(len(p) for _, p in wanted) - present
        # By place in the recording, not in the list: another process may see other shards done.
        wanted = [(path, shard) for path, shard in wanted
                  if shard.start // shard_size % world == rank]

        def read(position: int) -> tuple[Frame, Any] | None:
            frame = _decodable(source, position, failures)
            return None if frame is None else (frame, model.prepare(frame))

        ran_on = f'{model.name} {device} {model.precision}'
        # One stream over all shards: the decoder never waits for a file to be written.
        positions = [p for _, shard in wanted for p in shard]
        with closing(read_ahead(read, positions)) as stream:
            for path, shard in wanted:
                seen, frames, failed = 0, [], []
                begun, in_teacher = time.monotonic(), 0.0
                for position, item in zip(shard, stream, strict=False):
                    if item is None:
                        failed.append(position)
                    else:
                        seen += 1
                        made, took = _labelled(model, codec, source.name, *item)
                        frames += made
                        in_teacher += took
                    if progress is not None:
                        progress(position + 1, len(source), '')
                write_shard(path, frames, failed)
                append(cache, path.stem, seen, time.monotonic() - begun, in_teacher, ran_on)
                labelled, bad = labelled + seen, bad + len(failed)
        if progress is not None:
            progress(len(source), len(source), '')
        failures.sum_up()
        log.info('%s: %d frames labelled, %d were, %d bad', source.name, labelled, present, bad)
        return LabellingReport(labelled, present, bad, model.name, model.precision)


def check(teacher: ModelBundle, source: FrameSource, cache_dir: Path | str, *,
          samples: int = 16, engine: str = 'auto', device: str = 'cpu', precision: str = 'auto',
          threads: int = 0, progress: Progress | None = None) -> CheckReport:
    """
    Run the teacher again on some frames and compare with what the cache gives back.

    :param samples: frames, evenly spread.
    :raises TrainingError: when the cache is of another teacher or lacks the frames.
    """
    if samples < 1:
        raise ConfigError(f'check of {samples} frames: at least one')
    cache = SoftLabelCache(cache_dir)
    cache.require(teacher)
    chosen = evenly(len(source), samples)
    compared, agreement = 0, list[float]()
    divergence: dict[float, list[float]] = {t: [] for t in CHECK_TEMPERATURES}
    failures = BadFrames(log, source.name, len(chosen))
    views = None if cache.views is None else ViewPlan.from_dict(cache.views)
    with memory_advice(device, f'while {source.name} was checked', _LOWER), \
            ExitStack() as opened:
        model = load_labeller(teacher, views, engine=engine, device=device, precision=precision,
                              threads=threads)
        opened.callback(model.close)
        for done, position in enumerate(chosen):
            frame = _decodable(source, position, failures)
            if frame is None:
                continue
            compared += 1
            for view, logits, size in model.look(frame, model.prepare(frame)):
                fresh = upsample(torch.from_numpy(logits)[None], size)
                soft, winners = cache.lesson(frame.key, view or 0)
                stored = upsample(torch.from_numpy(soft)[None], size)
                if winners is not None:
                    stored = settle(stored, torch.from_numpy(winners)[None])
                agreement.append(float((fresh.argmax(1) == stored.argmax(1)).float().mean()))
                for temperature, values in divergence.items():
                    values.append(float(kl_divergence(stored, fresh, temperature))
                                  / temperature ** 2)
            if progress is not None:
                progress(done + 1, len(chosen), f'agreement {100 * np.mean(agreement):.2f} %')
    failures.sum_up()
    if not agreement:
        raise TrainingError(f'{source.name}: none of the sampled frames can be decoded')
    return CheckReport(compared, float(np.mean(agreement)),
                       {t: float(np.mean(v)) for t, v in divergence.items()})


def _plan(cache: Path, recording: str, frames: int,
          shard_size: int) -> tuple[list[tuple[Path, range]], int]:
    """Return the shards to write with their positions, and how many frames are there already."""
    wanted, present = [], 0
    for number, first in enumerate(range(0, frames, shard_size)):
        path = shard_path(cache, recording, number)
        there = _present(path)
        if there is None:
            wanted.append((path, range(first, min(first + shard_size, frames))))
        else:
            present += there
    return wanted, present


def _labelled(model: Labeller, codec: SoftLabelCodec, name: str, frame: Frame,
              pictures: Any) -> tuple[list[LabelledFrame], float]:
    """Return what the codec made of a frame, and the seconds that the teacher took for it."""
    made, took = list[LabelledFrame](), 0.0
    looked = iter(model.look(frame, pictures))
    while True:
        begun = time.monotonic()
        said = next(looked, None)
        took += time.monotonic() - begun
        if said is None:
            return made, took
        view, logits, size = said
        if not np.isfinite(logits).all():
            raise TrainingError(f'{name}: the teacher gives NaN or infinity on frame {frame.key}; '
                                'try another --precision')
        made.append(LabelledFrame(frame.key, frame.stamp_ns, frame.log_ns, frame.frame_id,
                                  codec.encode(logits, size), view))


def _decodable(source: FrameSource, position: int,
               failures: BadFrames | None = None) -> Frame | None:
    """Return a frame, or None where the picture is damaged, which ``failures`` tells."""
    try:
        return source[position]
    except LabelError:
        raise
    except ImageError as error:
        if failures is not None:
            failures.add(position, error)
        return None


def _present(path: Path) -> int | None:
    """Return the number of frames of a whole shard; None where it must be written."""
    sidecar = path.with_suffix('.json')
    if not sidecar.is_file():
        return None
    try:
        # All views of a frame are in one shard.
        return sum(f.get('view', 0) == 0 for f in read_sidecar(sidecar)['frames'])
    except TrainingError as error:
        log.warning('%s; it is labelled again now', error)
        return None


def _end_keys(source: FrameSource) -> list[FrameKey]:
    """Return the keys of the first and the last frame that can be read."""
    ends = []
    for order in (range(len(source)), range(len(source) - 1, -1, -1)):
        frame = next((f for f in (_decodable(source, p) for p in order) if f is not None), None)
        if frame is None:
            raise TrainingError(f'{source.name}: not one of {len(source)} frames can be decoded')
        ends.append(frame.key)
    return ends
