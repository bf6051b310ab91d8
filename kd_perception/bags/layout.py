"""Which files make up a recording, and which storage opens each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import zstandard

from kd_perception.bags.mcap_storage import McapStorage
from kd_perception.bags.metadata import METADATA, read_metadata
from kd_perception.bags.ros1_storage import Ros1Storage
from kd_perception.bags.sqlite_storage import SqliteStorage
from kd_perception.bags.storage import reason, Storage
from kd_perception.bags.unfinished import how_to_recover, is_unfinished
from kd_perception.errors import BagError, some

BAG_SUFFIXES = ('.mcap', '.db3', '.bag')
COMPRESSED_SUFFIXES = ('.zstd', '.zst')
_OPENERS: dict[str, Callable[[Path, Path | None], Storage]] = {
    '.mcap': McapStorage, '.db3': SqliteStorage, '.bag': Ros1Storage}


def open_storage(path: Path, name: Path | None = None) -> Storage:
    """
    Open one file by its suffix.

    :param name: what messages call it, where it is an unpacked copy.

    :raises BagError: when it is of no known kind, or damaged.
    """
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        raise BagError(f'{name or path}: is no rosbag (known: a rosbag2 folder, '
                       f'{", ".join(_OPENERS)})')
    return opener(path, name)


def is_bag_folder(path: Path) -> bool:
    """
    Return whether a folder is one rosbag2 recording, with or without its metadata.

    Without, its files must be one, or the numbered splits of one: ``drive_0.mcap``, ….
    """
    if (path / METADATA).is_file():
        return True
    return len({_split(f)[0] for f in _loose_files(path)}) == 1


def is_only_a_bag(path: Path) -> bool:
    """
    Return whether a path is a ROS 1 bag, or a folder with a recording or nothing in it.

    A folder with any other file in it is more than a recording.
    """
    if path.is_file():
        return path.suffix.lower() == '.bag'
    suffixes = {*BAG_SUFFIXES, *COMPRESSED_SUFFIXES}
    return path.is_dir() and all(f.is_file() and (f.name == METADATA or f.suffix in suffixes)
                                 for f in path.iterdir())


def bag_files(path: Path, warnings: list[str]) -> list[Path]:
    """
    Return the storage files of a recording, in order.

    :param warnings: gets a line for what is amiss but can be lived with.
    :raises BagError: when there are none.
    """
    if not path.exists():
        raise BagError(f'{path}: no such file or folder')
    if is_unfinished(path):
        warnings.append(f'{path}: is an unfinished recording; {how_to_recover(path)}')
    if not path.is_dir():
        if not path.is_file():  # a pipe would be waited for
            raise BagError(f'{path}: is no regular file')
        return [path]
    if not (path / METADATA).is_file():
        files = _loose_files(path)
        if not is_bag_folder(path) and files:
            raise BagError(f'{path}: holds several recordings and no {METADATA}; name one of '
                           f'them: {", ".join(f.name for f in files[:8])}')
        if not files:
            raise BagError(f'{path}: is no rosbag2 folder: it has no {METADATA} and no '
                           '.mcap or .db3 file')
        if not is_unfinished(path):
            warnings.append(f'{path}: has no {METADATA}; {len(files)} files found are used')
        return files
    names = read_metadata(path).files
    # Some releases name a compressed file without the ending that it has.
    found = {n: next((path / f'{n}{end}' for end in ('', *COMPRESSED_SUFFIXES)
                      if (path / f'{n}{end}').is_file()), None) for n in names}
    present = [f for f in found.values() if f is not None]
    missing = [n for n in names if found[n] is None]
    if not present:
        raise BagError(f'{path}: all files that {METADATA} names are missing: '
                       f'{some(missing, 12, 4) or "it names none"}')
    if missing:
        warnings.append(f'{path}: {len(missing)} of {len(names)} files are missing and left out: '
                        f'{some(missing, 12, 4)}')
    return present


def decompress(source: Path, target: Path) -> None:
    """
    Undo rosbag2's per-file compression.

    :raises BagError: when the file is damaged, or there is no room for what is in it.
    """
    try:
        with source.open('rb') as packed, target.open('wb') as plain:
            zstandard.ZstdDecompressor().copy_stream(packed, plain)
    except zstandard.ZstdError as error:
        raise BagError(f'{source}: is damaged: {reason(error)}') from None
    except OSError as error:
        raise BagError(f'{source}: cannot be unpacked into {target.parent}: {error.strerror}; set '
                       'TMPDIR to a folder with room') from None


def _loose_files(path: Path) -> list[Path]:
    """Return the storage files of a folder, splits in the order of their numbers."""
    return sorted((f for suffix in ('.mcap', '.db3') for end in ('', *COMPRESSED_SUFFIXES)
                   for f in path.glob(f'*{suffix}{end}') if f.is_file()), key=_split)


def _split(file: Path) -> tuple[str, int, str]:
    """Return (name of the recording, number of the split or -1, file name)."""
    stem = file.stem if file.suffix not in COMPRESSED_SUFFIXES else Path(file.stem).stem
    name, _, number = stem.rpartition('_')
    return (name, int(number), file.name) if name and number.isdigit() else (stem, -1, file.name)
