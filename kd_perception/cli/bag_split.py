"""
Write a recording as several, by length or by drive.

A drive ends where no message at all comes for --gap seconds. Messages are copied as they are; the
parts lie in one folder, which training and labelling take as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_perception.bags.cut import split_bag
from kd_perception.cli.bag_cut import add_copy_arguments, print_part
from kd_perception.cli.progress import progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``bag split``."""
    parser.add_argument('bag', type=Path, help='rosbag2 folder, .mcap, .db3 or ROS 1 .bag')
    parser.add_argument('out', type=Path, help='folder to write the parts to')
    by = parser.add_mutually_exclusive_group(required=True)
    by.add_argument('--length', type=float, default=0.0, metavar='S', help='seconds per part')
    by.add_argument('--gap', type=float, default=0.0, metavar='S',
                    help='seconds without any message that end a drive')
    add_copy_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Split and say what was written."""
    with progress('split') as report:
        parts = split_bag(args.bag, args.out, length_s=args.length, gap_s=args.gap,
                          topics=args.topic, latched=not args.no_latched,
                          overwrite=args.overwrite, progress=report)
    for part in parts:
        print_part(part)
    return 0
