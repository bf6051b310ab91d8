"""Command-line arguments that choose frames of a recording, and the engine that looks at them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from kd_perception.bags.collection import find_recordings
from kd_perception.bags.motion import DRIVING
from kd_perception.bags.sampling import ORDERS, Sampling
from kd_perception.bags.selection import load_selection
from kd_perception.bags.source import open_one
from kd_perception.cli.progress import progress
from kd_perception.engines.engine import PRECISIONS
from kd_perception.engines.loader import ENGINES
from kd_perception.errors import ConfigError
from kd_perception.frames import FrameSource


def add_source_arguments(parser: argparse.ArgumentParser, *, labels: bool,
                         count: bool = True) -> None:
    """
    Declare how a recording is read.

    :param labels: also where its ground truth is.
    :param count: also how many frames are taken, where the verb has no count of its own.
    """
    group = parser.add_argument_group('recording')
    group.add_argument('--topic', '--image-topic', dest='image_topic', action='append',
                       default=[], metavar='TOPIC',
                       help='camera of a bag that has several; may be repeated; "*": all of them')
    group.add_argument('--selection', type=Path, metavar='FILE',
                       help='take the frames that a selection names (made by: kd_perception '
                            'select)')
    add_sampling_arguments(group, count=count)
    if labels:
        group.add_argument('--label-topic', default='', help='label images of a bag')
        group.add_argument('--label-dir', default='', metavar='FOLDER',
                           help='label PNGs of an image folder (default: <folder>_labels)')
        group.add_argument('--classes', default='',
                           help='class set of the labels where the recording does not say')


def add_sampling_arguments(group: argparse._ArgumentGroup, *, rate: bool = True,
                           count: bool = True) -> None:
    """Declare which frames of a recording are taken; without ``rate`` only by motion, number."""
    if rate:
        group.add_argument('--rate', type=float, default=0.0, metavar='HZ',
                           help='take at most so many frames per second (default all)')
    group.add_argument('--motion', type=_motion, default=0.0, metavar='PERCENT|auto',
                       help='skip frames that differ by less than this from the last one taken, '
                            f'such as those of a standing car; auto: {DRIVING:g} (default: '
                            'take all)')
    if count:
        group.add_argument('--count', type=int, default=0, metavar='N',
                           help='take N frames, evenly spaced over what is left')
    group.add_argument('--limit', type=int, default=0, metavar='N', help='first N frames only')
    if rate:
        group.add_argument('--order', choices=ORDERS, default='log',
                           help='time of frames: when they were recorded (log, default) or what '
                                'their header says')


def sampling(args: argparse.Namespace) -> Sampling:
    """
    Return what ``add_sampling_arguments`` declared.

    :raises ConfigError: for impossible values.
    """
    file = getattr(args, 'selection', None)
    return Sampling(args.rate, args.motion, getattr(args, 'count', 0), args.limit, args.order,
                    None if file is None else load_selection(file))


def _motion(text: str) -> float:
    return DRIVING if text == 'auto' else float(text)


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what runs the model."""
    group = parser.add_argument_group('engine')
    group.add_argument('--engine', choices=('auto', *ENGINES), default='auto')
    group.add_argument('--device', default='cpu', help='cpu or cuda (%(default)s)')
    group.add_argument('--precision', choices=PRECISIONS, default='auto')
    group.add_argument('--threads', type=int, default=0, metavar='N',
                       help='0: the runtime chooses (%(default)s)')


def opened(args: argparse.Namespace,
           paths: Sequence[Path]) -> Iterator[tuple[str, FrameSource]]:
    """
    Open, one after the other, the recordings that paths, patterns and folders stand for.

    :returns: what to call it, and the source, which is closed when the next one is asked for.
    """
    chosen = sampling(args)
    found = chosen.selection is None
    for one in find_recordings(paths, args.image_topic):
        looking = progress(f'looking for motion in {one.path.name}') if chosen.motion \
            else nullcontext()
        with looking as report:
            source = open_one(one.path, image_topic=one.topic, sampling=chosen, progress=report,
                              label_topic=getattr(args, 'label_topic', ''),
                              label_dir=getattr(args, 'label_dir', ''),
                              classes=getattr(args, 'classes', ''))
        if chosen.selection is not None and not len(source):
            source.close()  # a choice among several recordings may take nothing of one
            continue
        found = True
        try:
            yield f'{one.path}{f" {one.topic}" if one.topic else ""}', source
        finally:
            source.close()
    if not found:
        raise ConfigError(f'{args.selection}: takes no frame of these recordings')
