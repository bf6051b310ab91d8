"""
Our node and a plain one in one run: 360p, 720p and 1080p, raw and JPEG, one and four cameras.

Three arms, in turns of a few seconds: our node; ``plain_node.py``, which is written the way most
published Python nodes are, with the middleware as it comes; and the same with the middleware and
malloc settings that our launch files make, to tell what is theirs. All publish the mask alone:
nobody subscribes to the confidence, which ours then leaves out. Cameras run at 30 Hz, all at
the same instants, in a process whose environment is that of the arm. Latency is publish call to
mask; staleness is the age of the newest mask at hand when the next frame is published. The value
is the p95 latency of our node over that of the plain one as it comes, in the worst cell.
Ctrl-C ends with what was measured so far. Wants two idle cores, takes some six minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass, field
from functools import partial
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

from node_bench import (
    Cameras,
    jpeg_message,
    Line,
    make_student,
    picture,
    private_room,
    RATE_HZ,
    Trip,
)
import numpy as np
import result

from kd_perception.bundle import find_bundle
from kd_perception.nodes.environment import tuning
from kd_perception.paths import child_environment, module_command

SIZES = {'360p': (360, 640), '720p': (720, 1280), '1080p': (1080, 1920)}
ARMS = ('ours', 'plain', 'plain_tuned')
WARMUP, FRAMES, ROUNDS, DRAIN_S = 10, 75, 2, 1.5
CAMERA = '--camera'
_TICKS = os.sysconf('SC_CLK_TCK')


@dataclass
class Cell:
    """What one arm did at one size, transport and number of cameras."""

    latency_ms: list[float] = field(default_factory=list)
    staleness_ms: list[float] = field(default_factory=list)
    sent: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0

    def row(self) -> dict[str, float]:
        """Return the figures of the table."""
        p50, p95 = (np.percentile(self.latency_ms, [50, 95]) if self.latency_ms
                    else (float('nan'),) * 2)
        stale = np.percentile(self.staleness_ms, 95) if self.staleness_ms else float('nan')
        return {'p50_ms': round(float(p50), 1), 'p95_ms': round(float(p95), 1),
                'stale_p95_ms': round(float(stale), 1), 'answered': len(self.latency_ms),
                'sent': self.sent, 'cpu_cores': round(self.cpu_s / max(self.wall_s, 1e-9), 2)}


def main() -> int:
    parser = result.parser(__doc__ or '')
    parser.add_argument('--sizes', nargs='+', default=list(SIZES), choices=list(SIZES))
    parser.add_argument('--transports', nargs='+', default=['raw', 'jpeg'],
                        choices=('raw', 'jpeg'))
    parser.add_argument('--cameras', nargs='+', type=int, default=[1, 4])
    parser.add_argument('--frames', type=int, default=FRAMES)
    parser.add_argument('--rounds', type=int, default=ROUNDS)
    parser.add_argument('--engine', default='onnxruntime', choices=('onnxruntime', 'openvino'))
    parser.add_argument('--threads', type=int, default=0)
    args = parser.parse_args()
    cells: dict[tuple[str, str, int, str], Cell] = {}
    interrupted = False
    with private_room() as folder:
        make_student(folder)
        bundle = find_bundle('student', folder)
        try:
            for transport in args.transports:
                for count in args.cameras:
                    measure(folder, bundle.path, transport, count, args, cells)
        except KeyboardInterrupt:
            interrupted = True
    rows = {key: cell.row() for key, cell in cells.items() if cell.sent}
    table = list(markdown(rows))
    print('\n'.join(table))
    ratios = {key[:3]: rows[key]['p95_ms'] / rows[(*key[:3], 'plain')]['p95_ms']
              for key in rows if key[3] == 'ours' and (*key[:3], 'plain') in rows}
    if not ratios:
        print('node_table: interrupted before anything was measured', file=sys.stderr)
        return 130
    known = [r for r in ratios.values() if not np.isnan(r)]
    result.state(
        name='node_table', value=max(known, default=float('nan')),
        unit='times the p95 latency of a plain node',
        workload={'engine': args.engine, 'precision': 'fp32', 'threads': args.threads,
                  'bundle': bundle.hash[:12], 'network': '640x360', 'rate_hz': RATE_HZ,
                  'n': args.frames, 'repeats': args.rounds, 'interrupted': interrupted,
                  'table': table},
        spread={'min': round(min(known, default=float('nan')), 4),
                'median': round(float(np.median(known)), 4) if known else None},
        details={'rows': [{'size': k[0], 'transport': k[1], 'cameras': k[2], 'arm': k[3], **row}
                          for k, row in rows.items()]}, json_file=args.json)
    return 130 if interrupted else 0


def markdown(rows: dict[tuple[str, str, int, str], dict[str, float]]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield ('| image | transport | cameras | node | p50 ms | p95 ms | staleness p95 ms | '
           'answered of sent | CPU cores |')
    yield '|---|---|---|---|---|---|---|---|---|'
    for (size, transport, count, arm), row in rows.items():
        yield (f'| {size} | {transport} | {count} | {arm.replace("_", ", ")} | {row["p50_ms"]} | '
               f'{row["p95_ms"]} | {row["stale_p95_ms"]} | {row["answered"]} of {row["sent"]} | '
               f'{row["cpu_cores"]} |')


def measure(folder: Path, bundle: Path, transport: str, count: int, args: Any,
            cells: dict[tuple[str, str, int, str], Cell]) -> None:
    """Start the three nodes for so many cameras, and measure all sizes in turns."""
    names = [f'c{n}' for n in range(count)]
    plain = {k: v for k, v in os.environ.items() if k not in tuning({})}
    environment = {'ours': dict(os.environ), 'plain': plain, 'plain_tuned': dict(os.environ)}
    own = child_environment()  # for the module; scripts find what lies beside them
    with ExitStack() as stack:
        nodes = {}
        for arm in ARMS:
            command = (our_command if arm == 'ours' else plain_command)(
                bundle, names, transport, args.engine, args.threads)
            nodes[arm] = stack.enter_context(child(
                [*command, '-r', f'__ns:=/{arm}'], own if arm == 'ours' else environment[arm],
                folder / f'{arm}.log'))
        feeds = {arm: stack.enter_context(child(
            [sys.executable, __file__, CAMERA, arm, transport, *names], environment[arm],
            folder / f'{arm}.camera.log', talks=True)) for arm in ARMS}
        for arm, feed in feeds.items():
            if feed.stdout is None or feed.stdout.readline() != b'ready\n':
                sys.exit(f'{arm}: {(folder / f"{arm}.camera.log").read_text()[-500:]} '
                         f'{(folder / f"{arm}.log").read_text()[-500:]}')
        for size in args.sizes:
            keys = {arm: (size, transport, count, arm) for arm in ARMS}
            for arm in ARMS:
                cells[keys[arm]] = Cell()
            for number in range(args.rounds):
                # Each arm is first, in the middle and last about as often.
                for arm in ARMS[number % 3:] + ARMS[:number % 3]:
                    block(feeds[arm], nodes[arm].pid, size, args.frames, cells[keys[arm]])
            for arm in ARMS:
                print(*keys[arm], cells[keys[arm]].row(), file=sys.stderr, flush=True)


def our_command(bundle: Path, names: Sequence[str], transport: str, engine: str,
                threads: int) -> list[str]:
    """Return the command of the perception node with its defaults."""
    given = {'model': bundle, 'cameras': f'[{",".join(names)}]', 'engine': engine,
             'precision': 'fp32', 'threads': threads,
             'image_transport': 'compressed' if transport == 'jpeg' else 'raw'}
    out = module_command('kd_perception.nodes.perception.node', '--ros-args')
    for name, value in given.items():
        out += ['-p', f'{name}:={value}']
    return out


def plain_command(bundle: Path, names: Sequence[str], transport: str, engine: str,
                  threads: int) -> list[str]:
    """Return the command of the plain node."""
    return [sys.executable, str(Path(__file__).with_name('plain_node.py')), str(bundle),
            '--engine', engine, '--threads', str(threads),
            *(['--compressed'] if transport == 'jpeg' else []), '--cameras', *names, '--ros-args']


@contextmanager
def child(command: Sequence[str], environment: dict[str, str], log: Path, *,
          talks: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in its own session, and end it."""
    pipe = subprocess.PIPE if talks else None
    with log.open('wb') as stream:
        process = subprocess.Popen(
            command, env=environment, stdin=pipe or subprocess.DEVNULL, stdout=pipe or stream,
            stderr=stream, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def block(feed: subprocess.Popen[bytes], pid: int, size: str, frames: int, cell: Cell) -> None:
    """Let an arm's cameras publish for a while, and add what came of it."""
    assert feed.stdin is not None
    assert feed.stdout is not None
    cpu, wall = cpu_seconds(pid), time.monotonic()
    feed.stdin.write(json.dumps({'size': size, 'frames': frames}).encode() + b'\n')
    feed.stdin.flush()
    told = json.loads(feed.stdout.readline())
    cell.cpu_s += cpu_seconds(pid) - cpu
    cell.wall_s += time.monotonic() - wall
    cell.latency_ms += told['latency_ms']
    cell.staleness_ms += told['staleness_ms']
    cell.sent += told['sent']


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def feed(arm: str, transport: str, names: Sequence[str]) -> None:
    """Publish when asked by a line on the input, and answer in a line (a process of its own)."""
    topic = 'image/compressed' if transport == 'jpeg' else 'image'
    messages = {size: message_of(transport, *pixels) for size, pixels in SIZES.items()}
    cameras = Cameras({n: Line(f'/{arm}/{n}/{topic}', f'/{arm}/{n}/segmentation/mask',
                               messages['360p']) for n in names}, depth=10)
    try:
        cameras.wait()
        print('ready', flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            cameras.show(messages[asked['size']])
            cameras.run(names, WARMUP, drain_s=0.2)
            trips = cameras.run(names, asked['frames'], drain_s=0.0)
            cameras.spin_until(partial(all_answered, trips), DRAIN_S)
            print(json.dumps({
                'sent': len(trips), 'staleness_ms': staleness(trips, names),
                'latency_ms': [t.latency_ms for t in trips if t.answered_ns]}), flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        cameras.close()


def message_of(transport: str, height: int, width: int) -> Any:
    """Return a picture of that size as a message."""
    if transport == 'jpeg':
        return jpeg_message(picture(height, width))
    from kd_perception.nodes.conversion import header, image_message
    return image_message(picture(height, width), 'bgr8', header(0, 'c'))


def all_answered(trips: Sequence[Trip]) -> bool:
    """Return whether every image that was sent has its mask back."""
    return all(t.answered_ns for t in trips)


def staleness(trips: Sequence[Trip], names: Sequence[str]) -> list[float]:
    """
    Return the age of the newest mask at hand, at each instant a camera publishes.

    Before its first mask a camera has none, which is not counted.
    """
    out = []
    for name in names:
        own = [t for t in trips if t.line == name]
        for now in (t.sent_ns for t in own):
            known = [t.sent_ns for t in own if t.answered_ns and t.answered_ns <= now]
            if known:
                out.append((now - max(known)) / 1e6)
    return out


if __name__ == '__main__':
    if CAMERA in sys.argv:
        feed(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        sys.exit(main())
