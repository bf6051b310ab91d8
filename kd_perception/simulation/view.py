"""
Which instances a camera sees at a time, as rows ready for the GPU. Pure.

Comes in: a world, mover poses, a camera pose. Goes out: batches of one mesh and surface, sorted
from front to back, because that order spares the fragment shader hidden pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from kd_perception.simulation.camera import CameraModel, CameraPose
from kd_perception.simulation.meshes import MeshId
from kd_perception.simulation.motion import MoverPoses
from kd_perception.simulation.parts import Material
from kd_perception.simulation.plan import PERIOD_M
from kd_perception.simulation.world import World

BEHIND_M = 30.0          # things behind the camera may still cast shadows into the picture
AHEAD_M = 360.0
SHADOW_AHEAD_M = 95.0
FAR_FORM_M = 45.0        # for things up to a metre; farther for larger ones
SMALLEST_PX = 0.45
COLUMNS = 15             # place 3, size 3, yaw, pitch, material, variant, color 3, tag, id


class Surface(IntEnum):
    """Fragment shaders of instances, in the order in which they are best drawn."""

    PLAIN = 0
    SIGN = 1
    FACADE = 2
    FOLIAGE = 3


_SURFACE_OF = np.full(max(Material) + 1, Surface.PLAIN)
_SURFACE_OF[[Material.SIGN, Material.FACADE, Material.FOLIAGE]] = (
    Surface.SIGN, Surface.FACADE, Surface.FOLIAGE)


@dataclass(frozen=True)
class Batch:
    """
    Instances of one mesh and one surface.

    :param near, far: float32 ``[N, COLUMNS]`` by distance, to be drawn in the near or far form.
    :param shadow: float32 ``[K, COLUMNS]`` that may cast a shadow into the picture.
    """

    mesh: MeshId
    surface: Surface
    near: np.ndarray
    far: np.ndarray
    shadow: np.ndarray


def visible(world: World, poses: MoverPoses, camera: CameraModel,
            pose: CameraPose) -> list[Batch]:
    """Return what to draw, in order; positions are wrapped to where the camera is."""
    table, plan = world.instances, world.plan
    moving = table.mover >= 0
    who = table.mover[moving]
    s, d, yaw, pitch = (table.place[:, 0].copy(), table.place[:, 1].copy(), table.yaw.copy(),
                        table.tilt.copy())
    s[moving], d[moving], yaw[moving] = poses.s[who], poses.d[who], poses.yaw[who]
    pitch[moving] += table.swing[moving] * np.sin(poses.stride[who])
    along = (s - pose.s + BEHIND_M + 10.) % PERIOD_M - BEHIND_M - 10.
    kept = np.flatnonzero(along < AHEAD_M + 20.)
    s, d, yaw, pitch = pose.s + along[kept], d[kept], yaw[kept], pitch[kept]

    forward, left = table.offset[kept].T
    h = plan.heading(s)
    turned = d + forward * np.sin(yaw) + left * np.cos(yaw)
    ahead = forward * np.cos(yaw) - left * np.sin(yaw)
    x = s + ahead * np.cos(h) - turned * np.sin(h)
    y = plan.lateral(s) + ahead * np.sin(h) + turned * np.cos(h)

    size = table.size[kept]
    rows = np.empty((len(kept), COLUMNS), np.float32)
    rows[:, 0], rows[:, 1], rows[:, 2] = x, y, table.place[kept, 2]
    lower = np.flatnonzero(moving[kept])
    rows[lower, 2] -= poses.sink[table.mover[kept[lower]]]
    rows[:, 3:6] = size
    rows[:, 6], rows[:, 7] = yaw + h, pitch
    rows[:, 8:13], rows[:, 13:15] = table.look[kept], table.ids[kept]
    lamps = np.flatnonzero(table.look[kept, 0] == Material.BRAKE)
    rows[lamps, 9] = poses.brake[table.mover[kept[lamps]]]

    dx, dy = x - pose.eye[0], y - pose.eye[1]
    cos, sin = np.cos(pose.heading), np.sin(pose.heading)
    depth, aside = dx * cos + dy * sin, np.abs(dy * cos - dx * sin)
    radius = size.max(axis=1)
    tangent = camera.tangents[0]
    in_view = ((depth > -radius) & (depth < AHEAD_M)
               & (aside - radius * 1.3 < np.maximum(depth, 0.) * tangent + 2.)
               & (radius * camera.fx > SMALLEST_PX * depth))
    casts = (depth > -BEHIND_M) & (depth < SHADOW_AHEAD_M) & (aside - radius < 55.) & (
        radius > .15)
    group = _SURFACE_OF[table.look[kept, 0].astype(int)] * len(MeshId) + table.mesh[kept]
    coarse = depth > FAR_FORM_M * np.maximum(radius, 1.)
    order = np.argsort(depth, kind='stable')
    out = []
    for key in np.unique(group):
        mine = order[group[order] == key]
        seen = mine[in_view[mine]]
        out.append(Batch(
            mesh=MeshId(key % len(MeshId)), surface=Surface(key // len(MeshId)),
            near=rows[seen[~coarse[seen]]], far=rows[seen[coarse[seen]]],
            shadow=rows[mine[casts[mine]]]))
    return out
