"""A stream with dropped, doubled and reordered frames: counted exactly, the estimate unbiased."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.evaluation.comparison import FrameRow
from kd_perception.evaluation.joining import join_events, Published, Received
from kd_perception.evaluation.statistics.paired import arm_statistics, pair_rows

MS = 1_000_000
FRAMES, SEEDS, SHARE, PERIOD_MS, TRUE_MS = 200, 60, 0.05, 33, 4.0


def faulty(seed: int) -> tuple[list[FrameRow], dict[str, dict[str, int]]]:
    """Return the rows of two arms, arm a slower by ``TRUE_MS``, and what was done to each arm."""
    rng = np.random.default_rng(seed)
    load = 30 + 8 * np.sin(np.arange(FRAMES) / 11 + rng.uniform(0, 6))  # both arms feel it
    published, received = [], []
    done = {}
    for arm, slower in (('a', TRUE_MS), ('b', 0.0)):
        latency = load + slower + rng.gamma(2.0, 2.0, FRAMES)
        kinds = rng.choice(4, FRAMES, p=(1 - 3 * SHARE, SHARE, SHARE, SHARE))
        latency[kinds == 3] += 2.5 * PERIOD_MS  # held up somewhere, so that others overtake it
        sent = np.arange(FRAMES) * PERIOD_MS
        arrived = sent + latency
        for i in range(FRAMES):
            published.append(Published(arm, i, 'camera', i, int(sent[i] * MS)))
            if kinds[i] == 1:
                continue
            received.append(Received(arm, i, 'camera', int(arrived[i] * MS)))
            if kinds[i] == 2:
                received.append(Received(arm, i, 'camera',
                                         int((arrived[i] + rng.uniform(0, 90)) * MS)))
        there = kinds != 1
        overtaken = sum(bool((arrived[i] > arrived[i + 1:][there[i + 1:]]).any())
                        for i in range(FRAMES) if there[i])
        done[arm] = {'lost': int((kinds == 1).sum()), 'duplicate': int((kinds == 2).sum()),
                     'reordered': overtaken}
    events = rng.permutation(len(received))
    return join_events(published, [received[i] for i in events], patience_ms=1e4), done


@pytest.fixture(scope='module')
def streams() -> list[tuple[list[FrameRow], dict[str, dict[str, int]]]]:
    return [faulty(seed) for seed in range(SEEDS)]


def test_every_fault_is_counted_exactly(streams):
    for rows, done in streams:
        for arm, counts in done.items():
            stats = arm_statistics(arm, rows)
            assert stats.status == {
                'ok': FRAMES - counts['lost'], 'late': 0, 'lost': counts['lost'],
                'ambiguous': 0, 'duplicate': counts['duplicate'], 'unknown': 0}
            assert stats.reordered == counts['reordered']
            assert stats.published == FRAMES
    assert sum(done['a']['reordered'] for _, done in streams) > SEEDS * FRAMES * SHARE / 2


def test_the_estimate_is_unbiased(streams):
    """The mean error over many streams is noise: pairing by order would be off by several ms."""
    errors = []
    for rows, done in streams:
        pairs, unpaired, ambiguous = pair_rows(rows, 'a', 'b')
        assert len(pairs) + unpaired == FRAMES
        assert unpaired <= done['a']['lost'] + done['b']['lost']
        assert ambiguous == 0
        saved = np.array([a.latency_ms - b.latency_ms for a, b in pairs])
        errors.append((saved.mean() - TRUE_MS, np.median(saved) - TRUE_MS))
    found = np.array(errors)
    standard_error = found.std(axis=0, ddof=1) / np.sqrt(SEEDS)
    assert (standard_error < 0.3).all()
    assert (abs(found.mean(axis=0)) < 3 * standard_error).all()
