"""
Show what a recording holds.

With --rate, --motion or --count also how many frames of each camera they would take. --json prints
the same facts in a form that stays (schema_version).
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from datetime import datetime, timezone
import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kd_perception.bags.facts import bag_facts
from kd_perception.bags.reader import BagReader
from kd_perception.cli.progress import progress
from kd_perception.cli.source_arguments import add_sampling_arguments, sampling

_WIDTH = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``bag info``."""
    parser.add_argument('bag', type=Path, help='rosbag2 folder, .mcap, .db3 or ROS 1 .bag')
    parser.add_argument('--json', action='store_true', help='print JSON')
    add_sampling_arguments(parser.add_argument_group('how many frames would be taken'))


def run(args: argparse.Namespace) -> int:
    """Print the facts."""
    looking = progress('looking for motion') if args.motion else nullcontext()
    with BagReader(args.bag) as reader, looking as report:
        facts = bag_facts(reader, sampling(args), report)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _print_facts(facts)
    return 0


def _print_facts(facts: dict[str, Any]) -> None:
    packed = f', {facts["compression"]} chunks' if facts['compression'] else ''
    files = f', {len(facts["files"])} files' if len(facts['files']) > 1 else ''
    print(f'{facts["path"]}: {facts["messages"]} messages, {_size(facts["size_bytes"])}, '
          f'{_time(facts["duration_s"])} ({facts["storage"]}{packed}{files})')
    if facts['unfinished']:
        print('UNFINISHED   its writer was killed or still writes')
    if facts['messages']:
        start = datetime.fromtimestamp(facts['start_ns'] / 1e9, timezone.utc)
        print(f'start        {start:%Y-%m-%d %H:%M:%S} UTC')
    print(f'fingerprint  {facts["fingerprint"]}')
    print('cameras      ' + (', '.join(facts['camera_topics']) or 'no camera topic'))
    for topic in facts['label_topics']:
        classes = facts['label_classes'].get(topic, 'classes not recorded')
        print(f'labels       {topic} ({classes})')
    clock = facts['clock']
    if clock['topic']:
        span = '' if clock['start_s'] is None else \
            f', {clock["start_s"]:.1f} to {clock["end_s"]:.1f} s'
        print(f'clock        simulated time on {clock["topic"]}{span}')
    for topic, kind in clock['stamps'].items():
        if kind != 'as logged':
            print(f'stamps       {topic}: {"all zero" if kind == "zero" else "of " + kind}')
    for topic, number in facts.get('taken', {}).items():
        whole = next(t['count'] for t in facts['topics'] if t['name'] == topic)
        print(f'taken        {number} of {whole} frames of {topic}')
    _print_topics(facts['topics'])


def _print_topics(topics: list[dict[str, Any]]) -> None:
    if not topics:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, side in (('topic', 'left'), ('messages', 'right'), ('rate', 'right'),
                       ('gaps', 'right'), ('longest', 'right'), ('dropped', 'right'),
                       ('type', 'left'), ('picture', 'left')):
        table.add_column(Text(name), justify='left' if side == 'left' else 'right', no_wrap=True)
    for topic in topics:
        rate = f'{topic["rate_hz"]:.1f} Hz' if topic['rate_hz'] else '-'
        longest = '-' if topic['longest_gap_s'] is None else f'{topic["longest_gap_s"]:.2f} s'
        dropped = topic['dropped_estimate']
        size = f'{topic["encoding"]} {topic["width"]}x{topic["height"]}' \
            if topic['encoding'] else ''
        table.add_row(*(Text(cell) for cell in (
            topic['name'], str(topic['count']), rate, str(topic['gaps'] or '-'), longest,
            '-' if dropped is None else f'~{dropped}' if dropped else '0', topic['type'], size)))
    # Lines that wrap cannot be searched; a terminal that is narrow wraps them itself.
    Console(width=_WIDTH, soft_wrap=True).print(table)


def _size(count: int) -> str:
    for unit, scale in (('GB', 1e9), ('MB', 1e6), ('kB', 1e3)):
        if count >= scale:
            return f'{count / scale:.1f} {unit}'
    return f'{count} bytes'


def _time(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60.0)
    return f'{seconds:.1f} s' if seconds < 60 else f'{int(minutes)} min {rest:.0f} s'
