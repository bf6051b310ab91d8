"""
What it costs to measure accuracy where it matters: CPU time per frame at 640x360, two arms.

Counted as the monitor counts it, between frames, from what the embedded street knows; CPU time of
the process, so that a busy machine disturbs little. The figure is the sum for one frame of two
arms; the details have its parts, and those of the camera beside.
"""

from __future__ import annotations

from collections.abc import Callable
import statistics
import time

import numpy as np
import result

from kd_perception.classes import load_class_map, load_class_set
from kd_perception.evaluation.boundary import TrueBoundary
from kd_perception.evaluation.calibration import Calibration
from kd_perception.evaluation.comparison import confusion_matrix
from kd_perception.evaluation.flicker import (
    count_flicker,
    movable,
    reproject,
    steady,
    View,
)
from kd_perception.evaluation.objects import ObjectCounter
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

    with StreetSimulator('clear', seed=SEED, width=WIDTH, height=HEIGHT) as street:
        street.render(0., depth=True)
        for number in range(REPEATS * FRAMES):
            at = 2. + number / 3
            add('camera: picture', lambda t=at: street.render(t))
            add('camera: picture with depth', lambda t=at: street.render(t, depth=True))
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
            add('frame: boundaries', lambda t=truth, m=mask: TrueBoundary(
                t, len(target)).count(m))
            add('frame: reprojection', lambda v=views, t=truth, b=last: steady(
                reproject(*v), t, b, moving))
            add('arm: boundaries', lambda k=known, m=mask: k.count(m))
            add('arm: objects', lambda i=table, f=now, m=mask: objects.count(i, f.instances, m))
            add('arm: flicker', lambda p=matches, m=mask, b=last: count_flicker(p, m, b))
            add('arm: calibration', lambda t=truth, m=mask, s=sure: Calibration().update(t, m, s))
            add('arm: confusion matrix', lambda t=truth, m=mask: confusion_matrix(
                t, m, len(target)))
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
