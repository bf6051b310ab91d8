"""
Hours in minutes: a perception node that is treated badly and must not change.

Two cameras of 640x360 JPEG at 30 Hz, a process that is stopped for ten seconds in the beginning, a
swap of models in every cycle (a minute), and in between corrupt pictures, a camera that stops,
another resolution, parameters that are refused, a model that does not exist and one whose bytes
are damaged. Of the node's process memory, threads and handles are watched from outside. The value
is how much the memory has grown, in percent, from the first quarter after the warm-up to the last.
Ends with 1 when anything does not hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
import os
from pathlib import Path
import shutil
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

from node_bench import (
    Cameras,
    jpeg_message,
    Line,
    make_student,
    PerceptionProbe,
    picture,
    private_room,
    RATE_HZ,
)
import result

from kd_perception.bundle import DEPLOY, find_bundle
from kd_perception.nodes.perception.slots import COUNTERS
from kd_perception.paths import child_environment, module_command

NAMES = ('student', 'other')
CAMERAS = ('front', 'left')
# Ten seconds of a process that does not get its turn: to be exact, no message may be overtaken.
DEPTH = 300
# Share of it that is filled in the beginning, by a node that does not get its turn.
STALL = 0.97


@dataclass(frozen=True)
class Sample:
    """
    What the kernel says of the node's process.

    :param calm: whether no model was being loaded or released.
    """

    cycle: int
    calm: bool
    rss_bytes: int
    threads: int
    handles: int


def main() -> int:
    parser = result.parser(__doc__ or '')
    parser.add_argument('--minutes', type=float, default=30.0)
    parser.add_argument('--every', type=float, default=60.0, help='seconds of a cycle')
    parser.add_argument('--engine', default='openvino', choices=('onnxruntime', 'openvino'))
    parser.add_argument('--max-growth', type=float, default=2.0, help='of memory, in percent')
    parser.add_argument('--models', type=Path, help='a folder with two bundles of small pictures, '
                        'student and other, to be quick; by default they are made')
    args = parser.parse_args()
    with private_room() as folder:
        make_bundles(folder, args.models)
        spec = find_bundle(NAMES[0], folder).spec.input
        size = (spec.height, spec.width)
        log = folder / 'perception.log'
        with node(folder, args.engine, log) as process:
            soak = Soak(process, size, args.every, args.minutes * 60)
            try:
                soak.run()
                wrong, counters = soak.wrong(), soak.counters()
                codes = {'SIGINT': end(process, signal.SIGINT)}
                with node(folder, args.engine, log) as second:
                    soak.meet()
                    soak.probe.set(model=NAMES[1])  # a signal comes while it loads
                    codes['SIGTERM'] = end(second, signal.SIGTERM)
            finally:
                soak.close()
        said = log.read_text()
    growth = soak.growth_percent()
    wrong += [f'exit code {code} on {name}' for name, code in codes.items() if code]
    if growth > args.max_growth:
        wrong.append(f'memory has grown by {growth:.2f} %')
    if 'Traceback' in said:
        wrong.append(f'the node printed a traceback: {said[said.index("Traceback"):][:2000]}')
    calm = [s for s in soak.samples if s.calm]
    result.state(
        name='soak', value=growth, unit='% of memory',
        workload={'minutes': args.minutes, 'cameras': len(CAMERAS), 'rate_hz': RATE_HZ,
                  'image': f'{size[1]}x{size[0]} jpeg', 'engine': args.engine,
                  'swaps': soak.swaps, **counters,
                  'corrupt': soak.corrupt, 'exit_codes': codes,
                  'rss_mb': round(statistics.median(s.rss_bytes for s in calm) / 1e6, 1),
                  'wrong': wrong},
        spread={'rss_mb_min': round(min(s.rss_bytes for s in calm) / 1e6, 1),
                'rss_mb_max': round(max(s.rss_bytes for s in calm) / 1e6, 1),
                'threads': [min(s.threads for s in calm), max(s.threads for s in calm)],
                'handles': [min(s.handles for s in calm), max(s.handles for s in calm)]},
        details={'samples': [vars(s) for s in soak.samples]}, json_file=args.json)
    for line in wrong:
        print(f'soak: {line}', file=sys.stderr)
    return 1 if wrong else 0


def make_bundles(folder: Path, given: Path | None) -> None:
    """Write two students and one with a damaged byte, which only loading finds."""
    for seed, name in enumerate(NAMES):
        if given is None:
            make_student(folder, name=name, seed=seed)
        else:
            shutil.copytree(given / name, folder / name)
    shutil.copytree(folder / NAMES[0], folder / 'damaged')
    graph = folder / 'damaged' / DEPLOY
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)


@contextmanager
def node(folder: Path, engine: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a perception node as on a vehicle; kill it when the block is left and it still runs."""
    given: dict[str, Any] = {
        'models_dir': folder, 'model': NAMES[0], 'engine': engine, 'precision': 'fp32',
        'cameras': f'[{",".join(CAMERAS)}]', 'image_transport': 'compressed'}
    for camera in CAMERAS:
        subscription = f'qos_overrides./{camera}/image/compressed.subscription'
        given |= {f'{subscription}.reliability': 'reliable', f'{subscription}.depth': DEPTH}
    command = module_command('kd_perception.nodes.perception.node', '--ros-args')
    for name, value in given.items():
        command += ['-p', f'{name}:={value}']
    with log.open('ab') as stream:
        process = subprocess.Popen(command, env={**os.environ, **child_environment()},
                                   stdout=stream, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> int:
    """Send a signal and return the exit code."""
    process.send_signal(number)
    try:
        return process.wait(60.0)
    except subprocess.TimeoutExpired:
        return -1


class Soak:
    """
    The cameras, what is done to the node, and what was seen of it.

    :param every: seconds of a cycle.
    :param seconds: of the run.
    """

    def __init__(self, process: subprocess.Popen[bytes], size: tuple[int, int], every: float,
                 seconds: float) -> None:
        self.samples: list[Sample] = []
        self.sent = self.corrupt = self.swaps = 0
        self._process, self._every, self._seconds = process, every, seconds
        whole = jpeg_message(picture(*size))
        cut, noise = jpeg_message(picture(*size)), jpeg_message(picture(*size))
        cut.data = cut.data[:len(cut.data) // 3]
        noise.data[20:] = noise.data[:-20]
        self._whole, self._corrupt = whole, (cut, noise)
        self._large = jpeg_message(picture(size[0] * 2, size[1] * 2))
        self.cameras = Cameras({c: Line(f'{c}/image/compressed', f'{c}/segmentation/mask', whole)
                                for c in CAMERAS}, DEPTH)
        self.probe = PerceptionProbe(self.cameras.node)
        self._asked: list[tuple[str, bool, Any]] = []
        self._expected = NAMES[0]

    def run(self) -> None:
        """Treat the node badly for the whole time."""
        self.meet()
        self._settle()
        self.sent = numbers(self.probe.states[-1])['received']
        self._stall()
        begin, number, looked = time.monotonic(), 0, 0.0
        pending: list[str] = []
        cycle = -1
        while (passed := time.monotonic() - begin) < self._seconds:
            if int(passed / self._every) != cycle:
                cycle = int(passed / self._every)
                pending = list(EVENTS)
                self.cameras.forget()
            phase = passed / self._every - cycle
            while pending and phase >= EVENTS[pending[0]]:
                self._happen(pending.pop(0))
            self._send(phase, number)
            number += 1
            if passed >= looked:
                looked += min(1.0, self._every / 20)
                self._look(cycle, phase)
            self.cameras.spin_for(begin + number / RATE_HZ - time.monotonic())
            # A machine that was busy for a while is not made busier by what it missed.
            number = max(number, int((time.monotonic() - begin) * RATE_HZ) - 2)
        self._settle()

    def meet(self) -> None:
        """Send until both cameras are answered; what was lost till then never was a message."""
        met: set[str] = set()
        self.cameras.forget()
        def answered() -> bool:
            for camera in CAMERAS:
                self.cameras.send(camera)
            self.cameras.spin_for(0.3)
            met.update(t.line for t in self.cameras.trips() if t.answered_ns)
            return len(met) == len(CAMERAS)

        self.cameras.wait(settle_s=0.1)
        if not self.cameras.spin_until(answered, 120.0):
            sys.exit('the node answers nothing')

    def _stall(self) -> None:
        """
        Give the node no turn while the cameras go on; every frame of it must be counted.

        The middleware keeps the memory of the longest queue that it has had. A machine that is
        busy in the midst of the run would make it longer, and the node seem to grow.
        """
        begin = time.monotonic()
        self._process.send_signal(signal.SIGSTOP)
        for number in range(int(STALL * DEPTH)):
            for camera in CAMERAS:
                self.cameras.send(camera)
                self.sent += 1
            self.cameras.spin_for(begin + number / RATE_HZ - time.monotonic())
        self._process.send_signal(signal.SIGCONT)
        self._settle()

    def _happen(self, what: str) -> None:
        if what == 'swap':
            self._expected = NAMES[1] if self._expected == NAMES[0] else NAMES[0]
            self._ask(True, model=self._expected)
            self.swaps += 1
        elif what == 'bad value':
            self._ask(False, confidence_threshold=2.0)
        elif what == 'not while it runs':
            self._ask(False, image_transport='raw')
        elif what == 'no such model':
            self._ask(False, model='nobody')
        elif what == 'damaged model':
            self._ask(True, model='damaged')

    def _ask(self, accepted: bool, **values: Any) -> None:
        self._asked.append((str(values), accepted, self.probe.set(**values)))

    def _send(self, phase: float, number: int) -> None:
        for camera in CAMERAS:
            message = self._whole
            if camera == 'left' and within(phase, STOPPED):
                continue
            if camera == 'front' and within(phase, LARGE):
                message = self._large
            if camera == 'front' and within(phase, CORRUPT):
                message = self._corrupt[number % 2]
                self.corrupt += 1
            self.cameras.send(camera, message)
            self.sent += 1

    def _look(self, cycle: int, phase: float) -> None:
        if self._process.poll() is not None:
            sys.exit(f'the node ended with {self._process.returncode}')
        folder = Path('/proc') / str(self._process.pid)
        words = (folder / 'status').read_text().split()
        self.samples.append(Sample(
            cycle, within(phase, CALM), int(words[words.index('VmRSS:') + 1]) * 1024,
            int(words[words.index('Threads:') + 1]), len(os.listdir(folder / 'fd'))))

    def _told_since(self, states: int) -> bool:
        return len(self.probe.states) > states

    def _settle(self) -> None:
        """Send nothing until the node has nothing left to do, or does not get on."""
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline:
            before = len(self.probe.states)
            if not self.cameras.spin_until(partial(self._told_since, before), 60.0):
                sys.exit('no diagnostics came')
            state = self.probe.states[-1]
            if state['in_flight'] == '0' and state['loading'] == 'False' and (
                    int(state['received']) >= self.sent):
                return

    def counters(self) -> dict[str, int]:
        """Return the frames that were sent, and what the node told last of them."""
        return {'sent': self.sent, **numbers(self.probe.states[-1])}

    def wrong(self) -> list[str]:
        """Return what does not hold, before the node is ended."""
        out = []
        told = numbers(self.probe.states[-1])
        for state in self.probe.states:
            counts = numbers(state)
            if counts['received'] != sum(counts[c] for c in COUNTERS if c != 'received'):
                out.append(f'counters do not add up: {counts}')
        if told['received'] != self.sent:
            out.append(f'{self.sent} frames were sent, {told["received"]} received')
        if not 0 < told['failed'] <= self.corrupt:
            out.append(f'{told["failed"]} frames failed, {self.corrupt} were corrupt')
        for what, accepted, future in self._asked:
            results = future.result().results if future.done() else []
            if [r.successful for r in results] != [accepted]:
                out.append(f'set_parameters {what}: {results or "no answer"}')
        if self.probe.model != self._expected:
            out.append(f'{self.probe.model} serves, {self._expected} was asked for')
        for kind in ('threads', 'handles'):
            first, last = (min(getattr(s, kind) for s in part) for part in self._ends())
            if last > first:
                out.append(f'{kind} have become more: {first}, at last {last}')
        return out

    def growth_percent(self) -> float:
        """
        Return how much memory has grown from the first to the last quarter.

        Of each cycle the lowest value counts: a swap that takes long on a busy machine holds two
        models for a while, a leak never comes down again.
        """
        floors: dict[int, int] = {}
        for sample in self.samples:
            floors[sample.cycle] = min(sample.rss_bytes, floors.get(sample.cycle, 2**63))
        warm = list(floors.values())[len(floors) // 6:]
        quarter = max(1, len(warm) // 4)
        first, last = statistics.median(warm[:quarter]), statistics.median(warm[-quarter:])
        return 100.0 * (last / first - 1.0)

    def _ends(self) -> tuple[Sequence[Sample], Sequence[Sample]]:
        """Return calm samples: the first and the last quarter after a sixth of the time."""
        calm = [s for s in self.samples if s.calm]
        if len(calm) < 6:
            sys.exit('too short: not enough was seen of the node')
        warm = calm[len(calm) // 6:]
        quarter = max(1, len(warm) // 4)
        return warm[:quarter], warm[-quarter:]

    def close(self) -> None:
        """End the cameras."""
        self.cameras.close()


# When in a cycle things happen, and stretches of it.
EVENTS = {'swap': 0.0, 'bad value': 0.7, 'not while it runs': 0.72, 'no such model': 0.75,
          'damaged model': 0.8}
CORRUPT, STOPPED, LARGE, CALM = (0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (0.6, 0.8)


def within(phase: float, stretch: tuple[float, float]) -> bool:
    """Return whether ``phase`` lies in the stretch."""
    return stretch[0] <= phase < stretch[1]


def numbers(state: dict[str, str]) -> dict[str, int]:
    """Return the counters of a status."""
    return {name: int(state[name]) for name in COUNTERS}


if __name__ == '__main__':
    sys.exit(main())
