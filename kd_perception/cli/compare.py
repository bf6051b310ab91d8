"""
Run model A against model B as ROS 2 nodes on the same frames, and report.

The same camera, perception and monitor nodes as in ab_comparison.launch.py, without launch, in a
private DDS domain on this host (on a live topic in your own). The first model is the reference.

Examples:
  kd_perception compare teacher student --scenario dense_fog --frames 200
  kd_perception compare teacher student --carla sim-pc:2000 --scenario HardRainNoon
  kd_perception compare teacher student --bag drive.mcap --engine onnxruntime --threads 1
  kd_perception compare student --engine onnxruntime,openvino,torch     (one arm for each)
  kd_perception compare teacher student --topic /camera/image --duration 60
  kd_perception compare teacher student --peak-rate   (the highest rate that each sustains)
  kd_perception compare teacher student --baseline last/report.json     (exit code 3: regression)
  kd_perception compare teacher student --scenario all --out robustness (goes on where it stopped)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
import sys

from kd_perception.cli import peak_rate
from kd_perception.cli.carla_arguments import (
    add_carla_arguments,
    carla_parameters,
    refuse_carla_arguments,
)
from kd_perception.cli.compare_options import check_options
from kd_perception.cli.comparison import ComparisonRequest, run_comparison, written_at
from kd_perception.cli.gate import add_gate_arguments, judged, limits_of, tell
from kd_perception.cli.live_table import arm_names, comparison_progress
from kd_perception.cli.progress import progress
from kd_perception.cli.robustness import run_robustness, scenarios_of
from kd_perception.cli.tables import print_comparison, print_robustness
from kd_perception.engines.engine import PRECISIONS
from kd_perception.engines.loader import ENGINES
from kd_perception.errors import ConfigError, GraphError
from kd_perception.evaluation.baseline_files import load_baseline
from kd_perception.evaluation.comparison import ArmSpec, PACINGS, PLACEMENTS
from kd_perception.evaluation.comparison_files import RECORDING
from kd_perception.evaluation.metrics.detail_counter import MEASURES
from kd_perception.evaluation.reports.report import HTML_FILE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``compare``."""
    parser.add_argument('models', nargs='+', metavar='MODEL',
                        help='model bundles: paths, or names in the models directory; the first '
                        'is the reference')
    parser.add_argument('--models-dir', default='', metavar='DIR',
                        help='where names are looked up (default: the models directory)')
    parser.add_argument('--out', type=Path, metavar='DIR',
                        help='directory of the report (default: comparison_<time>)')
    parser.add_argument('--overwrite', action='store_true',
                        help='replace a comparison that is in --out')
    source = parser.add_argument_group('source of the frames (default: the street)')
    source.add_argument('--source', choices=('sim', 'bag', 'carla', 'topic'), default=None,
                        help='the embedded street, a recording, a CARLA server, or a topic that '
                        'somebody publishes (default: bag with --bag, carla with --carla, topic '
                        'with --topic, else sim)')
    source.add_argument('--bag', default='', metavar='PATH',
                        help='rosbag, video or image folder')
    source.add_argument('--topic', default='', metavar='NAME',
                        help='live image topic, raw or compressed, in your own ROS domain; '
                        'with --label-topic and --classes for its ground truth')
    source.add_argument('--carla', default='', metavar='HOST[:PORT]',
                        help='CARLA server (default: localhost:2000)')
    street = parser.add_argument_group('street and CARLA')
    street.add_argument('--scenario', default='clear', metavar='NAME[,NAME…]',
                        help='weather and light; of the street several behind commas, or all, '
                        'end in one table (%(default)s)')
    street.add_argument('--seed', type=int, default=0, metavar='N',
                        help='of what drives there, and of the order of the models in any source '
                        '(%(default)s)')
    street.add_argument('--width', type=int, default=640, metavar='PIXELS',
                        help='of the picture (%(default)s)')
    street.add_argument('--height', type=int, default=360, metavar='PIXELS',
                        help='of the picture (%(default)s)')
    add_carla_arguments(street)
    recorded = parser.add_argument_group('recordings and live topics')
    recorded.add_argument('--image-topic', default='', metavar='NAME',
                          help='needed where a bag has several cameras')
    recorded.add_argument('--label-topic', default='', metavar='NAME',
                          help='label images of a bag or live')
    recorded.add_argument('--label-dir', default='', metavar='FOLDER',
                          help='label PNGs of an image folder (default: <folder>_labels)')
    recorded.add_argument('--classes', default='', metavar='SET',
                          help='class set of the labels where the recording does not say')
    recorded.add_argument('--class-map', default='', metavar='MAP',
                          help='map from the classes of the labels to those of the models, for '
                          'any source')
    recorded.add_argument('--loop', action='store_true',
                          help='play a recording again when it ends; its stamps go on')
    frames = parser.add_argument_group('length')
    frames.add_argument('--frames', type=int, default=None, metavar='N',
                        help='frames that count (default 200; all of a recording, and as many '
                        'as come within --duration)')
    frames.add_argument('--warmup', type=int, default=10, metavar='N',
                        help='frames before them (%(default)s)')
    frames.add_argument('--duration', type=float, default=0.0, metavar='S',
                        help='end the run so long after the warm-up, or at --frames')
    course = parser.add_argument_group('course')
    course.add_argument('--placement', choices=PLACEMENTS, default=None,
                        help='turns: one model after the other on each frame (default); '
                        'concurrent: together (the only one on a live topic); isolated: one '
                        'model at a time over all frames; alternate: one node, its model '
                        'exchanged every --swap-every frames')
    course.add_argument('--swap-every', type=int, default=20, metavar='K',
                        help='frames of a block of placement alternate (%(default)s); --frames '
                        'are then those of each model, rounded up to whole rounds')
    course.add_argument('--pacing', choices=PACINGS, default=None,
                        help='lockstep: the next frame when the last was answered (default); '
                        'realtime: by --rate, on a live topic as they come; max: as fast as '
                        'frames can be made')
    course.add_argument('--rate', type=_rate, default=(30.0, 0.0), metavar='HZ|FACTORx',
                        help='frames per second of the street and of realtime (30); 1x: as '
                        'recorded, 0.5x: half as fast (--bag, realtime, concurrent)')
    course.add_argument('--timeout', type=float, default=10.0, metavar='S',
                        help='how long a result is waited for; one that comes later is late, one '
                        'that never comes is lost (%(default)s)')
    course.add_argument('--start-timeout', type=float, default=120.0, metavar='S',
                        help='how long nodes, and images of a live topic, are waited for '
                        '(%(default)s)')
    verdict = parser.add_argument_group('accuracy and verdict')
    verdict.add_argument('--margin-miou', type=float, default=2.0, metavar='POINTS',
                         help='loss of mIoU up to which models count as equal (%(default)s)')
    verdict.add_argument('--margin-ms', type=float, default=0.0, metavar='MS',
                         help='how much slower a model may be (default: say only whether it is)')
    verdict.add_argument('--measures', default='auto', metavar='NAMES',
                         help=f'what is measured beside mean IoU: {",".join(MEASURES)}, or none; '
                         'auto: all of them in lockstep, none otherwise (%(default)s)')
    verdict.add_argument('--require-truth', action='store_true',
                         help='refuse a source without ground truth')
    engine = parser.add_argument_group('engine (one value for all models, or one each: x,y; of '
                                       'one model each value is an arm)')
    engine.add_argument('--engine', default='auto',
                        help=f'auto, {", ".join(ENGINES)} (%(default)s)')
    engine.add_argument('--device', default='cpu', help='cpu or cuda (%(default)s)')
    engine.add_argument('--precision', default='auto',
                        help=f'{", ".join(PRECISIONS)} (%(default)s)')
    engine.add_argument('--threads', default='0', help='0: the runtime chooses (%(default)s)')
    add_gate_arguments(parser, 'older report.json, or the directory it lies in')
    peak_rate.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    request, limits = _request(args), limits_of(args)
    if args.peak_rate:
        return peak_rate.run(request, args)
    baseline = load_baseline(args.baseline) if args.baseline else None
    out = args.out or Path(f'comparison_{datetime.now():%Y%m%d_%H%M%S}')
    scenarios = scenarios_of(args.scenario)
    if len(scenarios) > 1:
        if baseline:
            raise ConfigError('--baseline is for one scenario; judge each of several afterwards: '
                              f'kd_perception report {out}/<scenario> --baseline <directory>')
        return _under_many(args, request, scenarios, out)
    there = [n for n in (HTML_FILE, RECORDING) if (out / n).exists()]
    if there and not args.overwrite:
        raise ConfigError(f'{out}: holds a {there[0]} already; choose another --out or pass '
                          '--overwrite')
    before = written_at(out / HTML_FILE)
    try:
        with comparison_progress('comparing', arm_names(request.arms)) as view:
            result = run_comparison(
                request, out, view.update, view.arms,
                judge=partial(judged, baseline=baseline, limits=limits) if baseline else None)
    except (KeyboardInterrupt, GraphError):
        if written_at(out / HTML_FILE) != before:
            print(f'\nwhat was measured so far is in {out / HTML_FILE}', file=sys.stderr)
        raise
    print_comparison(result.analysis, result.html)
    return tell(result.baseline, result.analysis) if result.baseline else 0


def _under_many(args: argparse.Namespace, request: ComparisonRequest, scenarios: Sequence[str],
                out: Path) -> int:
    try:
        with progress(f'comparing under {len(scenarios)} scenarios') as update:
            result = run_robustness(request, scenarios, out, overwrite=args.overwrite,
                                    progress=update)
    except KeyboardInterrupt:
        print(f'\ngo on with the same command and --out {out}', file=sys.stderr)
        raise
    print_robustness(result.table, result.html)
    return 0


def _request(args: argparse.Namespace) -> ComparisonRequest:
    source = args.source or ('bag' if args.bag else 'carla' if args.carla
                             else 'topic' if args.topic else 'sim')
    for name in ('bag', 'topic'):
        if getattr(args, name) and source != name:
            raise ConfigError(f'--{name} needs --source {name}')
    if source != 'carla':
        refuse_carla_arguments(args)
    check_options(args, source, add_arguments)
    models = args.models
    if len(models) == 1:  # several ways to run it may be what is compared
        models = models * max(len(str(getattr(args, n)).split(','))
                              for n in ('engine', 'device', 'precision', 'threads'))
    count = len(models)
    if count > 26:
        raise ConfigError(f'{count} models are too many; 26 at most')
    engines, devices = _each(args, 'engine', count), _each(args, 'device', count)
    precisions, threads = _each(args, 'precision', count), _each(args, 'threads', count)
    if not all(t.isdecimal() for t in threads):
        raise ConfigError(f'--threads {args.threads}: whole numbers of 0 or more')
    endless = source == 'bag' or args.duration > 0
    frames = args.frames if args.frames is not None else 0 if endless else 200
    return ComparisonRequest(
        arms=tuple(ArmSpec(chr(ord('a') + i), model, engines[i], devices[i], precisions[i],
                           int(threads[i])) for i, model in enumerate(models)),
        models_dir=args.models_dir, source=source, scenario=args.scenario, seed=args.seed,
        width=args.width, height=args.height, bag=args.bag, topic=args.topic,
        image_topic=args.image_topic, duration_s=args.duration,
        require_truth=args.require_truth, start_timeout_s=args.start_timeout,
        label_topic=args.label_topic, label_dir=args.label_dir, classes=args.classes,
        class_map=args.class_map, frames=frames, warmup=args.warmup,
        placement=args.placement or '', pacing=args.pacing or '', rate_hz=args.rate[0],
        speed=args.rate[1], loop=args.loop, swap_every=args.swap_every, timeout_s=args.timeout,
        margin_miou=args.margin_miou, margin_latency_ms=args.margin_ms,
        carla=carla_parameters(args, args.carla) if source == 'carla' else {},
        measures=tuple(m.strip() for m in args.measures.split(',')))


def _rate(text: str) -> tuple[float, float]:
    """Return frames per second and factor of ``30`` or ``2x``; the factor is 0 for none."""
    try:
        if text.endswith('x'):
            return 30.0, float(text[:-1])
        return float(text), 0.0
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} is neither a rate in Hz (30) nor a factor (2x)') from None


def _each(args: argparse.Namespace, name: str, count: int) -> list[str]:
    """Return one value per model from ``x`` or ``x,y,…``."""
    values = [v.strip() for v in str(getattr(args, name)).split(',')]
    if len(values) == 1:
        return values * count
    if len(values) != count:
        raise ConfigError(f'--{name} {getattr(args, name)}: one value, or one for each of the '
                          f'{count} models')
    return values
