"""One small simulator for all tests of the street: a context costs more than a frame."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kd_perception.simulation.street import StreetSimulator
from kd_perception.simulation.world import build_world, World

SEED = 24


@pytest.fixture(scope='session')
def world() -> World:
    """Return the street that ``simulator`` drives along."""
    return build_world(SEED)


@pytest.fixture(scope='session')
def simulator() -> Iterator[StreetSimulator]:
    """Return a simulator of 320x180 in clear weather."""
    with StreetSimulator('clear', seed=SEED, width=320, height=180) as out:
        yield out
