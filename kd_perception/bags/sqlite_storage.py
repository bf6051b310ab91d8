"""SQLite files of rosbag2, of every schema version."""

from __future__ import annotations

import os
from pathlib import Path
import sqlite3
import threading

import numpy as np
import zstandard

from kd_perception.bags.storage import (
    Channel,
    full_type,
    plain_body,
    QOS,
    reason,
    sorted_entries,
    TYPE_HASH,
)
from kd_perception.errors import BagError

# A picture lies in hundreds of small pages: through a map they are read in half the time. SQLite
# maps no more than so much of a file, and reads the rest page by page.
_MAPPED_BYTES = 2_000_000_000
_KEPT_BYTES = 128 << 20
_PROBLEMS = (sqlite3.Error, UnicodeError, OverflowError, MemoryError)


class SqliteStorage:
    """
    One ``.db3`` file; see ``Storage``.

    :param name: what messages call the file, where ``path`` is an unpacked copy of it.
    """

    kind = 'sqlite3'

    def __init__(self, path: Path, name: Path | None = None) -> None:
        self._file = path
        self.path = name or path
        self.warnings: tuple[str, ...] = ()
        self.compression = ''
        self._local = threading.local()
        if path.stat().st_size == 0:
            raise BagError(f'{self.path}: is empty (0 bytes)')
        self.channels = tuple(self._load())

    def index(self, channel: Channel) -> np.ndarray:
        """Return the entries of a channel in order of log time."""
        rows = self._query(
            'SELECT timestamp, 0, id FROM messages WHERE topic_id = ? ORDER BY timestamp, id',
            channel.id)
        try:
            return sorted_entries(rows)
        except (TypeError, ValueError, OverflowError) as error:
            raise BagError(f'{self.path}: its times are damaged: {reason(error)}') from None

    def read(self, entry: np.void, limit: int = 0) -> bytes:
        """Return the serialised message at an index entry."""
        number = int(entry['offset'])
        self._map()
        data = self._data(number, limit)
        if limit and data[:1] == b'\x28':  # a compressed body is of use as a whole only
            data = self._data(number, 0)
        self._local.mapped += len(data)
        try:
            return plain_body(data, limit)
        except zstandard.ZstdError as error:
            raise BagError(f'{self.path}: message {number} is damaged: {reason(error)}') from None

    def envelope(self, entry: np.void) -> tuple[int, int]:
        """Return the log time, for SQLite keeps no other, and no sequence number."""
        return int(entry['log_ns']), 0

    def close(self) -> None:
        """Release the file."""
        connection = getattr(self._local, 'connection', None)
        if connection is not None:
            connection.close()
        self._local = threading.local()

    def _query(self, statement: str, *arguments: int | str) -> list[tuple]:
        # A connection belongs to one thread of one process: data loaders fork.
        if getattr(self._local, 'process', 0) != os.getpid():
            self._local.process = os.getpid()
            # "immutable" reads from read-only media, but would miss a log not yet merged.
            log = self._file.with_name(self._file.name + '-wal')
            mode = 'mode=ro' if log.is_file() and log.stat().st_size else 'immutable=1'
            self._local.connection = sqlite3.connect(
                f'{self._file.resolve().as_uri()}?{mode}', uri=True)
            self._local.mapped = _KEPT_BYTES
        try:
            return self._local.connection.execute(statement, arguments).fetchall()
        except _PROBLEMS as error:
            raise BagError(f'{self.path}: is damaged or no rosbag2 database: '
                           f'{reason(error)}') from None

    def _data(self, number: int, limit: int) -> bytes:
        """Return a row's data, or at least its first ``limit`` bytes."""
        connection = self._local.connection
        if not hasattr(connection, 'blobopen'):  # Python 3.10
            rows = self._query('SELECT data FROM messages WHERE id = ?', number)
            if not rows or not isinstance(rows[0][0], bytes):
                raise BagError(f'{self.path}: message {number} is gone or damaged')
            return rows[0][0]
        try:
            # Copies once; a query copies twice, and the whole row where a header is wanted.
            with connection.blobopen('messages', 'data', number, readonly=True) as blob:
                return blob.read(limit) if limit else blob.read()
        except _PROBLEMS as error:
            raise BagError(f'{self.path}: message {number} is gone or damaged: '
                           f'{reason(error)}') from None

    def _map(self) -> None:
        """Map the file, and anew from time to time, so that pages once read do not pile up."""
        if getattr(self._local, 'process', 0) != os.getpid():
            self._query('SELECT 1')  # connects
        if self._local.mapped >= _KEPT_BYTES:
            for size in (0, _MAPPED_BYTES):
                self._query(f'PRAGMA mmap_size={size}')
            self._local.mapped = 0

    def _load(self) -> list[Channel]:
        definitions: dict[str, tuple[str, str]] = {}
        if self._query("SELECT 1 FROM sqlite_master WHERE name = 'message_definitions'"):
            definitions = {
                full_type(str(t)): (str(text), str(encoding)) for t, text, encoding in self._query(
                    'SELECT topic_type, encoded_message_definition, encoding '
                    'FROM message_definitions')}
        # Early schemas lack the last two columns.
        columns = {str(r[1]) for r in self._query('PRAGMA table_info(topics)')}
        qos, digest = (name if name in columns else "''"
                       for name in ('offered_qos_profiles', 'type_description_hash'))
        channels = []
        for number, topic, name, serialization, profiles, found in self._query(
                f'SELECT id, name, type, serialization_format, {qos}, {digest} '
                'FROM topics ORDER BY id'):
            text, encoding = definitions.get(full_type(str(name)), ('', ''))
            channels.append(Channel(
                id=number, topic=str(topic), type=full_type(str(name)), definition=text,
                definition_format='idl' if 'idl' in encoding else 'msg',
                serialization=str(serialization),
                metadata=((QOS, str(profiles or '')), (TYPE_HASH, str(found or '')))))
        return channels
