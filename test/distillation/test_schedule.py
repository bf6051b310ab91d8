from __future__ import annotations

import pytest

from kd_perception.distillation.recipe_checks import SCHEDULES
from kd_perception.distillation.schedule import progress_fraction, rate_factor


@pytest.mark.parametrize('kind', SCHEDULES)
def test_rates_rise_to_one_and_then_never_rise(kind: str) -> None:
    rates = [rate_factor(kind, i / 1000, 0.1) for i in range(1001)]
    assert all(0 < r <= 1 for r in rates)
    assert max(rates) == pytest.approx(1)
    assert rates[:101] == sorted(rates[:101])
    assert rates[101:] == sorted(rates[101:], reverse=True)
    if kind != 'constant':
        assert rates[-1] <= 2e-3


def test_known_values() -> None:
    assert rate_factor('one_cycle', 0.0, 0.1) == pytest.approx(1 / 25)
    assert rate_factor('cosine', 0.5, 0.0) == pytest.approx(0.5, abs=1e-3)
    assert rate_factor('poly', 0.5, 0.0, power=2) == pytest.approx(0.25)
    assert rate_factor('cosine', 0.05, 0.1) == pytest.approx(0.5)
    assert rate_factor('constant', 0.0, 0.0) == 1


def test_progress_is_the_larger_of_steps_and_time() -> None:
    assert progress_fraction(50, 100, 10, 0) == 0.5
    assert progress_fraction(50, 100, 90, 100) == 0.9
    assert progress_fraction(50, 0, 30, 60) == 0.5
    assert progress_fraction(500, 100, 0, 0) == 1
