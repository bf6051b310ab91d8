"""
Frames per second of the embedded street at 640x360, slowest scenario and world.

Wants two idle cores. Each frame has labels and instance ids, all read back. Every scenario is
measured in every world for a few frames; the slowest few of all, and the slowest few of those with
shadows, are measured again, interleaved, with a fixed calibration loop between them, so that
figures of different machines and moments can be compared.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import statistics
import time
import zlib

import result

from kd_perception.paths import share_directory
from kd_perception.simulation.scenario import load_scenario
from kd_perception.simulation.street import StreetSimulator

WIDTH, HEIGHT, SEED = 640, 360, 2
LOOK, FINALISTS = 12, 3         # of all, and as many of those with shadows
REPEATS, FRAMES = 5, 24
CALIBRATION = bytes(range(256)) * 65_536        # 16 MiB

Pair = tuple[str, str]


def calibrate() -> float:
    """Return milliseconds that two threads take for a checksum of 16 MiB each."""
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(zlib.crc32, (CALIBRATION, CALIBRATION)))
    return (time.perf_counter() - start) * 1e3


def frame_ms(simulator: StreetSimulator, start_s: float, frames: int) -> tuple[float, float, int]:
    """Return wall and CPU milliseconds per frame and the fewest instances drawn."""
    drawn = []
    simulator.render(start_s)           # compiles shaders, and drives live traffic up to here
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(1, frames + 1):
        simulator.render(start_s + number / 30)
        drawn.append(simulator.drawn)
    return ((time.perf_counter() - wall) * 1e3 / frames,
            (time.process_time() - cpu) * 1e3 / frames, min(drawn))


def opened(pair: Pair) -> StreetSimulator:
    return StreetSimulator(pair[0], world=pair[1], seed=SEED, width=WIDTH, height=HEIGHT)


def names(kind: str) -> list[str]:
    return sorted(p.stem for p in (share_directory() / 'config' / kind).glob('*.yaml'))


def finalists_of(wall_ms: dict[Pair, float], shadowed: list[Pair]) -> list[Pair]:
    """Return the slowest few of all pairs and the slowest few of those with shadows."""
    ranked = sorted(wall_ms, key=lambda p: -wall_ms[p])
    return list(dict.fromkeys([*ranked[:FINALISTS],
                               *[p for p in ranked if p in shadowed][:FINALISTS]]))


def main() -> None:
    args = result.parser(__doc__ or '').parse_args()
    pairs: list[Pair] = [(s, w) for s in names('scenarios') for w in names('worlds')]
    first: dict[Pair, tuple[float, float, int]] = {}
    for pair in pairs:
        with opened(pair) as simulator:
            first[pair] = frame_ms(simulator, 15., LOOK)
    # A weak sun casts no shadow, which is usually cheaper; a lens full of drops is not.
    shadowed = [p for p in pairs if load_scenario(p[0]).casts_shadows]
    finalists = finalists_of({p: ms for p, (ms, _, _) in first.items()}, shadowed)
    simulators = {p: opened(p) for p in finalists}
    walls: dict[Pair, list[float]] = {p: [] for p in finalists}
    cpus: dict[Pair, list[float]] = {p: [] for p in finalists}
    calibrations, fewest = [], min(n for _, _, n in first.values())
    for repeat in range(REPEATS):
        for pair, simulator in simulators.items():
            calibrations.append(calibrate())
            wall, cpu, _ = frame_ms(simulator, 5. + 20. * repeat, FRAMES)
            walls[pair].append(wall)
            cpus[pair].append(cpu)
    medians = {p: statistics.median(w) for p, w in walls.items()}
    slowest = max(medians, key=lambda p: medians[p])
    dearest = max((p for p in finalists if p in shadowed), key=lambda p: medians[p])
    calibration = statistics.median(calibrations)
    rates = {f'{s} {w}': round(1e3 / ms, 1) for (s, w), (ms, _, _) in first.items()}
    result.state(
        name='simulator', value=1e3 / medians[slowest], unit='frames/s',
        workload={'scenario': slowest[0], 'world': slowest[1], 'width': WIDTH, 'height': HEIGHT,
                  'seed': SEED, 'fewest_instances_drawn': fewest,
                  'shadows': slowest in shadowed, 'labels': True, 'instance_ids': True,
                  'renderer': simulators[slowest].renderer,
                  'calibration_ms': round(calibration, 2),
                  'frames_per_calibration': round(calibration / medians[slowest], 4),
                  'cpu_ms_per_frame': round(statistics.median(cpus[slowest]), 1),
                  'slowest_with_shadows': {'scenario': dearest[0], 'world': dearest[1],
                                           'frames_per_s': round(1e3 / medians[dearest], 2)},
                  'finalists': [' '.join(p) for p in finalists], 'all': rates,
                  'n': FRAMES, 'repeats': REPEATS},
        spread={'min': round(1e3 / max(walls[slowest]), 2),
                'max': round(1e3 / min(walls[slowest]), 2)},
        details={'wall_ms': {' '.join(k): v for k, v in walls.items()},
                 'cpu_ms': {' '.join(k): v for k, v in cpus.items()},
                 'calibration_ms': calibrations},
        json_file=args.json)
    for simulator in simulators.values():
        simulator.close()


if __name__ == '__main__':
    main()
