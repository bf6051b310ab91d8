from __future__ import annotations

import dataclasses

import numpy as np

from kd_perception.simulation.camera import CameraModel
from kd_perception.simulation.motion import camera_pose, poses
from kd_perception.simulation.plan import PERIOD_M
from kd_perception.simulation.view import Batch, COLUMNS, Surface, visible
from kd_perception.simulation.world import World

CAMERA = CameraModel.from_fov(320, 180)


def batches_at(world: World, time_s: float) -> list[Batch]:
    return visible(world, poses(world.movers, time_s), CAMERA, camera_pose(world.plan, time_s))


def drawn(batches: list[Batch]) -> np.ndarray:
    return np.concatenate([r for b in batches for r in (b.near, b.far)])


def test_whatever_has_its_centre_in_the_picture_is_drawn(world):
    time_s = 17.
    pose = camera_pose(world.plan, time_s)
    rows = {tuple(r[:3].round(3)) for r in drawn(batches_at(world, time_s))}
    table = world.instances
    fixed = (table.mover < 0) & (table.offset == 0).all(axis=1)
    s = table.place[fixed, 0]
    s = pose.s + (s - pose.s + 50.) % PERIOD_M - 50.
    x, y = world.plan.world(s, table.place[fixed, 1])
    points = np.stack([x, y, table.place[fixed, 2], np.ones(len(x))])
    right, up, back = (pose.view() @ points)[:3]
    ahead = -back
    inside = ((ahead > 1) & (ahead < 300) & (np.abs(right) < ahead * CAMERA.tangents[0])
              & (np.abs(up) < ahead * CAMERA.tangents[1])
              & (table.size[fixed].max(axis=1) * CAMERA.fx > ahead))
    assert inside.sum() > 50
    missing = [p for p in points[:3, inside].T if tuple(p.astype('f4').round(3)) not in rows]
    assert len(missing) == 0


def test_things_behind_are_not_drawn_but_may_cast_shadows(world):
    time_s = 17.
    pose = camera_pose(world.plan, time_s)
    batches = batches_at(world, time_s)
    rows = drawn(batches)
    ahead = (rows[:, :2] - pose.eye[:2]) @ pose.forward[:2]
    assert (ahead > -rows[:, 3:6].max(axis=1) - .1).all()
    shadow = np.concatenate([b.shadow for b in batches])
    behind = (shadow[:, :2] - pose.eye[:2]) @ pose.forward[:2] < -15
    assert behind.any()


def test_rows_are_finite_sorted_from_the_front_and_many(world):
    pose = camera_pose(world.plan, 40.)
    batches = batches_at(world, 40.)
    assert len(drawn(batches)) > 800
    for batch in batches:
        for rows in (batch.near, batch.far, batch.shadow):
            assert rows.dtype == np.float32
            assert rows.shape[1] == COLUMNS
            assert np.isfinite(rows).all()
        depth = (batch.near[:, :2] - pose.eye[:2]) @ [np.cos(pose.heading),
                                                      np.sin(pose.heading)]
        assert (np.diff(depth) > -1e-2).all()
    surfaces = [b.surface for b in batches]
    assert surfaces == sorted(surfaces)
    assert set(surfaces) == set(Surface)


def test_the_street_looks_the_same_one_round_later(world):
    here = camera_pose(world.plan, 10.)
    there = dataclasses.replace(here, s=here.s + PERIOD_M, eye=here.eye + [PERIOD_M, 0, 0])
    still = poses(world.movers, 10.)
    a, b = (drawn(visible(world, still, CAMERA, p)) for p in (here, there))
    assert len(a) == len(b)
    assert np.allclose(a[:, 0] + PERIOD_M, b[:, 0], atol=1e-2)
    assert np.allclose(a[:, 1:], b[:, 1:], atol=1e-2)
