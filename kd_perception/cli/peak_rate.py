"""
``compare --peak-rate``: the highest rate that each model sustains, as ROS 2 nodes.

Each model has its node alone. For every probe a camera sends a short clip at one rate, in real
time, again and again, and the monitor says what was lost and how old results were. The clip is
made before, uncompressed, so that neither drawing nor decoding is the limit.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
import json
import math
from pathlib import Path
import tempfile
from typing import Any

from kd_perception.bags.importer import DEFAULT_TOPIC
from kd_perception.bags.source import open_source
from kd_perception.bags.writer import BagWriter
from kd_perception.cli.comparison import ComparisonRequest, LOGS, plan
from kd_perception.cli.progress import progress
from kd_perception.errors import ConfigError, ImageError
from kd_perception.evaluation.comparison import ComparisonRun
from kd_perception.evaluation.comparison_files import load_run, RECORDING
from kd_perception.evaluation.host import host_info, package_versions
from kd_perception.evaluation.reports.report import plain
from kd_perception.evaluation.statistics.paired import arm_statistics, rate
from kd_perception.evaluation.statistics.peak_rate import peak_rate, PeakRate, Probe
from kd_perception.frames import FrameSource
from kd_perception.nodes.bringup.graph import camera_node, NodeSpec, RunGraph
from kd_perception.paths import atomic_file

SCHEMA_VERSION = 1
JSON_FILE = 'peak_rate.json'
_FASTEST_HZ = 1000.0  # of the camera node; the search calls it the source's limit
_CLIP_FRAMES, _CLIP_BYTES = 60, 200_000_000
_FEWEST, _WARMUP_S, _TIMEOUT_S = 100, 0.5, 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the search."""
    group = parser.add_argument_group('peak rate (length, course, verdict and gate have no part '
                                      'in it)')
    group.add_argument('--peak-rate', action='store_true',
                       help='search the highest rate that each model sustains alone, in real '
                       'time, instead of comparing frame by frame')
    group.add_argument('--max-loss', type=float, default=1.0, metavar='PERCENT',
                       help='frames that may be lost (%(default)s)')
    group.add_argument('--max-age-ms', type=float, default=0.0, metavar='MS',
                       help='95th percentile of the latency that may be reached (default: twice '
                       'that of the first probe)')
    group.add_argument('--start-hz', type=float, default=10.0, metavar='HZ',
                       help='rate of the first probe (%(default)s)')
    group.add_argument('--probe-s', type=float, default=5.0, metavar='S',
                       help='how long a rate is tried, one to three times; 100 frames at least '
                       '(%(default)s)')


def run(request: ComparisonRequest, args: argparse.Namespace) -> int:
    """
    Search for every model, print each probe and the result, and write ``peak_rate.json``.

    :raises KdPerceptionError: before anything starts, or when a node dies.
    """
    out = args.out or Path(f'peak_rate_{datetime.now():%Y%m%d_%H%M%S}')
    if (out / JSON_FILE).exists() and not args.overwrite:
        raise ConfigError(f'{out}: holds a {JSON_FILE} already; choose another --out or pass '
                          '--overwrite')
    if request.source not in ('sim', 'bag'):
        raise ConfigError(f'--peak-rate needs --source sim or bag: the rate of {request.source!r} '
                          'is not ours to set')
    if not 0 < args.probe_s <= 3600:
        raise ConfigError(f'--probe-s {args.probe_s:g}: seconds, more than 0')
    if not 0 < args.start_hz <= _FASTEST_HZ:
        raise ConfigError(f'--start-hz {args.start_hz:g}: more than 0, at most {_FASTEST_HZ:g}')
    if not (0 <= args.max_loss < 100 and args.max_age_ms >= 0):
        raise ConfigError(f'--max-loss {args.max_loss:g} and --max-age-ms {args.max_age_ms:g}: a '
                          'share of 0 to 100 percent, and milliseconds of 0 or more')
    if out.exists() and not out.is_dir():
        raise ConfigError(f'{out}: is a file; --out needs a directory')
    graph = plan(replace(request, warmup=0, placement='turns', pacing='lockstep'), out)
    nodes = [node for node in graph.nodes if node.executable == 'perception']
    names = {arm.name: Path(arm.model).name for arm in request.arms}
    found: dict[str, PeakRate] = {}
    tried: dict[str, list[Probe]] = {arm: [] for arm in names}
    whole = False
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='kd_perception.') as scratch:
        clip = _make_clip(request, Path(scratch))
        try:
            for node in nodes:
                label = names[node.namespace]
                if list(names.values()).count(label) > 1:
                    label = f'{label} ({node.namespace})'
                found[node.namespace] = _search(node, clip, out / LOGS, args, label,
                                                tried[node.namespace])
                print(sentence(label, found[node.namespace]), flush=True)
            whole = True
        finally:
            _write(out / JSON_FILE, request, found, tried, interrupted=not whole)
    print(f'details: {out / JSON_FILE}')
    return 0


def sentence(label: str, found: PeakRate) -> str:
    """Return the result of one model in words."""
    limits = f'at most {100 * found.max_loss:g} % lost'
    if found.max_age_ms:
        limits += f', p95 at most {found.max_age_ms:.0f} ms'
    if found.limit == 'none held':
        return (f'{label} sustains no rate that was tried, down to '
                f'{min(p.offered_hz for p in found.probes):.2g} Hz ({limits}).')
    if found.limit == 'source':
        return (f'{label} sustains at least {found.rate_hz:.1f} Hz: the camera could not send '
                f'faster, so the peak of the model is not known ({limits}).')
    # As many digits as tell the two rates apart.
    digits = next((n for n in range(1, 6)
                   if f'{found.rate_hz:.{n}f}' != f'{found.broken_hz:.{n}f}'), 6)
    return (f'{label} sustains {found.rate_hz:.{digits}f} Hz and not '
            f'{found.broken_hz:.{digits}f} Hz ({limits}).')


def probe_of(asked_hz: float, run: ComparisonRun, arm: str) -> Probe:
    """Return what a recorded run says of one rate."""
    rows = run.arm_rows(arm)
    stats = arm_statistics(arm, rows)
    # By what was published, not by what came back.
    offered = rate([r.published_ns for r in rows if r.status not in ('duplicate', 'unknown')])
    loss = stats.status['lost'] / stats.published if stats.published else 1.0
    return Probe(asked_hz, offered, loss, stats.latency.p95, stats.published)


def _search(node: NodeSpec, clip: Path, logs: Path, args: argparse.Namespace,
            label: str, tried: list[Probe]) -> PeakRate:
    """
    Start one perception node, and probe it until its peak rate is known.

    :param tried: gets every probe as it is done.
    """
    recorded = clip.parent / 'probe'
    # rclpy is not needed here: only the children import it.
    from kd_perception.nodes.bringup.runner import check, run_graph, started
    from kd_perception.nodes.environment import isolation, reserved_domain

    with reserved_domain() as domain, started(
            RunGraph((node,)), logs, isolated=False,
            environment=isolation(domain)) as children:

        def probe(hz: float) -> Probe:
            check(children)
            sent = min(hz, _FASTEST_HZ)
            run_graph(_probe_graph(node.namespace, clip, sent, args.probe_s, recorded), logs,
                      isolated=False, environment=isolation(domain))
            return probe_of(hz, load_run(recorded / RECORDING), node.namespace)

        def tell(done: Probe) -> None:
            tried.append(done)
            age = f'{done.age_p95_ms:.1f} ms' if math.isfinite(done.age_p95_ms) else 'none came'
            print(f'{label}: {done.offered_hz:.1f} Hz: {round(done.loss * done.frames)} of '
                  f'{done.frames} frames lost, p95 {age}: '
                  f'{"holds" if done.held else "does not hold"}'
                  f'{f" (asked for {done.asked_hz:.1f} Hz)" if done.short else ""}', flush=True)

        return peak_rate(probe, start_hz=args.start_hz, max_loss=args.max_loss / 100,
                         max_age_ms=args.max_age_ms, tell=tell)


def _probe_graph(arm: str, clip: Path, hz: float, seconds: float, out: Path) -> RunGraph:
    warmup = max(5, round(_WARMUP_S * hz))
    frames = max(_FEWEST, round(seconds * hz))
    camera = camera_node(source='bag', bag=str(clip), loop=True, stamps='clock', rate_hz=hz,
                         frames=frames + warmup, pacing='realtime', placement='concurrent',
                         arms=(arm,), hold=True, samples=0)
    monitor = NodeSpec('monitor', 'monitor', '', {
        'arms': (arm,), 'source': 'bag', 'scenario': str(clip), 'frames': frames,
        'warmup': warmup, 'pacing': 'realtime', 'placement': 'concurrent', 'rate_hz': hz,
        'timeout_s': _TIMEOUT_S, 'out': str(out), 'report': False})
    return RunGraph((camera, monitor), ends_with='monitor')


def _make_clip(request: ComparisonRequest, folder: Path) -> Path:
    """Record the first pictures of the source without compression and labels."""
    source: FrameSource
    if request.source == 'bag':
        source = open_source(request.bag, image_topic=request.image_topic)
    else:
        from kd_perception.simulation.source import SimulatorSource

        source = SimulatorSource(request.scenario, seed=request.seed, frames=_CLIP_FRAMES,
                                  rate_hz=request.rate_hz, width=request.width,
                                  height=request.height)
    wanted, written, number = _CLIP_FRAMES, 0, 0
    try:
        with BagWriter(folder / 'clip.mcap') as writer, progress('making the clip') as tell:
            while number < len(source) and written < wanted:
                number += 1
                try:
                    frame = source[number - 1]
                except ImageError:
                    continue  # one bad picture
                wanted = min(wanted, max(1, _CLIP_BYTES // frame.image.nbytes))
                writer.write_image(DEFAULT_TOPIC, frame.image, number * 10**9, frame.frame_id,
                                   'rgb8')
                written += 1
                tell(written, min(wanted, len(source)), '')
            path = writer.path
    finally:
        source.close()
    if not written:
        raise ConfigError(f'{request.bag}: no picture could be decoded')
    return path


def _write(path: Path, request: ComparisonRequest, found: Mapping[str, PeakRate],
           tried: Mapping[str, list[Probe]], *, interrupted: bool) -> None:
    arms = {arm: asdict(one) for arm, one in found.items()}
    unfinished = {arm: [asdict(p) for p in probes] for arm, probes in tried.items()
                  if probes and arm not in found}
    content: dict[str, Any] = plain({
        'schema_version': SCHEMA_VERSION, 'kind': 'peak_rate', 'interrupted': interrupted,
        'request': asdict(request), 'arms': arms, 'unfinished': unfinished,
        'host': dict(host_info()), 'versions': dict(package_versions())})
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + '\n')
