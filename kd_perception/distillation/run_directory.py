"""
The directory of one run: what is in it, and whether to start, to resume or to refuse.

Contents: ``recipe.yaml`` (resolved), ``train.jsonl`` (one event per line), ``tensorboard/``,
``checkpoints/`` (``last`` and ``best``), ``frames.json`` (labelled pixels by class, so that a
resumed run need not count them again), and at the end ``metrics.json`` and ``bundle/``; where a
loss was not finite ``failed_batch/``; ``assistants/`` holds their runs and soft labels.
``report.json`` and ``report.html`` are made of a finished run (``run_report``).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
import fcntl
import json
import logging
from pathlib import Path
import re
import shutil
import time
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter
import yaml

from kd_perception.bundle import METRICS
from kd_perception.distillation.checkpoint import read_state
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.recipe_file import recipe_from_dict
from kd_perception.distillation.search_directory import IDENTITY
from kd_perception.distillation.strict import first_difference
from kd_perception.errors import ConfigError, first_line, TrainingError
from kd_perception.paths import atomic_file, is_left_over

log = logging.getLogger(__name__)

REPORT_FILES = ('report.json', 'report.html')
_FAILED = 'failed_batch'
ASSISTANTS = 'assistants'
FRAMES = 'frames.json'


class RunDirectory:
    """
    An opened run directory (context manager), locked against a second process.

    :param kind: ``train`` or ``distill``, part of what must agree on resuming.
    :param identity: what else must agree: data fingerprints, teacher hash, number of processes.
    :param main: false in the processes that do not write (all ranks but 0).
    :raises TrainingError: when the directory holds a finished run, another one, or other things.
    """

    def __init__(self, path: Path | str, recipe: Recipe, kind: str,
                 identity: Mapping[str, Any], *, overwrite: bool = False,
                 main: bool = True) -> None:
        self.path = Path(path)
        self.main = main
        self._board: SummaryWriter | None = None
        self._lock: Any = None
        plain = {'kind': kind, 'identity': dict(identity), 'recipe': recipe.to_dict()}
        if main:
            self._open(plain, overwrite)

    @property
    def resuming(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.last.is_file()

    @property
    def last(self) -> Path:
        """Path of the checkpoint to resume from."""
        return self.path / 'checkpoints' / 'last.safetensors'

    @property
    def best(self) -> Path:
        """Path of the weights that were best on validation."""
        return self.path / 'checkpoints' / 'best.safetensors'

    @property
    def bundle(self) -> Path:
        """Path of the bundle that comes out."""
        return self.path / 'bundle'

    def failed_batch(self, rank: int = 0) -> Path:
        """Return the path of the batch on which a process failed."""
        return self.path / (f'{_FAILED}_{rank}' if rank else _FAILED)

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._board is not None:
            self._board.close()
        if self._lock is not None:
            if exception[0] is not None and not (self.path / 'train.jsonl').exists():
                self._leave_nothing()
            self._lock.close()

    def event(self, kind: str, step: int, scalars: Mapping[str, float] | None = None,
              **more: Any) -> None:
        """Append one line to ``train.jsonl`` and the scalars to TensorBoard."""
        if not self.main:
            return
        rounded = {k: float(f'{v:.6g}') for k, v in (scalars or {}).items()}
        line = {'event': kind, 'step': step, 'time': round(time.time(), 3), **rounded, **more}
        with (self.path / 'train.jsonl').open('a') as stream:
            stream.write(json.dumps(line) + '\n')
        if self._board is None:
            self._board = SummaryWriter(str(self.path / 'tensorboard'), purge_step=step)
        for name, value in rounded.items():
            self._board.add_scalar(f'{kind}/{name}', value, step)

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """Write one of the result files."""
        if self.main:
            with atomic_file(self.path / name) as temporary:
                temporary.write_text(json.dumps(data, indent=2) + '\n')

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of such a file; nothing where there is none."""
        try:
            return dict(json.loads((self.path / name).read_text()))
        except (OSError, ValueError, TypeError):
            return {}

    def _open(self, plain: dict[str, Any], overwrite: bool) -> None:
        stored = self.path / 'recipe.yaml'
        if self.path.exists() and not self.path.is_dir():
            raise TrainingError(f'{self.path}: is a file; choose another --out')
        # A kill right after the start leaves the lock file or a recipe half written; a failure in
        # the first step leaves the batch, which holds back no other try, and assistants, which are
        # compared on their own.
        if self.path.is_dir() and any(
                p.name not in ('.lock', ASSISTANTS) and p not in self._failed_batches()
                and not is_left_over(p, stored.name) for p in self.path.iterdir()):
            if not stored.is_file():
                what = 'holds a search, which goes on with --search N' if (
                    self.path / IDENTITY).is_file() else 'is not empty and no run directory'
                raise TrainingError(f'{self.path}: {what}; choose another --out')
            self._lock_file()
            if overwrite:
                self._clear()
                self._clear_assistants()
            else:
                self._compare(stored, plain)
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock_file()
            self._clear()
            if overwrite:
                self._clear_assistants()
        with atomic_file(stored) as temporary:
            temporary.write_text(yaml.safe_dump(plain, sort_keys=False))
        # Last: a folder without a recipe would be somebody else's.
        (self.path / 'checkpoints').mkdir(exist_ok=True)
        self._remove_half_written()

    def _compare(self, stored: Path, plain: dict[str, Any]) -> None:
        try:
            old = yaml.safe_load(stored.read_text())
            # Keys that a later release has added take their defaults.
            old['recipe'] = recipe_from_dict(old['recipe']).to_dict()
            old['identity'] = dict(old['identity'])
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, ConfigError) as error:
            raise TrainingError(f'{stored}: not readable ({first_line(error)}); choose '
                                'another --out or pass --overwrite') from None
        # Said in words of its own below.
        new = {**plain, 'identity': dict(plain['identity'])}
        was, now = (p['identity'].pop('processes', None) for p in (old, new))
        difference = first_difference(old, new)
        if difference:
            raise TrainingError(f'{self.path}: holds a run of another recipe ({difference}); '
                                'choose another --out or pass --overwrite')
        if self.bundle.is_dir():
            raise TrainingError(f'{self.path}: is finished already; choose another --out or pass '
                                '--overwrite')
        if was is None and now is not None:
            log.warning('%s: was begun by an earlier release, which does not say by how many '
                        'processes; goes on with %d. If it was another number, steps have other '
                        'frames from here on', self.path, now)
        elif was != now:
            # Each step would have other frames, and an epoch another number of steps.
            raise TrainingError(f'{self.path}: was begun by {was} process{"es" * (was != 1)}, '
                                f'not {now}; go on with as many (torchrun --nproc_per_node), '
                                'choose another --out or pass --overwrite')
        if self.last.is_file():
            read_state(self.last)  # a damaged checkpoint is told here, in one line

    def _lock_file(self) -> None:
        self._lock = (self.path / '.lock').open('w')
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise TrainingError(f'{self.path}: another process is writing into this run') from None

    def _leave_nothing(self) -> None:
        """Take back what was written for a run that failed before its first step."""
        if self.last.is_file():
            return
        self._clear(but_failed=True)
        # Assistants that are trained stay, their empty folder does not.
        with suppress(OSError):
            (self.path / ASSISTANTS).rmdir()
        (self.path / '.lock').unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def _remove_half_written(self) -> None:
        """Remove what kills have left; the lock says that nobody is writing it."""
        files = ('recipe.yaml', FRAMES, METRICS, *REPORT_FILES)
        for whole in (self.last, self.best, self.bundle, *(self.path / name for name in files)):
            for path in whole.parent.iterdir():
                if is_left_over(path, whole.name):
                    if path.is_dir():
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink(missing_ok=True)

    def _failed_batches(self) -> list[Path]:
        """Return the batches on which processes failed, also one whose writing was killed."""
        return [p for p in self.path.iterdir()
                if p.is_dir() and re.fullmatch(rf'\.?{_FAILED}(_\d+)?(\.tmp)?', p.name)]

    def _clear_assistants(self) -> None:
        """Remove the runs and soft labels of assistants, and nothing else."""
        folder = self.path / ASSISTANTS
        if not folder.is_dir():
            return
        for path in folder.iterdir():
            if re.fullmatch(r'\d+(_cache)?', path.name):
                shutil.rmtree(path, ignore_errors=True)
        if not any(folder.iterdir()):
            folder.rmdir()

    def _clear(self, *, but_failed: bool = False) -> None:
        """Remove what a run writes, and nothing else."""
        folders = [self.path / name for name in ('checkpoints', 'tensorboard', 'bundle')]
        for folder in [*folders, *([] if but_failed else self._failed_batches())]:
            shutil.rmtree(folder, ignore_errors=True)
        for name in (METRICS, FRAMES, 'train.jsonl', 'recipe.yaml', *REPORT_FILES):
            (self.path / name).unlink(missing_ok=True)
