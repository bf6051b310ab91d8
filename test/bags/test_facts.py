"""What is told of a recording."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kd_perception.bags import messages as msgs
from kd_perception.bags.facts import bag_facts, intervals
from kd_perception.bags.reader import BagReader
from kd_perception.bags.sampling import Sampling
from kd_perception.cli.main import main

SECOND = 1_000_000_000
CLOCK = 'rosgraph_msgs/msg/Clock'


def at(*seconds):
    return (np.array(seconds) * 1e9).astype(np.int64)


def test_intervals():
    regular = np.arange(100) * 0.1
    assert intervals(at(*regular)) == {'period_ms': 100.0, 'gaps': 0, 'longest_gap_s': 0.1,
                                       'dropped_estimate': 0}
    lost = np.delete(regular, [20, 50, 51])
    assert intervals(at(*lost)) == {'period_ms': 100.0, 'gaps': 2, 'longest_gap_s': 0.3,
                                    'dropped_estimate': 3}
    # Late, then in a bunch: nothing is lost.
    late = regular.copy()
    late[30:33] = late[32]
    assert intervals(at(*late))['dropped_estimate'] == 0
    # Jitter is no loss either.
    jitter = regular + np.random.default_rng(0).uniform(-0.03, 0.03, 100)
    assert intervals(at(*np.sort(jitter)))['dropped_estimate'] <= 1
    assert intervals(at(1.0)) == {'period_ms': None, 'gaps': 0, 'longest_gap_s': None,
                                  'dropped_estimate': None}
    assert intervals(np.zeros(9, np.int64))['period_ms'] is None
    # Written five at once, every 0.3 s: 13 microseconds are no rate at which 65,000 are missing.
    bunched = np.concatenate([n * 0.3 + np.arange(5) * 13e-6 for n in range(3)])
    assert intervals(at(*bunched)) == {'period_ms': None, 'gaps': 0, 'longest_gap_s': 0.299948,
                                       'dropped_estimate': None}


@pytest.fixture
def simulated(write_messages, picture):
    """Return a recording of ten frames of simulated time with its clock."""
    types = msgs.standard_types().types
    rows = []
    for n in range(10):
        log_ns = 1_700_000_000 * SECOND + n * SECOND // 10
        clock = types[CLOCK](clock=types[msgs.TIME](sec=5, nanosec=n * 100_000_000))
        rows += [('/clock', CLOCK, clock, log_ns),
                 ('/cam/image', msgs.IMAGE,
                  msgs.make_image(picture(n // 5), 'rgb8', 5 * SECOND + n * SECOND // 10, 'c'),
                  log_ns)]
    return write_messages(rows)


def test_simulated_time_is_told(simulated, capsys):
    with BagReader(simulated) as reader:
        facts = bag_facts(reader, Sampling(motion=1.0))
    assert facts['clock'] == {'topic': '/clock', 'start_s': 5.0, 'end_s': 5.9,
                              'stamps': {'/cam/image': 'another clock'}}
    assert facts['taken'] == {'/cam/image': 2}
    assert facts['storage'] == 'sqlite3'
    assert main(['bag', 'info', str(simulated), '--motion', '1']) == 0
    said = capsys.readouterr().out
    assert 'clock        simulated time on /clock, 5.0 to 5.9 s' in said
    assert 'stamps       /cam/image: of another clock' in said
    assert 'taken        2 of 10 frames of /cam/image' in said


def test_the_form_stays(labelled_bag, capsys):
    """Others read this JSON: a key that changes needs another schema_version."""
    assert main(['bag', 'info', '--json', str(labelled_bag)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['schema_version'] == 1
    assert list(facts) == [
        'schema_version', 'path', 'storage', 'compression', 'ros_distro', 'files', 'size_bytes',
        'start_ns', 'end_ns', 'duration_s', 'fingerprint', 'messages', 'unfinished', 'topics',
        'camera_topics', 'label_topics', 'label_classes', 'clock', 'warnings']
    assert list(facts['topics'][0]) == [
        'name', 'type', 'count', 'rate_hz', 'encoding', 'width', 'height', 'period_ms', 'gaps',
        'longest_gap_s', 'dropped_estimate']
    assert facts['files'] == [{'name': 'labelled_0.mcap', 'size_bytes': facts['size_bytes']}]
    assert facts['clock']['stamps'] == {'/camera/image': 'as logged'}
