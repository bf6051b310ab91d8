"""
Writer of serialised messages: what comes in as bytes is in the recording byte by byte.

A recording appears under its name when it is complete; until then it is ``<name>.unfinished``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, ExitStack
from dataclasses import replace
from pathlib import Path
import sqlite3
from types import TracebackType
from typing import Protocol

from kd_perception.bags.layout import BAG_SUFFIXES, is_only_a_bag
from kd_perception.bags.mcap_output import McapFile
from kd_perception.bags.metadata import FileContent, METADATA, Metadata, metadata_text
from kd_perception.bags.ros1_output import Ros1File
from kd_perception.bags.sqlite_output import SqliteFile
from kd_perception.bags.storage import Channel
from kd_perception.bags.unfinished import already_there, unfinished_directory
from kd_perception.errors import BagError, ConfigError


class OutputFile(Protocol):
    """One storage file that is being written."""

    def add(self, number: int, channel: Channel) -> None:
        """Declare a channel."""
        ...

    def write(self, number: int, log_ns: int, data: bytes, publish_ns: int,
              sequence: int) -> None:
        """Write a message of channel ``number``."""
        ...

    def close(self, metadata: str) -> None:
        """Complete the file; ``metadata`` is the recording's, as YAML."""
        ...

    def abort(self) -> None:
        """Let go of the file as it is."""
        ...


_FILES: dict[str, tuple[str, Callable[[Path, str], OutputFile]]] = {
    'mcap': ('.mcap', McapFile), 'sqlite3': ('.db3', SqliteFile), 'ros1': ('.bag', Ros1File)}


class RawBagWriter:
    """
    A new recording of serialised messages; a context manager.

    :param path: the folder to make; of ROS 1, the file.
    :param storage: ``mcap``, ``sqlite3`` or ``ros1``.
    :param compression: of MCAP chunks: ``zstd``, ``lz4`` or nothing.
    :param max_bytes: begin another file when one holds so much; 0: one file.
    :param overwrite: replace the recording that is there, when the new one is complete.
    :param keep: when writing fails, leave what there is, if anything, under its unfinished name,
        because it cannot be recorded again.
    :param source: recording whose release and custom data are kept.
    :raises BagError: when ``path`` exists and ``overwrite`` is false, or is no recording.
    """

    def __init__(self, path: Path | str, *, storage: str = 'mcap', compression: str = '',
                 max_bytes: int = 0, overwrite: bool = False, keep: bool = False,
                 source: Metadata | None = None) -> None:
        self.path = Path(path).expanduser().absolute()
        self.folder = self.path
        self.messages = 0
        self._storage, self._compression, self._max_bytes = storage, compression, max_bytes
        self._overwrite, self._keep = overwrite, keep
        self._source = source or Metadata()
        self._stack = ExitStack()
        self._channels: list[Channel] = []
        self._numbers: dict[Channel, int] = {}
        self._counts: list[int] = []
        self._files: list[FileContent] = []
        self._file: OutputFile | None = None
        self._bytes = 0
        if storage == 'ros1' and self.path.suffix != '.bag':
            raise ConfigError(f'{path}: a ROS 1 bag is one file; give it a name that ends in .bag')
        if self.path.exists() and not overwrite:
            raise already_there(Path(path))
        if self.path.exists() and not is_only_a_bag(self.path):
            raise BagError(f'{path}: is no recording, or a folder that holds other files too, so '
                           'it is not overwritten; choose another name')

    def __enter__(self) -> RawBagWriter:
        self.folder = self._stack.enter_context(unfinished_directory(
            self.path, overwrite=self._overwrite, single=self._storage == 'ros1',
            keep=lambda: self._keep and self.messages > 0))
        try:
            self._begin_file()
        except BaseException as error:
            self._abort(error)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is None:
            try:
                with self._failures():
                    text = self._end_file()
                    if self._storage != 'ros1':
                        (self.folder / METADATA).write_text(text)
            except BaseException as failure:
                self._abort(failure)
                raise
            with self._failures():
                self._stack.__exit__(None, None, None)
        elif error is not None:
            self._abort(error)

    def _abort(self, error: BaseException) -> None:
        if self._file is not None:
            self._file.abort()
        self._file = None
        self._stack.__exit__(type(error), error, error.__traceback__)

    def add(self, channel: Channel) -> int:
        """Declare a channel and return its number here; the same channel has the same number."""
        channel = replace(channel, id=0)
        number = self._numbers.get(channel)
        if number is None:
            number = self._numbers[channel] = len(self._channels)
            self._channels.append(channel)
            self._counts.append(0)
            with self._failures():
                self._opened().add(number, channel)
        return number

    def write(self, number: int, log_ns: int, data: bytes, publish_ns: int | None = None,
              sequence: int = 0) -> None:
        """
        Write a message.

        :param number: of its channel.
        :param publish_ns: the log time by default.
        :raises BagError: when the disk is full or cannot be written.
        """
        with self._failures():
            if self._max_bytes and self._bytes and self._bytes + len(data) > self._max_bytes:
                self._end_file()
                self._begin_file()
            self._opened().write(number, log_ns, data, log_ns if publish_ns is None
                                 else publish_ns, sequence)
        self._bytes += len(data)
        self.messages += 1
        self._counts[number] += 1
        self._files[-1].add(log_ns)

    def _opened(self) -> OutputFile:
        if self._file is None:
            raise BagError(f'{self.path}: is not open for writing')
        return self._file

    def _begin_file(self) -> None:
        suffix, maker = _FILES[self._storage]
        name = self.path.name
        if self._storage != 'ros1':
            bare = self.path.stem if self.path.suffix in BAG_SUFFIXES else name
            name = f'{bare}_{len(self._files)}{suffix}'
        with self._failures():
            self._file = maker(self.folder / name, self._compression)
            self._files.append(FileContent(name))
            self._bytes = 0
            for number, channel in enumerate(self._channels):
                self._file.add(number, channel)

    def _end_file(self) -> str:
        """Complete the open file and return the metadata up to here."""
        text = metadata_text(self._channels, self._counts, self._files, storage=self._storage,
                             source=self._source)
        self._opened().close(text)
        self._file = None
        return text

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn what a disk says into one line."""
        try:
            yield
        except OSError as error:
            raise BagError(f'{self.path}: cannot be written: '
                           f'{error.strerror or error}{self._left()}') from None
        except sqlite3.Error as error:
            raise BagError(f'{self.path}: cannot be written: {error}{self._left()}') from None

    def _left(self) -> str:
        if not self._keep or not self.messages:
            return ''
        return f'; what was written so far is in {self.folder}, recover it with: kd_perception ' \
               f'bag cut {self.folder} NAME'
