"""
How often a comparison errs: share of A/A pairs that it calls different, in percent.

Runs of a student against itself are recorded with the real nodes (placement turns, lockstep), in
--runs, which is used again the next time. A pair is a window of ``--window`` neighbouring frames
of one run with the arms' labels exchanged at random over stretches of frames. It then goes the way
of every comparison, ``paired_latency`` and ``judge``, and is "called different" when the verdict
says faster or slower.

Why the truth is known: given what was measured, a stretch is as likely to be read a - b as b - a,
so the differences are symmetric about zero whatever their distribution, and mean and median of the
differences are 0 and both ratios 1, exactly. Why that is not the interval's own bootstrap: windows
are whole and taken once, nothing is drawn twice, and the stretches (geometric, 25 frames on
average) know nothing of the block length that the interval chooses; memory, tails and slow moments
of the machine stay in the windows as they were measured, up to the length of a stretch. What this
cannot show is an offset between two processes that lasts a whole run: the exchange takes it away.
``ab_live.py`` measures that.

Besides: the share of pairs in which 1 ms more in one arm is found, with the right sign (an added
constant shifts the interval of a difference by itself, so the interval is not computed again), the
coverage of each interval, and the coverage on made series with known memory, tails and drift.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
import math
from pathlib import Path

from ab_runs import add_arguments, live_run, recorded_run, runs_folder, workload
import numpy as np
import result

from kd_perception.evaluation.comparison import ComparisonRun, FrameRow
from kd_perception.evaluation.comparison_files import RECORDING
from kd_perception.evaluation.statistics.bootstrap import block_length, bootstrap, Interval
from kd_perception.evaluation.statistics.paired import pair_rows, paired_latency, PairedLatency
from kd_perception.evaluation.verdict import judge

INJECTED_MS = 1.0
STRETCH = 25
TRUTH = {'mean_difference': 0.0, 'median_difference': 0.0, 'mean_ratio': 1.0, 'median_ratio': 1.0}


def main() -> None:
    parser = result.parser(__doc__ or '')
    add_arguments(parser, 1200)
    parser.add_argument('--record', type=int, default=2, metavar='N',
                        help='how many runs there must be (%(default)s)')
    parser.add_argument('--window', type=int, default=200, help='frames of a pair (%(default)s)')
    parser.add_argument('--pairs', type=int, default=1000, help='(%(default)s)')
    parser.add_argument('--resamples', type=int, default=2000,
                        help='of the bootstrap, as in a comparison (%(default)s)')
    parser.add_argument('--made', type=int, default=1000,
                        help='series of each made kind (%(default)s)')
    args = parser.parse_args()
    with runs_folder(args) as folder:
        runs = recorded(folder, args)
    series = [latencies(run) for run in runs]
    if any(len(s) < args.window for s in series):
        raise SystemExit(f'a run has fewer than {args.window} frames: lower --window')
    rng = np.random.default_rng(0)
    verdicts = [[judged(exchanged(rng, one, args.window), args.resamples, seed)
                 for seed in range(args.pairs // len(series))] for one in series]
    everything = [v for of_run in verdicts for v in of_run]
    different = [100 * _share(of_run, _different) for of_run in verdicts]
    shown = 100 * _share(everything, _different)
    result.state(
        name='ab_error', value=shown, unit='% of A/A pairs called different',
        workload={
            **workload(runs[0]),
            'recorded_frames': [len(s) for s in series], 'window': args.window,
            'pairs': len(everything), 'resamples': args.resamples,
            'p50_ms': round(float(np.median(np.concatenate(series))), 2),
            'difference_iqr_ms': round(float(np.subtract(*np.percentile(
                np.concatenate([s[:, 0] - s[:, 1] for s in series]), (75, 25)))), 2),
            'found_1_ms_percent': round(100 * _share(everything, _found), 1),
            'half_width_ms': round(float(np.median(
                [(v.median_difference.high - v.median_difference.low) / 2
                 for v in everything])), 3),
            'coverage_percent': {k: round(100 * _share(everything, partial(_covers, k)), 1)
                                 for k in TRUTH},
            'made_coverage_percent': made_coverage(args.window, args.made)},
        spread={'min_of_runs': round(min(different), 2), 'max_of_runs': round(max(different), 2),
                # Windows of one run overlap: the true error is larger than this.
                'binomial_error': round(math.sqrt(shown * (100 - shown) / len(everything)), 2)},
        details={'block': [v.block for v in everything],
                 'median_difference': [[v.median_difference.low, v.median_difference.high]
                                       for v in everything]}, json_file=args.json)


def recorded(folder: Path, args: argparse.Namespace) -> list[ComparisonRun]:
    """Return the A/A runs in ``folder``, after recording those that are missing."""
    there = {path.parent: run for path in sorted(folder.glob(f'*/{RECORDING}'))
             if not path.parent.name.startswith('delay_')
             and (run := recorded_run(path.parent)) is not None}
    runs = list(there.values())
    number = 0
    while len(runs) < args.record:
        if folder / f'run_{number:03d}' not in there:
            runs.append(live_run(folder, f'run_{number:03d}', args, seed=number))
        number += 1
    return runs


def latencies(run: ComparisonRun) -> np.ndarray:
    """Return float ``[n, 2]``: milliseconds of both arms on the frames that both answered."""
    pairs, _, _ = pair_rows([r for arm in run.arms for r in run.arm_rows(arm.name)],
                            run.arms[0].name, run.arms[1].name)
    return np.array([(a.latency_ms, b.latency_ms) for a, b in pairs], float)


def exchanged(rng: np.random.Generator, series: np.ndarray, window: int) -> np.ndarray:
    """Return float ``[window, 2]``: a window whose labels are exchanged over random stretches."""
    start = rng.integers(0, len(series) - window + 1)
    out = series[start:start + window].copy()
    stretch = np.cumsum(rng.random(window) < 1 / STRETCH)
    swapped = (rng.random(stretch[-1] + 1) < 0.5)[stretch]
    out[swapped] = out[swapped][:, ::-1]
    return out


def judged(pair: np.ndarray, resamples: int, seed: int) -> PairedLatency:
    """Return what a comparison says of two arms with these latencies, float ``[n, 2]`` in ms."""
    rows = [FrameRow(arm, i, 'camera', i, i * 10**9, i * 10**9 + round(ms * 1e6))
            for i, both in enumerate(pair) for arm, ms in zip('ab', both)]
    found = paired_latency(rows, 'a', 'b', resamples=resamples, seed=seed)
    assert found is not None  # a window has enough frames
    return found


def _different(found: PairedLatency) -> bool:
    return judge('a', 'b', found, None, 2.0).latency in ('faster', 'slower',
                                                              'mixed')


def _found(found: PairedLatency) -> bool:
    """Return whether ``INJECTED_MS`` more in arm a would have been found, as a slower arm a."""
    return found.median_difference.low + INJECTED_MS > 0


def _covers(name: str, found: PairedLatency) -> bool:
    """Return whether an interval holds the true figure of two equal arms."""
    return not getattr(found, name).excludes(TRUTH[name])


def _share(found: Sequence[PairedLatency], holds: Callable[[PairedLatency], bool]) -> float:
    return sum(map(holds, found)) / len(found)


def made_coverage(n: int, trials: int) -> dict[str, dict[str, float]]:
    """Return in how many percent of made series the interval covers mean and median, both 0."""
    out = {}
    for name, make in MADE.items():
        rng = np.random.default_rng(1)
        hits = {'mean': 0, 'median': 0}
        for trial in range(trials):
            x = make(rng, n)
            hits['mean'] += not interval(x, np.mean, x, trial).excludes(0.0)
            side = np.sign(x - np.median(x))
            hits['median'] += not interval(x, np.median, side, trial).excludes(0.0)
        out[name] = {k: round(100 * v / max(1, trials), 1) for k, v in hits.items()}
    return out


def interval(x: np.ndarray, reduce: Callable[..., np.ndarray], influence: np.ndarray,
             seed: int) -> Interval:
    """Return the interval of a statistic of a series, as ``paired_latency`` takes it."""
    return bootstrap(lambda i: reduce(x[i], axis=1), x.size, block_length(influence),
                     resamples=500, seed=seed)


def remembering(rng: np.random.Generator, n: int, memory: float) -> np.ndarray:
    """Return an autoregressive series of order one, variance 1."""
    x = rng.standard_normal(n + 100)
    for i in range(1, n + 100):
        x[i] = memory * x[i - 1] + math.sqrt(1 - memory ** 2) * x[i]
    return x[100:]


MADE: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    'independent': lambda rng, n: rng.standard_normal(n),
    'memory 0.5': lambda rng, n: remembering(rng, n, 0.5),
    'memory 0.8': lambda rng, n: remembering(rng, n, 0.8),
    'heavy tails (t, 2)': lambda rng, n: rng.standard_t(2, n),
    'heavy tails with memory': lambda rng, n: (np.exp(remembering(rng, n, 0.7))
                                               * rng.standard_normal(n)),
    'three modes': lambda rng, n: (5 * rng.choice((-1, 0, 0, 1), n)
                                   + 0.3 * rng.standard_normal(n)),
    # Half a standard deviation up or down for 40 frames at a time.
    'drift': lambda rng, n: (rng.standard_normal(n)
                             + 0.5 * np.repeat(rng.choice((-1, 1), n // 40 + 1), 40)[:n]),
}


if __name__ == '__main__':
    main()
