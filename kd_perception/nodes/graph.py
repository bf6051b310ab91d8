"""
Which nodes make up a run: plain data that launch files and the runner both read.

A graph says what to start, under which name, with which parameters and environment. It knows
neither ROS nor ``launch``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kd_perception.errors import ConfigError
from kd_perception.evaluation.comparison import ComparisonSpec
from kd_perception.nodes.parameters import check_values, TABLES
from kd_perception.nodes.schedule import PLACEMENTS
from kd_perception.simulation.carla.spec import ONCE

PACKAGE = 'kd_perception'
SAMPLES = 6


@dataclass(frozen=True)
class NodeSpec:
    """
    One node to start.

    :param executable: name of the console script; its module is ``kd_perception.nodes.<name>``.
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
    def module(self) -> str:
        """Return the module to run with ``python -m``."""
        return f'{PACKAGE}.nodes.{self.executable}'


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


def perception_graph(model: str, *, image_topic: str = '', namespace: str = '',
                     **parameters: Any) -> RunGraph:
    """
    Return one perception node for a camera that runs already.

    :param model: name or path; empty leaves it to a parameter file.
    :param image_topic: topic of the images; empty for ``image`` in the namespace.
    """
    transport = parameters.get('image_transport', 'raw')
    own = 'image/compressed' if transport == 'compressed' else 'image'
    remappings = ((own, image_topic),) if image_topic else ()
    if model:
        parameters['model'] = model
    return RunGraph((NodeSpec('perception', 'perception', namespace, parameters, remappings),))


def shadow_graph(model: str, *, image_topic: str = '', namespace: str = '',
                 **parameters: Any) -> RunGraph:
    """
    Return one shadow node beside a perception node that runs already.

    :param model: the teacher; empty leaves it to a parameter file.
    :param image_topic: as for the perception node.
    """
    transport = parameters.get('image_transport', 'raw')
    own = 'image/compressed' if transport == 'compressed' else 'image'
    remappings = ((own, image_topic),) if image_topic else ()
    if model:
        parameters['model'] = model
    return RunGraph((NodeSpec('shadow', 'shadow', namespace, parameters, remappings),))


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
    Return camera, one perception node per arm, and the monitor.

    :param spec: what to compare; ``scenario`` holds the path for the source ``bag``.
    :param out: directory of the report.
    :param perception: more parameters for every arm, e.g. ``models_dir``.
    :param camera: more parameters for the camera, e.g. ``image_topic``.
    :param monitor: more parameters for the monitor, e.g. ``timeout_s``.
    :raises ConfigError: for what cannot be run.
    """
    if spec.source not in ('sim', 'bag', 'carla'):
        raise ConfigError(f'source {spec.source!r} cannot be compared by this release; '
                          'choose sim, bag or carla')
    if spec.placement not in PLACEMENTS:
        raise ConfigError(f'placement {spec.placement} cannot be run by this release; choose '
                          f'{", ".join(PLACEMENTS)}')
    if spec.placement == 'isolated' and spec.source == 'sim' and not spec.frames:
        raise ConfigError('placement isolated needs a number of frames')
    if spec.source == 'carla' and spec.placement == 'isolated':
        raise ConfigError(f'placement isolated needs each frame more than once, and {ONCE}')
    if spec.source in ('sim', 'carla') and not spec.frames:
        raise ConfigError(f'source {spec.source} has no end: give a number of frames')
    names = tuple(arm.name for arm in spec.arms)
    total = spec.frames + spec.warmup if spec.frames else 0
    source: dict[str, Any] = {'source': spec.source, 'seed': spec.seed, 'rate_hz': spec.rate_hz}
    if spec.source == 'bag':
        source['bag'] = spec.scenario
    else:
        source['scenario'] = spec.scenario
        source.update({k: v for k, v in (('width', spec.width), ('height', spec.height)) if v})
    nodes = [camera_node(**{**source, 'frames': total, 'pacing': spec.pacing, 'arms': names,
                            'placement': spec.placement, 'hold': True,
                            'samples': SAMPLES, **(camera or {})})]
    for arm in spec.arms:
        nodes.append(perception_node(arm.name, **{
            'model': arm.model, 'engine': arm.engine, 'device': arm.device,
            'precision': arm.precision, 'threads': arm.threads, 'publish_overlay': False,
            **(perception or {})}))
    nodes.append(NodeSpec('monitor', 'monitor', '', {
        'arms': names, 'source': spec.source, 'scenario': spec.scenario, 'seed': spec.seed,
        'frames': spec.frames, 'warmup': spec.warmup, 'pacing': spec.pacing,
        'placement': spec.placement, 'rate_hz': spec.rate_hz, 'class_map': spec.class_map,
        'margin_miou': spec.margin_miou, 'margin_latency_ms': spec.margin_latency_ms,
        'out': out, **(monitor or {})}))
    return RunGraph(tuple(nodes), ends_with='monitor')


def parameter_yaml(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``parameters`` in the form of a parameter file that fits any node name."""
    return {'/**': {'ros__parameters': {k: _plain(v) for k, v in parameters.items()}}}


def _plain(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value) or ['']
    return value
