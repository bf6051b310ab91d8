"""
How many of 40 live A/A runs a comparison calls different; delays that it finds again.

Each run starts camera, two perception nodes with the same student, and monitor anew, so that
whatever two processes of one program may differ in for a whole run is in it (``ab_error.py``
cannot see that). The value is how many the verdict calls faster or slower; at 95 % two of 40 are
to be expected. Then 1, 5 and 20 ms are put into the engine of one arm (``delayed_perception.py``),
and the median of the differences should be them again, to 0.2 ms or 2 %.
"""

from __future__ import annotations

from ab_runs import add_arguments, live_run, runs_folder, workload
import result

from kd_perception.evaluation.analysis import analyse
from kd_perception.evaluation.comparison import ComparisonRun
from kd_perception.evaluation.statistics.bootstrap import Interval

RUNS, FRAMES = 40, 60
DELAYS_MS = (1.0, 5.0, 20.0)
TOLERANCE_MS, TOLERANCE_SHARE = 0.2, 0.02


def main() -> None:
    parser = result.parser(__doc__ or '')
    add_arguments(parser, FRAMES)
    parser.add_argument('--aa', type=int, default=RUNS, metavar='N',
                        help='how many A/A runs (%(default)s)')
    parser.add_argument('--delays', type=float, nargs='*', default=DELAYS_MS, metavar='MS',
                        help='(%(default)s)')
    parser.add_argument('--delayed-frames', type=int, default=200, metavar='N',
                        help='of a run with a delay (%(default)s)')
    args = parser.parse_args()
    with runs_folder(args) as folder:
        alike = [live_run(folder, f'aa_{number:03d}', args, seed=number)
                 for number in range(args.aa)]
        args.frames = args.delayed_frames
        delayed = {ms: live_run(folder, f'delay_{ms:g}', args, delay_ms=ms)
                   for ms in args.delays}
    if not alike and not delayed:
        raise SystemExit('nothing to do')
    found = [difference(run) for run in alike]
    different = sum(interval.excludes(0.0) for interval in found)
    offsets = [interval.estimate for interval in found]
    result.state(
        name='ab_live', value=different, unit=f'of {len(found)} A/A runs called different',
        workload={
            **workload((alike or list(delayed.values()))[0]), 'frames': [
                sum(r.arm == 'a' for r in run.rows) - run.spec.warmup for run in alike],
            'delays': {f'{ms:g} ms': recovered(ms, difference(run))
                       for ms, run in delayed.items()}},
        spread={'min_ms': round(min(offsets, default=0), 3),
                'max_ms': round(max(offsets, default=0), 3)},
        details={'aa': [[i.estimate, i.low, i.high] for i in found]}, json_file=args.json)


def difference(run: ComparisonRun) -> Interval:
    """Return how much longer arm b takes, in ms: the median of the differences."""
    latency = analyse(run).comparisons[0].latency
    if latency is None:
        raise SystemExit(f'a run of {run.spec.frames} frames is too short')
    i = latency.median_difference
    return Interval(-i.estimate, -i.high, -i.low, i.confidence)


def recovered(ms: float, found: Interval) -> dict[str, object]:
    """Return what was found of a delay, and whether it is near enough."""
    near = max(TOLERANCE_MS, TOLERANCE_SHARE * ms)
    return {'found_ms': round(found.estimate, 3),
            'interval': [round(found.low, 3), round(found.high, 3)],
            'within_tolerance': abs(found.estimate - ms) <= near}


if __name__ == '__main__':
    main()
