"""
Write a video or an image folder as a rosbag2 recording.

JPEG files are taken over byte by byte; labels of an image folder come along.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_perception.bags.importer import DEFAULT_TOPIC, import_recording
from kd_perception.cli.progress import progress
from kd_perception.cli.source_arguments import add_sampling_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``bag import``."""
    parser.add_argument('source', type=Path, help='video file, or folder of JPEG or PNG images')
    parser.add_argument('out', type=Path, help='rosbag2 folder to write')
    parser.add_argument('--labels', default='', metavar='FOLDER',
                        help='label PNGs of the same names (default: <source>_labels if there)')
    parser.add_argument('--classes', default='', help='class set of the labels, e.g. camvid')
    parser.add_argument('--topic', default=DEFAULT_TOPIC, help='image topic (%(default)s)')
    parser.add_argument('--encoding', choices=('jpeg', 'png', 'rgb8'), default='jpeg')
    parser.add_argument('--fov', type=float, default=80.0, metavar='DEG',
                        help='horizontal field of view for camera_info (%(default)s)')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing recording')
    group = parser.add_argument_group('which frames')
    group.add_argument('--rate', type=float, default=0.0, metavar='HZ',
                       help='images: rate they were taken at (default 15); video: frames per '
                            'second to keep (default all)')
    add_sampling_arguments(group, rate=False)


def run(args: argparse.Namespace) -> int:
    """Import and say where the recording is."""
    with progress('import') as report:
        path = import_recording(
            args.source, args.out, topic=args.topic, rate_hz=args.rate, labels=args.labels,
            classes=args.classes, encoding=args.encoding, fov_deg=args.fov, motion=args.motion,
            count=args.count, limit=args.limit, overwrite=args.overwrite, progress=report)
    print(path)
    return 0
