"""
Cyclists: a bicycle and who rides it, put together from unit meshes.

Comes in: a ``Builder`` and a mover. Goes out: rows in the builder, with an instance id for the
bicycle and one for its rider.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kd_perception.simulation.meshes import MeshId
from kd_perception.simulation.parts import Builder, DARK, Material, part_of, Tag, Vector

# Half the width of a cyclist, and of feet and pedals, which pass beside the hubs of lorries.
RIDER_HALF_M, FEET_HALF_M = .2, .15
WHEEL_M, AXLE_M = .34, .52                      # radius; from the middle to an axle
PEDALS, CRANK_M = (-.1, .3), .17                # forward and up; length of a crank
SADDLE, HIP, SHOULDER, HAND = (-.26, .93), (-.22, 1.0), (.02, 1.4), (.33, 1.05)
THIGH_M, SHANK_M = .42, .43

Point = tuple[float, float]


def add_rider(b: Builder, g: np.random.Generator, *, mover: int) -> None:
    """Add a bicycle of 1.7 m and the person on it, whose head is at about 1.75 m."""
    scale = g.uniform(.93, 1.04)

    def scaled(tag: Tag) -> Callable[..., None]:
        part = part_of(b, 0., 0., tag, mover=mover)

        def add(mesh: MeshId, forward: float, left: float, z: float, size: Vector, color: Vector,
                **more: float) -> None:
            part(mesh, forward * scale, left * scale, z * scale, np.asarray(size) * scale, color,
                 **more)
        return add

    cranks = g.uniform(0., 2 * np.pi)
    _bicycle(scaled(Tag.BICYCLE), g, cranks)
    _person(scaled(Tag.RIDER), g, cranks)


def _bicycle(add: Callable[..., None], g: np.random.Generator, cranks: float) -> None:
    paint = ((.6, .06, .05), (.05, .12, .4), (.06, .06, .07), (.75, .75, .73), (.1, .35, .2),
             (.8, .5, .05))[g.integers(6)]
    for axle in (-AXLE_M, AXLE_M):
        add(MeshId.WHEEL, axle, 0, WHEEL_M, (WHEEL_M, .045, WHEEL_M), (.03, .03, .03))
        # Spokes: what is seen through them is as grey as the road.
        add(MeshId.WHEEL, axle, 0, WHEEL_M, (.29, .05, .29), (.25, .25, .26))
    seat, head = (-.2, .78), (.34, .84)
    for start, end in ((PEDALS, SADDLE), (PEDALS, head), (seat, head), (seat, (-AXLE_M, WHEEL_M)),
                       (PEDALS, (-AXLE_M, WHEEL_M)), ((AXLE_M, WHEEL_M), (.31, 1.02))):
        _tube(add, start, end, 0., .022, paint)
    add(MeshId.BOX, SADDLE[0] - .02, 0, SADDLE[1], (.26, .15, .06), DARK)
    add(MeshId.BOX, HAND[0], 0, HAND[1] - .03, (.05, .38, .04), DARK)
    for side in (1, -1):
        pedal = _pedal(side, cranks)
        _tube(add, PEDALS, pedal, .07 * side, .018, (.45, .45, .46))
        add(MeshId.BOX, pedal[0], .1 * side, pedal[1], (.1, .08, .025), DARK)
    add(MeshId.BOX, -AXLE_M, 0, .72, (.04, .08, .06), (.7, .05, .03), material=Material.EMISSIVE)
    add(MeshId.BOX, .4, 0, .86, (.05, .08, .08), (1, .97, .85), material=Material.EMISSIVE)
    add(MeshId.BOX, -.38, 0, .66, (.3, .06, .03), paint)


def _person(add: Callable[..., None], g: np.random.Generator, cranks: float) -> None:
    top, trousers = g.uniform(.05, .75, 3), g.uniform(.04, .35, 3)
    skin = np.array((.78, .58, .46)) * g.uniform(.45, 1.1)
    hair = ((.1, .07, .05), (.35, .24, .1), (.4, .4, .4), (.05, .05, .05))[g.integers(4)]
    lean = np.arctan2(SHOULDER[0] - HIP[0], SHOULDER[1] - HIP[1])
    add(MeshId.SPHERE, -.1, 0, 1.21, (.15, .19, .33), top, tilt=lean)
    add(MeshId.SPHERE, *_at(HIP), (.16, .17, .14), trousers)
    add(MeshId.SPHERE, .1, 0, 1.62, (.11, .095, .13), skin)
    if g.uniform() < .6:
        helmet = ((.9, .9, .88), (.75, .1, .06), (.06, .06, .07), (.85, .75, .1))[g.integers(4)]
        add(MeshId.SPHERE, .08, 0, 1.68, (.15, .11, .085), helmet)
    else:
        add(MeshId.SPHERE, .08, 0, 1.66, (.115, .1, .1), hair)
    for side in (1, -1):
        _tube(add, HAND, SHOULDER, -.15 * side, .045, top)
        add(MeshId.SPHERE, HAND[0], -.15 * side, HAND[1], (.05, .04, .05), skin)
        pedal = _pedal(side, cranks)
        ankle = (pedal[0] - .05, pedal[1] + .08)
        knee = _knee(ankle)
        _tube(add, knee, HIP, .09 * side, .07, trousers, swing=.1 * side)
        _tube(add, ankle, knee, .085 * side, .055, trousers, swing=.1 * side)
        add(MeshId.BOX, pedal[0] + .02, .1 * side, pedal[1] + .05, (.26, .085, .09), DARK)
    if g.uniform() < .3:
        add(MeshId.BOX, -.28, 0, 1.3, (.16, .3, .42), g.uniform(.05, .5, 3), tilt=lean)


def _at(point: Point) -> tuple[float, float, float]:
    return point[0], 0., point[1]


def _tube(add: Callable[..., None], low: Point, high: Point, left: float, radius: float,
          color: Vector, swing: float = 0.) -> None:
    """Add a round bar between two points, each forward and up."""
    forward, up = high[0] - low[0], high[1] - low[1]
    add(MeshId.CYLINDER, low[0] + forward / 2, left, low[1] + up / 2,
        (radius, radius, float(np.hypot(forward, up))), color, swing=swing,
        tilt=float(np.arctan2(forward, up)))


def _pedal(side: int, cranks: float) -> Point:
    """Return where the pedal of a side is, forward and up."""
    return (PEDALS[0] + side * CRANK_M * float(np.cos(cranks)),
            PEDALS[1] + side * CRANK_M * float(np.sin(cranks)))


def _knee(ankle: Point) -> Point:
    """Return where the knee is, ahead of the line from hip to ankle."""
    forward, down = ankle[0] - HIP[0], HIP[1] - ankle[1]
    apart = min(float(np.hypot(forward, down)), .999 * (THIGH_M + SHANK_M))
    bend = np.arccos((THIGH_M**2 + apart**2 - SHANK_M**2) / (2 * THIGH_M * apart))
    angle = np.arctan2(forward, down) + bend
    return HIP[0] + THIGH_M * float(np.sin(angle)), HIP[1] - THIGH_M * float(np.cos(angle))
