"""
Two arms, a camera at 30 Hz, ten minutes: is every frame accounted for?

A recording of 640x360 is played in a loop to two students at once, in real time. Afterwards the
recording of the comparison is held against the counters of the nodes: each frame has one row per
arm; no result answers a frame that was not published, or a second time; no arm has received more
than was served, or answered more than it has sent. The rest of the lost frames never reached the
node. The value is the number of frames for which that does not hold; 1 is the exit code then.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
import sys

from node_bench import HEIGHT, make_student, private_room, RATE_HZ, WIDTH
import numpy as np
import result

from kd_perception.bags.writer import BagWriter
from kd_perception.evaluation.analysis import analyse
from kd_perception.evaluation.comparison import ArmSpec, ComparisonRun, ComparisonSpec
from kd_perception.evaluation.comparison_files import load_run, RECORDING
from kd_perception.nodes.bringup.graph import comparison_graph
from kd_perception.nodes.bringup.runner import run_graph

ARMS = ('a', 'b')
WARMUP = 30
PICTURES = 30
DROPPED = ('overwritten', 'stale', 'failed', 'inactive')


def main() -> int:
    parser = result.parser(__doc__ or '')
    parser.add_argument('--minutes', type=float, default=10.0)
    parser.add_argument('--engine', default='onnxruntime', choices=('onnxruntime', 'openvino'))
    parser.add_argument('--height', type=int, default=HEIGHT, help='of picture and network')
    parser.add_argument('--width', type=int, default=WIDTH)
    args = parser.parse_args()
    size = (args.height, args.width)
    frames = max(1, round(args.minutes * 60 * RATE_HZ))
    with private_room() as folder:
        bag = record(folder / 'drive', *size)
        for seed, name in enumerate(ARMS):
            make_student(folder, name=name, seed=seed, size=size)
        spec = ComparisonSpec(
            tuple(ArmSpec(n, str(folder / n), args.engine, precision='fp32', threads=1)
                  for n in ARMS),
            source='bag', scenario=str(bag), frames=frames, warmup=WARMUP, pacing='realtime',
            placement='concurrent', rate_hz=RATE_HZ)
        run_graph(comparison_graph(spec, str(folder / 'out'), camera={'loop': True}),
                  folder / 'logs')
        run = load_run(folder / 'out' / RECORDING)
    wrong = unaccounted(run, frames + WARMUP)
    statistics = analyse(run).statistics
    times = np.array(sorted({r.published_ns for r in run.rows if r.arm == 'a'
                             and r.published_ns is not None}))
    gaps_ms = np.diff(times) / 1e6
    result.state(
        name='ab_endurance', value=sum(wrong.values()), unit='frames unaccounted for',
        workload={'minutes': args.minutes, 'image': f'{args.width}x{args.height} rgb8',
                  'rate_hz': RATE_HZ, 'engine': args.engine, 'threads': 1,
                  'frames': {a: statistics[a].published for a in ARMS},
                  'lost': {a: statistics[a].status['lost'] for a in ARMS},
                  'never_reached': {a: frames + WARMUP - run.counters[a]['received']
                                    for a in ARMS},
                  'counters': {a: dict(run.counters[a]) for a in ARMS}, 'wrong': wrong},
        spread={'camera_rate_hz': round(1e3 / float(gaps_ms.mean()), 2),
                'camera_period_p99_ms': round(float(np.percentile(gaps_ms, 99)), 1),
                **{f'latency_p50_ms_{a}': round(statistics[a].latency.p50, 1) for a in ARMS}},
        json_file=args.json)
    for reason, count in wrong.items():
        print(f'ab_endurance: {count} {reason}', file=sys.stderr)
    return 1 if wrong else 0


def record(path: Path, height: int, width: int) -> Path:
    """Write a labelled recording."""
    from kd_perception.classes import load_class_set

    rng = np.random.default_rng(0)
    with BagWriter(path) as writer:
        for n in range(PICTURES):
            stamp = (n + 1) * 33_333_333
            writer.write_image('camera/image', rng.integers(0, 255, (height, width, 3), np.uint8),
                               stamp, 'front')
            writer.write_labels('camera/labels', np.full((height, width), n % 12, np.uint8),
                                stamp, 'front')
        writer.write_label_info('camera/labels_info', load_class_set('driving'), 1)
    return path


def unaccounted(run: ComparisonRun, served: int) -> dict[str, int]:
    """
    Return what does not add up, with the number of frames; empty when all is accounted for.

    :param served: frames that the camera was to give to each arm, the warm-up included.
    """
    out: Counter[str] = Counter()
    for arm in (a.name for a in run.arms):
        rows = [r for r in run.rows if r.arm == arm]
        status = Counter(r.status for r in rows)
        indices = Counter(r.index for r in rows if r.status in ('ok', 'late', 'lost'))
        out[f'frames of {arm} without exactly one row'] = sum(
            indices[i] != 1 for i in range(served)) + sum(
            n for i, n in indices.items() if not 0 <= i < served)
        out[f'results of {arm} that answer no frame, or one answered already'] = (
            status['unknown'] + status['duplicate'])
        counters = run.counters[arm]
        out[f'frames in the counters of {arm} that do not add up'] = abs(
            counters['received'] - counters['published'] - counters['in_flight']
            - sum(counters[name] for name in DROPPED))
        answered = status['ok'] + status['late']
        out[f'more results of {arm} than it has sent'] = max(0, answered - counters['published'])
        out[f'more frames received by {arm} than served'] = max(0, counters['received'] - served)
    return {reason: count for reason, count in out.items() if count}


if __name__ == '__main__':
    sys.exit(main())
