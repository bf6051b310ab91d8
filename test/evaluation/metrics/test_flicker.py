"""Flicker: what reprojection matches, what is left out, and known shares."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.evaluation.comparison import FrameRow
from kd_perception.evaluation.metrics.flicker import (
    count_flicker,
    flicker_share,
    follow,
    Matches,
    movable,
    paired_flicker,
    reproject,
    REPROJECTED,
    SAME_PIXEL,
    stay,
    steady,
    View,
)
from kd_perception.evaluation.metrics.frame_detail import FrameDetail
from kd_perception.frames import CameraPlace

LENS = (20., 20., 16., 12.)
SIZE = (24, 32)


def view(depth: float | np.ndarray, eye=(0., 0., 0.), turn: float = 0.) -> View:
    cos, sin = np.cos(turn), np.sin(turn)
    rotation = np.array([[cos, 0., -sin], [0., 1., 0.], [sin, 0., cos]])
    return View(np.broadcast_to(np.asarray(depth, np.float32), SIZE),
                CameraPlace(rotation, np.array(eye)), LENS)


def shifts(matches: Matches) -> set[tuple[int, int]]:
    """Return by how many (rows, columns) pixels lay elsewhere before."""
    now, before = (np.stack(np.divmod(m, SIZE[1])) for m in (matches.now, matches.before))
    return set(map(tuple, (before - now).T.tolist()))


def test_a_camera_that_stands_matches_every_pixel_with_itself():
    found = reproject(view(10.), view(10.), stride=1)
    assert len(found.now) == SIZE[0] * SIZE[1]
    np.testing.assert_array_equal(found.now, found.before)
    assert len(reproject(view(10.), view(10.)).now) == SIZE[0] * SIZE[1] // 4


def test_a_camera_that_goes_right_saw_a_wall_farther_right_before():
    # 20 px focal length at 10 m: a metre is two pixels.
    found = reproject(view(10., eye=(1., 0., 0.)), view(10.), stride=1)
    assert shifts(found) == {(0, 2)}
    assert len(found.now) == SIZE[0] * (SIZE[1] - 2)


def test_the_sky_turns_but_has_no_parallax():
    sky = np.full(SIZE, np.inf)
    assert shifts(reproject(view(sky, eye=(3., 1., 2.)), view(sky), stride=1)) == {(0, 0)}
    turned = reproject(view(sky), view(sky, turn=np.arctan(3 / 20)), stride=1)
    middle = turned.before[turned.now == 12 * SIZE[1] + 16]
    assert middle.tolist() == [12 * SIZE[1] + 16 - 3]


def test_what_was_hidden_before_is_not_matched():
    post = np.full(SIZE, 20.)
    post[:, 10:14] = 5.
    ahead = reproject(view(20., eye=(1., 0., 0.)), view(post), stride=1)
    columns = np.unique(ahead.before % SIZE[1])
    assert set(columns) == set(range(1, 32)) - set(range(10, 14))


def test_what_lies_behind_the_camera_then_is_not_matched():
    assert len(reproject(view(1.), view(10., eye=(0., 0., 5.))).now) == 0


def test_only_one_and_the_same_class_that_stands_is_compared():
    truth, before = (np.zeros(SIZE, np.uint8) for _ in range(2))
    truth[0], before[0] = 1, 2        # another thing
    truth[1] = before[1] = 255        # nobody knows
    truth[2] = before[2] = 3          # a person
    kept = steady(stay(SIZE, 1), truth, before, movable(('road', 'x', 'y', 'person')))
    assert kept.now.min() == 3 * SIZE[1]
    assert len(kept.now) == (SIZE[0] - 3) * SIZE[1]


def test_flicker_counts_changes_not_errors():
    same = stay(SIZE, 1)
    mask = np.zeros(SIZE, np.uint8)
    other = mask.copy()
    other[:6] = 4
    assert count_flicker(same, mask, mask).tolist() == [0, 768]
    assert count_flicker(same, other, mask).tolist() == [192, 768]
    assert count_flicker(same, other, other).tolist() == [0, 768]  # wrong, but steady


def test_a_mask_that_is_right_never_flickers():
    rng = np.random.default_rng(0)
    truth, before = (rng.integers(0, 4, SIZE, dtype=np.uint8) for _ in range(2))
    kept = steady(reproject(view(10., eye=(1., 0., 0.)), view(10.), 1), truth, before)
    assert count_flicker(kept, truth, before)[0] == 0 < count_flicker(kept, truth, before)[1]


def test_flow_follows_what_moves():
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 255, (16, 24, 3), dtype=np.uint8),
                      np.ones((6, 6, 1), np.uint8))
    found = follow(np.roll(picture, 3, axis=1), picture)
    moved = found.before % 144 - found.now % 144
    assert np.median(moved) == -3
    assert (moved == -3).mean() > 0.5


def test_share_of_all_pairs_and_of_two_arms():
    rng = np.random.default_rng(1)
    counts = [np.array([rng.binomial(1000, 0.1), 1000]) for _ in range(40)]
    found = flicker_share('a', REPROJECTED, [*counts, np.array([0, 0])], resamples=300)
    assert (found.n, found.method, found.compared) == (40, REPROJECTED, 1000)
    assert found.share.estimate == pytest.approx(sum(c[0] for c in counts) / 40_000)
    assert found.share.low < found.share.estimate < found.share.high
    rows = [FrameRow(arm, i, 'c', i, 0, 1, detail=FrameDetail(flicker=c * [k, 1]))
            for arm, k in (('a', 1), ('b', 2)) for i, c in enumerate(counts)]
    pair = paired_flicker(rows, 'a', 'b', resamples=300)
    assert pair.difference.estimate == pytest.approx(found.share.estimate)
    assert flicker_share('b', SAME_PIXEL, counts, resamples=10).rows()[0]['method'] == SAME_PIXEL
    assert flicker_share('a', REPROJECTED, []) is None
    assert paired_flicker([], 'a', 'b') is None
