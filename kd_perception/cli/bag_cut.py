"""
Write a stretch of a recording, or some of its topics, as a recording of its own.

Messages are copied as they are; storage, definitions, quality of service and times stay. Without
any option the whole recording is written anew, which recovers an unfinished or damaged one: what
can be read is in the new recording.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from kd_perception.bags.cut import cut_bag, Part
from kd_perception.bags.selection import load_selection
from kd_perception.cli.progress import progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``bag cut``."""
    parser.add_argument('bag', type=Path, help='rosbag2 folder, .mcap, .db3 or ROS 1 .bag')
    parser.add_argument('out', type=Path,
                        help='rosbag2 folder to write (a file where the bag is of ROS 1)')
    parser.add_argument('--start', type=float, default=0.0, metavar='S',
                        help='seconds after the first message (%(default)s)')
    parser.add_argument('--end', type=float, default=math.inf, metavar='S',
                        help='seconds after the first message (default: the end)')
    parser.add_argument('--selection', type=Path, metavar='FILE',
                        help='of the cameras that it names, only the frames that it names (made '
                             'by: kd_perception select); other topics stay whole')
    add_copy_arguments(parser)


def add_copy_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what cutting and splitting have in common."""
    parser.add_argument('--topic', action='append', default=[], metavar='TOPIC',
                        help="topic or pattern ('/camera/*') to take; may be repeated (default: "
                             'all)')
    parser.add_argument('--no-latched', action='store_true',
                        help='do not begin with the last message of latched topics before the '
                             'start, such as label_info and tf_static')
    parser.add_argument('--overwrite', action='store_true', help='replace what is there')


def run(args: argparse.Namespace) -> int:
    """Cut and say what was written."""
    selection = None if args.selection is None else load_selection(args.selection)
    with progress('cut') as report:
        part = cut_bag(args.bag, args.out, start_s=args.start, end_s=args.end, topics=args.topic,
                       selection=selection, latched=not args.no_latched,
                       overwrite=args.overwrite, progress=report)
    print_part(part)
    return 0


def print_part(part: Part) -> None:
    """Print one line about a recording that was written."""
    damaged = f', {part.damaged} damaged ones left out' if part.damaged else ''
    print(f'{part.path}: {part.messages} messages, {part.duration_s:.1f} s{damaged}')
