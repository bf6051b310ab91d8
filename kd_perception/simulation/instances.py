"""
Instances of a picture as a table: class, distance, visible share, 2-D boxes.

Comes in: the rows that were drawn, camera and pose, the id image. Goes out: ``InstanceRows``. The
whole outline of a thing is the union of the convex hulls of its projected meshes, which are all
convex, sampled at pixel centres as the rasteriser does. Pure; no OpenGL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from kd_perception.simulation.camera import CameraModel, CameraPose, NEAR_M
from kd_perception.simulation.meshes import meshes, MeshId
from kd_perception.simulation.view import Batch

# Outlines up to so many pixels, sub-pixels per pixel and axis; odd, so that one is in the middle.
FINE = ((64, 9), (200, 5))
LARGEST_PX = 4096.


@dataclass(frozen=True)
class SceneGeometry:
    """What was drawn for one picture, and what is special about it."""

    batches: Sequence[Batch]
    camera: CameraModel
    pose: CameraPose
    roles: dict[int, str]


@dataclass(frozen=True)
class InstanceRows:
    """
    N instances that cover at least one pixel, by id.

    :param ids: uint16 ``[N]``; ``tags``: uint8 ``[N]`` CARLA tags.
    :param positions: float ``[N, 3]`` of the middle of the thing in the camera's optical frame:
        metres right, down and ahead.
    :param pixels: int ``[N]`` that can be seen; ``visible``: float ``[N]`` their share of what
        would be seen in the picture if nothing stood before it.
    :param boxes: int ``[N, 4]`` left, top, right, bottom of the seen pixels, right and bottom
        exclusive; ``full_boxes``: the same of the whole outline within the picture.
    :param truncated: bool ``[N]``, whether the outline touches the picture's edge.
    :param roles: what is special: ``poster_person``, ``poster_car``, ``van_picture``,
        ``mannequin``, ``statue``, ``reflection``, ``road_wall``, ``step_out``, ``crossing``,
        ``pulls_out``, ``cross_traffic``, or nothing.
    """

    ids: np.ndarray
    tags: np.ndarray
    positions: np.ndarray
    pixels: np.ndarray
    visible: np.ndarray
    boxes: np.ndarray
    full_boxes: np.ndarray
    truncated: np.ndarray
    roles: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def distance_m(self) -> np.ndarray:
        """Return ``[N]`` metres from the camera to the middle of the thing."""
        return np.linalg.norm(self.positions, axis=1)

    @property
    def names(self) -> list[str]:
        """Return each id with its role, as ``17`` or ``17 step_out``."""
        return [f'{i} {r}'.rstrip() for i, r in zip(self.ids, self.roles)]


def tabulate(scene: SceneGeometry, labels: np.ndarray, instances: np.ndarray) -> InstanceRows:
    """
    Return the table of one picture.

    :param labels: uint8 ``[H, W]`` tags; ``instances``: uint16 ``[H, W]`` ids, 0 for none.
    """
    ids, tags, pixels, boxes = _seen(labels, instances)
    count = len(ids)
    positions, share = np.zeros((count, 3)), np.ones(count)
    full, cut = boxes.copy(), np.zeros(count, bool)
    parts = _parts(scene, ids)
    for number, ident in enumerate(ids):
        mine = parts.get(int(ident))
        if mine is None:
            continue
        hulls, middle = mine
        positions[number] = scene.pose.axes() @ (middle - scene.pose.eye) * (1, -1, -1)
        outline = _outline(hulls, scene.camera)
        if outline is None:
            continue
        covered, box, cut[number] = outline
        share[number] = pixels[number] / max(covered, pixels[number])
        full[number] = np.r_[np.minimum(box[:2], boxes[number, :2]),
                             np.maximum(box[2:], boxes[number, 2:])]
    return InstanceRows(ids, tags, positions, pixels, share, boxes, full, cut,
                        tuple(scene.roles.get(int(i), '') for i in ids))


def _seen(labels: np.ndarray, instances: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return ids, tags, pixel counts and boxes of what the id image shows."""
    flat = np.flatnonzero(instances)
    found = instances.ravel()[flat]
    order = np.argsort(found, kind='stable')
    flat, found = flat[order], found[order]
    ids, first, pixels = np.unique(found, return_index=True, return_counts=True)
    if len(ids) == 0:
        return ids, ids.astype(np.uint8), pixels, np.zeros((0, 4), int)
    rows, columns = np.divmod(flat, instances.shape[1])
    boxes = np.stack([np.minimum.reduceat(columns, first), np.minimum.reduceat(rows, first),
                      np.maximum.reduceat(columns, first) + 1,
                      np.maximum.reduceat(rows, first) + 1], axis=1)
    return ids, labels.ravel()[flat[first]], pixels, boxes


def _parts(scene: SceneGeometry, wanted: np.ndarray) -> dict[int, tuple[list[np.ndarray],
                                                                        np.ndarray]]:
    """Return per id the camera-space corners ``[V, 3]`` of its parts and its middle ``[3]``."""
    to_camera = scene.pose.view()
    corners: dict[int, list[np.ndarray]] = {}
    spans: dict[int, list[np.ndarray]] = {}
    for batch in scene.batches:
        for rows, far in ((batch.near, False), (batch.far, True)):
            mine = rows[np.isin(rows[:, 14].round().astype(int), wanted)].astype(float)
            if len(mine) == 0:
                continue
            world = _placed(_corners(batch.mesh, far), mine)
            seen = world @ to_camera[:3, :3].T + to_camera[:3, 3]
            for ident, part, at in zip(mine[:, 14].round().astype(int), seen, world):
                corners.setdefault(int(ident), []).append(part)
                spans.setdefault(int(ident), []).append(np.stack([at.min(0), at.max(0)]))
    return {k: (v, np.array([np.min([s[0] for s in spans[k]], 0),
                             np.max([s[1] for s in spans[k]], 0)]).mean(0))
            for k, v in corners.items()}


@lru_cache(maxsize=32)
def _corners(mesh: MeshId, far: bool) -> np.ndarray:
    """Return the distinct corners ``[V, 3]`` of a unit mesh."""
    forms = meshes() | (meshes(far=True) if far else {})
    return np.unique(forms[mesh].vertices[:, :3].astype(float), axis=0)


def _placed(unit: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return world corners ``[R, V, 3]`` of instances, as ``object_vertex.glsl`` places them."""
    local = unit[None] * rows[:, None, 3:6]
    pitch, yaw = rows[:, 7, None], rows[:, 6, None]
    x = local[..., 0] * np.cos(pitch) + local[..., 2] * np.sin(pitch)
    z = -local[..., 0] * np.sin(pitch) + local[..., 2] * np.cos(pitch)
    y = local[..., 1]
    return np.stack([x * np.cos(yaw) - y * np.sin(yaw), x * np.sin(yaw) + y * np.cos(yaw), z],
                    -1) + rows[:, None, :3]


def _outline(parts: list[np.ndarray], camera: CameraModel) -> tuple[int, np.ndarray, bool] | None:
    """Return pixels, box and whether the edge is touched of the union of convex parts."""
    hulls = _hulls(parts, camera)
    if not hulls:
        return None
    everything = np.concatenate(hulls)
    size = np.array([camera.width, camera.height])
    low, high = everything.min(0), everything.max(0)
    cut = bool((low < 0).any() or (high > size).any())
    left, top = np.clip(np.floor(low), 0, size - 1).astype(int)
    right, bottom = np.clip(np.ceil(high), 1, size).astype(int)
    wide, tall = max(right - left, 1), max(bottom - top, 1)
    fine = next((f for most, f in FINE if max(wide, tall) <= most), 1)
    mask = np.zeros((tall * fine, wide * fine), np.uint8)
    for hull in hulls:
        # OpenCV's pixel centres are whole numbers; eight bits of fraction.
        points = ((hull - [left, top]) * fine - .5) * 256.
        cv2.fillConvexPoly(mask, points.round().astype(np.int32), 1, cv2.LINE_8, 8)
    mask = mask[fine // 2::fine, fine // 2::fine]
    covered = int(np.count_nonzero(mask))
    if covered == 0:
        return 0, np.array([left, top, right, bottom]), cut
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([left + columns[0], top + rows[0], left + columns[-1] + 1,
                    top + rows[-1] + 1])
    return covered, box, cut


def _hulls(parts: list[np.ndarray], camera: CameraModel) -> list[np.ndarray]:
    """Return the convex hull ``[K, 2]`` in pixels of each part that is seen."""
    seen = [p for part in parts if len(p := _in_front(part))]
    if not seen:
        return []
    points = np.concatenate(seen)       # a thing has many parts: they are projected together
    pixels = np.stack([camera.cx + camera.fx * points[:, 0] / -points[:, 2],
                       camera.cy - camera.fy * points[:, 1] / -points[:, 2]], 1)
    pixels = np.clip(pixels, -LARGEST_PX, 2 * LARGEST_PX).astype(np.float32)
    ends = np.cumsum([len(p) for p in seen])
    return [cv2.convexHull(pixels[end - len(p):end])[:, 0] for p, end in zip(seen, ends)]


def _in_front(part: np.ndarray) -> np.ndarray:
    """Return the corners of what lies before the camera of a part; the rest is cut off."""
    ahead = -part[:, 2]
    front = ahead > NEAR_M
    if front.all():
        return part
    points = part[front]
    if not len(points):
        return points
    # A convex solid cut by a plane: edges between both sides meet it in its hull.
    a, b = points[:, None], part[~front][None]
    share = (ahead[front][:, None] - NEAR_M) / (ahead[front][:, None] - ahead[~front][None])
    return np.concatenate([points, (a + share[..., None] * (b - a)).reshape(-1, 3)])
