"""ROS 1 bags, written by ``rosbags``."""

from __future__ import annotations

from pathlib import Path

from rosbags.rosbag1 import Writer, WriterError

from kd_perception.bags.storage import Channel
from kd_perception.errors import BagError


class Ros1File:
    """One ``.bag`` file; see ``OutputFile``."""

    def __init__(self, path: Path, compression: str) -> None:
        self._path = path
        self._writer = Writer(path)
        if compression in ('bz2', 'lz4'):
            self._writer.set_compression(Writer.CompressionFormat[compression.upper()])
        self._writer.open()
        self._connections: dict[int, object] = {}

    def add(self, number: int, channel: Channel) -> None:
        """Declare a channel."""
        about = dict(channel.metadata)
        try:
            self._connections[number] = self._writer.add_connection(
                channel.topic, channel.type, msgdef=channel.definition,
                md5sum=about.get('md5sum', '*'), callerid=about.get('callerid'),
                latching=int(about['latching']) if about.get('latching', '').isdigit() else None)
        except (WriterError, AssertionError, ValueError) as error:
            raise BagError(f'{self._path}: {channel.topic} ({channel.type}) cannot be written: '
                           f'{error}') from None

    def write(self, number: int, log_ns: int, data: bytes, publish_ns: int,
              sequence: int) -> None:
        """Write a message."""
        self._writer.write(self._connections[number], log_ns, data)  # type: ignore[arg-type]

    def close(self, metadata: str) -> None:
        """Write the index and close the file."""
        self._writer.close()

    def abort(self) -> None:
        """Close the file without an index."""
        if self._writer.bio is not None:
            self._writer.bio.close()
