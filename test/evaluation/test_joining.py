"""Events become rows: each frame once, each stray result once, whatever order they come in."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.evaluation.joining import (
    join_events,
    Published,
    Received,
    reordered_rows,
)

MS = 1_000_000


def events(n: int) -> tuple[list[Published], list[Received]]:
    published = [Published(arm, 100 + i, 'camera', i, i * 50 * MS, turn=t)
                 for i in range(n) for t, arm in enumerate('ab')]
    received = [Received(p.arm, p.stamp_ns, p.frame_id, p.published_ns + (10 + i % 7) * MS,
                         {'inference': float(i)}) for i, p in enumerate(published)]
    return published, received


def test_complete_stream():
    published, received = events(20)
    rows = join_events(published, received, patience_ms=100)
    assert len(rows) == 40
    assert {r.status for r in rows} == {'ok'}
    for row, event, result in zip(rows, published, received, strict=True):
        assert (row.arm, row.index, row.turn) == (event.arm, event.index, event.turn)
        assert row.received_ns == result.received_ns
        assert row.stages == result.stages


def test_losses_do_not_shift_later_frames():
    published, received = events(20)
    kept = [r for i, r in enumerate(received) if i not in (4, 5, 21)]
    order = np.random.default_rng(0).permutation(len(kept))
    rows = join_events(published, [kept[i] for i in order], patience_ms=100)
    assert [i for i, r in enumerate(rows) if r.status == 'lost'] == [4, 5, 21]
    for i, row in enumerate(rows):
        if row.status == 'ok':
            assert row.stages == {'inference': float(i)}


def test_late_duplicate_and_unknown():
    published, received = events(3)
    slow = Received('a', 102, 'camera', published[4].published_ns + 150 * MS)
    again = Received('b', 100, 'camera', received[1].received_ns + 1)
    stray = Received('a', 999, 'camera', 5)
    foreign = Received('c', 100, 'camera', 5)
    results = [again, *received[:4], slow, received[5], stray, foreign]
    rows = join_events(published, results, patience_ms=100)
    assert [(r.arm, r.index, r.status) for r in rows] == [
        ('a', 0, 'ok'), ('b', 0, 'ok'), ('b', 0, 'duplicate'), ('a', 1, 'ok'), ('b', 1, 'ok'),
        ('a', 2, 'late'), ('b', 2, 'ok'), ('a', -1, 'unknown'), ('c', -1, 'unknown')]
    assert rows[5].latency_ms == 150.0
    assert rows[2].received_ns > rows[1].received_ns
    assert rows[-1].latency_ms is None


@pytest.mark.parametrize('stamp', [0, 77])
def test_a_stamp_published_twice_is_never_matched(stamp):
    published = [Published('a', stamp, 'camera', i, i * MS) for i in range(2)]
    results = [Received('a', stamp, 'camera', 10 * MS)]
    rows = join_events(published, results, patience_ms=100)
    assert [r.status for r in rows] == ['ambiguous', 'ambiguous', 'unknown']


def test_a_result_from_before_its_frame_answers_another_one():
    """A recording that begins again bears the stamps of its last pass."""
    published = [Published('a', 5, 'camera', 0, 100 * MS)]
    old, right = (Received('a', 5, 'camera', t * MS) for t in (99, 112))
    rows = join_events(published, [right, old], patience_ms=100)
    assert [(r.status, r.latency_ms) for r in rows] == [('ok', 12.0), ('unknown', None)]
    rows = join_events(published, [old], patience_ms=100)
    assert [r.status for r in rows] == ['lost', 'unknown']


def test_reordered_are_those_that_were_overtaken():
    """Frame 1 comes after 2 and 3, frame 4 after 5; arm b keeps its order all the while."""
    published = [Published(arm, i, 'camera', i, i * 10 * MS) for i in range(6) for arm in 'ab']
    arrival = {0: 5, 1: 45, 2: 25, 3: 35, 4: 60, 5: 55}
    received = [Received('a', i, 'camera', t * MS) for i, t in arrival.items()]
    received += [Received('b', i, 'camera', (i * 10 + 9) * MS) for i in range(6)]
    received.append(Received('a', 0, 'camera', 70 * MS))  # a duplicate is not reordered
    rows = join_events(published, received, patience_ms=100)
    assert [(r.arm, r.index) for r in reordered_rows(rows)] == [('a', 1), ('a', 4)]
    for row in rows:
        if row.arm == 'a' and row.status == 'ok':
            assert row.received_ns == arrival[row.index] * MS
