"""
The ground as strips along the street: road, kerbs, walks and terrain.

Comes in: the plan. Goes out: one mesh per strip; the vertex shader bends it along the street and
moves it with the camera in whole steps.
"""

from __future__ import annotations

import numpy as np

from kd_perception.simulation.meshes import Mesh
from kd_perception.simulation.parts import KERB_M
from kd_perception.simulation.plan import StreetPlan


def ground_meshes(plan: StreetPlan) -> list[tuple[str, Mesh]]:
    """Return (program, strip) for road, walks and terrain: vertices ``[V, 3]`` are s, d, z."""
    (left, right), (left_walk, right_walk) = plan.road, plan.walk
    beyond = [0., 25., 55., 115., 245.]
    out = [('road', _strip([-right, -2., 0., 2., left], 0.))]
    if plan.layout == 'highway':            # no kerb: the verge rises from the shoulder
        for sign, road in ((1, left), (-1, right)):
            out += [('terrain', _strip([sign * road, sign * (road + .5)], [0., KERB_M])),
                    ('terrain', _strip([sign * (road + .5 + w) for w in beyond], KERB_M))]
        return out
    for sign, road, walk in ((1, left, left_walk), (-1, right, right_walk)):
        top = road + .002               # the face of the kerb stands almost upright
        out += [('walk', _strip([sign * road, sign * top], [0., KERB_M])),
                ('walk', _strip([sign * top, sign * (road + walk)], KERB_M)),
                ('terrain', _strip([sign * (road + walk + w) for w in beyond], KERB_M))]
    return out


def _strip(lateral: list[float], height: float | list[float]) -> Mesh:
    """Return a strip along the street with edges at ``lateral`` metres, facing up."""
    if lateral[0] > lateral[-1]:
        lateral, height = lateral[::-1], height[::-1] if isinstance(height, list) else height
    s = np.r_[np.arange(-12, 80, 1.5), np.arange(80, 460, 4.)]
    d = np.array(lateral)
    grid_s, grid_d = np.meshgrid(s, d, indexing='ij')
    grid_z = np.broadcast_to(height, grid_s.shape)
    vertices = np.stack([grid_s, grid_d, grid_z], -1).reshape(-1, 3)
    row, column = np.meshgrid(np.arange(len(s) - 1), np.arange(len(d) - 1), indexing='ij')
    a = (row * len(d) + column).ravel()
    b = a + len(d)
    indices = np.stack([a, b, b + 1, a, b + 1, a + 1], -1).ravel()
    return Mesh(vertices.astype('f4'), indices.astype('i4'))
