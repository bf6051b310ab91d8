"""A recording of any length: memory does not follow it (``benchmarks/bag_open.py`` has 20 GB)."""

from __future__ import annotations

import json
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest

from kd_perception.bags import messages as msgs
from kd_perception.bags.output import RawBagWriter
from kd_perception.bags.writer import standard_channel

READ = '''
import json, sys
from kd_perception.bags.source import open_source
source = open_source(sys.argv[1], rate_hz=10, count=int(sys.argv[2]))
read = sum(int(frame.image[0, 0, 0] >= 0) for frame in source)
peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))
print(json.dumps({'read': read, 'peak_mb': int(peak.split()[1]) / 1024}))
'''


def read(path, count):
    done = subprocess.run([sys.executable, '-c', READ, str(path), str(count)], check=True,
                          capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs Linux')
@pytest.mark.parametrize(('storage', 'compression'), [('mcap', ''), ('mcap', 'lz4'),
                                                      ('sqlite3', '')])
def test_memory_does_not_follow_the_number_of_frames(storage, compression, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    with RawBagWriter(tmp_path / 'bag', storage=storage, compression=compression) as writer:
        number = writer.add(standard_channel('/cam/image', msgs.IMAGE))
        for n in range(700):  # 160 MB
            stamp = (n + 1) * 20_000_000
            message = msgs.make_image(picture, 'rgb8', stamp, 'c')
            writer.write(number, stamp, msgs.to_cdr(message, msgs.IMAGE))
    few, many = read(tmp_path / 'bag', 3), read(tmp_path / 'bag', 140)
    assert few['read'] == 3
    assert many['read'] > 130
    # Pages of a mapped SQLite file count as well; they are let go of at 128 MB.
    assert many['peak_mb'] < few['peak_mb'] + (150 if storage == 'sqlite3' else 30)


def test_a_benchmark_of_less_than_its_bar_says_so(tmp_path):
    script = Path(__file__).parents[2] / 'benchmarks' / 'bag_open.py'

    def run(size_gb):
        return subprocess.run([sys.executable, str(script), '--gb', size_gb, '--folder',
                               str(tmp_path)], capture_output=True, text=True)

    done = run('0.01')
    assert done.returncode == 0, done.stderr
    workload = json.loads(done.stdout)['workload']
    assert (workload['gb'], workload['counts_for_bar']) == (0.01, False)
    refused = run('1e9')
    assert refused.returncode == 2
    assert 'does not count for the bar' in ' '.join(refused.stderr.split())
    assert list(tmp_path.iterdir()) == []
