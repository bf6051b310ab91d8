"""
A comparison from a request to its report; what ``compare`` and ``demo`` share.

Everything that can be wrong with models, engines, classes and source is found before a process
starts. Then the node list of ``nodes/bringup/graph.py`` runs in a private DDS domain; on a live
topic in the user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kd_perception.bags.sampling import LabelError
from kd_perception.bags.source import open_source
from kd_perception.bundle import BundleSpec, find_bundle, ModelBundle
from kd_perception.classes import load_class_map, load_class_set
from kd_perception.cli.carla_arguments import camera_values
from kd_perception.cli.live_source import check_topics, NAMESPACE
from kd_perception.engines.engine import check_device, DEVICES, PRECISIONS
from kd_perception.engines.loader import available_engines, check_exported, ENGINES
from kd_perception.errors import (
    BundleError,
    ConfigError,
    EngineError,
    GraphError,
    ImageError,
    KdPerceptionError,
)
from kd_perception.evaluation.analysis import analyse, Analysis
from kd_perception.evaluation.baseline import BaselineComparison
from kd_perception.evaluation.comparison import ArmSpec, ComparisonSpec
from kd_perception.evaluation.comparison_files import (
    check_replaceable,
    load_run,
    RECORDING,
    RUN_FILE,
)
from kd_perception.evaluation.metrics.detail_counter import chosen_measures
from kd_perception.evaluation.reports.report import (
    CSV_FILE,
    HTML_FILE,
    JSON_FILE,
    write_analysis,
)
from kd_perception.frames import FrameSource
from kd_perception.interrupts import deferred
from kd_perception.nodes.bringup.graph import comparison_graph, in_namespace, RunGraph
from kd_perception.nodes.camera.carla_pictures import carla_spec
from kd_perception.nodes.camera.times import playing_times
from kd_perception.nodes.monitor.live_figures import LiveArm
from kd_perception.simulation.carla.session import connect
from kd_perception.simulation.scenario import load_scenario

LOGS = 'logs'


@dataclass(frozen=True)
class ComparisonRequest:
    """
    What to compare; see ``ComparisonSpec`` for what is not explained here.

    :param arms: models by name or path; an engine may be ``auto``.
    :param models_dir: where names are looked up; empty for the models directory.
    :param bag: rosbag, video or image folder for the source ``bag``.
    :param topic: image topic for the source ``topic``; its labels come on ``label_topic``.
    :param duration_s: seconds after the warm-up at which the run ends; 0 for no limit.
    :param placement: empty: ``turns``, of a live topic ``concurrent``.
    :param pacing: empty: ``lockstep``, of a live topic ``realtime``.
    :param rate_hz: of the street, and of realtime pacing.
    :param speed: realtime pacing of a recording by its own time, as a factor; 0 for ``rate_hz``.
    :param loop: play a recording again when it ends.
    :param swap_every: frames of a block of placement ``alternate``.
    :param require_truth: refuse a source without ground truth.
    :param timeout_s: a result later than this is lost.
    :param start_timeout_s: time for nodes and images to come.
    :param carla: parameters ``carla_*`` of the camera for the source ``carla``.
    :param measures: what is measured beside mean IoU, see ``detail_counter.chosen_measures``.
    """

    arms: tuple[ArmSpec, ...]
    models_dir: str = ''
    source: str = 'sim'
    scenario: str = 'clear'
    seed: int = 0
    width: int = 640
    height: int = 360
    bag: str = ''
    topic: str = ''
    image_topic: str = ''
    label_topic: str = ''
    label_dir: str = ''
    classes: str = ''
    class_map: str = ''
    frames: int = 200
    duration_s: float = 0.0
    warmup: int = 10
    placement: str = ''
    pacing: str = ''
    require_truth: bool = False
    rate_hz: float = 30.0
    speed: float = 0.0
    loop: bool = False
    swap_every: int = 20
    timeout_s: float = 10.0
    start_timeout_s: float = 120.0
    margin_miou: float = 2.0
    margin_latency_ms: float = 0.0
    carla: Mapping[str, Any] = field(default_factory=dict)
    measures: tuple[str, ...] = ('auto',)


@dataclass(frozen=True, eq=False)
class ComparisonResult:
    """
    What came of a comparison, and where its report lies.

    :param baseline: what came of it against an older one, if that was asked for.
    """

    analysis: Analysis
    html: Path
    baseline: BaselineComparison | None = None


def plan(request: ComparisonRequest, out: Path) -> RunGraph:
    """
    Check a request and return the nodes that will run it.

    :raises KdPerceptionError: for anything that cannot work, in one line.
    """
    bundles = [_bundle(arm, request.models_dir) for arm in request.arms]
    first = bundles[0].spec
    for bundle in bundles[1:]:
        if bundle.spec.classes.names != first.classes.names:
            raise ConfigError(
                f'{bundles[0].path} has the classes {first.classes.name!r}, {bundle.path} has '
                f'{bundle.spec.classes.name!r}: models of different classes cannot be compared')
    arms = tuple(
        replace(arm, model=str(bundle.path.resolve()), engine=_fastest(request.arms)
                if arm.engine == 'auto' else _engine(arm.engine))
        for arm, bundle in zip(request.arms, bundles, strict=True))
    for arm, bundle in zip(arms, bundles, strict=True):
        check_device(arm.engine, arm.device)
        if arm.engine != 'torch':
            check_exported(bundle)
    live = request.source == 'topic'
    pacing = request.pacing or ('realtime' if live else 'lockstep')
    chosen_measures(request.measures, pacing)
    frames, scenario, rate_hz = request.frames, request.scenario, request.rate_hz
    if (request.speed or request.loop) and request.source != 'bag':
        raise ConfigError('a rate as a factor and --loop are for recordings (--bag)')
    if request.source == 'bag':
        frames, rate_hz = _check_recording(request, first)
        scenario = str(Path(request.bag).expanduser().resolve())
    elif live:
        scenario = request.topic
    elif not (request.width and request.height):
        raise ConfigError(f'a picture of {request.width}x{request.height}: --width and --height '
                          'must be above zero')
    elif request.source in ('sim', 'carla'):
        if request.source == 'sim':
            load_scenario(request.scenario)
        if request.require_truth or request.class_map:
            load_class_map(load_class_set('carla'), first.classes, request.class_map)
    spec = ComparisonSpec(
        arms=arms, source=request.source, scenario=scenario,
        seed=request.seed, frames=frames, warmup=request.warmup, pacing=pacing,
        placement=request.placement or ('concurrent' if live else 'turns'),
        rate_hz=rate_hz, width=0 if live else request.width,
        height=0 if live else request.height, class_map=request.class_map,
        margin_miou=request.margin_miou, margin_latency_ms=request.margin_latency_ms,
        duration_s=float(request.duration_s), swap_every=request.swap_every)
    camera = {'image_topic': request.image_topic, 'label_topic': request.label_topic,
              'label_dir': request.label_dir, 'classes': request.classes, 'loop': request.loop,
              'speed': float(request.speed), **request.carla}
    monitor = {'timeout_s': float(request.timeout_s),
               'start_timeout_s': float(request.start_timeout_s), 'measures': request.measures,
               'report': False,
               'truth': 'required' if request.require_truth else 'auto'}
    graph = comparison_graph(spec, str(out.resolve()), camera=camera, monitor=monitor)
    if request.source == 'carla':
        _check_server(request)  # last: it takes longest
    if not live:
        return graph
    if request.classes and request.label_topic:
        load_class_map(load_class_set(request.classes), first.classes, request.class_map)
    found = check_topics(request.topic, request.label_topic, classes=request.classes)
    return in_namespace(comparison_graph(
        spec, str(out.resolve()), perception={'image_transport': found.image_transport},
        camera={**camera, 'label_info_topic': found.label_info}, monitor=monitor), NAMESPACE)


def run_comparison(request: ComparisonRequest, out: Path,
                   progress: Callable[[int, int, str], None] | None = None,
                   arms: Callable[[Sequence[LiveArm]], None] | None = None, *,
                   judge: Callable[[Analysis], BaselineComparison] | None = None
                   ) -> ComparisonResult:
    """
    Run a comparison, write its report and return what that says.

    :param out: directory of the report, the recording and the nodes' logs.
    :param progress, arms: see ``run_graph``.
    :param judge: holds a whole run against an older one; what comes of it is in the report.
    :raises KdPerceptionError: before anything starts, or when a node dies.
    :raises KeyboardInterrupt: when interrupted.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f'{out}: is a file; --out needs a directory')
    check_replaceable(out / RECORDING)
    graph = plan(request, out)
    # rclpy is not needed here: only the children import it.
    from kd_perception.nodes.bringup.runner import run_graph
    out.mkdir(parents=True, exist_ok=True)
    recording = out / RECORDING / RUN_FILE
    before = written_at(recording)
    try:
        run_graph(graph, out / LOGS, progress=progress, arms=arms,
                  isolated=request.source != 'topic')
    except (KeyboardInterrupt, GraphError):
        if written_at(recording) not in (0, before):  # what was measured before
            with suppress(KdPerceptionError, OSError):  # too little for a report; a full disk
                _report(out)
        raise
    if written_at(recording) in (0, before):
        raise ConfigError(f'{out}: the run ended without a recording; see '
                          f'{out / LOGS}/monitor.log')
    if progress is not None:
        progress(1, 1, 'writing the report')
    return _report(out, judge)


def written_at(path: Path) -> int:
    """Return when a file was written, in nanoseconds of its file system; 0 where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else 0


def _report(out: Path, judge: Callable[[Analysis], BaselineComparison] | None = None
            ) -> ComparisonResult:
    """Write the report of the recording in ``out``, which no signal interrupts half way."""
    with deferred():
        for name in (JSON_FILE, CSV_FILE, HTML_FILE):
            (out / name).unlink(missing_ok=True)  # of an older recording, which is no more
        analysis = analyse(load_run(out / RECORDING))
        found = judge(analysis) if judge is not None else None
        return ComparisonResult(analysis, write_analysis(analysis, out, found).html, found)


def _bundle(arm: ArmSpec, models_dir: str) -> ModelBundle:
    bundle = find_bundle(arm.model, models_dir or None)
    if bundle.spec.task != 'segmentation':
        raise BundleError(f'{bundle.path}: task {bundle.spec.task!r} cannot be compared by this '
                          'release; it compares segmentation')
    if arm.precision not in PRECISIONS:
        raise EngineError(f'precision {arm.precision!r}: one of {", ".join(PRECISIONS)}')
    if arm.precision == 'int8' and not bundle.has('deploy.int8.onnx'):
        raise EngineError(f'{bundle.path}: has no int8 graph, and this release cannot make one; '
                          'choose another --precision')
    return bundle


def _engine(name: str) -> str:
    """Return ``name`` if that runtime is installed."""
    state = available_engines().get(name)
    if state is None:
        raise EngineError(f'no engine named {name!r}; choose auto, {", ".join(ENGINES)}')
    if state.startswith('missing'):
        raise EngineError(f'engine {name} is {state}')
    return name


def _fastest(arms: Sequence[ArmSpec]) -> str:
    """Return the engine that ``auto`` means: one that has all devices, the same for all arms."""
    present = [n for n, state in available_engines().items() if not state.startswith('missing')]
    if not present:
        raise EngineError("no runtime is installed; pip install 'kd_perception[runtime]'")
    devices = {arm.device.partition(':')[0] for arm in arms if arm.engine == 'auto'}
    for name in present:
        if devices <= set(DEVICES[name]):
            return name
    if len(devices) == 1:
        raise EngineError(f'no device {devices.pop()!r} for any engine that is installed: '
                          f'{", ".join(present)}')
    raise EngineError(f'no installed engine ({", ".join(present)}) has all of the devices '
                      f'{", ".join(sorted(devices))}; name the engines')


def _check_server(request: ComparisonRequest) -> None:
    """
    Look whether the server can be driven, without a change to it.

    :raises SimulationError: when it cannot.
    """
    values = camera_values(scenario=request.scenario, seed=request.seed, width=request.width,
                           height=request.height, rate_hz=request.rate_hz, **request.carla)
    connect(carla_spec(values))


def _check_labels(source: FrameSource) -> None:
    """
    Look at the first frame: labels of another size or of other classes are so from the start.

    :raises LabelError: when they do not fit.
    """
    try:
        source[0]
    except LabelError:
        raise
    except ImageError:
        pass  # one bad picture is skipped, and counted, when its turn comes


def _check_recording(request: ComparisonRequest, model: BundleSpec) -> tuple[int, float]:
    """Open the recording once; return how many frames will count and at which rate they come."""
    if not request.bag:
        raise ConfigError('source bag needs --bag: a rosbag, video or image folder')
    source = open_source(request.bag, image_topic=request.image_topic,
                         label_topic=request.label_topic, label_dir=request.label_dir,
                         classes=request.classes)
    try:
        there = len(source)
        rate_hz = request.rate_hz
        if request.speed:
            rate_hz = request.speed * there / float(
                playing_times(source.times_ns)[-1])  # type: ignore[attr-defined]
        if there <= request.warmup and not request.loop:
            raise ConfigError(f'{request.bag}: has {there} frames and the warm-up takes '
                              f'{request.warmup}; lower --warmup')
        if source.has_labels and source.label_classes is not None:
            load_class_map(source.label_classes, model.classes, request.class_map)
            _check_labels(source)
        elif request.class_map:
            raise ConfigError(f'{request.bag}: has no labels, so a class map is of no use')
        elif request.require_truth:
            raise ConfigError(f'{request.bag}: has no labels, and ground truth is required')
    finally:
        source.close()
    if request.loop:
        if not request.frames and not request.duration_s:
            raise ConfigError('--loop has no end: give --frames or --duration')
        return request.frames, rate_hz
    if request.placement == 'alternate':
        return request.frames, rate_hz  # each frame is served to one model only
    left = there - request.warmup
    return min(request.frames, left) if request.frames else left, rate_hz
