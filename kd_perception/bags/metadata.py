"""The ``metadata.yaml`` of a rosbag2 folder: read in every version, written in 8 or 9."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
import re
from typing import Any

import yaml

from kd_perception.bags.storage import Channel, QOS, reason, TYPE_HASH
from kd_perception.errors import BagError
from kd_perception.fast_yaml import load_yaml

METADATA = 'metadata.yaml'
_KEY = 'rosbag2_bagfile_information'
# From version 9 on, policies have names; Humble and Iron read numbers only.
_NAMED_POLICY = re.compile(r'history: *[a-z]')
_LATCHED = re.compile(r'durability: *(1\b|transient_local)')
# "No message": what rosbag2 writes as the start of an empty recording.
_NEVER_NS = (1 << 63) - 1


@dataclass
class FileContent:
    """What one storage file holds: its name, times and number of messages."""

    name: str
    start_ns: int = _NEVER_NS
    end_ns: int = 0
    count: int = 0

    def add(self, log_ns: int) -> None:
        """Count a message."""
        self.start_ns = min(self.start_ns, log_ns)
        self.end_ns = max(self.end_ns, log_ns)
        self.count += 1


@dataclass(frozen=True)
class Metadata:
    """
    What is read of a ``metadata.yaml``.

    :param files: names of the storage files; early versions put the folder before them.
    :param ros_distro: release that recorded; empty where not said.
    :param custom: what users added.
    """

    version: int = 0
    files: tuple[str, ...] = ()
    ros_distro: str = ''
    custom: Mapping[str, str] = field(default_factory=dict)


def read_metadata(folder: Path) -> Metadata:
    """
    Return the metadata of a recording.

    :raises BagError: when they cannot be read.
    """
    path = folder / METADATA
    try:
        about = load_yaml(path.read_text())[_KEY]
        if not all(isinstance(n, str) for n in about['relative_file_paths'] or ()):
            raise ValueError('relative_file_paths is no list of names')
        return Metadata(int(about.get('version') or 0),
                        tuple(Path(n).name for n in about['relative_file_paths'] or ()),
                        str(about.get('ros_distro') or ''),
                        {str(k): str(v) for k, v in (about.get('custom_data') or {}).items()})
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError,
            RecursionError) as error:
        raise BagError(f'{path}: is no rosbag2 metadata: {reason(error)}') from None


def metadata_text(channels: Sequence[Channel], counts: Sequence[int],
                  files: Sequence[FileContent], *, storage: str, source: Metadata) -> str:
    """
    Return a ``metadata.yaml``.

    :param counts: messages by channel.
    :param storage: ``mcap`` or ``sqlite3``.
    :param source: recording whose release and custom data are kept.
    """
    named = any(_NAMED_POLICY.search(dict(c.metadata).get(QOS, '')) for c in channels)
    start = min((f.start_ns for f in files if f.count), default=_NEVER_NS)
    end = max((f.end_ns for f in files if f.count), default=start)
    about = {
        'version': 9 if named else 8, 'storage_identifier': storage,
        'duration': {'nanoseconds': end - start},
        'starting_time': {'nanoseconds_since_epoch': start},
        'message_count': sum(counts),
        'topics_with_message_count': [
            {'topic_metadata': {
                'name': c.topic, 'type': c.type, 'serialization_format': c.serialization,
                'offered_qos_profiles': _profiles(dict(c.metadata).get(QOS, ''), named),
                'type_description_hash': dict(c.metadata).get(TYPE_HASH, '')},
             'message_count': n} for c, n in zip(channels, counts, strict=True)],
        'compression_format': '', 'compression_mode': '',
        'relative_file_paths': [f.name for f in files],
        'files': [{'path': f.name,
                   'starting_time': {'nanoseconds_since_epoch': f.start_ns},
                   'duration': {'nanoseconds': max(0, f.end_ns - f.start_ns)},
                   'message_count': f.count} for f in files],
        'custom_data': dict(source.custom), 'ros_distro': source.ros_distro}
    return yaml.safe_dump({_KEY: about}, sort_keys=False, allow_unicode=True)


def qos_text(*, depth: int = 5, latched: bool = False, best_effort: bool = False) -> str:
    """Return an offered profile as rosbag2 writes it up to version 8, with policies as numbers."""
    forever = {'sec': 2147483647, 'nsec': 4294967295}
    return yaml.safe_dump([{
        'history': 1, 'depth': depth, 'reliability': 2 if best_effort else 1,
        'durability': 1 if latched else 2, 'deadline': forever, 'lifespan': dict(forever),
        'liveliness': 1, 'liveliness_lease_duration': dict(forever),
        'avoid_ros_namespace_conventions': False}], sort_keys=False).strip()


def is_latched(channel: Channel) -> bool:
    """Return whether late subscribers still get a topic's last message."""
    about = dict(channel.metadata)
    return about.get('latching') == '1' or bool(_LATCHED.search(about.get(QOS, '')))


def _profiles(text: str, named: bool) -> Any:
    """Return profiles as text for version 8, as a list for version 9."""
    if not named:
        return text
    try:
        return yaml.safe_load(text) or []
    except yaml.YAMLError:
        return []
