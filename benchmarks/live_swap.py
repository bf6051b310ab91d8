"""
What a swap of models does to the answers: the worst delay over the camera's period.

A camera of 640x360 bgr8 at 30 Hz and the node with a student, which is exchanged for another of
the same size and back, both from the artefact cache. The delay of an answer runs from the camera's
publish call to the mask; the value is the worst of the frames that were sent from the call of
``set_parameters`` until half a second after the other model serves. Wants two idle cores.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

from node_bench import (
    Cameras,
    HEIGHT,
    Line,
    make_student,
    PerceptionProbe,
    picture,
    private_room,
    RATE_HZ,
    Trip,
    WIDTH,
)
import result

from kd_perception.bundle import find_bundle
from kd_perception.nodes.bringup.graph import perception_graph
from kd_perception.nodes.bringup.runner import started

SWAPS, STEADY, AFTER_S, SWAP_S = 12, 60, 0.5, 60.0
NAMES = ('student', 'other')


def main() -> None:
    parser = result.parser(__doc__ or '')
    parser.add_argument('--engine', default='openvino', choices=('onnxruntime', 'openvino'))
    parser.add_argument('--precision', default='fp32', choices=('auto', 'fp32', 'bf16'))
    parser.add_argument('--threads', type=int, default=0)
    parser.add_argument('--swaps', type=int, default=SWAPS)
    args = parser.parse_args()
    with private_room() as folder:
        for seed, name in enumerate(NAMES):
            make_student(folder, name=name, seed=seed)
        hashes = [find_bundle(name, folder).hash[:12] for name in NAMES]
        graph = perception_graph(NAMES[0], models_dir=str(folder), engine=args.engine,
                                 precision=args.precision, threads=args.threads)
        with started(graph, folder / 'logs', isolated=False):
            steady, swaps = measure(args.swaps)
    period_ms = 1e3 / RATE_HZ
    # A frame without an answer has no delay; it is counted as lost.
    worst = [max((t.latency_ms for t in trips if t.answered_ns), default=float('inf'))
             for trips, _ in swaps]
    lost = [sum(not t.answered_ns for t in trips) for trips, _ in swaps]
    calm = [t.latency_ms for t in steady if t.answered_ns]
    result.state(
        name='live_swap', value=max(worst) / period_ms, unit='camera periods',
        workload={'image': f'{WIDTH}x{HEIGHT} bgr8', 'rate_hz': RATE_HZ, 'engine': args.engine,
                  'precision': args.precision, 'threads': args.threads, 'bundles': hashes,
                  'frames_lost': sum(lost), 'frames': sum(len(t) for t, _ in swaps),
                  'swap_s': round(statistics.median(s for _, s in swaps), 3),
                  'without_swap': {
                      'p50_ms': round(statistics.median(calm), 2),
                      'worst': round(max(calm) / period_ms, 3),
                      'frames_lost': len(steady) - len(calm), 'frames': len(steady)},
                  'repeats': len(swaps)},
        spread={'min': round(min(worst) / period_ms, 3),
                'median': round(statistics.median(worst) / period_ms, 3)},
        details={'worst_ms': worst, 'lost': lost, 'swap_s': [s for _, s in swaps],
                 'ms': [[t.latency_ms if t.answered_ns else None for t in trips]
                        for trips, _ in swaps]}, json_file=args.json)


def measure(count: int) -> tuple[list[Trip], list[tuple[list[Trip], float]]]:
    """Return the frames between the swaps, and those around each with how long it took."""
    from kd_perception.nodes.conversion import header, image_message

    message = image_message(picture(), 'bgr8', header(0, 'c'))
    cameras = Cameras({'front': Line('image', 'segmentation/mask', message)})
    probe = PerceptionProbe(cameras.node)
    try:
        cameras.wait()
        cameras.spin_until(lambda: probe.model, SWAP_S)
        cameras.run(['front'], STEADY)
        for name in reversed(NAMES):  # fills the cache, and everything that is done once
            one_swap(cameras, probe, name)
        steady, swaps = [], []
        for number in range(count):
            steady += cameras.run(['front'], STEADY)
            swaps.append(one_swap(cameras, probe, NAMES[1 - number % 2]))
        return steady, swaps
    finally:
        cameras.close()


def one_swap(cameras: Cameras, probe: PerceptionProbe, name: str) -> tuple[list[Trip], float]:
    """Return the frames around a swap to ``name``, and the seconds until it served."""
    cameras.forget()
    asked: dict[str, Any] = {}
    begin, number, served_after = time.monotonic(), 0, 0.0
    while not served_after or time.monotonic() < begin + served_after + AFTER_S:
        cameras.spin_for(begin + number / RATE_HZ - time.monotonic())
        if not asked:
            asked['answer'] = probe.set(model=name)
        if not served_after and probe.model == name:
            served_after = time.monotonic() - begin
        if time.monotonic() - begin > SWAP_S:
            sys.exit(f'no swap to {name}: {probe.states[-1]["message"]}')
        cameras.send('front')
        number += 1
    cameras.spin_for(0.5)
    answer = asked['answer'].result()
    if not answer.results[0].successful:
        sys.exit(answer.results[0].reason)
    return cameras.trips(), served_after


if __name__ == '__main__':
    main()
