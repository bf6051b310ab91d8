"""
What it costs to measure accuracy where it matters: CPU time per frame at 640x360, two arms.

Counted as the monitor counts it, between frames, from what the embedded street knows; CPU time of
the process, so that a busy machine disturbs little. The figure is the sum for one frame of two
arms; the details have its parts, and those of the camera beside.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
import statistics
import time

import numpy as np
import result

from kd_perception.classes import load_class_map, load_class_set
from kd_perception.evaluation.comparison import confusion_matrix
from kd_perception.evaluation.metrics.boundary import TrueBoundary
from kd_perception.evaluation.metrics.calibration import Calibration
from kd_perception.evaluation.metrics.flicker import (
    count_flicker,
    movable,
    reproject,
    steady,
    View,
)
from kd_perception.evaluation.metrics.objects import ObjectCounter
from kd_perception.simulation.street import SimulatedFrame, StreetSimulator

WIDTH, HEIGHT, SEED, REPEATS, FRAMES = 640, 360, 1, 5, 8


def cpu_ms(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return (time.process_time() - start) * 1e3


def view(frame: SimulatedFrame) -> View:
    known = frame.known_truth()
    assert known.depth is not None
    assert known.place is not None
    assert known.lens is not None
    return View(known.depth, known.place, known.lens)


def main() -> None:
    args = result.parser(__doc__ or '').parse_args()
    source, target = load_class_set('carla'), load_class_set('driving')
    mapped = load_class_map(source, target)
    objects, moving = ObjectCounter(source, mapped), movable(target.names)
    rng = np.random.default_rng(0)
    parts: dict[str, list[float]] = {}

    def add(name: str, work: Callable[[], object]) -> None:
        parts.setdefault(name, []).append(cpu_ms(work))

    def boundaries(truth: np.ndarray, mask: np.ndarray) -> object:
        return TrueBoundary(truth, len(target)).count(mask)

    def reprojection(views: tuple[View, View], truth: np.ndarray, last: np.ndarray) -> object:
        return steady(reproject(*views), truth, last, moving)

    def calibration(truth: np.ndarray, mask: np.ndarray, sure: np.ndarray) -> None:
        Calibration().update(truth, mask, sure)

    with StreetSimulator('clear', seed=SEED, width=WIDTH, height=HEIGHT) as street:
        street.render(0., depth=True)
        for number in range(REPEATS * FRAMES):
            at = 2. + number / 3
            add('camera: picture', partial(street.render, at))
            add('camera: picture with depth', partial(street.render, at, depth=True))
            before, now = (street.render(at + k / 30, depth=True) for k in (0, 1))
            add('camera: table of instances', now.instances_table)
            truth, last, mask = (mapped(f.labels) for f in (now, before, before))
            sure = rng.integers(0, 256, truth.shape, dtype=np.uint8)
            table = now.known_truth().table
            assert table is not None
            views = view(now), view(before)
            known = TrueBoundary(truth, len(target))
            known.count(mask)                   # the first mask pays for what the others share
            matches = steady(reproject(*views), truth, last, moving)
            add('frame: boundaries', partial(boundaries, truth, mask))
            add('frame: reprojection', partial(reprojection, views, truth, last))
            add('arm: boundaries', partial(known.count, mask))
            add('arm: objects', partial(objects.count, table, now.instances, mask))
            add('arm: flicker', partial(count_flicker, matches, mask, last))
            add('arm: calibration', partial(calibration, truth, mask, sure))
            add('arm: confusion matrix', partial(confusion_matrix, truth, mask, len(target)))
    medians = {k: statistics.median(v) for k, v in parts.items()}
    # The first arm's boundaries are part of "frame: boundaries".
    extra = [sum(parts[f'frame: {k}'][i] for k in ('boundaries', 'reprojection'))
             + parts['arm: boundaries'][i]
             + 2 * sum(parts[f'arm: {k}'][i] for k in ('objects', 'flicker', 'calibration'))
             for i in range(REPEATS * FRAMES)]
    by_repeat = [statistics.median(extra[i::REPEATS]) for i in range(REPEATS)]
    result.state(
        name='accuracy_cost', value=statistics.median(extra), unit='ms of CPU per frame',
        workload={'width': WIDTH, 'height': HEIGHT, 'seed': SEED, 'classes': len(target),
                  'arms': 2, 'parts_ms': {k: round(v, 2) for k, v in medians.items()},
                  'n': FRAMES, 'repeats': REPEATS},
        spread={'min': round(min(by_repeat), 2), 'max': round(max(by_repeat), 2)},
        details={'parts_ms': parts}, json_file=args.json)


if __name__ == '__main__':
    main()
