from __future__ import annotations

import zlib

import numpy as np
import pytest

from kd_perception.errors import ConfigError
from kd_perception.tasks.label_packing import (
    pack_ids,
    pack_planes,
    unpack_ids,
    unpack_planes,
    winners,
)


@pytest.mark.parametrize('shape', [(1, 1, 1), (3, 5, 7), (12, 90, 120)])
def test_planes_come_back_to_the_bit(shape: tuple[int, int, int]) -> None:
    planes = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(unpack_planes(pack_planes(planes), shape), planes)


def test_smooth_planes_become_small() -> None:
    rows, columns = np.mgrid[:90, :120]
    planes = np.stack([(rows // (k + 2) + columns // 7) % 64 for k in range(8)]).astype(np.uint8)
    assert pack_planes(planes).nbytes < planes.nbytes / 3


def test_ids_come_back_to_the_bit() -> None:
    ids = np.random.default_rng(0).integers(0, 20, (13, 17), np.uint8)
    back = unpack_ids(pack_ids(ids[:, ::-1]), (13, 17))
    np.testing.assert_array_equal(back, ids[:, ::-1])


def test_what_claims_too_much_is_not_unpacked() -> None:
    bomb = np.frombuffer(zlib.compress(bytes(50_000_000)), np.uint8)
    assert unpack_ids(bomb, (10, 10)).shape == (10, 10)  # and no more than that is in memory
    with pytest.raises(ConfigError, match='are no ids'):
        unpack_ids(np.arange(9, dtype=np.uint8), (3, 3))


def test_winners_are_the_arg_max() -> None:
    logits = np.random.default_rng(1).normal(size=(9, 20, 30)).astype(np.float32)
    logits[4, :3] = logits[2, :3]  # the first wins a tie
    np.testing.assert_array_equal(winners(logits), logits.argmax(0))
