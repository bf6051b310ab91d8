"""
How soon a fresh perception node answers: seconds from the call of configure to the first mask.

A camera of 640x360 bgr8 runs at 30 Hz; what the engine must build, or measure, is in the cache
already. Each run is a process of its own, by two ways in turns: one that starts itself (from the
start of the process to ``active`` and to the first mask), and one that is configured and activated
from outside, as a lifecycle manager does (from either call to the first mask). The value is the
median of the slowest engine from the call of configure on; the rest stands in the workload. Wants
two idle cores.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import statistics
import sys
import time
from typing import Any

from node_bench import (
    Cameras,
    HEIGHT,
    Line,
    make_student,
    picture,
    private_room,
    RATE_HZ,
    WIDTH,
)
import result

from kd_perception.bundle import find_bundle
from kd_perception.nodes.bringup.graph import perception_graph
from kd_perception.nodes.bringup.runner import Child, started

ENGINES = ('auto', 'onnxruntime', 'openvino')
REPEATS, PATIENCE_S = 7, 120.0
NODE = '/perception'


def main() -> None:
    parser = result.parser(__doc__ or '')
    parser.add_argument('--engines', nargs='+', default=list(ENGINES), choices=ENGINES)
    parser.add_argument('--precision', default='fp32', choices=('auto', 'fp32', 'bf16'))
    parser.add_argument('--repeats', type=int, default=REPEATS)
    args = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {engine: [] for engine in args.engines}
    with private_room() as folder:
        make_student(folder)
        bundle = find_bundle('student', folder).hash[:12]
        start_up = StartUp(folder, args.precision)
        try:
            for engine in args.engines:
                start_up.by_itself(engine)  # fills the cache
            for _ in range(args.repeats):
                for engine in args.engines:
                    runs[engine].append({**start_up.by_itself(engine),
                                         **start_up.by_a_manager(engine)})
        finally:
            start_up.close()
    medians = {engine: {name: round(statistics.median(run[name] for run in own), 3)
                        for name in own[0]} for engine, own in runs.items()}
    slowest = max(args.engines, key=lambda engine: medians[engine]['configure_to_mask_s'])
    times = [run['configure_to_mask_s'] for run in runs[slowest]]
    result.state(
        name='start_up', value=statistics.median(times), unit='s from configure to the first mask',
        workload={'image': f'{WIDTH}x{HEIGHT} bgr8', 'rate_hz': RATE_HZ, 'engine': slowest,
                  'precision': args.precision, 'bundle': bundle, 'medians': medians,
                  'repeats': args.repeats},
        spread={'min': round(min(times), 3), 'max': round(max(times), 3)},
        details={'runs': runs}, json_file=args.json)


class StartUp:
    """
    A camera that never rests, and nodes that come and go.

    :param folder: models, and logs of the nodes.
    """

    def __init__(self, folder: Path, precision: str) -> None:
        from lifecycle_msgs.msg import TransitionEvent
        from lifecycle_msgs.srv import ChangeState

        from kd_perception.nodes import qos
        from kd_perception.nodes.conversion import header, image_message

        self._folder, self._precision = folder, precision
        message = image_message(picture(), 'bgr8', header(0, 'c'))
        self._cameras = Cameras({'front': Line('image', 'segmentation/mask', message)})
        self._active_at = 0.0
        node = self._cameras.node
        node.create_subscription(TransitionEvent, f'{NODE}/transition_event', self._on_transition,
                                 qos.stream(10))
        self._client = node.create_client(ChangeState, f'{NODE}/change_state')

    def by_itself(self, engine: str) -> dict[str, float]:
        """Return the seconds from the start of a process to active, and to its first mask."""
        begin = self._forget()
        with self._node(engine, autostart=True) as children:
            mask = self._until(children[0], self._first_mask)
            active = self._until(children[0], lambda: self._active_at)
        self._wait_for_the_end()
        return {'process_to_active_s': active - begin, 'process_to_mask_s': mask - begin}

    def by_a_manager(self, engine: str) -> dict[str, float]:
        """Return the seconds from the calls of configure and activate to the first mask."""
        self._forget()
        with self._node(engine, autostart=False) as children:
            self._until(children[0], self._client.service_is_ready)
            configure = self._change(children[0], 'configure')
            activate = self._change(children[0], 'activate')
            mask = self._until(children[0], self._first_mask)
        self._wait_for_the_end()
        return {'configure_to_mask_s': mask - configure, 'activate_to_mask_s': mask - activate}

    def close(self) -> None:
        """End the camera."""
        self._cameras.close()

    def _node(self, engine: str, *, autostart: bool) -> Any:
        graph = perception_graph('student', models_dir=str(self._folder), engine=engine,
                                 precision=self._precision, autostart=autostart)
        return started(graph, self._folder / 'logs', isolated=False)

    def _forget(self) -> float:
        self._cameras.forget()
        self._active_at = 0.0
        return time.monotonic()

    def _change(self, child: Child, label: str) -> float:
        """Call for a transition, wait for it, and return when it was called."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        called = time.monotonic()
        future = self._client.call_async(ChangeState.Request(transition=Transition(label=label)))
        self._until(child, future.done)
        answer = future.result()
        if answer is None or not answer.success:
            sys.exit(f'the node did not {label}: {child.last_words()}')
        return called

    def _first_mask(self) -> float:
        answers = [trip.answered_ns for trip in self._cameras.trips() if trip.answered_ns]
        return min(answers, default=0) / 1e9

    def _until(self, child: Child, condition: Callable[[], Any]) -> Any:
        """Publish at the camera's rate until ``condition`` holds; return its value."""
        begin, number = time.monotonic(), 0
        while not (value := condition()):
            if child.process.poll() is not None or time.monotonic() - begin > PATIENCE_S:
                sys.exit(f'the node does not serve: {child.last_words()}')
            if time.monotonic() >= begin + number / RATE_HZ:
                self._cameras.send('front')
                number += 1
            self._cameras.spin_for(0.002)
        return value

    def _wait_for_the_end(self) -> None:
        """Wait until the middleware has noticed that the node is gone."""
        node = self._cameras.node
        if not self._cameras.spin_until(
                lambda: not node.count_subscribers('image')
                and not self._client.service_is_ready(), PATIENCE_S):
            sys.exit('the last node does not go away')

    def _on_transition(self, event: Any) -> None:
        if event.goal_state.label == 'active':
            self._active_at = self._active_at or time.monotonic()


if __name__ == '__main__':
    main()
