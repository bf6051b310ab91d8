"""
Make the gallery of docs/simulator.md: one sheet per subject, as small JPEGs.

    .venv/bin/python -m tools.gallery [--out docs/gallery] [--only worlds]

Scenarios, worlds, seeds, the camera model, ground truth, look-alikes and behaviours; a minute on
two idle cores. The pictures are the same for the same version of the simulator and of Mesa.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
import sys

import cv2
import numpy as np

from kd_perception.classes import load_class_set
from kd_perception.errors import KdPerceptionError
from kd_perception.simulation.plan import PERIOD_M
from kd_perception.simulation.street import StreetSimulator
from kd_perception.simulation.traffic_setup import TrafficSetup, TrafficState
from kd_perception.simulation.world import build_world
from kd_perception.simulation.worlds import load_world

TILE = (320, 180)
QUALITY = 78
OWN_WORLD = ('crowd', 'cyclists', 'far_small')
SCENARIOS = ('clear', 'sunset', 'overcast', 'dense_fog', 'rain', 'night', 'night_rain', 'glare',
             *OWN_WORLD)
WORLDS = ('street', 'downtown', 'intersection', 'highway', 'suburb')
CAMERA = ('fov_deg=40', 'fov_deg=110', 'height_m=2.6', 'shutter_s=0.05', 'drops=1', 'dirt=1',
          'shot_noise=1', 'roughness=3')


def shot(scenario: str, seed: int, time_s: float, world: str = '') -> np.ndarray:
    """Return one picture as uint8 ``[360, 640, 3]`` RGB."""
    with StreetSimulator(scenario, seed=seed, world=world) as street:
        return street.render(time_s).image


def sheet(tiles: Iterable[tuple[str, np.ndarray]], columns: int) -> np.ndarray:
    """Return the pictures with their captions as one."""
    done = []
    for caption, image in tiles:
        small = cv2.resize(image, TILE, interpolation=cv2.INTER_AREA)
        cv2.rectangle(small, (0, TILE[1] - 15), (7 * len(caption) + 8, TILE[1]), (20, 20, 20), -1)
        cv2.putText(small, caption, (4, TILE[1] - 4), cv2.FONT_HERSHEY_SIMPLEX, .38,
                    (240, 240, 240), 1, cv2.LINE_AA)
        done.append(small)
    done += [np.full_like(done[0], 255)] * (-len(done) % columns)
    rows = [np.hstack(done[i:i + columns]) for i in range(0, len(done), columns)]
    return np.vstack(rows)


def scenarios() -> np.ndarray:
    """Show one moment in each scenario."""
    return sheet(((s, shot(s, 7, 20., '' if s in OWN_WORLD else 'downtown'))
                  for s in SCENARIOS), 2)


def worlds() -> np.ndarray:
    """Show each world twice."""
    return sheet(((f'{w}, seed {seed}', shot('clear', seed, 12., w))
                  for w in WORLDS for seed in (7, 12)), 2)


def weathers_of_worlds() -> np.ndarray:
    """Show the new worlds in four weathers."""
    return sheet(((f'{s}, {w}', shot(s, 12, 41., w)) for w in WORLDS[2:]
                  for s in ('sunset', 'rain', 'night', 'glare')), 4)


def camera() -> np.ndarray:
    """Show what the camera settings do."""
    tiles = [('as usual', shot('clear', 7, 20., 'highway'))]
    tiles += [(c, shot(f'clear,camera.{c}', 7, 20., 'highway')) for c in CAMERA]
    return sheet(tiles, 3)


def truth() -> np.ndarray:
    """Show labels, instances, depth and boxes of one frame."""
    colors = np.array(load_class_set('carla').colors, np.uint8)
    with StreetSimulator('clear', seed=7, world='downtown') as street:
        frame = street.render(3., depth=True)
    rows, boxes = frame.instances_table(), frame.image.copy()
    for box, tag, share in zip(rows.boxes, rows.tags, rows.visible):
        if tag in (12, 14, 15):
            left, top, right, bottom = (int(x) for x in box)
            cv2.rectangle(boxes, (left, top), (right, bottom),
                          (255, int(255 * share), 0), 1)
    hue = (frame.instances.astype(int) * 67 % 180).astype(np.uint8)
    full = np.where(frame.instances > 0, 255, 0).astype(np.uint8)
    instances = cv2.cvtColor(np.dstack([hue, full // 2 + full // 4, full]), cv2.COLOR_HSV2RGB)
    assert frame.depth is not None
    near = np.clip(255 * 4. / np.maximum(frame.depth, 4.), 0, 255).astype(np.uint8)
    depth = cv2.applyColorMap(near, cv2.COLORMAP_TURBO)[..., ::-1]
    return sheet([('picture', frame.image), ('labels', colors[frame.labels]),
                  ('instance ids', instances), ('depth', depth),
                  ('boxes, redder where hidden', boxes)], 3)


def lookalikes() -> np.ndarray:
    """Show the largest sight of each kind along some drives."""
    best: dict[str, tuple[float, np.ndarray]] = {}
    for world, seed, last_s in (('downtown', 12, 150.), ('downtown', 9, 150.),
                                ('suburb', 12, 150.), ('suburb', 5, 150.)):
        with StreetSimulator('clear', seed=seed, world=world) as street:
            for time_s in np.arange(2., last_s, 1.2):
                frame = street.render(float(time_s))
                rows = frame.instances_table()
                for role, pixels, share, box in zip(rows.roles, rows.pixels, rows.visible,
                                                    rows.boxes):
                    score = float(pixels * share**3)
                    inside = share > .7 and box[0] > 8 and box[2] < 632 and box[1] > 4
                    if role in LOOKALIKES and inside and score > best.get(role, (0.,))[0]:
                        best[role] = (score, _around(frame.image, box))
    return sheet(((role, best[role][1]) for role in LOOKALIKES if role in best), 4)


LOOKALIKES = ('poster_person', 'poster_car', 'van_picture', 'mannequin', 'statue', 'reflection',
              'road_wall')


def _around(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return a cut of 16:9 around a box, twice its size."""
    left, top, right, bottom = box
    half = max((right - left) * .8, (bottom - top) * 1.2, 45.)
    x = int(np.clip((left + right) / 2, half, 640 - half)) if half < 320 else 320
    y = int(np.clip((top + bottom) / 2, half * .5625, 360 - half * .5625)) if half < 320 else 180
    half = min(half, 320.)
    tall = int(half * .5625)
    return image[y - tall:y + tall, x - int(half):x + int(half)]


def behaviours() -> np.ndarray:
    """Show a hard stop of the car ahead, a cut-in and a step-out, four moments each."""
    tiles = []
    for name, world, find in (('brakes', 'downtown', _braking), ('cuts in', 'highway', _cut_in),
                              ('steps out', 'downtown', _step_out)):
        seed, start = _first(world, find)
        with StreetSimulator('clear', seed=seed, world=world) as street:
            for after in (0., .8, 1.6, 2.6):
                tiles.append((f'{name}, {after:.1f} s', street.render(start + after).image))
    return sheet(tiles, 4)


def _first(world: str, find: Callable[..., bool]) -> tuple[int, float]:
    """Return seed and time of the first such moment."""
    for seed in range(7, 40):
        life = build_world(seed, load_world(world)).life
        assert life is not None
        for time_s in np.arange(4., 60., .2):
            if find(life.traffic.setup, life.traffic.at(float(time_s))):
                return seed, float(time_s)
    raise KdPerceptionError(f'{world}: nothing to show in any drive')


def _ahead(state: TrafficState, number: int | slice = slice(None)) -> np.ndarray:
    return (state.progress[number] - state.progress[0]) % PERIOD_M


def _braking(setup: TrafficSetup, state: TrafficState) -> bool:
    return bool(state.braker > 0 and 9. < _ahead(state, state.braker) < 17.
                and state.speed[0] > 5.)


def _cut_in(setup: TrafficSetup, state: TrafficState) -> bool:
    cars = (state.lane == 0) & (state.changing > 2.2)
    return bool((cars & (_ahead(state) > 8.) & (_ahead(state) < 19.)).any())


def _step_out(setup: TrafficSetup, state: TrafficState) -> bool:
    ahead = (setup.step_s - state.progress[0]) % PERIOD_M
    return bool(((setup.light < 0) & (setup.step_from < 0) & (state.way > .1) & (state.way < .6)
                 & (ahead > 10.) & (ahead < 19.)).any())


SHEETS: dict[str, Callable[[], np.ndarray]] = {
    'scenarios': scenarios, 'worlds': worlds, 'weathers_of_worlds': weathers_of_worlds,
    'camera': camera, 'truth': truth, 'lookalikes': lookalikes, 'behaviours': behaviours}


def main() -> int:
    """Write the sheets that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').strip(),
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('docs/gallery'))
    parser.add_argument('--only', choices=sorted(SHEETS), action='append')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only or SHEETS:
        path = args.out / f'{name}.jpg'
        image = SHEETS[name]()
        cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        print(f'{path}: {image.shape[1]}x{image.shape[0]}, {path.stat().st_size / 1e3:.0f} kB')
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KdPerceptionError as error:
        print(f'gallery: {error}', file=sys.stderr)
        sys.exit(2)
