"""MCAP files as rosbag2 writes them."""

from __future__ import annotations

from pathlib import Path

from mcap.writer import CompressionType, Writer

from kd_perception.bags.storage import Channel

_COMPRESSION = {'': CompressionType.NONE, 'zstd': CompressionType.ZSTD,
                'lz4': CompressionType.LZ4}
_CHUNK_BYTES = 1 << 20


class McapFile:
    """One MCAP file; see ``OutputFile``. A chunk is on disk as soon as it is full."""

    def __init__(self, path: Path, compression: str) -> None:
        self._stream = path.open('wb')
        self._writer = Writer(self._stream, chunk_size=_CHUNK_BYTES,
                              compression=_COMPRESSION[compression])
        self._ids: dict[int, int] = {}
        self._schemas: dict[tuple[str, str, str], int] = {}
        self._started = False

    def add(self, number: int, channel: Channel) -> None:
        """Declare a channel."""
        ros1 = channel.serialization == 'ros1'
        if not self._started:
            self._writer.start(profile='ros1' if ros1 else 'ros2', library='kd_perception')
            self._started = True
        encoding = 'ros1msg' if ros1 else f'ros2{channel.definition_format}'
        schema = (channel.type, encoding, channel.definition)
        if schema not in self._schemas:
            self._schemas[schema] = self._writer.register_schema(
                channel.type, encoding if channel.definition else '', channel.definition.encode())
        self._ids[number] = self._writer.register_channel(
            channel.topic, channel.serialization, self._schemas[schema], dict(channel.metadata))

    def write(self, number: int, log_ns: int, data: bytes, publish_ns: int,
              sequence: int) -> None:
        """Write a message."""
        self._writer.add_message(self._ids[number], log_ns, data, publish_ns, sequence)
        # A recorder that is killed must not take a chunk with it that it has let go of.
        self._stream.flush()

    def close(self, metadata: str) -> None:
        """Write the index and close the file."""
        if not self._started:
            self._writer.start(profile='ros2', library='kd_perception')
        # Where rosbag2 looks when somebody plays this file without its folder.
        self._writer.add_metadata('rosbag2', {'serialized_metadata': metadata})
        self._writer.finish()
        self._stream.close()

    def abort(self) -> None:
        """Close the file without an index."""
        # What is buffered still may not fit on the disk: then it is lost, and that was said.
        try:
            self._stream.close()
        except OSError:
            self._stream.raw.close()
