"""Which files make up a recording, and which storage opens each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml
import zstandard

from kd_perception.bags.mcap_storage import McapStorage
from kd_perception.bags.ros1_storage import Ros1Storage
from kd_perception.bags.sqlite_storage import SqliteStorage
from kd_perception.bags.storage import reason, Storage
from kd_perception.errors import BagError

METADATA = 'metadata.yaml'
BAG_SUFFIXES = ('.mcap', '.db3', '.bag')
COMPRESSED_SUFFIXES = ('.zstd', '.zst')
_OPENERS: dict[str, Callable[[Path], Storage]] = {
    '.mcap': McapStorage, '.db3': SqliteStorage, '.bag': Ros1Storage}


def open_storage(path: Path) -> Storage:
    """
    Open one file by its suffix.

    :raises BagError: when it is of no known kind, or damaged.
    """
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        raise BagError(f'{path}: is no rosbag (known: a rosbag2 folder, {", ".join(_OPENERS)})')
    return opener(path)


def is_bag_folder(path: Path) -> bool:
    """Return whether a folder is a rosbag2 recording, with or without its metadata."""
    return (path / METADATA).is_file() or bool(_loose_files(path))


def is_only_a_bag(path: Path) -> bool:
    """Return whether a folder holds a recording, or nothing, and no other file beside it."""
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
    if not path.is_dir():
        return [path]
    metadata = path / METADATA
    if not metadata.is_file():
        files = _loose_files(path)
        if not files:
            raise BagError(f'{path}: is no rosbag2 folder: it has no {METADATA} and no '
                           '.mcap or .db3 file')
        warnings.append(f'{path}: has no {METADATA}; {len(files)} files found are used')
        return files
    try:
        information = yaml.safe_load(metadata.read_text())['rosbag2_bagfile_information']
        names = [Path(str(n)).name for n in information['relative_file_paths']]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise BagError(f'{metadata}: is no rosbag2 metadata: {reason(error)}') from None
    present = [n for n in names if (path / n).is_file()]
    missing = [n for n in names if n not in present]
    if not present:
        raise BagError(f'{path}: all files that {METADATA} names are missing: '
                       f'{", ".join(missing) or "it names none"}')
    if missing:
        warnings.append(f'{path}: {len(missing)} of {len(names)} files are missing and left out: '
                        f'{", ".join(missing)}')
    return [path / n for n in present]


def decompress(source: Path, target: Path) -> None:
    """
    Undo rosbag2's per-file compression.

    :raises BagError: when the file is damaged.
    """
    try:
        with source.open('rb') as packed, target.open('wb') as plain:
            zstandard.ZstdDecompressor().copy_stream(packed, plain)
    except zstandard.ZstdError as error:
        raise BagError(f'{source}: is damaged: {reason(error)}') from None


def _loose_files(path: Path) -> list[Path]:
    return sorted(f for suffix in ('.mcap', '.db3') for end in ('', *COMPRESSED_SUFFIXES)
                  for f in path.glob(f'*{suffix}{end}'))
