"""
How a recording that was not finished is told from a whole one: by its name.

Every writer works in ``<name>.unfinished`` beside the name it is to have, and renames it when all
is written. A writer that was killed, or whose disk is full, leaves that folder; nothing takes it
for a recording, and ``bag cut`` makes one of what is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
import os
from pathlib import Path
import re
import shutil

from kd_perception.errors import BagError
from kd_perception.paths import move_directory

SUFFIX = '.unfinished'
_UNFINISHED = re.compile(rf'{re.escape(SUFFIX)}(-\d+)?$')


def is_unfinished(path: Path) -> bool:
    """Return whether a path is, or lies in, a folder that a writer has not finished."""
    path = Path(path).absolute()
    return any(_UNFINISHED.search(p.name) for p in (path, path.parent))


def how_to_recover(path: Path) -> str:
    """Return what to do about an unfinished recording, in one clause."""
    path = Path(path)
    folder = path if _UNFINISHED.search(path.name) else path.parent
    name = _UNFINISHED.sub('', folder.name)
    return (f'its writer was killed or still writes; if it is gone, recover what there is with: '
            f'kd_perception bag cut {folder} {folder.with_name(name)}')


@contextmanager
def unfinished_directory(path: Path, *, overwrite: bool = False,
                         keep: Callable[[], bool] = lambda: False,
                         single: bool = False) -> Iterator[Path]:
    """
    Yield a folder ``<path>.unfinished`` that is renamed to ``path`` when the block succeeds.

    What an earlier writer left under that name stays; the new one gets a number behind it.

    :param keep: whether to leave the folder when the block fails.
    :param single: the folder's file of the same name becomes ``path``, not the folder.
    :raises BagError: when ``path`` exists and ``overwrite`` is false, or cannot be written.
    """
    if path.exists() and not overwrite:
        raise already_there(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = _new_folder(path)
    except OSError as error:
        raise BagError(f'{path}: cannot be written: {error.strerror}') from None
    try:
        yield folder
        if single:
            os.replace(folder / path.name, path)
            folder.rmdir()
        else:
            move_directory(folder, path, overwrite=overwrite)
    except BaseException:
        if not keep():
            shutil.rmtree(folder, ignore_errors=True)
        raise


def already_there(path: Path) -> BagError:
    """Return the error about a target that exists."""
    return BagError(f'{path}: exists; choose another name or pass --overwrite')


def _new_folder(path: Path) -> Path:
    for number in count():
        folder = path.with_name(f'{path.name}{SUFFIX}' + (f'-{number}' if number else ''))
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError('count() does not end')
