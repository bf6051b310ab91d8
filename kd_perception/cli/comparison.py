"""
A comparison from a request to its report; what ``compare`` and ``demo`` share.

Everything that can be wrong with models, engines, classes and source is found before a process
starts. Then the node list of ``nodes/graph.py`` runs in a private DDS domain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kd_perception.bags.sampling import LabelError
from kd_perception.bags.source import open_source
from kd_perception.bundle import BundleSpec, find_bundle, ModelBundle
from kd_perception.classes import load_class_map
from kd_perception.cli.carla_arguments import camera_values
from kd_perception.engines.engine import check_device, PRECISIONS
from kd_perception.engines.loader import available_engines, ENGINES
from kd_perception.errors import BundleError, ConfigError, EngineError, ImageError
from kd_perception.evaluation.analysis import analyse, Analysis
from kd_perception.evaluation.comparison import ArmSpec, ComparisonSpec
from kd_perception.evaluation.comparison_files import check_replaceable, load_run, RECORDING
from kd_perception.evaluation.detail_counter import chosen_measures
from kd_perception.evaluation.report import HTML_FILE
from kd_perception.frames import FrameSource
from kd_perception.nodes.carla_pictures import carla_spec
from kd_perception.nodes.graph import comparison_graph, RunGraph
from kd_perception.nodes.live_figures import LiveArm
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
    :param timeout_s: a result later than this is lost.
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
    image_topic: str = ''
    label_topic: str = ''
    label_dir: str = ''
    classes: str = ''
    class_map: str = ''
    frames: int = 200
    warmup: int = 10
    placement: str = 'turns'
    pacing: str = 'lockstep'
    rate_hz: float = 30.0
    timeout_s: float = 10.0
    margin_miou: float = 2.0
    margin_latency_ms: float = 0.0
    carla: Mapping[str, Any] = field(default_factory=dict)
    measures: tuple[str, ...] = ('auto',)


@dataclass(frozen=True, eq=False)
class ComparisonResult:
    """What came of a comparison, and where its report lies."""

    analysis: Analysis
    html: Path


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
        replace(arm, model=str(bundle.path.resolve()),
                engine=_fastest() if arm.engine == 'auto' else _engine(arm.engine))
        for arm, bundle in zip(request.arms, bundles, strict=True))
    for arm in arms:
        check_device(arm.engine, arm.device)
    chosen_measures(request.measures, request.pacing)
    frames = request.frames
    if request.source == 'bag':
        frames = _check_recording(request, first)
    elif request.source == 'sim':
        load_scenario(request.scenario)
    spec = ComparisonSpec(
        arms=arms, source=request.source,
        scenario=(str(Path(request.bag).expanduser().resolve()) if request.source == 'bag'
                  else request.scenario),
        seed=request.seed, frames=frames, warmup=request.warmup, pacing=request.pacing,
        placement=request.placement, rate_hz=request.rate_hz, width=request.width,
        height=request.height, class_map=request.class_map, margin_miou=request.margin_miou,
        margin_latency_ms=request.margin_latency_ms)
    camera = {'image_topic': request.image_topic, 'label_topic': request.label_topic,
              'label_dir': request.label_dir, 'classes': request.classes}
    graph = comparison_graph(spec, str(out.resolve()), camera={**camera, **request.carla},
                             monitor={'timeout_s': float(request.timeout_s),
                                      'measures': request.measures})
    if request.source == 'carla':
        _check_server(request)  # last: it takes longest
    return graph


def run_comparison(request: ComparisonRequest, out: Path,
                   progress: Callable[[int, int, str], None] | None = None,
                   arms: Callable[[Sequence[LiveArm]], None] | None = None) -> ComparisonResult:
    """
    Run a comparison and return what its report says.

    :param out: directory of the report, the recording and the nodes' logs.
    :param progress, arms: see ``run_graph``.
    :raises KdPerceptionError: before anything starts, or when a node dies.
    :raises KeyboardInterrupt: when interrupted; the report of what was measured is there.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f'{out}: is a file; --out needs a directory')
    check_replaceable(out / RECORDING)
    graph = plan(request, out)
    # rclpy is not needed here: only the children import it.
    from kd_perception.nodes.runner import run_graph
    out.mkdir(parents=True, exist_ok=True)
    with _fresh(out / HTML_FILE):
        run_graph(graph, out / LOGS, progress=progress, arms=arms)
    return ComparisonResult(analyse(load_run(out / RECORDING)), out / HTML_FILE)


@contextmanager
def _fresh(page: Path) -> Iterator[None]:
    """Make sure that a page which is there afterwards is of this run, and that there is one."""
    before = page.stat().st_mtime_ns if page.is_file() else 0
    yield
    if not page.is_file() or page.stat().st_mtime_ns == before:
        raise ConfigError(f'{page.parent}: the run ended without a report; see '
                          f'{page.parent / LOGS}/monitor.log')


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


def _fastest() -> str:
    """Return the engine that ``auto`` means: named, so that all arms have the same."""
    for name, state in available_engines().items():
        if not state.startswith('missing'):
            return name
    raise EngineError("no runtime is installed; pip install 'kd_perception[runtime]'")


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


def _check_recording(request: ComparisonRequest, model: BundleSpec) -> int:
    """Open the recording once; return how many frames will count (0: all)."""
    if not request.bag:
        raise ConfigError('source bag needs --bag: a rosbag, video or image folder')
    source = open_source(request.bag, image_topic=request.image_topic,
                         label_topic=request.label_topic, label_dir=request.label_dir,
                         classes=request.classes)
    try:
        there = len(source)
        if there <= request.warmup:
            raise ConfigError(f'{request.bag}: has {there} frames and the warm-up takes '
                              f'{request.warmup}; lower --warmup')
        if source.has_labels and source.label_classes is not None:
            load_class_map(source.label_classes, model.classes, request.class_map)
            _check_labels(source)
        elif request.class_map:
            raise ConfigError(f'{request.bag}: has no labels, so a class map is of no use')
    finally:
        source.close()
    left = there - request.warmup
    return min(request.frames, left) if request.frames else left
