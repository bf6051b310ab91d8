"""The soak benchmark in seconds: what it looks for must hold, and it must look."""

from __future__ import annotations

import json
from pathlib import Path
import shutil
import subprocess
import sys

import pytest

FOLDER = Path(__file__).resolve().parents[3] / 'benchmarks'


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs Linux')
def test_a_short_soak(bundles, tmp_path):
    pytest.importorskip('rclpy')
    for name, source in (('student', 'one'), ('other', 'two')):
        shutil.copytree(bundles / source, tmp_path / name)
    # Too short to say anything of memory.
    done = subprocess.run(
        [sys.executable, str(FOLDER / 'soak.py'), '--models', str(tmp_path), '--minutes', '0.06',
         '--every', '1.8', '--engine', 'onnxruntime', '--max-growth', '50'],
        capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])['workload']
    assert told['sent'] == told['received'] > 30
    assert told['failed']
    assert told['swaps'] == 2
    assert told['exit_codes'] == {'SIGINT': 0, 'SIGTERM': 0}
