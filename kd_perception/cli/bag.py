"""Look into rosbags, import videos and image folders, record the simulator."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
import json
import math
from pathlib import Path
from typing import Any

from kd_perception.bags.importer import DEFAULT_TOPIC, import_recording
from kd_perception.bags.labels import recorded_classes
from kd_perception.bags.reader import BagReader
from kd_perception.bags.topics import TopicInfo
from kd_perception.cli import bag_suite
from kd_perception.cli.progress import progress
from kd_perception.cli.world_arguments import add_world_arguments, scenario_of
from kd_perception.errors import ConfigError, KdPerceptionError

EPILOG = '''\
examples:
  kd_perception bag info drive_folder
  kd_perception bag import drive.mp4 drive --rate 10
  kd_perception bag import camvid/val val --classes camvid
  kd_perception bag record fog --scenario dense_fog --seed 7 --duration 60
'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.epilog = EPILOG
    verbs = parser.add_subparsers(dest='action', metavar='info|import|record', required=True)
    info = verbs.add_parser('info', help='topics, types, counts, rates, image sizes')
    info.add_argument('bag', type=Path, help='rosbag2 folder, .mcap, .db3 or ROS 1 .bag')
    info.add_argument('--json', action='store_true', help='print JSON')
    _add_import(verbs.add_parser('import', help='video or image folder to rosbag2'))
    _add_record(verbs.add_parser('record', help='simulator to rosbag2, with labels'))


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('source', type=Path, help='video file, or folder of JPEG or PNG images')
    parser.add_argument('out', type=Path, help='rosbag2 folder to write')
    parser.add_argument('--labels', default='', metavar='FOLDER',
                        help='label PNGs of the same names (default: <source>_labels if there)')
    parser.add_argument('--classes', default='', help='class set of the labels, e.g. camvid')
    parser.add_argument('--rate', type=float, default=0.0, metavar='HZ',
                        help='images: rate they were taken at (default 15); video: frames per '
                             'second to keep (default all)')
    parser.add_argument('--limit', type=int, default=0, metavar='N', help='first N frames only')
    parser.add_argument('--topic', default=DEFAULT_TOPIC, help='image topic (%(default)s)')
    parser.add_argument('--encoding', choices=('jpeg', 'png', 'rgb8'), default='jpeg')
    parser.add_argument('--fov', type=float, default=80.0, metavar='DEG',
                        help='horizontal field of view for camera_info (%(default)s)')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing recording')


def _add_record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('out', type=Path, help='rosbag2 folder to write')
    parser.add_argument('--scenario', default='clear', help='name or YAML path (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='which street (%(default)s)')
    parser.add_argument('--duration', type=float, default=10.0, metavar='S',
                        help='simulated seconds (%(default)s)')
    parser.add_argument('--rate', type=float, default=10.0, metavar='HZ',
                        help='frames per simulated second (%(default)s)')
    parser.add_argument('--start', type=float, default=0.0, metavar='S',
                        help='simulated time to begin at (%(default)s)')
    parser.add_argument('--width', type=int, default=640)
    parser.add_argument('--height', type=int, default=360)
    parser.add_argument('--topic', default=DEFAULT_TOPIC, help='image topic (%(default)s)')
    parser.add_argument('--encoding', choices=('jpeg', 'png', 'rgb8'), default='jpeg')
    parser.add_argument('--no-labels', action='store_true', help='pictures only')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing recording')
    add_world_arguments(parser)
    bag_suite.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    return {'info': _info, 'import': _import, 'record': _record}[args.action](args)


def _info(args: argparse.Namespace) -> int:
    with BagReader(args.bag) as reader:
        facts = bag_facts(reader)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _print_facts(facts)
    return 0


def bag_facts(reader: BagReader) -> dict[str, Any]:
    """Return what ``bag info`` tells, as plain data."""
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
    return {
        'path': str(reader.path), 'size_bytes': reader.size_bytes, 'start_ns': reader.start_ns,
        'end_ns': reader.end_ns, 'duration_s': reader.duration_s,
        'fingerprint': reader.fingerprint,
        'messages': sum(t.count for t in reader.topics),
        'topics': [_topic_facts(t) for t in reader.topics],
        'camera_topics': cameras, 'label_topics': labels, 'label_classes': classes,
        'warnings': list(reader.warnings)}


def _topic_facts(topic: TopicInfo) -> dict[str, Any]:
    return {'name': topic.name, 'type': topic.type, 'count': topic.count,
            'rate_hz': None if topic.rate_hz is None else round(topic.rate_hz, 3),
            'encoding': topic.encoding, 'width': topic.width, 'height': topic.height}


def _print_facts(facts: dict[str, Any]) -> None:
    print(f'{facts["path"]}: {facts["messages"]} messages, {facts["size_bytes"] / 1e6:.1f} MB, '
          f'{facts["duration_s"]:.1f} s')
    if facts['messages']:
        start = datetime.fromtimestamp(facts['start_ns'] / 1e9, timezone.utc)
        print(f'start        {start:%Y-%m-%d %H:%M:%S} UTC')
    print(f'fingerprint  {facts["fingerprint"]}')
    print('cameras      ' + (', '.join(facts['camera_topics']) or 'no camera topic'))
    for topic in facts['label_topics']:
        classes = facts['label_classes'].get(topic, 'classes not recorded')
        print(f'labels       {topic} ({classes})')
    width = max((len(t['name']) for t in facts['topics']), default=0)
    for topic in facts['topics']:
        rate = f'{topic["rate_hz"]:.1f} Hz' if topic['rate_hz'] else '-'
        size = f'{topic["encoding"]} {topic["width"]}x{topic["height"]}' \
            if topic['encoding'] else ''
        print(f'  {topic["name"]:{width}}  {topic["count"]:6}  {rate:>9}  {topic["type"]}  {size}'
              .rstrip())


def _import(args: argparse.Namespace) -> int:
    with progress('import') as report:
        path = import_recording(
            args.source, args.out, topic=args.topic, rate_hz=args.rate, labels=args.labels,
            classes=args.classes, encoding=args.encoding, fov_deg=args.fov, limit=args.limit,
            overwrite=args.overwrite, progress=report)
    print(path)
    return 0


def _record(args: argparse.Namespace) -> int:
    if args.suite:
        return bag_suite.run(args)
    # The simulator needs OpenGL, which the other actions can do without.
    from kd_perception.cli.recording import record_simulation

    if not (0 < args.rate < math.inf and 0 < args.duration < math.inf):
        raise ConfigError(f'--rate {args.rate} and --duration {args.duration} must be finite and '
                          'above zero')
    with progress('record') as report:
        path = record_simulation(
            args.out, scenario=scenario_of(args), seed=args.seed, rate_hz=args.rate,
            frames=max(1, round(args.duration * args.rate)), start_s=args.start,
            width=args.width, height=args.height, topic=args.topic, encoding=args.encoding,
            labels=not args.no_labels, truth=args.truth, overwrite=args.overwrite, progress=report)
    print(path)
    return 0
