"""
Latency of a teacher over that of its student on this CPU, and what the student loses.

    python benchmarks/student_speedup.py --teacher A --student B --data camvid/test

The fastest engine for each, at equal precision; calls of both alternate. The mIoU of both is
measured on the same labelled frames. With ``--half`` a network of half the teacher's cost, which
was trained by the teacher's recipe, is measured, too: where it matches the teacher, the teacher
is larger than it needs to be, and the figure says nothing.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
import statistics
import time
from typing import Any

import numpy as np
import result

from kd_perception.bags.source import open_source
from kd_perception.bundle import load_bundle, ModelBundle
from kd_perception.engines.loader import load_engine
from kd_perception.evaluation.evaluate import evaluate

ENGINES = ('onnxruntime', 'openvino')
WARMUP, CALLS, REPEATS = 3, 5, 9


def main() -> None:
    parser = result.parser(__doc__ or '')
    for name in ('teacher', 'student'):
        parser.add_argument(f'--{name}', type=Path, required=True, help='its bundle')
    parser.add_argument('--half', type=Path, help="bundle of half the teacher's cost")
    parser.add_argument('--data', type=Path, required=True, help='labelled frames')
    parser.add_argument('--classes', default='camvid', help='class set of the labels')
    parser.add_argument('--precision', choices=('fp32', 'bf16'), default='fp32')
    args = parser.parse_args()
    bundles = {name: load_bundle(path) for name, path in
               (('teacher', args.teacher), ('student', args.student), ('half', args.half))
               if path is not None}
    times = latencies(bundles, args.precision)
    best = {name: min(engines, key=lambda e: statistics.median(engines[e]))
            for name, engines in times.items()}
    scores = {name: score(bundle, args, best[name]) for name, bundle in bundles.items()}
    ratios = [t / s for t, s in zip(times['teacher'][best['teacher']],
                                    times['student'][best['student']], strict=True)]
    result.state(
        name='student_speedup', value=statistics.median(ratios), unit='times the student',
        workload={'data': args.data.name, 'precision': args.precision, 'n': CALLS,
                  'repeats': REPEATS, 'engine': best,
                  'bundles': {n: b.hash[:12] for n, b in bundles.items()},
                  'input': {n: [b.spec.input.height, b.spec.input.width]
                            for n, b in bundles.items()},
                  'ms': {n: {e: round(statistics.median(v), 2) for e, v in engines.items()}
                         for n, engines in times.items()},
                  'miou': {n: round(100 * s, 2) for n, s in scores.items()},
                  'miou_lost': round(100 * (scores['teacher'] - scores['student']), 2)},
        spread={'min': round(min(ratios), 2), 'max': round(max(ratios), 2)}, json_file=args.json)


def latencies(bundles: dict[str, ModelBundle],
              precision: str) -> dict[str, dict[str, list[float]]]:
    """Return the median milliseconds of every repeat, by bundle and engine, in alternation."""
    runs = {}
    for name, bundle in bundles.items():
        for engine in ENGINES:
            if precision == 'fp32' or engine == 'openvino':
                runs[name, engine] = load_engine(bundle, engine, precision=precision)
    pictures = {n: np.random.default_rng(0).integers(
        0, 256, (1, b.spec.input.height, b.spec.input.width, 3), np.uint8)
        for n, b in bundles.items()}
    times: dict[str, dict[str, list[float]]] = {n: {} for n in bundles}
    for repeat in range(WARMUP + REPEATS):
        for (name, engine), run in runs.items():
            calls = []
            for _ in range(CALLS):
                start = time.perf_counter()
                run.infer(pictures[name])
                calls.append(1e3 * (time.perf_counter() - start))
            if repeat >= WARMUP:
                times[name].setdefault(engine, []).append(statistics.median(calls))
    for run in runs.values():
        run.close()
    return times


def score(bundle: ModelBundle, args: Any, engine: str) -> float:
    """Return the mean IoU on the labelled frames, void ignored."""
    with closing(open_source(args.data, classes=args.classes)) as source:
        return evaluate(bundle, source, engine=engine, precision=args.precision).mean_iou


if __name__ == '__main__':
    main()
