"""SQLite files as rosbag2 writes them (schema 4, that of Iron and later; Humble reads it too)."""

from __future__ import annotations

from pathlib import Path
import sqlite3

from kd_perception.bags.storage import Channel, QOS, TYPE_HASH

_TABLES = '''
CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT NOT NULL);
CREATE TABLE metadata(id INTEGER PRIMARY KEY, metadata_version INTEGER NOT NULL,
                      metadata TEXT NOT NULL);
CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,
                    serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL,
                    type_description_hash TEXT NOT NULL);
CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT NOT NULL,
                                 encoding TEXT NOT NULL,
                                 encoded_message_definition TEXT NOT NULL,
                                 type_description_hash TEXT NOT NULL);
CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL,
                      timestamp INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX timestamp_idx ON messages (timestamp ASC);
INSERT INTO schema VALUES (4, 'rosbag2');
'''
_COMMIT_BYTES = 1 << 26


class SqliteFile:
    """One ``.db3`` file; see ``OutputFile``."""

    def __init__(self, path: Path, compression: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        # The file has another name until it is whole, so a journal would protect nothing.
        self._connection.executescript('PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;')
        self._connection.executescript(_TABLES)
        self._connection.execute('BEGIN')
        self._types: set[str] = set()
        self._pending = 0

    def add(self, number: int, channel: Channel) -> None:
        """Declare a channel."""
        about = dict(channel.metadata)
        self._connection.execute(
            'INSERT INTO topics VALUES (?, ?, ?, ?, ?, ?)',
            (number + 1, channel.topic, channel.type, channel.serialization, about.get(QOS, ''),
             about.get(TYPE_HASH, '')))
        if channel.definition and channel.type not in self._types:
            self._types.add(channel.type)
            self._connection.execute(
                'INSERT INTO message_definitions VALUES (NULL, ?, ?, ?, ?)',
                (channel.type, f'ros2{channel.definition_format}', channel.definition,
                 about.get(TYPE_HASH, '')))

    def write(self, number: int, log_ns: int, data: bytes, publish_ns: int,
              sequence: int) -> None:
        """Write a message."""
        self._connection.execute('INSERT INTO messages VALUES (NULL, ?, ?, ?)',
                                 (number + 1, log_ns, data))
        self._pending += len(data)
        if self._pending > _COMMIT_BYTES:
            self._connection.execute('COMMIT')
            self._connection.execute('BEGIN')
            self._pending = 0

    def close(self, metadata: str) -> None:
        """Write the metadata and close the file."""
        self._connection.execute('INSERT INTO metadata VALUES (NULL, 8, ?)', (metadata,))
        self._connection.execute('COMMIT')
        self._connection.close()

    def abort(self) -> None:
        """Close the file as it is."""
        self._connection.close()
