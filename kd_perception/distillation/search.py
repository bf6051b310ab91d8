"""
Search: many short runs of one recipe with other values, and the best of them.

A directory holds the study (SQLite, by Optuna), one run directory per trial, and at the end
``search.json``, ``best_recipe.yaml`` and ``bundle``. Any number of processes may work on it at the
same time, and any may be killed: a trial belongs to whoever holds its lock, and one that nobody
holds is taken up where it stopped.

Trials are compared on validation alone; a recipe knows no test data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import json
import logging
import os
from pathlib import Path
import shutil
import statistics
import time
from typing import Any, TYPE_CHECKING
import warnings

import numpy as np
import yaml

from kd_perception.bundle import load_bundle, METRICS, ModelBundle
from kd_perception.classes import load_class_set
from kd_perception.distillation.frame_store import open_sources
from kd_perception.distillation.losses import (
    build_losses,
    loss_kinds,
    require_batch,
    with_defaults,
)
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.recipe_file import recipe_from_dict
from kd_perception.distillation.reports.run_log import read_log
from kd_perception.distillation.search_directory import (
    BEST_RECIPE,
    leave_nothing,
    locked,
    LOCKS,
    open_search,
    RESULT,
    STUDY,
    TRIALS,
    trials_in,
    try_lock,
)
from kd_perception.distillation.search_space import as_text, Dimension, read_space
from kd_perception.errors import ConfigError, first_line, KdPerceptionError, TrainingError
from kd_perception.frames import Progress
from kd_perception.paths import atomic_directory, atomic_file

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

_SCHEMA = 1
TRAIN = 'train'
_ERROR = 'error.txt'
_WAIT_S = 2.0
# A trial is stopped early by what others reached at the same validation: of so many, from there.
_LEAST_OTHERS, _FIRST_VALIDATION = 4, 2

# A run of one recipe into a directory: train or distill with everything else bound.
Runner = Callable[[Recipe, Path, Progress], ModelBundle]


@dataclass(frozen=True)
class Trial:
    """
    One trial that is over.

    :param state: ``complete``, ``pruned`` (stopped early) or ``failed``.
    :param score: best validation mIoU, of a complete one.
    :param values: by dotted key.
    :param note: why it failed.
    """

    number: int
    state: str
    score: float | None
    values: Mapping[str, Any]
    note: str = ''


class _PrunedError(Exception):
    """Leaves a run that is worse than most were at the same point."""


def search(recipe: Recipe, out_dir: Path | str, trials: int, run: Runner, *, kind: str,
           identity: Mapping[str, Any] | None = None, prune: bool = False,
           overwrite: bool = False, progress: Progress | None = None,
           check: Callable[[Recipe], None] | None = None) -> ModelBundle:
    """
    Try values of ``recipe.search`` and keep the best.

    The first trial is the recipe as it is. A search that was stopped goes on; a larger number of
    trials goes on behind a finished one.

    :param trials: in all, failed and pruned ones included.
    :param run: trains one recipe.
    :param kind: ``train``, which asks for no losses, ``distill`` or another name, and
    :param identity: what else must agree when the search goes on.
    :param prune: stop trials that are below the median of the others at the same validation.
    :param check: raises for a recipe that ``run`` would refuse; asked before the first trial.
    :returns: the bundle of the best trial.
    :raises KdPerceptionError: for bad ranges, another search in the directory, a missing optuna,
        or when every trial failed.
    """
    _require_optuna()
    if trials < 1:
        raise ConfigError(f'search of {trials} trials: at least one')
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:
        raise ConfigError('a search does not run under torchrun: start the same command once per '
                          'GPU (CUDA_VISIBLE_DEVICES=0, =1, …) with the same --out')
    space = {key: dimension.fitting(_like(recipe, key))
             for key, dimension in read_space(recipe.search).items()}
    if not space:
        raise ConfigError('search: the recipe names nothing to search; add e.g. --search.'
                          "optimization.learning_rate '{low: 1.0e-4, high: 1.0e-2, log: true}'")
    for key, dimension in space.items():
        for value in dimension.ends:
            try:
                tried = _with(recipe, {key: value})
                if kind != TRAIN:
                    require_batch(build_losses(tried.distillation.losses),
                                  tried.optimization.batch_size)
            except ConfigError as error:
                raise ConfigError(f'search.{key}: {error}') from None
    if check is not None:
        _check_ends(recipe, space, check)
    made = {'schema_version': _SCHEMA, 'kind': kind, 'identity': dict(identity or {}),
            'data': _data(recipe, progress), 'recipe': recipe.to_dict()}
    folder = Path(out_dir)
    open_search(folder, made, trials, overwrite)
    try:
        work = _Search(folder, recipe, space, trials, run, prune, progress)
        while work.one():
            pass
    except KdPerceptionError:
        leave_nothing(folder)
        raise
    return load_bundle(folder / 'bundle')


class _Search:
    """What one process does for a search."""

    def __init__(self, folder: Path, recipe: Recipe, space: Mapping[str, Dimension], trials: int,
                 run: Runner, prune: bool, progress: Progress | None) -> None:
        import optuna

        self._folder, self._recipe, self._space = folder, recipe, space
        self._trials, self._run, self._prune, self._progress = trials, run, prune, progress
        self._states = optuna.trial.TrialState
        self._kinds = {key: _distribution(d) for key, d in space.items()}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with locked(folder):
            self._study: Study = optuna.create_study(
                storage=optuna.storages.RDBStorage(
                    f'sqlite:///{(folder / STUDY).absolute()}',
                    engine_kwargs={'connect_args': {'timeout': 120}}),
                study_name='search', direction='maximize', load_if_exists=True)
            if not self._study.get_trials(deepcopy=False):
                given = {key: d.stored(value) for key, d in space.items()
                         if d.holds(value := _value(recipe, key))}
                self._study.enqueue_trial(given)

    def one(self) -> bool:
        """Do one trial, or wait for those of others, or finish; return whether to go on."""
        with locked(self._folder):
            claimed = self._claim()
            if claimed is None and not self._busy():
                self._finish()
                return False
        if claimed is None:
            self._report('waiting for the trials of other processes')
            time.sleep(_WAIT_S)
            return True
        number, values, lock = claimed
        with lock:
            self._do(number, values)
        return True

    def _claim(self) -> tuple[int, dict[str, Any], Any] | None:
        """Return a trial that nobody works on, or a new one; None when there are enough."""
        for trial in self._running():
            lock = self._hold(trial.number)
            if lock is None:
                continue
            if set(trial.params) == set(self._space):
                log.info('trial %d goes on', trial.number)
                return trial.number, self._values(trial), lock
            # Killed while its values were drawn: there is nothing to go on with.
            self._study.tell(trial.number, state=self._states.FAIL)
            lock.close()
        if len(self._over()) + len(self._running()) >= self._trials:
            return None
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = _sampler(self._recipe.seed, number)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # that some of the sampler is experimental
            new = self._study.ask(self._kinds)
        lock = self._hold(new.number)
        assert lock is not None
        return new.number, self._values(new), lock

    def _do(self, number: int, values: Mapping[str, Any]) -> None:
        """Run a trial and tell the study."""
        path = self._path(number)
        try:
            recipe = _with(self._recipe, values)
            if not (path / 'bundle').is_dir():  # else it was killed behind its end
                self._run(recipe, path, self._watch(number))
        except _PrunedError:
            self._tell(number, self._states.PRUNED)
        except KdPerceptionError as error:
            if not (path / 'train.jsonl').exists():
                # Not a step was made: data or recipe are wrong, and so they are for every trial.
                self._tell(number, self._states.FAIL)
                raise
            log.warning('trial %d failed: %s', number, error)
            (path / _ERROR).write_text(f'{error}\n')
            self._tell(number, self._states.FAIL)
        else:
            self._tell(number, self._states.COMPLETE, _score(path))
        # The bundle holds the best weights; checkpoints of a hundred trials fill a disk.
        shutil.rmtree(path / 'checkpoints', ignore_errors=True)

    def _tell(self, number: int, state: Any, score: float | None = None) -> None:
        with locked(self._folder):
            self._study.tell(number, score, state=state)
        self._report(f'trial {number} {state.name.lower()}')

    def _watch(self, number: int) -> Progress:
        """Return what a trial reports to, which leaves it where it is not worth going on."""
        path = self._path(number)
        over = len(self._over())

        def told(done: int, total: int, note: str) -> None:
            if self._progress is not None:
                self._progress(over, self._trials, f'trial {number}: {done}/{total} {note}')
            if self._prune and note.startswith('validated') and done < total:
                others = [curve(self._path(t.number)) for t in self._study.get_trials(
                    deepcopy=False, states=(self._states.COMPLETE, self._states.PRUNED))]
                if is_behind(curve(path), others):
                    raise _PrunedError
        return told

    def _finish(self) -> None:
        """Write the results, once for all processes."""
        over = self._over()
        told = [self._told(t) for t in over]
        if trials_in(self._folder / RESULT) == len(told):
            return
        complete = [t for t in told if t.score is not None]
        if not complete:
            raise TrainingError(f'{self._folder}: all {len(told)} trials failed, the last by: '
                                f'{told[-1].note}')
        best = max(complete, key=lambda t: (t.score, -t.number))
        source = self._path(best.number)
        with atomic_directory(self._folder / 'bundle', overwrite=True) as temporary:
            shutil.copytree(source / 'bundle', temporary, dirs_exist_ok=True)
        with atomic_file(self._folder / BEST_RECIPE) as temporary:
            temporary.write_text(f'# Trial {best.number} of {len(told)}: validation mIoU '
                                 f'{best.score:.4f}.\n' + yaml.safe_dump(
                                     _with(self._recipe, best.values).to_dict(), sort_keys=False))
        metrics = json.loads((source / METRICS).read_text())
        counts = {s: sum(t.state == s for t in told) for s in ('complete', 'pruned', 'failed')}
        data = {'schema_version': _SCHEMA, 'objective': 'validation mIoU',
                'validation_against': metrics['validation_against'],
                'space': {k: d.to_dict() for k, d in self._space.items()},
                'trials': len(told), **counts, 'best': _plain(best),
                'all': [_plain(t) for t in told]}
        with atomic_file(self._folder / RESULT) as temporary:
            temporary.write_text(json.dumps(data, indent=1) + '\n')

    def _told(self, trial: FrozenTrial) -> Trial:
        error = self._path(trial.number) / _ERROR
        state = {'COMPLETE': 'complete', 'PRUNED': 'pruned', 'FAIL': 'failed'}[trial.state.name]
        return Trial(trial.number, state, trial.value if state == 'complete' else None,
                     self._values(trial), error.read_text().strip() if error.is_file() else '')

    def _over(self) -> list[FrozenTrial]:
        """Return the trials that count: a failed one does when it had begun to train."""
        states = (self._states.COMPLETE, self._states.PRUNED, self._states.FAIL)
        return [t for t in self._study.get_trials(deepcopy=False, states=states)
                if t.state != self._states.FAIL
                or (self._path(t.number) / 'train.jsonl').exists()]

    def _running(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(self._states.RUNNING,))

    def _busy(self) -> bool:
        return bool(self._running())

    def _values(self, trial: Any) -> dict[str, Any]:
        return {key: self._space[key].meant(v) for key, v in trial.params.items()}

    def _path(self, number: int) -> Path:
        return self._folder / TRIALS / f'{number:04}'

    def _hold(self, number: int) -> Any:
        """Return the lock of a trial, or None where another process holds it."""
        return try_lock(self._folder / LOCKS / f'{number:04}')

    def _report(self, note: str) -> None:
        if self._progress is not None:
            self._progress(len(self._over()), self._trials, note)


def curve(run: Path) -> list[float]:
    """Return the validation scores of a run, in order."""
    try:
        scores = read_log(run).validation.get('mean_iou')
    except TrainingError:  # ended before its first step
        return []
    return [] if scores is None else scores.values.tolist()


def is_behind(own: Sequence[float], others: Sequence[Sequence[float]]) -> bool:
    """
    Return whether a trial is worse than the median of the others at the same validation.

    The best so far counts, on both sides (the median rule of Golovin et al., "Google Vizier",
    KDD 2017).
    """
    reached = [max(o[:len(own)]) for o in others if len(o) >= len(own) > 0]
    if len(own) < _FIRST_VALIDATION or len(reached) < _LEAST_OTHERS:
        return False
    return max(own) < statistics.median(reached)


def _check_ends(recipe: Recipe, space: Mapping[str, Dimension],
                check: Callable[[Recipe], None]) -> None:
    """
    Check a recipe with every end of every dimension, the others being as in the first trial.

    :raises KdPerceptionError: what ``check`` raises, with the key of the search.
    """
    # A loss without weight is not looked at, so weights are the largest.
    first = {key: max(dimension.ends) if key.endswith('.weight')
             else value if dimension.holds(value := _value(recipe, key)) else dimension.ends[0]
             for key, dimension in space.items()}
    check(_with(recipe, first))
    for key, dimension in space.items():
        for value in dimension.ends:
            try:
                check(_with(recipe, {**first, key: value}))
            except KdPerceptionError as error:
                raise ConfigError(f'search.{key}: {error}') from None


def _with(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a trial."""
    return recipe_from_dict({**recipe.to_dict(), 'search': {}},
                            {key: as_text(value) for key, value in values.items()})


def _data(recipe: Recipe, progress: Progress | None) -> dict[str, str]:
    """Return what is in the recordings, by path and topic: trials on others do not compare."""
    classes, told = load_class_set(recipe.classes), {}
    for entry in (*recipe.data.train, *recipe.data.validation):
        for opened in open_sources([entry], classes, progress):
            told[f'{entry.path} {entry.image_topic}'.strip()] = opened.identity
            opened.source.close()
    return told


def _value(recipe: Recipe, key: str) -> Any:
    """
    Return the value at a dotted key, also one that a loss of the recipe has by default.

    None where there is none: no such loss, or an argument that the network's builder knows.
    """
    node: Any = recipe.to_dict()
    node['distillation']['losses'] = with_defaults(recipe.distillation.losses)
    for part in key.split('.'):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _like(recipe: Recipe, key: str) -> Any:
    """Return the value at a key, or what it would be with a loss that the recipe lacks."""
    value = _value(recipe, key)
    section, _, setting = key.rpartition('.')
    kind = loss_kinds().get(section.removeprefix('distillation.losses.'))
    return getattr(kind, setting, None) if value is None and kind is not None else value


def _score(run: Path) -> float:
    return float(json.loads((run / METRICS).read_text())['validation']['mean_iou'])


def _plain(trial: Trial) -> dict[str, Any]:
    note = {'note': trial.note} if trial.note else {}
    return {'number': trial.number, 'state': trial.state,
            'mean_iou': trial.score, 'values': dict(trial.values), **note}


def _sampler(seed: int, number: int) -> Any:
    """Return a sampler whose draw hangs on the seed and on what is known, not on the process."""
    import optuna

    drawn = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return optuna.samplers.TPESampler(seed=drawn, constant_liar=True)


def _distribution(dimension: Dimension) -> Any:
    from optuna import distributions

    if dimension.choices:
        return distributions.CategoricalDistribution(
            [dimension.stored(c) for c in dimension.choices])
    if dimension.whole:
        return distributions.IntDistribution(int(dimension.low), int(dimension.high),
                                             log=dimension.log)
    return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _require_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"search: needs optuna ({first_line(error)}); install it with: pip "
                          "install 'kd_perception[search]'") from None
