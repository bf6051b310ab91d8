"""
Recording of live topics: the part of ``bag record`` that needs ROS.

It runs in a process of its own, because the bootstrap of ROS from wheels replaces the process.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
from typing import Any

from kd_perception.cli.parser import byte_count
from kd_perception.errors import ConfigError
from kd_perception.nodes.environment import PARENT_VARIABLE
from kd_perception.paths import child_environment, module_command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what is recorded live."""
    group = parser.add_argument_group('live topics')
    group.add_argument('--live', nargs='*', default=None, metavar='TOPIC',
                       help="record what is published now: these topics or patterns ('/camera/*'; "
                            "'*': all); without any: images, camera_info, label_info, /clock and "
                            '/tf_static')
    group.add_argument('--max-size', type=byte_count, default=0, metavar='SIZE',
                       help='begin another file of the recording at this size, e.g. 4GB (default: '
                            'one file)')
    group.add_argument('--compression', choices=('none', 'zstd', 'lz4'), default='none',
                       help='of the MCAP chunks; of use for raw images and labels (%(default)s)')


def run(args: argparse.Namespace) -> int:
    """Record in a child and hand signals on to it."""
    if args.duration is not None and not 0 < args.duration < math.inf:
        raise ConfigError(f'--duration {args.duration} must be finite and above zero')
    if importlib.util.find_spec('rclpy') is None:
        raise ConfigError('--live needs ROS 2: source /opt/ros/<distribution>/setup.bash '
                          '(kd_perception doctor says more)')
    request = {'out': str(args.out), 'topics': args.live, 'duration_s': args.duration or 0.0,
               'max_bytes': args.max_size, 'overwrite': args.overwrite,
               'compression': '' if args.compression == 'none' else args.compression}
    child = subprocess.Popen(module_command('kd_perception.cli.bag_record_live',
                                            json.dumps(request)),
                             env={**child_environment(), PARENT_VARIABLE: str(os.getpid())})
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            # The proper end of a recording. A terminal has told the child itself already.
            child.send_signal(signal.SIGINT)


def main() -> int:
    """Record; the child's side of ``run``."""
    # First, because it may replace this process.
    import rclpy  # noqa: F401

    from kd_perception.cli.progress import progress
    from kd_perception.errors import KdPerceptionError
    from kd_perception.nodes.bag_recorder import record_live

    request: dict[str, Any] = json.loads(sys.argv[1])
    try:
        with progress('recording (Ctrl-C ends it)') as report:
            done = record_live(**request, progress=report)
    except KdPerceptionError as error:
        print(f'kd_perception bag: {error}', file=sys.stderr)
        return 2
    print(f'{done.path}: {done.messages} messages, {done.duration_s:.1f} s')
    for topic, count in sorted(done.topics.items()):
        print(f'  {topic}  {count or "nothing came"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
