"""What ``bag info`` tells of a recording, as plain data of a stable form (``docs/bags.md``)."""

from __future__ import annotations

from typing import Any

import numpy as np

from kd_perception.bags.labels import recorded_classes
from kd_perception.bags.reader import BagReader
from kd_perception.bags.sampling import Sampling
from kd_perception.bags.source import BagSource
from kd_perception.bags.topics import TopicIndex, TopicInfo
from kd_perception.bags.unfinished import is_unfinished
from kd_perception.errors import BagError, KdPerceptionError
from kd_perception.frames import Progress

SCHEMA_VERSION = 1
CLOCK = 'rosgraph_msgs/msg/Clock'

# A pause this much longer than the usual interval is a gap; jitter stays below it.
_SENSOR_NS = 100_000  # no sensor sends faster than at 10 kHz: what is written at once does
_GAP = 1.75
# Stamps and log times further apart than this are of two clocks.
_SAME_CLOCK_NS = 3600 * 1_000_000_000


def bag_facts(reader: BagReader, sampling: Sampling | None = None,
              progress: Progress | None = None) -> dict[str, Any]:
    """
    Return what a recording holds.

    :param sampling: when given, also how many frames it takes of each camera.
    :param progress: called with (done, total, note) while frames are looked at for motion.
    """
    cameras = [t.name for t in reader.camera_topics]
    labels = [t.name for t in reader.label_topics]
    classes: dict[str, str] = {}
    for topic in labels:
        try:
            found = recorded_classes(reader, topic)
        except KdPerceptionError:
            found = None
        if found is not None:
            classes[topic] = f'{found.name}, {len(found)} classes'
    facts = {
        'schema_version': SCHEMA_VERSION, 'path': str(reader.path), 'storage': reader.storage,
        'compression': reader.compression, 'ros_distro': reader.metadata.ros_distro,
        'files': [{'name': f.name, 'size_bytes': f.stat().st_size} for f in reader.files],
        'size_bytes': reader.size_bytes, 'start_ns': reader.start_ns, 'end_ns': reader.end_ns,
        'duration_s': reader.duration_s, 'fingerprint': reader.fingerprint,
        'messages': sum(t.count for t in reader.topics), 'unfinished': is_unfinished(reader.path),
        'topics': [_topic_facts(t, reader.index(t.name)) for t in reader.topics],
        'camera_topics': cameras, 'label_topics': labels, 'label_classes': classes,
        'clock': _clock(reader, cameras), 'warnings': list(reader.warnings)}
    if sampling is not None and sampling != Sampling():
        facts['taken'] = {topic: _taken(reader, topic, sampling, progress) for topic in cameras}
    return facts


def intervals(log_ns: np.ndarray) -> dict[str, Any]:
    """
    Return what the times of a topic say: usual interval, gaps, and messages that may be missing.

    A message is missing where an interval is nearly a multiple of the usual one, unless the others
    come in a bunch behind it: so late messages are not told as lost. Where most come in bunches,
    there is no usual interval.

    :param log_ns: int64 ``[n]``, ascending.
    """
    steps = np.diff(log_ns)
    usual = float(np.median(steps)) if len(steps) else 0.0
    out: dict[str, Any] = {'period_ms': None, 'gaps': 0, 'longest_gap_s': None,
                           'dropped_estimate': None}
    if len(steps):
        out['longest_gap_s'] = round(float(steps.max()) / 1e9, 6)
    if len(steps) < 4 or usual < _SENSOR_NS:
        return out
    long = steps[steps > _GAP * usual]
    in_gaps = int((np.round(long / usual) - 1).sum())
    in_all = round(float(log_ns[-1] - log_ns[0]) / usual) - len(steps)
    return {**out, 'period_ms': round(usual / 1e6, 3), 'gaps': len(long),
            'dropped_estimate': max(0, min(in_gaps, in_all))}


def _topic_facts(topic: TopicInfo, index: TopicIndex) -> dict[str, Any]:
    return {'name': topic.name, 'type': topic.type, 'count': topic.count,
            'rate_hz': None if topic.rate_hz is None else round(topic.rate_hz, 3),
            'encoding': topic.encoding, 'width': topic.width, 'height': topic.height,
            **intervals(index.log_ns)}


def _clock(reader: BagReader, cameras: list[str]) -> dict[str, Any]:
    """Return which clock the recording and its header stamps are of."""
    clocks = [t for t in reader.topics if t.type == CLOCK and t.count]
    out: dict[str, Any] = {'topic': clocks[0].name if clocks else '', 'start_s': None,
                           'end_s': None, 'stamps': {}}
    if clocks:
        index = reader.index(clocks[0].name)
        try:
            times = [index.message(n).clock for n in (0, len(index) - 1)]
        except BagError:
            return out
        out['start_s'], out['end_s'] = (t.sec + t.nanosec / 1e9 for t in times)
    for topic in cameras:
        index = reader.index(topic)
        try:
            stamp = index.header(len(index) - 1)[0]
        except BagError:
            continue
        kind = 'zero' if stamp == 0 else 'as logged' \
            if abs(stamp - int(index.log_ns[-1])) < _SAME_CLOCK_NS else 'another clock'
        out['stamps'][topic] = kind
    return out


def _taken(reader: BagReader, topic: str, sampling: Sampling,
           progress: Progress | None) -> int | None:
    """Return how many frames are taken; None where the topic cannot be read as a source."""
    try:
        source = BagSource(reader.path, image_topic=topic, sampling=sampling, progress=progress)
    except KdPerceptionError:
        return None
    try:
        return len(source)
    finally:
        source.close()
