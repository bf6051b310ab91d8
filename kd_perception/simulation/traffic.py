"""
Live traffic: cars that follow each other, brake, cut in and stop for lights and for people.

A deterministic simulation of the whole round in steps of 0.1 s, from time zero on, whatever time
is asked for first: states are kept every ``CHUNK_S`` and computed anew from there. Car-following
is the intelligent driver model (Treiber, Hennecke, Helbing, Phys. Rev. E 62, 2000). Comes in: a
``TrafficSetup``. Goes out: a ``TrafficState`` for a time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import numpy as np

from kd_perception.simulation.motion import STEPS_RAD_PER_M
from kd_perception.simulation.signals import must_stop, position
from kd_perception.simulation.traffic_setup import NO_LANE, TrafficSetup, TrafficState

STEP_S = .1
CHUNK_S = 4.            # so short that driving one costs no frame of a live camera
CHUNK_STEPS = round(CHUNK_S / STEP_S)
KEPT_CHUNKS = 16
RECENT_STARTS = 64
HARDEST = 7.5                          # m/s2, the grip of the road
STANDING_GAP_M = 2.2
LANE_CHANGE_S = 2.6
WALK_MPS = 1.6


class Traffic:
    """The traffic of a world; ``at`` gives the same answer in whatever order it is asked."""

    def __init__(self, setup: TrafficSetup) -> None:
        self.setup = setup
        self._starts = {0: _begin(setup)}
        self._chunks: OrderedDict[int, list[TrafficState]] = OrderedDict()

    def at(self, time_s: float) -> TrafficState:
        """Return the state at ``time_s``, between two steps in proportion."""
        ticks = time_s / STEP_S
        whole = int(ticks)
        number, tick = divmod(whole, CHUNK_STEPS)
        chunk = self._chunks.get(number) or self._drive(number)
        return _between(chunk[tick], chunk[tick + 1], ticks - whole)

    def _drive(self, number: int) -> list[TrafficState]:
        """Drive from the nearest known start on; return the states of that chunk."""
        states: list[TrafficState] = []
        for n in range(max(k for k in self._starts if k <= number), number + 1):
            states = [self._starts[n]]
            for tick in range(n * CHUNK_STEPS, (n + 1) * CHUNK_STEPS):
                states.append(advance(self.setup, states[-1], tick))
            self._starts[n + 1] = states[-1]
            old = n + 1 - RECENT_STARTS         # of long ago, every sixteenth will do
            if old % 16:
                self._starts.pop(old, None)
        self._chunks[number] = states
        while len(self._chunks) > KEPT_CHUNKS:
            self._chunks.popitem(last=False)
        return states


def _begin(setup: TrafficSetup) -> TrafficState:
    cars, people = len(setup.lane), len(setup.step_s)
    return TrafficState(
        lane=setup.lane.copy(), progress=setup.progress.copy(),
        speed=np.where(setup.lane == NO_LANE, 0., .8 * setup.wish), push=np.zeros(cars),
        lateral=setup.lateral.copy(), drift=np.zeros(cars), changing=np.zeros(cars),
        way=np.zeros(people), far=np.zeros(people), braker=-1, until=0.)


def _between(a: TrafficState, b: TrafficState, share: float) -> TrafficState:
    def mix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return first + share * (second - first)
    # A way back begins at nought: between the steps around a turn nobody moves.
    return replace(a, progress=mix(a.progress, b.progress), speed=mix(a.speed, b.speed),
                   lateral=mix(a.lateral, b.lateral),
                   way=np.where(a.far == b.far, mix(a.way, b.way), a.way))


def advance(setup: TrafficSetup, state: TrafficState, tick: int) -> TrafficState:
    """Return the state one step later."""
    time_s = tick * STEP_S
    state = _people(setup, state, time_s)
    state = _events(setup, state, tick)
    direction = _direction(setup, state.lane)
    gap, closing = _leaders(setup, state)
    block = np.minimum(_lights(setup, state, direction, time_s),
                       _walkers(setup, state, direction))
    free = 1.4 * (1. - (state.speed / setup.wish)**4)
    push = np.minimum(free, _following(setup, state, gap, closing))
    push = np.minimum(push, _following(setup, state, block, state.speed))
    if state.braker >= 0:
        push[state.braker] = min(push[state.braker], -4.2)
    push = np.clip(push, -HARDEST, 2.2)
    parked = state.lane == NO_LANE
    push[parked] = 0.
    speed = np.maximum(state.speed + push * STEP_S, 0.)
    speed[parked] = 0.
    progress = state.progress + .5 * (state.speed + speed) * STEP_S
    # A change of lanes glides, and only as far as the car rolls.
    aim = np.where(parked, state.lateral, setup.lane_lateral[np.maximum(state.lane, 0)])
    left = np.maximum(state.changing, STEP_S)
    share = np.minimum(STEP_S / left, 1.) * np.minimum(speed / 2.5, 1.)
    lateral = state.lateral + (aim - state.lateral) * np.minimum(1.8 * share, 1.)
    return replace(state, progress=progress, speed=speed, push=push, lateral=lateral,
                   drift=(lateral - state.lateral) / STEP_S,
                   changing=np.maximum(state.changing - STEP_S * np.minimum(speed / 2.5, 1.), 0.))


def _direction(setup: TrafficSetup, lane: np.ndarray) -> np.ndarray:
    return np.where(lane == NO_LANE, 1, setup.lane_direction[np.maximum(lane, 0)])


def _following(setup: TrafficSetup, state: TrafficState, gap: np.ndarray,
               closing: np.ndarray) -> np.ndarray:
    """Return the acceleration that keeps distance to something ``gap`` metres ahead."""
    v = state.speed
    wanted = STANDING_GAP_M + np.maximum(
        v * setup.headway + v * closing / (2 * np.sqrt(1.4 * 2.2)), 0.)
    return 1.4 * (1. - (v / setup.wish)**4 - (wanted / np.maximum(gap, .3))**2)


def _leaders(setup: TrafficSetup, state: TrafficState) -> tuple[np.ndarray, np.ndarray]:
    """Return gap to the car ahead in the lane and closing speed, ``[C]`` each."""
    gap, closing = np.full(len(state.lane), 1e3), np.zeros(len(state.lane))
    place = state.progress % setup.period
    for lane in range(len(setup.lane_lateral)):
        mine = np.flatnonzero(state.lane == lane)
        if len(mine) < 2:
            continue
        mine = mine[np.argsort(place[mine], kind='stable')]
        ahead = np.roll(mine, -1)
        apart = (place[ahead] - place[mine]) % setup.period
        gap[mine] = apart - .5 * (setup.length[ahead] + setup.length[mine])
        closing[mine] = state.speed[mine] - state.speed[ahead]
    return gap, closing


def _lights(setup: TrafficSetup, state: TrafficState, direction: np.ndarray,
            time_s: float) -> np.ndarray:
    """Return metres to the next stop line that holds, or 1000, ``[C]``."""
    out = np.full(len(state.lane), 1e3)
    if setup.phase.size == 0:
        return out
    closed = must_stop(setup.phase, time_s)
    lines = np.where(direction[:, None] > 0, setup.stop_lines[0], -setup.stop_lines[1])
    front = state.progress + .5 * setup.length
    apart = (lines - front[:, None] + 2.) % setup.period - 2.
    # Who stands a little over the line stays; who cannot stop any more goes on.
    stops = closed & (apart > -1.5) & (
        apart > state.speed[:, None]**2 / (2 * 4.5) - 1.) & (apart < 70.)
    return np.minimum(out, np.where(stops, apart + STANDING_GAP_M - .6, 1e3).min(axis=1))


def _walkers(setup: TrafficSetup, state: TrafficState, direction: np.ndarray) -> np.ndarray:
    """Return metres to the next person on or about to enter the car's way, ``[C]``."""
    out = np.full(len(state.lane), 1e3)
    walking = np.flatnonzero((state.way > 0) & (state.way < np.abs(setup.step_span)))
    if walking.size == 0:
        return out
    d = _beside(setup, state)[walking]
    toward = np.sign(setup.step_span[walking]) * np.where(state.far[walking] > 0, -1, 1)
    at = (direction[:, None] * setup.step_s[walking] - state.progress[:, None]
          - .5 * setup.length[:, None] + 3.) % setup.period - 3.
    off = (state.lateral[:, None] - d) * toward       # above zero: not passed yet
    near = (off > -1.5) & (off < 4.8) & (at > 0.) & (at < 45.)
    return np.minimum(out, np.where(near, at - .4, 1e3).min(axis=1))


def _beside(setup: TrafficSetup, state: TrafficState) -> np.ndarray:
    """Return the lateral ``[P]`` of those who cross."""
    walked = np.where(state.far > 0, np.abs(setup.step_span) - state.way, state.way)
    return setup.step_from + np.sign(setup.step_span) * walked


def _people(setup: TrafficSetup, state: TrafficState, time_s: float) -> TrafficState:
    if setup.step_s.size == 0:
        return state
    length = np.abs(setup.step_span)
    ahead = (setup.step_s - state.progress[0]) % setup.period
    called = (ahead < setup.trigger) & (ahead > setup.trigger - 6.) & (state.speed[0] > 1.)
    by_light = setup.light >= 0
    if by_light.any():
        red = position(setup.phase[setup.light], time_s)
        called = np.where(by_light, (red > .54) & (red < .56), called)
    going = (state.way > 0) | called
    way = np.where(going, state.way + WALK_MPS * STEP_S, 0.)
    done = way >= length
    return replace(state, way=np.where(done, 0., way),
                   far=np.where(done, 1. - state.far, state.far))


def _events(setup: TrafficSetup, state: TrafficState, tick: int) -> TrafficState:
    """Let cars brake, cut in and pull out; looked at once a second."""
    if state.braker >= 0 and tick * STEP_S >= state.until:
        state = replace(state, braker=-1)
    if tick % 10 or setup.events == 0:
        return state
    g = np.random.default_rng([setup.seed, 77, tick])
    dice = g.uniform(size=3)
    place = (state.progress - state.progress[0]) % setup.period
    same = _direction(setup, state.lane) > 0
    ahead = np.flatnonzero((state.lane == state.lane[0]) & (place > 0) & (place < 45.))
    if dice[0] < .045 * setup.events and ahead.size and state.speed[0] > 4. and state.braker < 0:
        state = replace(state, braker=int(ahead[np.argmin(place[ahead])]),
                        until=tick * STEP_S + 1.2 + .04 * state.speed[0])
    if dice[1] < .3 * setup.events:
        reach = 6. + 1.2 * state.speed[0]
        state = _change(setup, state, np.flatnonzero(
            same & (state.lane > 0) & (place > 9.) & (place < 9. + reach)), 0, front=4.)
    elif dice[1] < .45 * setup.events and (setup.lane_direction > 0).sum() > 1:
        # Back to the outer lanes, so that the own one does not fill up.
        to = 1 + int(dice[2] * ((setup.lane_direction > 0).sum() - 1))
        state = _change(setup, state, np.flatnonzero(
            (state.lane == 0) & (np.arange(len(state.lane)) > 0)), to, front=9.)
    waiting = np.flatnonzero((state.lane == NO_LANE) & (place > 17.)
                             & (place < 17. + 1.2 * state.speed[0]))
    if waiting.size and state.speed[0] > 3.:
        state = _change(setup, state, waiting, 0, front=7.)
    return state


def _change(setup: TrafficSetup, state: TrafficState, who: np.ndarray, to: int, *,
            front: float) -> TrafficState:
    """Let the first of ``who`` with room enough begin to change into lane ``to``."""
    for car in who:
        if state.changing[car] > 0:
            continue
        others = np.flatnonzero((state.lane == to) & (np.arange(len(state.lane)) != car))
        apart = (state.progress[others] - state.progress[car] + setup.period / 2) \
            % setup.period - setup.period / 2
        room = np.abs(apart) - .5 * (setup.length[others] + setup.length[car])
        closing = np.where(apart < 0, state.speed[others] - state.speed[car],
                           state.speed[car] - state.speed[others])
        if (room > front + np.maximum(closing, 0.)).all():
            lane, changing = state.lane.copy(), state.changing.copy()
            lane[car], changing[car] = to, LANE_CHANGE_S
            return replace(state, lane=lane, changing=changing)
    return state


def braking(state: TrafficState) -> np.ndarray:
    """Return 1 where the brake lights are on, ``[C]``."""
    return ((state.push < -.7) | ((state.speed < .4) & (state.lane != NO_LANE))).astype(float)


def street_s(setup: TrafficSetup, state: TrafficState) -> np.ndarray:
    """Return s ``[C]`` of the cars along the street."""
    return _direction(setup, state.lane) * state.progress


def crossing_poses(setup: TrafficSetup, state: TrafficState) -> tuple[np.ndarray, np.ndarray,
                                                                      np.ndarray]:
    """Return lateral, yaw and stride ``[P]`` of those who cross or wait to."""
    d = _beside(setup, state)
    toward = np.sign(setup.step_span) * np.where(state.far > 0, -1, 1)
    stride = np.where(state.way > 0, STEPS_RAD_PER_M * state.way, 0.)
    return d, toward * np.pi / 2, stride


