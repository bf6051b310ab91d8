"""
The directory of a search: whether to start, to go on or to refuse, and who works on what.

``study.db`` (SQLite), ``study.json`` (what is searched), ``trials/`` (a run directory each), and
at the end ``search.json``, ``best_recipe.yaml`` and ``bundle/``. Locks are those of the file
system: a process that is killed lets go of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
import fcntl
import json
from pathlib import Path
import shutil
from typing import Any

from kd_perception.distillation.recipe_file import recipe_from_dict
from kd_perception.distillation.strict import first_difference
from kd_perception.errors import ConfigError, first_line, TrainingError
from kd_perception.paths import atomic_file

RESULT, BEST_RECIPE = 'search.json', 'best_recipe.yaml'
STUDY, IDENTITY, LOCKS, TRIALS = 'study.db', 'study.json', '.locks', 'trials'
_LOCK = '.search.lock'


def open_search(folder: Path, made: Mapping[str, Any], trials: int, overwrite: bool) -> None:
    """
    Make the directory of a search, or check that the one there is of the same.

    :raises TrainingError: when it is finished, of another search or no search.
    """
    made = json.loads(json.dumps(made))
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f'{folder}: is a file; choose another --out')
    identity = folder / IDENTITY
    if folder.is_dir() and not identity.is_file() and any(map(_is_foreign, folder.iterdir())):
        raise TrainingError(f'{folder}: is not empty and holds no search; choose another --out')
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if identity.is_file() and overwrite:
            clear(folder)
        if not identity.is_file():
            (folder / TRIALS).mkdir(exist_ok=True)
            with atomic_file(identity) as temporary:
                temporary.write_text(json.dumps(made, indent=1) + '\n')
            return
        try:
            old = json.loads(identity.read_text())
            # Keys that a later release has added take their defaults.
            old['recipe'] = recipe_from_dict(old['recipe']).to_dict()
            old.setdefault('data', made.get('data'))
        except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
            raise TrainingError(f'{identity}: not readable ({first_line(error)}); choose another '
                                '--out or pass --overwrite') from None
        difference = first_difference(old, made)
        if difference:
            raise TrainingError(f'{folder}: holds another search ({difference}); choose another '
                                '--out or pass --overwrite')
        found = trials_in(folder / RESULT)
        if found >= trials:
            raise TrainingError(f'{folder}: is finished already, with {found} trials; choose a '
                                'larger --search, another --out or pass --overwrite')


def _is_foreign(path: Path) -> bool:
    """Return whether something is not what another process may just be beginning a search with."""
    return path.name not in (_LOCK, TRIALS) and not path.name.startswith(f'.{IDENTITY}.')


def clear(folder: Path) -> None:
    """
    Remove what a search writes, and nothing else; the caller holds the lock.

    :raises TrainingError: when another process works on a trial.
    """
    for lock in sorted((folder / LOCKS).glob('*')):
        held = try_lock(lock)
        if held is None:
            raise TrainingError(f'{folder}: another process is working on trial {lock.name}')
        held.close()
    for name in (TRIALS, 'bundle', LOCKS):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (STUDY, IDENTITY, RESULT, BEST_RECIPE):
        (folder / name).unlink(missing_ok=True)


def leave_nothing(folder: Path) -> None:
    """Take back what was written for a search of which no trial ever began."""
    with suppress(TrainingError, OSError), locked(folder):
        if any((folder / TRIALS).glob('*')) or (folder / RESULT).exists():
            return
        clear(folder)
        (folder / _LOCK).unlink()
        folder.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of the directory, so that one process at a time changes the study."""
    with (folder / _LOCK).open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def try_lock(path: Path) -> Any:
    """Return an open, locked file; None where another process holds the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.open('w')
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def trials_in(result: Path) -> int:
    """Return how many trials a finished search had; 0 where there is none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return int(json.loads(result.read_text())['trials'])
    return 0
