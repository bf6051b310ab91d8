"""
Mutated recordings: frames or one line, in bounded memory.

A few here; all with ``KD_PERCEPTION_FUZZ_BAGS=500``, or any number with ``tools/fuzz_bags.py``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'fuzz_bags.py'
CASES = int(os.environ.get('KD_PERCEPTION_FUZZ_BAGS', '40'))


def fuzz(cases, seed, *recordings):
    done = subprocess.run(
        [sys.executable, str(TOOL), '--cases', str(cases), '--seed', str(seed),
         *map(str, recordings)], capture_output=True, text=True, timeout=170 + cases)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_mutated_recordings():
    said = fuzz(CASES, 1)
    assert said['failures'] == 0
    assert sum(said['outcomes'].values()) == CASES
    # Neither does everything pass nor nothing: the mutations reach what is read.
    assert said['outcomes']['refused'] > CASES / 20
    assert said['outcomes']['read with complaints'] > CASES / 20


@pytest.mark.skipif('KD_PERCEPTION_FUZZ_BAGS' not in os.environ,
                    reason='set KD_PERCEPTION_FUZZ_BAGS=500')
def test_mutated_recordings_of_others(test_data):
    said = fuzz(CASES, 2, *sorted((test_data / 'bags').iterdir()))
    assert said['failures'] == 0
    assert sum(said['outcomes'].values()) == CASES
