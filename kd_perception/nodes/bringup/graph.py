"""
Which nodes make up a run: plain data that launch files and the runner both read.

A graph says what to start, under which name, with which parameters and environment. It knows
neither ROS nor ``launch``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
import json
import math
from typing import Any

from kd_perception.errors import ConfigError
from kd_perception.evaluation.comparison import ArmSpec, ComparisonSpec
from kd_perception.evaluation.statistics.alternate import FEWEST_ROUNDS
from kd_perception.nodes.parameters import check_values, TABLES
from kd_perception.simulation.carla.spec import ONCE

PACKAGE = 'kd_perception'
SAMPLES = 6
SHARED = 'shared'  # namespace of the one node of placement alternate
# Seconds from an interrupt to the next, ruder signal. An interrupted monitor still saves what it
# measured; its report, where it writes that too, takes most of a minute for three arms, ten
# minutes and a busy machine.
_PATIENCE_S, _REPORT_PATIENCE_S = 20.0, 300.0


@dataclass(frozen=True)
class NodeSpec:
    """
    One node to start.

    :param executable: name of the console script and of the folder in ``kd_perception.nodes``.
    :param name: node name.
    :param namespace: without leading slash; empty for the root.
    :param parameters: values by name; lists as tuples of strings.
    :param remappings: (from, to) pairs.
    :param environment: variables for this process alone.
    """

    executable: str
    name: str
    namespace: str = ''
    parameters: Mapping[str, Any] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.executable not in TABLES:
            raise ConfigError(f'no node {self.executable!r}; known: {", ".join(TABLES)}')
        try:
            check_values(TABLES[self.executable], self.parameters)
        except ConfigError as error:
            raise ConfigError(f'node {self.title}: {error}') from None

    @property
    def title(self) -> str:
        """Return the full name, e.g. ``a/perception``."""
        return f'{self.namespace}/{self.name}' if self.namespace else self.name

    @property
    def patience_s(self) -> float:
        """Return how long the node may take to end once it is interrupted."""
        return _REPORT_PATIENCE_S if self.executable == 'monitor' else _PATIENCE_S

    @property
    def module(self) -> str:
        """Return the module to run with ``python -m``."""
        return f'{PACKAGE}.nodes.{self.executable}.node'


@dataclass(frozen=True)
class RunGraph:
    """
    Nodes that are started together.

    :param ends_with: title of the node whose end is the end of the run; empty for none.
    """

    nodes: tuple[NodeSpec, ...]
    ends_with: str = ''

    def __post_init__(self) -> None:
        titles = [node.title for node in self.nodes]
        if len(set(titles)) != len(titles):
            raise ConfigError(f'nodes of one run need different names, not {titles}')
        if self.ends_with and self.ends_with not in titles:
            raise ConfigError(f'the run cannot end with {self.ends_with!r}: it is none of '
                              f'{titles}')


def perception_node(namespace: str = '', **parameters: Any) -> NodeSpec:
    """Return a perception node; see the parameter table for ``parameters``."""
    return NodeSpec('perception', 'perception', namespace, parameters)


def camera_node(namespace: str = '', **parameters: Any) -> NodeSpec:
    """Return a camera node."""
    return NodeSpec('camera', 'camera', namespace, parameters)


def perception_graph(model: str, *, image_topic: str = '', camera_info_topic: str = '',
                     namespace: str = '', **parameters: Any) -> RunGraph:
    """
    Return one perception node for a camera that runs already.

    :param model: name or path; empty leaves it to a parameter file.
    :param image_topic: topic of the images; empty for ``image`` in the namespace.
    :param camera_info_topic: topic of the intrinsics; empty for ``camera_info`` beside the images.
    :raises ConfigError: for one topic and several cameras.
    """
    return _beside_a_camera('perception', model, image_topic, camera_info_topic, namespace,
                            parameters)


def shadow_graph(model: str, *, image_topic: str = '', camera_info_topic: str = '',
                 namespace: str = '', **parameters: Any) -> RunGraph:
    """
    Return one shadow node beside a perception node that runs already.

    :param model: the teacher; empty leaves it to a parameter file.
    :param image_topic: as for the perception node; so is ``camera_info_topic``.
    """
    return _beside_a_camera('shadow', model, image_topic, camera_info_topic, namespace,
                            parameters)


def _beside_a_camera(executable: str, model: str, image_topic: str, camera_info_topic: str,
                     namespace: str, parameters: dict[str, Any]) -> RunGraph:
    cameras = parameters.get('cameras', ())
    if cameras and (image_topic or camera_info_topic):
        raise ConfigError(f'image_topic and camera_info_topic are of one camera, but cameras '
                          f'names {", ".join(cameras)}: remap {cameras[0]}/image and so on')
    compressed = parameters.get('image_transport', 'raw') == 'compressed'
    remappings = []
    if image_topic:
        remappings.append(('image/compressed' if compressed else 'image', image_topic))
        camera_info_topic = camera_info_topic or _camera_info_of(image_topic, compressed)
    if camera_info_topic:
        remappings.append(('camera_info', camera_info_topic))
    if model:
        parameters['model'] = model
    return RunGraph((NodeSpec(executable, executable, namespace, parameters,
                              tuple(remappings)),))


def _camera_info_of(image_topic: str, compressed: bool) -> str:
    """Return where intrinsics are by the convention of image_transport: beside the raw topic."""
    raw = image_topic.removesuffix('/compressed') if compressed else image_topic
    space, slash, _ = raw.rpartition('/')
    return f'{space}{slash}camera_info'


def simulation_graph(**camera: Any) -> RunGraph:
    """Return the embedded street, or CARLA with ``source='carla'``, as a camera."""
    return RunGraph((camera_node(**{'source': 'sim', **camera}),))


def replay_graph(bag: str, **camera: Any) -> RunGraph:
    """Return a recording as a camera."""
    return RunGraph((camera_node(source='bag', bag=bag, **camera),))


def comparison_graph(spec: ComparisonSpec, out: str, *,
                     perception: Mapping[str, Any] | None = None,
                     camera: Mapping[str, Any] | None = None,
                     monitor: Mapping[str, Any] | None = None) -> RunGraph:
    """
    Return camera, one perception node per arm, and the monitor; of a live topic no camera.

    :param spec: what to compare; ``scenario`` holds the path for the source ``bag``, the topic
        for ``topic``.
    :param out: directory of the report.
    :param perception: more parameters for every arm, e.g. ``models_dir``.
    :param camera: more parameters for the camera, e.g. ``image_topic``; of a live topic
        ``label_topic`` (empty: no ground truth), ``label_info_topic`` and ``classes`` of its
        labels.
    :param monitor: more parameters for the monitor, e.g. ``timeout_s``.
    :raises ConfigError: for what cannot be run.
    """
    _check(spec)
    if (camera or {}).get('speed') and (spec.pacing, spec.placement) != ('realtime', 'concurrent'):
        raise ConfigError('a recording keeps its own time (speed, --rate as a factor) with pacing '
                          'realtime and placement concurrent only')
    names = tuple(arm.name for arm in spec.arms)
    told = {
        'arms': names, 'source': spec.source, 'scenario': spec.scenario, 'seed': spec.seed,
        'frames': spec.frames, 'duration_s': spec.duration_s, 'warmup': spec.warmup,
        'pacing': spec.pacing, 'placement': spec.placement, 'rate_hz': spec.rate_hz,
        'class_map': spec.class_map, 'margin_miou': spec.margin_miou,
        'margin_latency_ms': spec.margin_latency_ms, 'out': out,
        **(monitor or {})}
    served = spec.arms
    if spec.placement == 'alternate':
        settings = [arm_settings(arm) for arm in spec.arms]
        told |= {'settings': tuple(json.dumps(s) for s in settings),
                 'swap_every': spec.swap_every or 20}
        served = (replace(spec.arms[0], name=SHARED),)
    arms = [perception_node(arm.name, **{**arm_settings(arm), 'publish_overlay': False,
                                         **(perception or {})}) for arm in served]
    if spec.source == 'topic':
        return _live_graph(spec.scenario, arms, told, camera or {})
    if (perception or {}).get('image_transport', 'raw') != 'raw':
        raise ConfigError('image_transport is of use for live topics only: the camera of this '
                          'package publishes raw images')
    nodes = [_camera(spec, camera or {}), *arms, NodeSpec('monitor', 'monitor', '', told)]
    return RunGraph(tuple(nodes), ends_with='monitor')


def in_namespace(graph: RunGraph, namespace: str) -> RunGraph:
    """Return ``graph`` with all nodes below ``namespace``."""
    space = namespace.strip('/')
    if not space:
        return graph
    nodes = tuple(replace(n, namespace=f'{space}/{n.namespace}'.rstrip('/')) for n in graph.nodes)
    return RunGraph(nodes, f'{space}/{graph.ends_with}' if graph.ends_with else '')


def full_topic(name: str) -> str:
    """Return a topic's name as seen from everywhere."""
    return f'/{name.strip("/")}'


def arm_settings(arm: ArmSpec) -> dict[str, Any]:
    """Return the parameters of a perception node that make it serve an arm."""
    return {'model': arm.model, 'engine': arm.engine, 'device': arm.device,
            'precision': arm.precision, 'threads': arm.threads}


def _check(spec: ComparisonSpec) -> None:
    """Refuse what cannot be run."""
    if spec.source == 'topic':
        if not spec.scenario.strip('/'):
            raise ConfigError('source topic needs the name of an image topic')
        if (spec.placement, spec.pacing) != ('concurrent', 'realtime'):
            raise ConfigError(f'source topic sends to all arms when it likes: placement '
                              f'{spec.placement}, pacing {spec.pacing} cannot be; choose '
                              'concurrent, realtime')
        if not spec.frames and not spec.duration_s:
            raise ConfigError('source topic has no end: give a number of frames or a duration')
    if spec.placement == 'alternate':
        settings = [tuple(arm_settings(arm).values()) for arm in spec.arms]
        if len(set(settings)) != len(settings) or len(settings) < 2:
            raise ConfigError('placement alternate exchanges models: it needs two arms or more '
                              'that differ in model, engine, device, precision or threads')
        rounds = math.ceil(spec.frames / (spec.swap_every or 20))
        if spec.frames and rounds < FEWEST_ROUNDS:
            raise ConfigError(f'placement alternate compares {FEWEST_ROUNDS} rounds of blocks or '
                              f'more; {spec.frames} frames in blocks of {spec.swap_every or 20} '
                              f'are {rounds}')
    if (spec.placement, spec.pacing) == ('isolated', 'max'):
        # One arm would still work through its last frames when the next one begins.
        raise ConfigError('placement isolated keeps the arms apart, pacing max does not wait for '
                          'them; choose lockstep or realtime')
    if spec.source == 'carla' and spec.placement == 'isolated':
        raise ConfigError(f'placement isolated needs each frame more than once, and {ONCE}')
    if spec.source in ('sim', 'carla'):
        if spec.placement == 'isolated' and not spec.frames:
            raise ConfigError('placement isolated needs a number of frames')
        if not spec.frames and not spec.duration_s:
            raise ConfigError(f'source {spec.source} has no end: give a number of frames or a '
                              'duration')


def _camera(spec: ComparisonSpec, more: Mapping[str, Any]) -> NodeSpec:
    """Return the camera that serves the arms."""
    source: dict[str, Any] = {
        'source': spec.source, 'seed': spec.seed, 'rate_hz': spec.rate_hz,
        'frames': spec.frames + spec.warmup if spec.frames else 0, 'pacing': spec.pacing,
        'arms': tuple(arm.name for arm in spec.arms), 'placement': spec.placement, 'hold': True,
        'samples': SAMPLES}
    if spec.placement == 'alternate':
        # How many frames pass while models are exchanged, nobody knows: the monitor ends the run.
        source.update(arms=(SHARED,), placement='concurrent', frames=0, samples=0)
    if spec.source == 'bag':
        source['bag'] = spec.scenario
    else:
        source['scenario'] = spec.scenario
        source.update({k: v for k, v in (('width', spec.width), ('height', spec.height)) if v})
    return camera_node(**{**source, **more})


def _live_graph(topic: str, arms: Sequence[NodeSpec], told: Mapping[str, Any],
                labels: Mapping[str, Any]) -> RunGraph:
    """Return arms and monitor on somebody's topics."""
    transport = arms[0].parameters.get('image_transport', 'raw')
    image = ('image/compressed' if transport == 'compressed' else 'image', full_topic(topic))
    truth, remappings = 'none', [image]
    if label_topic := labels.get('label_topic', ''):
        truth = 'required'
        beside = full_topic(label_topic).rpartition('/')[0] + '/label_info'
        remappings += [('labels', full_topic(label_topic)),
                       ('label_info', full_topic(labels.get('label_info_topic') or beside))]
    elif told.get('truth') == 'required':
        raise ConfigError('ground truth of a live topic needs the topic of its labels')
    watcher = NodeSpec('monitor', 'monitor', '', {
        **told, 'truth': truth, 'image_transport': transport, 'samples': SAMPLES,
        'classes': labels.get('classes', '')}, tuple(remappings))
    nodes = (*(replace(arm, remappings=(image,)) for arm in arms), watcher)
    return RunGraph(nodes, ends_with='monitor')


def parameter_yaml(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``parameters`` in the form of a parameter file that fits any node name."""
    return {'/**': {'ros__parameters': {k: _plain(v) for k, v in parameters.items()}}}


def _plain(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value) or ['']
    return value
