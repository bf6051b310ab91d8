"""Command-line arguments that choose frames of a recording, and the engine that looks at them."""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_perception.bags.source import open_source
from kd_perception.engines.engine import PRECISIONS
from kd_perception.engines.loader import ENGINES
from kd_perception.frames import FrameSource


def add_source_arguments(parser: argparse.ArgumentParser, *, labels: bool) -> None:
    """Declare how a recording is read; with ``labels`` also where its ground truth is."""
    group = parser.add_argument_group('recording')
    group.add_argument('--image-topic', default='', help='needed where a bag has several cameras')
    group.add_argument('--rate', type=float, default=0.0, metavar='HZ',
                       help='take at most so many frames per second (default all)')
    group.add_argument('--limit', type=int, default=0, metavar='N', help='first N frames only')
    if labels:
        group.add_argument('--label-topic', default='', help='label images of a bag')
        group.add_argument('--label-dir', default='', metavar='FOLDER',
                           help='label PNGs of an image folder (default: <folder>_labels)')
        group.add_argument('--classes', default='',
                           help='class set of the labels where the recording does not say')


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what runs the model."""
    group = parser.add_argument_group('engine')
    group.add_argument('--engine', choices=('auto', *ENGINES), default='auto')
    group.add_argument('--device', default='cpu', help='cpu or cuda (%(default)s)')
    group.add_argument('--precision', choices=PRECISIONS, default='auto')
    group.add_argument('--threads', type=int, default=0, metavar='N',
                       help='0: the runtime chooses (%(default)s)')


def opened(args: argparse.Namespace, path: Path) -> FrameSource:
    """Open the recording at ``path`` as the arguments say."""
    return open_source(path, image_topic=args.image_topic, rate_hz=args.rate, limit=args.limit,
                       label_topic=getattr(args, 'label_topic', ''),
                       label_dir=getattr(args, 'label_dir', ''),
                       classes=getattr(args, 'classes', ''))
