"""
Instances: how the things of the street are put together from unit meshes.

``Builder`` collects rows; ``InstanceTable`` holds them as arrays, one row per drawn mesh. The
functions build one thing each at a place of the street and know nothing of the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from kd_perception.simulation.meshes import MeshId

Vector = Sequence[float] | np.ndarray
KERB_M = 0.14
STEEL = (.33, .34, .35)
DARK = (.05, .05, .06)


class Tag(IntEnum):
    """CARLA semantic tags (0.9.14 and later) that the worlds use."""

    ROAD = 1
    SIDEWALK = 2
    BUILDING = 3
    WALL = 4
    FENCE = 5
    POLE = 6
    TRAFFIC_LIGHT = 7
    TRAFFIC_SIGN = 8
    VEGETATION = 9
    TERRAIN = 10
    SKY = 11
    PEDESTRIAN = 12
    RIDER = 13
    CAR = 14
    TRUCK = 15
    BICYCLE = 19
    STATIC = 20
    ROAD_LINE = 24
    GROUND = 25
    BRIDGE = 26
    GUARD_RAIL = 28


class Material(IntEnum):
    """How the shader paints a surface; the numbers are known to object_fragment.glsl."""

    MATTE = 0
    FACADE = 1
    FOLIAGE = 2
    GLASS = 4
    EMISSIVE = 5
    METAL = 6
    SIGNAL = 7
    SIGN = 8
    BRAKE = 9


@dataclass(frozen=True)
class InstanceTable:
    """
    N mesh instances in street coordinates.

    :param mesh: int ``[N]`` of ``MeshId``.
    :param mover: int ``[N]``, row of the moving thing it belongs to, -1 for fixed ones.
    :param place: ``[N, 3]`` s, d, z in metres; s and d are unused for movers.
    :param offset: ``[N, 2]`` forward and left of the thing's own centre.
    :param size: ``[N, 3]``; ``yaw`` ``[N]`` against the street; ``tilt`` ``[N]`` radians that
        the top leans forward; ``swing`` ``[N]`` of limbs about it.
    :param look: ``[N, 5]`` material, variant, red, green, blue.
    :param ids: ``[N, 2]`` tag and instance id.
    """

    mesh: np.ndarray
    mover: np.ndarray
    place: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    yaw: np.ndarray
    swing: np.ndarray
    look: np.ndarray
    ids: np.ndarray
    tilt: np.ndarray

    def __len__(self) -> int:
        return len(self.mesh)


class Builder:
    """Collects instances; hands out instance ids from 1."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, ...]] = []
        self._ids = 0
        #: What is special about an instance, by id: ``poster_person``, ``step_out``, ...
        self.roles: dict[int, str] = {}

    def new_id(self, role: str = '') -> int:
        """Return the next instance id."""
        self._ids += 1
        if role:
            self.roles[self._ids] = role
        return self._ids

    def add(self, mesh: MeshId, place: Vector, size: Vector, color: Vector, tag: Tag, *,
            ident: int = 0, material: Material = Material.MATTE, variant: float = 0.,
            yaw: float = 0., offset: Vector = (0., 0.), swing: float = 0.,
            tilt: float = 0., mover: int = -1) -> None:
        """Add one mesh; see ``InstanceTable`` for the meaning of the arguments."""
        self._rows.append((mesh, mover, *place, *offset, *size, yaw, swing, material, variant,
                           *color, tag, ident, tilt))

    def table(self) -> InstanceTable:
        """Return all rows as arrays."""
        r = np.array(self._rows, np.float64).reshape(-1, 20)
        return InstanceTable(
            mesh=r[:, 0].astype(int), mover=r[:, 1].astype(int), place=r[:, 2:5],
            offset=r[:, 5:7], size=r[:, 7:10], yaw=r[:, 10], swing=r[:, 11], look=r[:, 12:17],
            ids=r[:, 17:19], tilt=r[:, 19])


def part_of(b: Builder, s: float, d: float, tag: Tag, *, yaw: float = 0., mover: int = -1,
          ident: int | None = None) -> Callable[..., None]:
    """Return a function that adds parts of one thing: mesh, forward, left, z, size, color."""
    number = b.new_id() if ident is None else ident

    def add(mesh: MeshId, forward: float, left: float, z: float, size: Vector, color: Vector,
            material: Material = Material.MATTE, variant: float = 0., swing: float = 0.,
            tilt: float = 0.) -> None:
        b.add(mesh, (s, d, z), size, color, tag, ident=number, material=material,
              variant=variant, yaw=yaw, offset=(forward, left), swing=swing, tilt=tilt,
              mover=mover)
    return add


def add_pedestrian(b: Builder, g: np.random.Generator, s: float, d: float, *, yaw: float,
                   mover: int, role: str = '') -> None:
    """Add a person, grown up or child, some with a bag."""
    scale = g.uniform(.62, .75) if g.uniform() < .12 else g.uniform(.88, 1.06)
    top, trousers = g.uniform(.05, .75, 3), g.uniform(.04, .35, 3)
    skin = np.array((.78, .58, .46)) * g.uniform(.45, 1.1)
    hair = ((.1, .07, .05), (.35, .24, .1), (.4, .4, .4), (.05, .05, .05))[g.integers(4)]
    wide = g.uniform(.9, 1.2)
    part = part_of(b, s, d, Tag.PEDESTRIAN, yaw=yaw, mover=mover, ident=b.new_id(role))

    def add(mesh: MeshId, forward: float, left: float, z: float, size: Vector, color: Vector,
            swing: float = 0.) -> None:
        part(mesh, forward * scale, left * scale, z * scale + KERB_M,
             np.asarray(size) * scale, color, swing=swing)

    skirt = g.uniform() < .2
    add(MeshId.SPHERE, 0, 0, 1.22, (.17 * wide, .23 * wide, .34), top)
    add(MeshId.SPHERE, 0, 0, 1.66, (.11, .1, .13), skin)
    add(MeshId.SPHERE, -.02, 0, 1.70, (.115, .105, .1), hair)
    if skirt:
        add(MeshId.CONE, 0, 0, .45, (.27, .27, .9), trousers)
    for side in (1, -1):
        add(MeshId.CYLINDER, 0, -.1 * side, .45, (.075, .085, .9), trousers, side * .45)
        add(MeshId.CYLINDER, 0, -.25 * side * wide, 1.15, (.05, .055, .62), top, -side * .4)
        add(MeshId.BOX, .06, -.1 * side, .04, (.26, .1, .09), (.05, .05, .05))
    if g.uniform() < .3:
        add(MeshId.BOX, -.2, 0, 1.25, (.16, .3, .42), g.uniform(.05, .5, 3))


def add_tree(b: Builder, g: np.random.Generator, s: float, d: float, conifers: float) -> None:
    """Add a broad-leaved tree, a poplar or a conifer; vegetation carries no instance id."""
    green = np.array((.10 + g.uniform(0, .12), .24 + g.uniform(0, .14), .06))
    if g.uniform() < .08:
        green = np.array((.36, .25, .07))     # autumn
    bark = (.25, .18, .12)
    z = KERB_M

    def add(mesh: MeshId, ds: float, dd: float, height: float, size: Vector, color: Vector,
            material: Material = Material.MATTE) -> None:
        b.add(mesh, (s + ds, d + dd, z + height), size, color, Tag.VEGETATION, material=material,
              variant=g.uniform())

    if g.uniform() < conifers:
        tall = g.uniform(4.5, 8.)
        add(MeshId.CYLINDER, 0, 0, .5, (.13, .13, 1.), bark)
        for level in range(3):
            radius = (1.5 - .4 * level) * tall / 7
            add(MeshId.CONE, 0, 0, .8 + level * tall * .24, (radius, radius, tall * .42),
                green * .7, Material.FOLIAGE)
        return
    trunk = g.uniform(2.2, 3.4)
    add(MeshId.CYLINDER, 0, 0, trunk / 2, (.14, .14, trunk), bark)
    if g.uniform() < .15:
        add(MeshId.SPHERE, 0, 0, trunk + 2., (1., 1., 3.1), green * .8, Material.FOLIAGE)
        return
    for ball in range(4):
        radius = g.uniform(.85, 1.4)
        spread = 0. if ball == 0 else .85     # the first one sits on the trunk
        add(MeshId.SPHERE, spread * g.uniform(-1, 1), spread * g.uniform(-.85, .85),
            trunk + .4 + 1.8 * spread * g.uniform(0, 1), (radius, radius, radius * .85), green,
            Material.FOLIAGE)


def add_building(b: Builder, g: np.random.Generator, s: float, side: int, front: float,
                 length: float, height: float, gabled: bool, color: np.ndarray) -> None:
    """Add a house whose front stands ``front`` metres from the centre line."""
    depth = g.uniform(9., 14.)
    place = (s + length / 2, side * (front + depth / 2))

    def add(mesh: MeshId, z: float, size: Vector, paint: Vector, d: float = place[1],
            material: Material = Material.MATTE, variant: float = 0., ds: float = 0.) -> None:
        b.add(mesh, (place[0] + ds, d, z), size, paint, Tag.BUILDING, material=material,
              variant=variant)

    add(MeshId.BOX, height / 2, (length, depth, height), color, material=Material.FACADE,
        variant=g.uniform())
    if gabled:
        rise = g.uniform(2., 3.6)
        tiles = np.array(((.45, .17, .11), (.25, .24, .26), (.36, .22, .16))[g.integers(3)])
        add(MeshId.ROOF, height + rise / 2, (length + .5, depth + .8, rise), tiles)
        if g.uniform() < .5:
            add(MeshId.BOX, height + rise * .8, (.6, .6, rise), color * .6,
                d=place[1] + side * .8, ds=g.uniform(-.3, .3) * length)
    else:
        add(MeshId.BOX, height + .2, (length + .4, depth + .4, .4), color * .7)
        if g.uniform() < .4:
            add(MeshId.BOX, height + 1., (length * .3, depth * .3, 2.), color * .5)
    face = side * (front - .05)
    if g.uniform() < .6:
        add(MeshId.BOX, 1.5, (length * .8, .3, 2.6), (.12, .15, .18), d=face,
            material=Material.GLASS)
        if g.uniform() < .5:
            add(MeshId.BOX, 3., (length * .82, 1.3, .15), g.uniform(.1, .7, 3),
                d=side * (front - .6))
    else:
        add(MeshId.BOX, 1.2, (1.3, .2, 2.4), color * .35, d=face,
            ds=g.uniform(-.3, .3) * length)
    if height > 8 and g.uniform() < .35:
        ds = g.uniform(-.25, .25) * length
        for floor in range(1, int(height / 3)):
            add(MeshId.BOX, 3. * floor + .6, (2.6, 1.1, 1.), color * .8,
                d=side * (front - .5), ds=ds)


def add_lamp(b: Builder, s: float, d: float, side: int, reach: float) -> None:
    """Add a street lamp at ``d`` whose arm reaches ``reach`` metres over the road."""
    add = part_of(b, s, d, Tag.POLE)
    add(MeshId.CYLINDER, 0, 0, 3.6, (.085, .085, 7.2), STEEL)
    add(MeshId.BOX, 0, -side * reach / 2, 7.1, (.12, reach, .1), STEEL)
    add(MeshId.BOX, 0, -side * reach, 7.06, (.2, .55, .12), (.8, .76, .62), Material.EMISSIVE)


def add_sign(b: Builder, g: np.random.Generator, s: float, d: float, side: int) -> None:
    """Add one or two traffic signs on a post; they face the traffic of their side."""
    yaw = 0. if side < 0 else np.pi
    post = part_of(b, s, d, Tag.POLE)
    tall = g.uniform(2.5, 2.8)
    post(MeshId.CYLINDER, 0, 0, tall / 2 + .2, (.04, .04, tall + .3), (.5, .5, .5))
    height = tall
    for _ in range(2 if g.uniform() < .35 else 1):
        add = part_of(b, s, d, Tag.TRAFFIC_SIGN, yaw=yaw)
        variant = g.uniform()
        kind = g.choice(4, p=[.4, .2, .25, .15])
        red, blue, yellow = (.75, .05, .05), (.05, .15, .55), (.85, .7, .05)
        if kind == 0:
            add(MeshId.DISC, -.06, 0, height, (.04, .34, .34), red, Material.SIGN, variant)
        elif kind == 1:
            add(MeshId.TRIANGLE, -.06, 0, height - .05, (.04, .46, .46), red, Material.SIGN,
                .3 + .35 * variant)
        elif kind == 2:
            add(MeshId.BOX, -.06, 0, height, (.04, .62, .62), blue if variant > .3 else yellow,
                Material.SIGN, .65 + .35 * variant)
        else:
            color = ((.05, .35, .15), blue, (.9, .9, .88))[g.integers(3)]
            add(MeshId.BOX, -.06, 0, height, (.04, 1.25, .6), color)
            add(MeshId.BOX, -.09, 0, height + .1, (.02, .9, .09), (.95, .95, .95)
                if color[0] < .5 else DARK)
            add(MeshId.BOX, -.09, .1, height - .12, (.02, .7, .09), (.95, .95, .95)
                if color[0] < .5 else DARK)
        height -= .82


def add_traffic_light(b: Builder, s: float, d: float, side: int, reach: float, phase: float,
                      board: bool) -> None:
    """Add a post with one head beside the road and one on an arm over the lane."""
    yaw = 0. if side < 0 else np.pi
    post = part_of(b, s, d, Tag.POLE)
    post(MeshId.CYLINDER, 0, 0, 2.9, (.08, .08, 5.8), (.22, .22, .23))
    post(MeshId.BOX, 0, -side * reach / 2, 5.7, (.1, reach, .1), (.22, .22, .23))
    for left, height in ((0., 3.1), (-side * reach, 5.3)):
        add = part_of(b, s, d, Tag.TRAFFIC_LIGHT, yaw=yaw)
        own = left * (1 if side < 0 else -1)      # the offset is turned with the head
        add(MeshId.BOX, -.2, own, height, (.26, .34, 1.02), (.06, .06, .06))
        if board:
            add(MeshId.BOX, -.08, own, height, (.03, .54, 1.24), (.03, .03, .03))
        for lamp, color in enumerate(((.95, .08, .05), (.95, .65, .05), (.05, .9, .35))):
            add(MeshId.SPHERE, -.33, own, height + .33 - .33 * lamp, (.06, .125, .125), color,
                Material.SIGNAL, lamp + phase)
