"""
Which engine is fastest for a bundle on this machine: measured once, remembered, with the reason.

Kept beside built engines in the cache directory, one JSON file per bundle and circumstances. What
cannot be read or written costs the few seconds of measuring again, never the run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
import datetime
import hashlib
import json
import logging
import os
from pathlib import Path
import statistics
import time
from typing import Any

import numpy as np

from kd_perception.bundle import DEPLOY, ModelBundle
from kd_perception.engines.artefacts import ArtefactCache
from kd_perception.engines.engine import DEVICES, Engine
from kd_perception.engines.loader import available_engines, is_built, load_engine
from kd_perception.engines.machine import cores, cpu_model, nvidia
from kd_perception.errors import EngineError
from kd_perception.paths import atomic_file

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
BUDGET_S = 3.0  # for all timed calls together
_ROUNDS = 9
_WARMUP = 2
# A lower precision has to earn its keep.
_NARROWER_COSTS = 1.05
# Share of pixels that must agree where the reference is sure; the picture is no street.
_AGREEMENT = 0.99


@dataclass(frozen=True)
class Trial:
    """
    One engine that was tried.

    :param wish: the precision that was asked for, which may be ``auto``.
    :param precision: what it computed in.
    :param ms: median time of a call.
    """

    engine: str
    wish: str
    precision: str
    ms: float


@dataclass(frozen=True)
class Choice:
    """
    The engine that is to be used.

    :param precision: to ask ``load_engine`` for.
    :param reason: why, in words, with the times and the day.
    """

    engine: str
    precision: str
    reason: str


def load_fastest(bundle: ModelBundle, *, device: str = 'cpu', precision: str = 'auto',
                 threads: int = 0, cache: ArtefactCache | None = None,
                 hashed: set[str] | None = None) -> tuple[Engine, Choice]:
    """
    Load the engine that is fastest for the deploy graph of ``bundle``, as remembered or measured.

    Measuring happens at the first load on a machine and takes some seconds. Candidates are the
    installed engines that have the device, in the precisions that they offer by themselves; with
    ``precision`` named, in that one. TensorRT takes part once it has been built, which is not
    done here.

    :param hashed: as ``load_engine`` takes it; each file is read once, however many are tried.
    :raises EngineError: when no installed engine can do what was asked.
    :raises BundleError: when the graph is missing or damaged.
    """
    hashed = set() if hashed is None else hashed
    cache = cache or ArtefactCache()
    wishes = candidates(bundle, device, precision)
    if len(wishes) == 1:
        name, wish = wishes[0]
        only = load_engine(bundle, name, device=device, precision=wish, threads=threads,
                           hashed=hashed)
        return only, Choice(name, wish, f'the only engine installed for {device}')
    path = _path(cache, bundle, device, precision, threads, wishes)
    last = _read(path, wishes)
    if last is not None:
        try:
            return load_engine(bundle, last.engine, device=device, precision=last.precision,
                               threads=threads, hashed=hashed), last
        except EngineError as error:
            log.warning('%s was the fastest but fails now, measuring again: %s', last.engine,
                        error)
    engines, left_out = _loaded(bundle, wishes, device, threads, hashed)
    best: Engine | None = None
    try:
        best, choice, trials = _measured(bundle, engines, left_out)
    finally:  # also where all of them fail
        _close([engine for _, engine in engines if engine is not best])
    _write(path, bundle, choice, trials)
    return best, choice


def remembered(bundle: ModelBundle, *, device: str = 'cpu', precision: str = 'auto',
               threads: int = 0, cache: ArtefactCache | None = None) -> Choice | None:
    """Return what ``load_fastest`` would take without measuring; None where it would measure."""
    wishes = candidates(bundle, device, precision)
    if len(wishes) == 1:
        return Choice(*wishes[0], f'the only engine installed for {device}')
    return _read(_path(cache or ArtefactCache(), bundle, device, precision, threads, wishes),
                 wishes)


def remembered_choices(cache: ArtefactCache | None = None) -> list[dict[str, str]]:
    """Return ``model``, ``engine`` and ``reason`` of what is remembered, the newest first."""
    found = []
    for path in (cache or ArtefactCache()).directory.glob('choices/*.json'):
        try:
            data = json.loads(path.read_text())
            found.append((path.stat().st_mtime, {
                key: str(data[key]) for key in ('model', 'engine', 'reason')}))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [data for _, data in sorted(found, key=lambda pair: -pair[0])]


def engines_for(bundle: ModelBundle, device: str) -> list[str]:
    """Return the installed engines that may take part on a device; imports and opens nothing."""
    kind = device.partition(':')[0]
    present = [name for name, state in available_engines().items()
               if not state.startswith('missing') and kind in DEVICES[name]]
    # Torch takes seconds to import and memory to keep: only where nothing else can.
    others = [name for name in present if name != 'torch']
    return others if others and bundle.has(DEPLOY) else present


def candidates(bundle: ModelBundle, device: str, precision: str) -> list[tuple[str, str]]:
    """
    Return the engines that ``load_fastest`` considers, each with the precision to ask for.

    At least one pair: where no engine that is installed has such a device, it is ``auto``.
    """
    kind = device.partition(':')[0]
    names = engines_for(bundle, device)
    if not names:
        return [('auto', precision)]  # the loader knows how to say it
    offered = {'openvino': ('auto', 'fp32'), 'tensorrt': ('fp16', 'fp32'),
               'onnxruntime': ('fp32', 'fp16') if kind in ('cuda', 'tensorrt') else ('fp32',),
               'torch': ('fp32', 'fp16') if kind == 'cuda' else ('fp32',)}
    wishes = [(name, wish) for name in names
              for wish in (offered[name] if precision == 'auto' else (precision,))]
    # To build TensorRT's takes minutes: it takes part once that was done.
    return [(name, wish) for name, wish in wishes if name != 'tensorrt' or is_built(
        bundle, name, device=device, precision=wish)] or wishes


def _loaded(bundle: ModelBundle, wishes: list[tuple[str, str]], device: str, threads: int,
            hashed: set[str]) -> tuple[list[tuple[str, Engine]], list[str]]:
    """Return the engines that can be loaded, each with its wish, and why others cannot."""
    engines: list[tuple[str, Engine]] = []
    left_out = []
    reason: EngineError | None = None
    for name, wish in wishes:
        if any((e.name, e.precision) == (name, wish) for _, e in engines):
            continue  # auto was just that precision
        try:
            engine = load_engine(bundle, name, device=device, precision=wish, threads=threads,
                                 hashed=hashed)
        except EngineError as error:
            reason = reason or error
            left_out.append(f'{name} {wish} left out: {error}')
            continue
        except BaseException:
            _close([engine for _, engine in engines])
            raise
        engines.append((wish, engine))
    if not engines:
        assert reason is not None
        raise reason
    return engines, left_out


def _measured(bundle: ModelBundle, engines: list[tuple[str, Engine]], left_out: list[str]
              ) -> tuple[Engine, Choice, list[Trial]]:
    picture = _picture(bundle.spec.input.height, bundle.spec.input.width)
    end = time.monotonic() + BUDGET_S
    usable, times, failed = _agreeing(engines, picture)
    for _ in range(_WARMUP + _ROUNDS):
        if time.monotonic() > end:
            break
        for (_, engine), taken in zip(usable, times, strict=True):  # in turns: one machine for all
            taken.append(_timed(engine, picture)[1])
    trials = [Trial(engine.name, wish, engine.precision,
                    round(statistics.median(taken[_WARMUP:] or taken[-1:]), 3))
              for (wish, engine), taken in zip(usable, times, strict=True)]
    order = sorted(range(len(usable)), key=lambda i: trials[i].ms * (
        1.0 if trials[i].precision == 'fp32' else _NARROWER_COSTS))
    words = [f'{trials[i].engine} {trials[i].precision} {trials[i].ms:.1f} ms' for i in order]
    reason = ', '.join([*words, *failed, *left_out])
    busy = ' while the machine was busy' if os.getloadavg()[0] > 2 * cores() else ''
    day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    best = trials[order[0]]
    return usable[order[0]][1], Choice(best.engine, best.wish,
                                       f'{reason}; measured {day}{busy}'), trials


def _close(engines: list[Engine]) -> None:
    for engine in engines:
        engine.close()


def _timed(engine: Engine, picture: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    started = time.perf_counter()
    result = engine.infer(picture)
    return result, (time.perf_counter() - started) * 1e3


def _agreeing(engines: list[tuple[str, Engine]], picture: np.ndarray
              ) -> tuple[list[tuple[str, Engine]], list[list[float]], list[str]]:
    """
    Return the engines whose result is that of the first in fp32, and words on the others.

    Also the time of this first call of each, in ms: of slow networks it is all there will be.
    """
    order = sorted(engines, key=lambda pair: pair[1].precision != 'fp32')
    usable, times, failed = [], [], []
    reference: dict[str, np.ndarray] | None = None
    errors: list[EngineError] = []
    for wish, engine in order:
        try:
            result, ms = _timed(engine, picture)
        except EngineError as error:
            errors.append(error)
            failed.append(f'{engine.name} {engine.precision} left out: {error}')
            continue
        if reference is None:
            reference = result
        agreement = _agreement(reference, result)
        if agreement >= _AGREEMENT:
            usable.append((wish, engine))
            times.append([ms])
        else:
            failed.append(f'{engine.name} {engine.precision} left out: agrees on '
                          f'{agreement:.1%} of clear pixels only')
    if not usable:
        raise errors[0]
    return usable, times, failed


def _agreement(reference: dict[str, np.ndarray], result: dict[str, np.ndarray]) -> float:
    """Return the share of equal pixels where the reference is sure; 1 where it never is."""
    if 'mask' in reference:
        sure = reference['confidence'] >= 128
        return float((reference['mask'] == result['mask'])[sure].mean()) if sure.any() else 1.0
    close = [np.abs(value.astype(np.float64) - result[name]).max() < 0.02
             for name, value in reference.items()]
    return float(np.mean(close))


def _picture(height: int, width: int) -> np.ndarray:
    """Return smooth random blots, uint8 ``[1, height, width, 3]``: an even picture is too easy."""
    coarse = np.random.default_rng(0).integers(
        0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    full = coarse.repeat(16, axis=0).repeat(16, axis=1)
    return np.ascontiguousarray(full[np.newaxis, :height, :width])


def _path(cache: ArtefactCache, bundle: ModelBundle, device: str, precision: str, threads: int,
          wishes: list[tuple[str, str]]) -> Path:
    """Return the file of a bundle under these circumstances: others never find it."""
    processor = cpu_model() if device == 'cpu' else f'{cpu_model()}; {nvidia()}'
    key = [SCHEMA_VERSION, bundle.hash, processor, cores(), available_engines(), wishes, device,
           precision, threads]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    return cache.directory / 'choices' / f'{digest[:32]}.json'


def _read(path: Path, wishes: list[tuple[str, str]]) -> Choice | None:
    try:
        data = json.loads(path.read_text())
        choice = Choice(data['engine'], data['precision'], data['reason'])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        log.warning('%s is not readable and will be measured again', path)
        return None
    if (choice.engine, choice.precision) not in wishes or not isinstance(choice.reason, str):
        log.warning('%s names no engine of this machine and will be measured again', path)
        return None
    return choice


def _write(path: Path, bundle: ModelBundle, choice: Choice, trials: list[Trial]) -> None:
    data: dict[str, Any] = {
        'schema_version': SCHEMA_VERSION, 'model': bundle.spec.name, 'hash': bundle.hash,
        **asdict(choice), 'trials': [asdict(trial) for trial in trials]}
    try:
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(data, indent=1) + '\n')
    except OSError as error:
        log.warning('%s: cannot remember the fastest engine: %s', path, error.strerror)
