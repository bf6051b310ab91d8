"""
Unit meshes of the street, low in polygons, as indexed triangles.

Out come float32 vertices ``[V, 6]`` (position, normal) of size about one, and int32 indices. Each
mesh has a near form and, where roundness costs, a far form for objects that cover few pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class MeshId(IntEnum):
    """The meshes that instances refer to."""

    BOX = 0
    CABIN = 1
    SPHERE = 2
    CYLINDER = 3
    WHEEL = 4
    DISC = 5
    TRIANGLE = 6
    CONE = 7
    ROOF = 8


@dataclass(frozen=True)
class Mesh:
    """
    Indexed triangles, counter-clockwise as seen from outside (the other side is not drawn).

    :param vertices: float32 ``[V, 6]``: x, y, z and the unit normal.
    :param indices: int32 ``[3 T]``.
    """

    vertices: np.ndarray
    indices: np.ndarray


def meshes(far: bool = False) -> dict[MeshId, Mesh]:
    """Return the unit meshes; with ``far`` those that have a cheaper form for the distance."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, 8)
    if far:
        coarse = angles[[0, 2, 5, 7]]
        triangles = {
            MeshId.SPHERE: _lathe(np.cos(coarse), np.sin(coarse), 7),
            MeshId.CYLINDER: _lathe([1, 1], [-.5, .5], 5),
            MeshId.WHEEL: _lathe([0, 1, 1, 0], [-.5, -.5, .5, .5], 7, axis=1),
        }
    else:
        triangles = {
            MeshId.BOX: _hexahedron(),
            MeshId.CABIN: _hexahedron(top=(.62, .82), shift=-.02),
            MeshId.SPHERE: _lathe(np.cos(angles), np.sin(angles), 12),
            MeshId.CYLINDER: _lathe([0, 1, 1, 0], [-.5, -.5, .5, .5], 10),
            MeshId.WHEEL: _lathe([0, 1, 1, 0], [-.5, -.5, .5, .5], 14, axis=1),
            MeshId.DISC: _lathe([0, 1, 1, 0], [-.5, -.5, .5, .5], 14, axis=0),
            MeshId.TRIANGLE: _lathe([0, 1, 1, 0], [-.5, -.5, .5, .5], 3, axis=0, start=np.pi / 2),
            MeshId.CONE: _lathe([0, 1, 0], [0, 0, 1], 10),
            MeshId.ROOF: _hexahedron(top=(1., .02)),
        }
    return {name: _indexed(t) for name, t in triangles.items()}


def _hexahedron(top: tuple[float, float] = (1., 1.), shift: float = 0.) -> np.ndarray:
    """Return a unit box as triangles ``[N, 6]``, its top face scaled by ``top`` in x and y."""
    lower = np.array([[-.5, -.5, -.5], [.5, -.5, -.5], [.5, .5, -.5], [-.5, .5, -.5]])
    upper = lower * [top[0], top[1], -1] + [shift, 0, 0]
    corners = np.vstack([lower, upper])
    faces = ((0, 3, 2, 1), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7))
    rows = []
    for face in faces:
        quad = corners[list(face)]
        normal = np.cross(quad[1] - quad[0], quad[3] - quad[0])
        normal /= np.linalg.norm(normal)
        rows += [np.r_[quad[i], normal] for i in (0, 1, 2, 0, 2, 3)]
    return np.array(rows)


def _lathe(radii: Sequence[float] | np.ndarray, heights: Sequence[float] | np.ndarray, sides: int,
           axis: int = 2, start: float = 0.) -> np.ndarray:
    """Return the profile turned about ``axis`` (0 x, 1 y, 2 z) as triangles ``[N, 6]``."""
    turn = start + np.linspace(0, 2 * np.pi, sides + 1)
    rows = []
    for low in range(len(radii) - 1):
        rise = heights[low + 1] - heights[low]
        flare = radii[low + 1] - radii[low]
        length = np.hypot(rise, flare)
        for side in range(sides):
            if sides == 3 and rise > 0:      # a prism has flat sides
                middle = (turn[side] + turn[side + 1]) / 2
                normal_at = (middle, middle)
            else:
                normal_at = (turn[side], turn[side + 1])
            for level, edge in ((0, 0), (0, 1), (1, 1), (0, 0), (1, 1), (1, 0)):
                radius, height = radii[low + level], heights[low + level]
                t, u = turn[side + edge], normal_at[edge]
                rows.append((radius * np.cos(t), radius * np.sin(t), height,
                             np.cos(u) * rise / length, np.sin(u) * rise / length,
                             -flare / length))
    out = np.array(rows)
    if axis == 2:
        return out
    # A cyclic permutation keeps the triangles' orientation.
    order = [2, 0, 1] if axis == 0 else [1, 2, 0]
    return out[:, order + [3 + i for i in order]]


def _indexed(triangles: np.ndarray) -> Mesh:
    """Share equal vertices of triangles ``[N, 6]`` and drop triangles without area."""
    corners = triangles.reshape(-1, 3, 6)
    edges = corners[:, 1:, :3] - corners[:, :1, :3]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    kept = np.round(corners[area > 1e-9].reshape(-1, 6), 5)
    vertices, indices = np.unique(kept, axis=0, return_inverse=True)
    return Mesh(vertices.astype('f4'), indices.ravel().astype('i4'))
