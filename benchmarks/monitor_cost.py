"""
What the monitor costs an arm: percent of its throughput.

One arm (or two, --arms 2) with a student gets more frames of a looped recording with ground truth
than it can answer, so that its rate is all it can do. In turns, in random order, the monitor is
there (takes masks, timings and labels, and counts pixels, as in a comparison in real time) or is
not. The rate is that of the node's own counter. The value is one minus the mean of the ratios of
neighbouring turns, of the arm that loses most. Wants two idle cores: where arms, camera and
monitor share them, it is the cores that are measured. In lockstep, the default of a comparison,
pixels are counted while no arm works, so that less is lost than here.

Beside it stands how much more processor time the arm's own process takes for one result while the
monitor is there (it serializes for one more subscription). That does not depend on how busy the
cores are, and is what remains of the cost where the monitor has a core of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
import time
from typing import Any

from node_bench import make_student, private_room
import numpy as np
import psutil
import result

from kd_perception.bundle import find_bundle
from kd_perception.cli.recording import record_simulation
from kd_perception.evaluation.statistics.bootstrap import bootstrap, Interval
from kd_perception.nodes.bringup.graph import camera_node, NodeSpec, perception_node, RunGraph
from kd_perception.nodes.bringup.runner import check, Child, started
from kd_perception.nodes.monitor.pending import read_progress

ROUNDS, SECONDS, CLIP = 8, 8.0, 20
SETTLE_S, START_S = 2.0, 120.0


@dataclass(frozen=True)
class Turn:
    """Results per second, processor time in ms per result, and frames overwritten."""

    rate_hz: float
    cpu_ms: float
    overwritten: int


@dataclass
class Counts:
    """
    What an arm has said of itself.

    :param process: of the arm, for its processor time.
    :param seen: steady clock, frames published and overwritten, seconds of processor time.
    """

    process: psutil.Process
    seen: list[tuple[int, int, int, float]] = field(default_factory=list)

    def between(self, begin_ns: int, end_ns: int) -> Turn:
        """Return what the arm did between two times."""
        inside = [s for s in self.seen if begin_ns <= s[0] <= end_ns]
        if len(inside) < 3:
            raise SystemExit('an arm said nothing of itself: --seconds must be 4 or more')
        first, last = inside[0], inside[-1]
        results = max(1, last[1] - first[1])
        return Turn(results / ((last[0] - first[0]) / 1e9), 1e3 * (last[3] - first[3]) / results,
                    last[2] - first[2])


class Listener:
    """Takes the counters of all arms from /diagnostics; that costs both sides alike."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        from kd_perception.nodes import qos

        rclpy.init()
        self.counts = {arm: Counts(psutil.Process(pid)) for arm, pid in processes.items()}
        self._node = rclpy.create_node('listener')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._node.create_subscription(DiagnosticArray, '/diagnostics', self._on_state,
                                       qos.stream(50))

    def listen(self, seconds: float) -> None:
        """Take counters for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(left, 0.1))

    def close(self) -> None:
        """End the node."""
        import rclpy

        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown()

    def _on_state(self, message: Any) -> None:
        from kd_perception.nodes.conversion import values_of

        now = time.monotonic_ns()
        for status in message.status:
            for arm, counts in self.counts.items():
                if status.name == f'/{arm}/perception: perception':
                    values = values_of(status)
                    used = counts.process.cpu_times()
                    counts.seen.append((now, int(values['published']),
                                        int(values['overwritten']), used.user + used.system))


def main() -> None:
    parser = result.parser(__doc__ or '')
    parser.add_argument('--arms', type=int, default=1, choices=(1, 2))
    parser.add_argument('--rounds', type=int, default=ROUNDS, help='pairs of turns (%(default)s)')
    parser.add_argument('--seconds', type=float, default=SECONDS, help='of a turn (%(default)s)')
    parser.add_argument('--rate', type=float, default=100.0, metavar='HZ',
                        help='of the camera; more than an arm can answer (%(default)s)')
    parser.add_argument('--width', type=int, default=640)
    parser.add_argument('--height', type=int, default=360)
    args = parser.parse_args()
    arms = ('a', 'b')[:args.arms]
    with private_room() as folder:
        make_student(folder)
        clip = record_simulation(folder / 'clip', frames=CLIP, width=args.width,
                                 height=args.height, encoding='rgb8')
        nodes = [camera_node(source='bag', bag=str(clip), loop=True, stamps='clock', arms=arms,
                             rate_hz=args.rate)]
        nodes += [perception_node(arm, model='student', models_dir=str(folder),
                                  engine='onnxruntime', precision='fp32', threads=1)
                  for arm in arms]
        with started(RunGraph(tuple(nodes)), folder / 'logs', isolated=False) as children:
            turns = measure(arms, args.rounds, args.seconds, folder, children)
        bundle = find_bundle('student', folder).hash[:12]
    costs = {arm: cost([(o.rate_hz, w.rate_hz) for o, w in turns[arm]]) for arm in arms}
    own = {arm: cost([(1 / o.cpu_ms, 1 / w.cpu_ms) for o, w in turns[arm]]) for arm in arms}
    worst = max(costs, key=lambda arm: costs[arm].estimate)
    result.state(
        name='monitor_cost', value=100 * costs[worst].estimate, unit='%',
        workload={'image': f'{args.width}x{args.height} rgb8 with labels', 'bundle': bundle,
                  'engine': 'onnxruntime', 'precision': 'fp32', 'threads': 1, 'arms': args.arms,
                  'camera_hz': args.rate, 'seconds': args.seconds, 'repeats': args.rounds,
                  'saturated': all(t.overwritten for of_arm in turns.values()
                                   for pair in of_arm for t in pair),
                  'rate_without_hz': {arm: round(float(np.median(
                      [o.rate_hz for o, _ in turns[arm]])), 2) for arm in arms},
                  'own_processor_time': {arm: {
                      'ms_per_result': round(float(np.median(
                          [o.cpu_ms for o, _ in turns[arm]])), 2),
                      'cost_percent': round(100 * own[arm].estimate, 2),
                      'interval': [round(100 * own[arm].low, 2), round(100 * own[arm].high, 2)]}
                      for arm in arms}},
        spread={'low': round(100 * costs[worst].low, 2),
                'high': round(100 * costs[worst].high, 2)},
        details={'turns': {arm: [[asdict(t) for t in pair] for pair in turns[arm]]
                           for arm in arms}}, json_file=args.json)


def measure(arms: Sequence[str], rounds: int, seconds: float, folder: Path,
            children: Sequence[Child]) -> dict[str, list[tuple[Turn, Turn]]]:
    """Return by arm (without, with the monitor) of every round."""
    listener = Listener({child.node.namespace: child.process.pid for child in children
                         if child.node.namespace in arms})
    turns: dict[str, list[tuple[Turn, Turn]]] = {arm: [] for arm in arms}
    rng = np.random.default_rng(0)
    try:
        begin = time.monotonic()
        while not all(c.seen and c.seen[-1][1] > 50 for c in listener.counts.values()):
            check(children)
            if time.monotonic() - begin > START_S:
                raise SystemExit('the nodes did not start')
            listener.listen(0.5)
        for number in range(rounds):
            of_round: dict[bool, dict[str, Turn]] = {}
            for there in rng.permutation((False, True)).tolist():
                with ExitStack() as stack:
                    if there:
                        stack.enter_context(monitor(arms, folder / f'report_{number}', listener))
                    listener.listen(SETTLE_S)
                    start = time.monotonic_ns()
                    listener.listen(seconds)
                    end = time.monotonic_ns()
                of_round[there] = {arm: listener.counts[arm].between(start, end) for arm in arms}
            for arm in arms:
                turns[arm].append((of_round[False][arm], of_round[True][arm]))
        return turns
    finally:
        listener.close()


def monitor(arms: Sequence[str], out: Path, listener: Listener) -> ExitStack:
    """Return a context with a monitor that is at work; it writes its report at the end."""
    told = out.parent / f'{out.name}.json'
    node = NodeSpec('monitor', 'monitor', '', {
        'arms': tuple(arms), 'source': 'bag', 'frames': 0, 'pacing': 'realtime',
        'placement': 'concurrent', 'out': str(out), 'progress_file': str(told)})
    stack = ExitStack()
    children = stack.enter_context(started(RunGraph((node,)), out.parent / f'{out.name}_logs',
                                           isolated=False))
    begin = time.monotonic()
    while True:
        now = read_progress(told)
        if now is not None and now[2] == 'measuring':
            return stack
        check(children)
        if time.monotonic() - begin > START_S:
            stack.close()
            raise SystemExit(f'the monitor did not begin: {children[0].last_words()}')
        listener.listen(0.2)


def cost(rates: Sequence[tuple[float, float]]) -> Interval:
    """Return the share of throughput that is lost, with its interval over rounds."""
    lost = np.array([1 - there / without for without, there in rates])
    return bootstrap(lambda i: lost[i].mean(axis=1), lost.size, 1)


if __name__ == '__main__':
    main()
