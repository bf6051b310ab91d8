"""
Cars and lorries, put together from unit meshes.

Comes in: a ``Builder`` and a place or a mover. Goes out: rows in the builder, the instance id and
the length.
"""

from __future__ import annotations

import numpy as np

from kd_perception.simulation.meshes import MeshId
from kd_perception.simulation.parts import Builder, Material, part_of, Tag

BRAKE_RED = (.85, .04, .03)


def add_car(b: Builder, g: np.random.Generator, s: float, d: float, *, yaw: float = 0.,
            mover: int = -1, live: bool = False, kind: int | None = None,
            role: str = '') -> tuple[int, float]:
    """
    Add a saloon, a tall car, a van or a lorry (``kind`` 0 to 3, by chance without).

    :param live: whether its brake lights follow what the mover does.
    :returns: instance id and length in metres.
    """
    dice = g.choice(4, p=[.5, .28, .1, .12])
    kind = int(dice) if kind is None else kind
    length, width, height = ((4.3, 1.78, .62), (4.6, 1.9, .8), (5.2, 2., 1.1),
                             (7.5, 2.3, .9))[kind]
    colors = ((.75, .75, .77), (.05, .05, .06), (.45, .05, .05), (.06, .12, .35), (.85, .85, .83),
              (.25, .27, .29), (.5, .42, .1), (.1, .25, .15), (.55, .55, .6), (.6, .25, .08))
    paint = colors[g.integers(len(colors))]
    truck = kind == 3
    ident = b.new_id(role)
    add = part_of(b, s, d, Tag.TRUCK if truck else Tag.CAR, yaw=yaw, mover=mover, ident=ident)
    floor = .45 if truck else .28
    add(MeshId.BOX, 0, 0, floor + height / 2, (length, width, height), paint, Material.METAL)
    add(MeshId.BOX, 0, 0, floor, (length * .96, width * .96, .26), (.06, .06, .06))
    roof = floor + height
    glass = (.1, .1, .1)
    if truck:
        cargo = ((.8, .8, .78), (.3, .36, .5), (.65, .6, .5), (.5, .16, .12))[g.integers(4)]
        add(MeshId.BOX, length / 2 - .8, 0, roof + .45, (1.4, width * .95, .9), glass,
            Material.GLASS)
        add(MeshId.BOX, length / 2 - .8, 0, roof + .95, (1.4, width * .95, .14), paint,
            Material.METAL)
        add(MeshId.BOX, -.9, 0, roof + .8, (length - 2.2, width * 1.02, 2.5), cargo,
            Material.METAL)
    elif kind == 2:
        add(MeshId.BOX, -.4, 0, roof + .35, (length * .8, width * .94, .7), paint, Material.METAL)
        add(MeshId.CABIN, .7, 0, roof + .3, (length * .62, width * .95, .56), glass,
            Material.GLASS)
    else:
        back = -.15 if kind == 0 else -.45
        share = .62 if kind == 0 else .74
        add(MeshId.CABIN, back, 0, roof + .27, (length * share, width * .92, .55), glass,
            Material.GLASS)
        add(MeshId.BOX, back - .05, 0, roof + .55, (length * share * .58, width * .74, .05),
            paint, Material.METAL)
    radius = .46 if truck else .33
    for forward in (-.31, .31):
        for left in (-.5, .5):
            place = (forward * length, left * width * .96, radius)
            add(MeshId.WHEEL, *place, (radius, .2, radius), (.03, .03, .03))
            add(MeshId.WHEEL, *place, (radius * .55, .24, radius * .55), (.5, .5, .52))
    braking = g.uniform() < .4
    lamp = Material.BRAKE if live else Material.EMISSIVE if braking else Material.MATTE
    for left in (-.38, .38):
        add(MeshId.BOX, -length / 2, left * width, floor + height * .7, (.06, .3, .14),
            BRAKE_RED if live else (.6, .03, .02), lamp)
        add(MeshId.BOX, length / 2, left * width, floor + height * .65, (.06, .34, .15),
            (1, .97, .85), Material.EMISSIVE)
    add(MeshId.BOX, -length / 2, 0, floor + height * .35, (.05, .5, .12), (.9, .9, .85))
    if live:                              # the third one, under the roof
        height_up = roof + (2.0 if truck else .42)
        back = .5 if truck or kind == 2 else .33 if kind == 0 else .43
        add(MeshId.BOX, -length * back, 0, height_up, (.08, .5, .06), BRAKE_RED, Material.BRAKE)
    return ident, length


def add_lorry(b: Builder, g: np.random.Generator, s: float, d: float, *, yaw: float = 0.,
              mover: int = -1, live: bool = False) -> tuple[int, float]:
    """Add an articulated lorry of 14 m; returns instance id and length."""
    length, width = 14., 2.5
    cab = ((.65, .08, .06), (.1, .2, .5), (.82, .82, .8), (.1, .35, .2))[g.integers(4)]
    cargo = ((.82, .82, .8), (.75, .72, .62), (.2, .3, .5), (.55, .12, .1), (.9, .7, .15))[
        g.integers(5)]
    ident = b.new_id()
    add = part_of(b, s, d, Tag.TRUCK, yaw=yaw, mover=mover, ident=ident)
    add(MeshId.BOX, 5.7, 0, 1.75, (2.3, width, 2.5), cab, Material.METAL)
    add(MeshId.BOX, 6.6, 0, 2.35, (.55, width * .92, .9), (.1, .1, .1), Material.GLASS)
    add(MeshId.BOX, 5.4, 0, 3.25, (1.6, width * .9, .55), cab, Material.METAL)
    add(MeshId.BOX, -1.5, 0, 2.45, (11., width * 1.02, 2.75), cargo, Material.METAL)
    add(MeshId.BOX, -1.4, 0, .95, (11.6, width * .8, .25), (.08, .08, .08))
    add(MeshId.BOX, -6.95, 0, .55, (.12, width * .9, .12), (.75, .1, .08))
    for forward in (6., 3.4, -3.6, -4.9, -6.2):
        for left in (-.46, .46):
            place = (forward, left * width, .5)
            add(MeshId.WHEEL, *place, (.5, .28, .5), (.03, .03, .03))
            add(MeshId.WHEEL, *place, (.26, .32, .26), (.45, .45, .47))
    for left in (-1., 1.):
        add(MeshId.BOX, -7., left, 1.05, (.06, .4, .2), BRAKE_RED,
            Material.BRAKE if live else Material.MATTE)
        add(MeshId.BOX, 6.86, left, .85, (.06, .4, .22), (1, .97, .85), Material.EMISSIVE)
        add(MeshId.BOX, -7.01, left, 2.3, (.04, .08, 2.2), (.7, .1, .08))
    return ident, length
