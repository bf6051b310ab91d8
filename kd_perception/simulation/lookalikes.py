"""
Look-alikes: things that show people and cars and are none, and walls that look like road.

Each is labelled as what it is (building, static, or the van that carries the picture) and has an
instance id with a role, so that false alarms can be counted. Comes in: a builder and a place. Goes
out: rows in the builder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kd_perception.simulation.layers import Front
from kd_perception.simulation.meshes import MeshId
from kd_perception.simulation.parts import Builder, DARK, KERB_M, Material, part_of, Tag, Vector
from kd_perception.simulation.plan import StreetPlan

Add = Callable[..., None]
THIN_M = .03
SKIN = np.array((.78, .58, .46))


def person_picture(add: Add, g: np.random.Generator, left: float, foot: float, scale: float, *,
                   ahead: float = 0.) -> None:
    """Add a flat person, in the plane across the thing's forward axis; feet at ``foot``."""
    top, legs = g.uniform(.1, .8, 3), g.uniform(.05, .4, 3)
    skin = SKIN * g.uniform(.5, 1.1)

    def put(mesh: MeshId, x: float, z: float, wide: float, tall: float, color: Vector,
            layer: float = 1.) -> None:
        add(mesh, ahead, left + x * scale, foot + z * scale,
            (THIN_M * layer, wide * scale, tall * scale), color)

    for x in (-.1, .1):
        put(MeshId.BOX, x, .43, .13, .86, legs)
        put(MeshId.BOX, 2.7 * x, 1.14, .1, .6, top, 1.2)
    put(MeshId.SPHERE, 0, 1.2, .22, .36, top, .8)
    put(MeshId.SPHERE, 0, 1.66, .1, .13, skin, .6)
    put(MeshId.SPHERE, 0, 1.73, .105, .07, (.1, .07, .05), .75)


def car_picture(add: Add, g: np.random.Generator, left: float, foot: float, scale: float, *,
                ahead: float = 0., dim: float = 1.) -> None:
    """Add a flat car seen from the side, in the plane across the forward axis."""
    paint = np.array(((.6, .06, .05), (.1, .2, .55), (.8, .8, .8), (.85, .6, .1))[g.integers(4)])

    def put(mesh: MeshId, x: float, z: float, wide: float, tall: float, color: Vector,
            layer: float) -> None:
        add(mesh, ahead, left + x * scale, foot + z * scale,
            (THIN_M * layer, wide * scale, tall * scale), np.asarray(color) * dim)

    put(MeshId.BOX, 0, .65, 4.2, .6, paint, 1.)
    put(MeshId.CABIN, -.1, 1.2, 2.6, .56, paint * .9, 1.)
    put(MeshId.CABIN, -.1, 1.18, 2.2, .4, (.12, .15, .18), 1.3)
    for x in (-1.3, 1.3):
        put(MeshId.DISC, x, .36, .36, .36, DARK, 1.3)
        put(MeshId.DISC, x, .36, .18, .18, (.6, .6, .62), 1.6)


def person_figure(add: Add, g: np.random.Generator, foot: float, colors: Sequence[Vector], *,
                  left: float = 0.) -> None:
    """Add a standing figure in the round: trousers, top and skin as given."""
    legs, top, skin = colors
    bend = g.uniform(-.06, .06)
    for side in (1, -1):
        add(MeshId.CYLINDER, 0, left + .1 * side, foot + .45, (.075, .085, .9), legs)
        add(MeshId.CYLINDER, bend * side, left + .26 * side, foot + 1.15, (.05, .055, .62), top)
    add(MeshId.SPHERE, 0, left, foot + 1.22, (.17, .22, .34), top)
    add(MeshId.SPHERE, 0, left, foot + 1.66, (.11, .1, .14), skin)


def add_wall_poster(b: Builder, g: np.random.Generator, front: Front) -> None:
    """Add a poster with a person or a car on a house front; tag building."""
    car = g.uniform() < .4
    wide, tall = (5.2, 2.4) if car else (2.0, 2.7)
    s = front.s + g.uniform(.3, .7) * front.length
    toward = -np.pi / 2 if front.side > 0 else np.pi / 2
    add = part_of(b, s, front.side * (front.d - .12), Tag.BUILDING, yaw=toward,
                  ident=b.new_id('poster_car' if car else 'poster_person'))
    foot = KERB_M + g.uniform(.1, .9)
    add(MeshId.BOX, 0, 0, foot + tall / 2, (.06, wide, tall), g.uniform(.45, .95, 3))
    if car:
        car_picture(add, g, 0., foot + .35, g.uniform(.9, 1.15), ahead=.04)
    else:
        person_picture(add, g, 0., foot + .25, g.uniform(.95, 1.3), ahead=.04)


def add_billboard(b: Builder, g: np.random.Generator, s: float, d: float, facing: int, *,
                  narrow: bool = False) -> None:
    """Add a board on posts with people or a car that faces the traffic; tag static."""
    car = g.uniform() < .5 and not narrow
    wide, tall = (1.35, 2.1) if narrow else (5., 2.5) if car else (2.9, 2.3)
    add = part_of(b, s, d, Tag.STATIC, yaw=0. if facing > 0 else np.pi,
                  ident=b.new_id('poster_car' if car else 'poster_person'))
    low = KERB_M + (.3 if narrow else .55)
    for left in (-.4, .4):
        add(MeshId.CYLINDER, 0, left * wide, low / 2 + .3, (.06, .06, low + .5), (.3, .3, .32))
    add(MeshId.BOX, 0, 0, low + tall / 2, (.12, wide + .2, tall + .2), (.3, .31, .33))
    add(MeshId.BOX, -.05, 0, low + tall / 2, (.08, wide, tall), g.uniform(.5, .95, 3))
    if car:
        car_picture(add, g, 0., low + .35, 1.05, ahead=-.1)
    else:
        for left in (0.,) if narrow else (-.75, .75):
            person_picture(add, g, left, low + .12, g.uniform(.95, 1.05), ahead=-.1)


def add_shop_window(b: Builder, g: np.random.Generator, front: Front) -> None:
    """Add a lit shop window with mannequins before the front; tag building."""
    s, wide = front.s + .5 * front.length, min(front.length * .7, 6.)
    toward = -np.pi / 2 if front.side > 0 else np.pi / 2
    add = part_of(b, s, front.side * (front.d - .15), Tag.BUILDING, yaw=toward,
                  ident=b.new_id('mannequin'))
    add(MeshId.BOX, 0, 0, 1.55, (.5, wide, 2.6), (.16, .17, .2), Material.GLASS)
    add(MeshId.BOX, .3, 0, .3, (.8, wide, .4), (.5, .48, .45))
    add(MeshId.BOX, .45, 0, 2.95, (1.0, wide + .3, .18), g.uniform(.1, .7, 3))
    pale = np.array((.86, .84, .8)) * g.uniform(.8, 1.)
    for left in np.arange(-wide / 2 + .7, wide / 2 - .4, g.uniform(1.1, 1.9)):
        def stand(mesh: MeshId, forward: float, aside: float, z: float, size: Vector,
                  color: Vector) -> None:
            add(mesh, forward + .45, aside, z, size, color)
        person_figure(stand, g, .5, (g.uniform(.05, .6, 3), g.uniform(.1, .85, 3), pale),
                      left=float(left))


def add_reflection(b: Builder, g: np.random.Generator, front: Front) -> None:
    """Add a glass front in which a car on the road is mirrored; tag building."""
    s, wide = front.s + .5 * front.length, front.length * .8
    toward = -np.pi / 2 if front.side > 0 else np.pi / 2
    add = part_of(b, s, front.side * (front.d - .1), Tag.BUILDING, yaw=toward,
                  ident=b.new_id('reflection'))
    add(MeshId.BOX, 0, 0, 1.65, (.3, wide, 2.8), (.2, .24, .28), Material.GLASS)
    car_picture(add, g, g.uniform(-.2, .2) * wide, .3, .95, ahead=.15, dim=.5)
    add(MeshId.BOX, .14, 0, .32, (.06, wide * .98, .36), (.22, .23, .24))


def add_statue(b: Builder, g: np.random.Generator, s: float, d: float) -> None:
    """Add a stone or bronze figure on a plinth; tag static."""
    add = part_of(b, s, d, Tag.STATIC, yaw=g.uniform(0, 2 * np.pi), ident=b.new_id('statue'))
    stone = np.array(((.52, .52, .5), (.25, .3, .24), (.3, .22, .14))[g.integers(3)])
    tall = g.uniform(.25, 1.2)
    add(MeshId.BOX, 0, 0, KERB_M + tall / 2, (.8, .8, tall), (.5, .49, .47))
    person_figure(add, g, KERB_M + tall, (stone * .9, stone, stone * 1.05))


def add_road_wall(b: Builder, g: np.random.Generator, front: Front) -> None:
    """Add a wall without windows, grey as asphalt, with bars as of a crossing; tag building."""
    s, tall = front.s + .5 * front.length, min(front.height * .9, 7.)
    wide = front.length * .94
    toward = -np.pi / 2 if front.side > 0 else np.pi / 2
    add = part_of(b, s, front.side * (front.d - .1), Tag.BUILDING, yaw=toward,
                  ident=b.new_id('road_wall'))
    add(MeshId.BOX, 0, 0, KERB_M + tall / 2, (.24, wide, tall), (.23, .23, .24))
    if g.uniform() < .5:
        for left in np.arange(-.42, .43, .12):
            add(MeshId.BOX, .12, left * wide, 1.4, (.04, .055 * wide, 2.1), (.82, .82, .78))
    else:
        for left in np.arange(-.4, .45, .2):
            add(MeshId.BOX, .12, left * wide, 1.2, (.04, .1 * wide, .16), (.82, .82, .78))


def add_van_picture(b: Builder, g: np.random.Generator, ident: int, s: float, d: float,
                    yaw: float) -> None:
    """Put a picture on both sides of a parked van, of the van's own id and tag."""
    for turn in (np.pi / 2, -np.pi / 2):
        add = part_of(b, s, d, Tag.CAR, yaw=yaw + turn, ident=ident)
        add(MeshId.BOX, 1.0, .3, 1.35, (.04, 3., 1.1), (.9, .9, .88))
        if g.uniform() < .5:
            person_picture(add, g, .3 + g.uniform(-.6, .6), .86, .56, ahead=1.03)
        else:
            car_picture(add, g, .3, .84, .6, ahead=1.03)
    b.roles[ident] = 'van_picture'


def add_lookalikes(b: Builder, g: np.random.Generator, plan: StreetPlan,
                   fronts: Sequence[Front], amount: float) -> None:
    """Spread look-alikes over house fronts and sidewalks; ``amount`` 1 is a third of fronts."""
    makers = (add_wall_poster, add_shop_window, add_reflection, add_road_wall)
    for front in fronts:
        dice, which = g.uniform(), g.choice(4, p=[.36, .3, .2, .14])
        if dice < .36 * amount:
            makers[which](b, g, front)
    for side in (1, -1):
        road, walk = plan.side(side)
        for s in np.arange(12., 1430., 46.):
            at, dice, back = s + g.uniform(-14., 14.), g.uniform(), side * (road + walk - .35)
            free = plan.away_from_junctions(at, 6.) and plan.away_from_crossings(at, 4.)
            if free and dice < .22 * amount:
                add_statue(b, g, at, back)
            elif free and dice < .42 * amount:
                add_billboard(b, g, at, side * (road + walk - .85), -side, narrow=True)
