"""
Seconds until a recording of 20 GB gives its first frame, and the memory that sub-sampling takes.

The recording is made of a few hundred different JPEG messages, repeated with their own stamps, in
a temporary folder, and removed. Opening and reading happen in fresh processes, each time with the
system's memory of the file as writing left it.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
import shutil
import statistics
import subprocess
import sys
import tempfile

import cv2
import numpy as np
import result

from kd_perception.bags import messages as msgs
from kd_perception.bags.metadata import qos_text
from kd_perception.bags.output import RawBagWriter
from kd_perception.bags.storage import Channel, QOS
from kd_perception.imaging import encode_jpeg

HEIGHT, WIDTH, DIFFERENT = 720, 1280, 64
RATE_HZ = 10
BAR_GB, SPARE_GB = 20.0, 4.0
REPEATS = 5
# One frame in two seconds at first; then one in a hundred: memory must not follow the number read.
READ_EVERY = (2000, 200)

READ = '''
import json, resource, sys, time
import kd_perception.bags.source
def memory():
    lines = open('/proc/self/status').read().splitlines()
    return {k: int(v.split()[0]) / 1024 for k, _, v in (x.partition(':') for x in lines)
            if k in ('VmRSS', 'VmHWM', 'RssAnon')}
path, every = sys.argv[1], int(sys.argv[2])
before = memory()['VmRSS']
start = time.perf_counter()
source = kd_perception.bags.source.open_source(path)
opened = time.perf_counter() - start
first = source[0]
first_frame = time.perf_counter() - start
frames = len(source)
source.close()
count = max(1, frames // every)
source = kd_perception.bags.source.open_source(path, count=count)
read = sum(1 for _ in source)
print(json.dumps({'open_s': opened, 'first_frame_s': first_frame, 'frames': frames,
                  'read': read, 'before_mb': before, 'peak_mb': memory()['VmHWM'],
                  'anonymous_mb': memory()['RssAnon']}))
'''


def main() -> None:
    only = result.parser(__doc__ or '')
    only.add_argument('--gb', type=float, default=BAR_GB,
                      help='size of the recording (%(default)s, for which the bar is)')
    only.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap')
    only.add_argument('--folder', type=Path, help='where to write it (default: temporary)')
    args = only.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        # A smaller recording would say nothing of the bar, which is for 20 GB.
        free_gb = shutil.disk_usage(folder).free / 1e9
        if free_gb < args.gb + SPARE_GB:
            only.error(f'{folder} has {free_gb:.1f} GB free, {args.gb + SPARE_GB:g} are needed; '
                       'give another --folder, or a smaller --gb, which does not count for the '
                       'bar')
        path = write(Path(folder) / 'large', args.gb, args.storage)
        runs = [read(path, READ_EVERY[0]) for _ in range(REPEATS)]
        many = read(path, READ_EVERY[1])
    seconds = [run['first_frame_s'] for run in runs]
    result.state(
        name='bag_open', value=statistics.median(seconds), unit='s to the first frame',
        workload={'gb': args.gb, 'counts_for_bar': args.gb >= BAR_GB, 'storage': args.storage,
                  'frames': many['frames'], 'width': WIDTH, 'height': HEIGHT, 'encoding': 'jpeg',
                  'repeats': REPEATS,
                  'peak_mb_opened': round(runs[0]['before_mb']),
                  f'peak_mb_reading_{runs[0]["read"]}': round(runs[0]['peak_mb']),
                  f'peak_mb_reading_{many["read"]}': round(many['peak_mb'])},
        spread={'min': round(min(seconds), 3), 'max': round(max(seconds), 3)},
        details={'runs': runs, 'many': many}, json_file=args.json)


def read(path: Path, every: int) -> dict[str, float]:
    """Open and sub-sample in a fresh process."""
    done = subprocess.run([sys.executable, '-c', READ, str(path), str(every)], check=True,
                          capture_output=True, text=True)
    return json.loads(done.stdout)


def write(path: Path, size_gb: float, storage: str) -> Path:
    """Write a recording of about that size."""
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
    texture = cv2.resize(small, (WIDTH + DIFFERENT, HEIGHT), interpolation=cv2.INTER_LINEAR)
    data = [encode_jpeg(np.ascontiguousarray(texture[:, n:n + WIDTH]), 90)
            for n in range(DIFFERENT)]
    definition, _ = msgs.standard_types().generate_msgdef(msgs.COMPRESSED_IMAGE, ros_version=2)
    channel = Channel(0, '/camera/image/compressed', msgs.COMPRESSED_IMAGE, definition, 'msg',
                      'cdr', ((QOS, qos_text()),))
    total = 0
    with RawBagWriter(path, storage=storage) as writer:
        number = writer.add(channel)
        while total < size_gb * 1e9:
            stamp = 1_700_000_000_000_000_000 + writer.messages * 1_000_000_000 // RATE_HZ
            message = msgs.make_compressed(data[writer.messages % DIFFERENT], 'jpeg', stamp, 'c')
            serialised = msgs.to_cdr(message, msgs.COMPRESSED_IMAGE)
            writer.write(number, stamp, serialised)
            total += len(serialised)
    return path


if __name__ == '__main__':
    main()
