from __future__ import annotations

import threading

import pytest

from kd_perception.evaluation.read_ahead import read_ahead


def test_values_come_in_order_from_one_other_thread() -> None:
    threads = set()

    def read(position: int) -> int:
        threads.add(threading.get_ident())
        return position * position

    assert list(read_ahead(read, range(20))) == [i * i for i in range(20)]
    assert list(read_ahead(read, range(2), depth=5)) == [0, 1]
    assert threading.get_ident() not in threads


def test_reads_no_further_ahead_than_asked() -> None:
    seen: list[int] = []
    stream = read_ahead(lambda p: seen.append(p) or p, range(100), depth=3)
    next(stream)
    stream.close()
    assert len(seen) <= 5


def test_an_error_comes_where_its_value_would_have_come() -> None:
    def read(position: int) -> int:
        if position == 2:
            raise ValueError('two')
        return position

    stream = read_ahead(read, range(10))
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(ValueError, match='two'):
        next(stream)
