from __future__ import annotations

import pytest

from kd_perception.distillation.losses import build_losses, loss_kinds
from kd_perception.distillation.losses.loss import FEATURES
from kd_perception.errors import ConfigError


def test_every_loss_is_documented_and_has_sensible_defaults() -> None:
    for name, kind in loss_kinds().items():
        # Which layers to compare nobody can guess.
        needed = {'layers': {'a': 'b'}} if kind.looks_at == FEATURES else {}
        loss = build_losses({name: needed})[name]
        assert loss.weight == 1
        assert loss.active(0.0)
        assert loss.active(1.0)
        assert len((kind.__doc__ or '').split()) > 3
        assert kind.__module__.split('.')[-1] != 'loss'


@pytest.mark.parametrize(('settings', 'message'), [
    ({'kll': {}}, 'distillation.losses.kll: no such loss; did you mean kl'),
    ({'kl': {'temprature': 1}}, 'distillation.losses.kl.temprature: unknown key; did you mean '),
    ({'kl': {'temperature': 0}}, 'distillation.losses.kl.temperature: 0 is not within'),
    ({'kl': {'weight': float('nan')}}, 'distillation.losses.kl.weight: nan is not within'),
    ({'kl': {'start': 0.5, 'end': 0.5}}, 'distillation.losses.kl.end: 0.5 is no later'),
    ({'kl': {'start': 0.7, 'end': 0.5}}, 'distillation.losses.kl.start: 0.7 is not within'),
    ({'kl': 3}, 'distillation.losses.kl: must be a mapping'),
    ({'kl': {'weight': 0}}, 'leaves nothing to learn'),
    ({'kl': None}, 'leaves nothing to learn'),
    ({'kl': {'end': 0.5}}, 'distillation.losses: none counts from 0.5 to 1 of the run'),
    ({'kl': {'start': 0.1}, 'mse': {'weight': 0}}, 'none counts from 0 to 0.1 of the run'),
    ({'kl': {'end': 0.3}, 'mse': {'start': 0.6}, 'dist': {'end': 0.4}}, 'from 0.4 to 0.6 of'),
])
def test_what_makes_no_sense_is_refused_in_one_line(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_losses(settings)
    assert '\n' not in str(caught.value)


def test_null_takes_a_loss_out() -> None:
    assert set(build_losses({'kl': None, 'cross_entropy': {}})) == {'cross_entropy'}


def test_phases_may_follow_each_other() -> None:
    assert len(build_losses({'mse': {'start': 0.2, 'end': 0.6}, 'kl': {'end': 0.2},
                             'dist': {'start': 0.5}})) == 3
