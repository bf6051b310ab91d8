"""Places that are spread over frames."""

from __future__ import annotations

import pytest

from kd_perception.frames import evenly


@pytest.mark.parametrize(('total', 'count', 'expected'), [
    (10, 4, [0, 3, 6, 9]), (10, 1, [0]), (3, 9, [0, 1, 2]), (0, 4, []), (5, 0, [])])
def test_evenly(total: int, count: int, expected: list[int]) -> None:
    assert evenly(total, count) == expected
