"""
Frames per second of the embedded street at 640x360, slowest scenario; wants two idle cores.

Each frame has shadows, labels and instance ids, all read back. Between the batches of frames runs
a fixed calibration loop, so that figures of different machines and moments can be compared.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import statistics
import time
import zlib

import result

from kd_perception.paths import share_directory
from kd_perception.simulation.street import StreetSimulator

WIDTH, HEIGHT, SEED = 640, 360, 2
REPEATS, FRAMES = 5, 24
CALIBRATION = bytes(range(256)) * 65_536        # 16 MiB


def calibrate() -> float:
    """Return milliseconds that two threads take for a checksum of 16 MiB each."""
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(zlib.crc32, (CALIBRATION, CALIBRATION)))
    return (time.perf_counter() - start) * 1e3


def frame_ms(simulator: StreetSimulator, start_s: float) -> tuple[float, float, int]:
    """Return wall and CPU milliseconds per frame and the fewest instances drawn."""
    drawn = []
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(FRAMES):
        simulator.render(start_s + number / 30)
        drawn.append(simulator.drawn)
    return ((time.perf_counter() - wall) * 1e3 / FRAMES,
            (time.process_time() - cpu) * 1e3 / FRAMES, min(drawn))


def main() -> None:
    args = result.parser(__doc__ or '').parse_args()
    folder = share_directory() / 'config' / 'scenarios'
    names = sorted(p.stem for p in folder.glob('*.yaml'))
    simulators = {n: StreetSimulator(n, seed=SEED, width=WIDTH, height=HEIGHT) for n in names}
    for simulator in simulators.values():       # the first frame compiles the shaders
        simulator.render(0.)
    walls: dict[str, list[float]] = {n: [] for n in names}
    cpus: dict[str, list[float]] = {n: [] for n in names}
    calibrations, fewest = [], 10**9
    for repeat in range(REPEATS):
        for name in names:
            calibrations.append(calibrate())
            wall, cpu, drawn = frame_ms(simulators[name], 5. + 20. * repeat)
            walls[name].append(wall)
            cpus[name].append(cpu)
            fewest = min(fewest, drawn)
    medians = {n: statistics.median(w) for n, w in walls.items()}
    slowest = max(medians, key=lambda n: medians[n])
    calibration = statistics.median(calibrations)
    rates = {n: round(1e3 / m, 2) for n, m in medians.items()}
    result.state(
        name='simulator', value=1e3 / medians[slowest], unit='frames/s',
        workload={'scenario': slowest, 'width': WIDTH, 'height': HEIGHT, 'seed': SEED,
                  'fewest_instances_drawn': fewest, 'shadows': True, 'labels': True,
                  'instance_ids': True, 'renderer': simulators[slowest].renderer,
                  'calibration_ms': round(calibration, 2),
                  'frames_per_calibration': round(calibration / medians[slowest], 4),
                  'cpu_ms_per_frame': round(statistics.median(cpus[slowest]), 1),
                  'all_scenarios': rates, 'n': FRAMES, 'repeats': REPEATS},
        spread={'min': round(1e3 / max(walls[slowest]), 2),
                'max': round(1e3 / min(walls[slowest]), 2)},
        details={'wall_ms': walls, 'cpu_ms': cpus, 'calibration_ms': calibrations},
        json_file=args.json)
    for simulator in simulators.values():
        simulator.close()


if __name__ == '__main__':
    main()
