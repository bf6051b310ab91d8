"""
The arguments of the launch files as plain data, and the run that their values make.

Launch files declare what is here and start what comes out; tests compare it with parameters and
YAML files without ``launch``. An argument left empty leaves the parameter file's value alone, so
that a default lives in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kd_perception.errors import ConfigError
from kd_perception.evaluation.comparison import ArmSpec, ComparisonSpec
from kd_perception.nodes.bringup.graph import (
    comparison_graph,
    in_namespace,
    perception_graph,
    replay_graph,
    RunGraph,
    shadow_graph,
    simulation_graph,
)
from kd_perception.nodes.parameters import ParameterSpec, TABLES
from kd_perception.paths import share_directory


@dataclass(frozen=True)
class Argument:
    """
    One launch argument.

    :param default: text; empty for "as the parameter file says".
    :param choices: allowed texts; empty for any.
    """

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class LaunchFile:
    """
    What a launch file declares and how it makes a run of it.

    :param make: from the texts of all arguments to the run.
    """

    arguments: tuple[Argument, ...]
    make: Callable[[Mapping[str, str]], RunGraph]


# Parameters of the arms that ab_comparison takes for all arms, or as a_<name>, b_<name>.
_PER_ARM = ('engine', 'device', 'precision', 'threads')
_CARLA = tuple(s.name for s in TABLES['camera'] if s.name.startswith('carla_'))
_CAMERA_OF_COMPARISON = ('image_topic', 'label_topic', 'label_dir', 'classes', 'loop', 'speed',
                         *_CARLA)
_MONITOR_OF_COMPARISON = ('timeout_s', 'start_timeout_s', 'truth', 'measures')
_RVIZ = Argument('rviz', 'false', 'Open RViz with the layout of config/rviz. Overlays are then '
                 'drawn, which loads the machine.', ('true', 'false'))
_TOPICS = (
    Argument('image_topic', '', 'Topic of the images. Empty: image, or image/compressed, in the '
             'namespace.'),
    Argument('camera_info_topic', '', 'Topic of the intrinsics. Empty: camera_info beside '
             'image_topic, or in the namespace.'))
_SPEC_OF_COMPARISON = ('source', 'scenario', 'seed', 'frames', 'duration_s', 'warmup', 'pacing',
                       'placement', 'swap_every', 'rate_hz', 'class_map', 'margin_miou',
                       'margin_latency_ms')


def of_parameters(node: str, *, without: Sequence[str] = ()) -> tuple[Argument, ...]:
    """Return an argument for every parameter of a node."""
    return tuple(_argument(spec) for spec in TABLES[node] if spec.name not in without)


def _argument(spec: ParameterSpec) -> Argument:
    # Choices are checked with the value: an empty text must be allowed here.
    return Argument(spec.name, '', f'{spec.text} Empty: as in params_file.')


def common(config: str) -> tuple[Argument, ...]:
    """Return what every launch file takes."""
    return (
        Argument('namespace', '', 'Namespace of the nodes.'),
        Argument('params_file', str(share_directory() / 'config' / config),
                 'YAML file of parameters.'),
        Argument('use_sim_time', '', 'Take the time from /clock: true or false. Empty: as in '
                 'params_file.', ('', 'true', 'false')),
        Argument('log_level', 'info', 'Log level of the nodes.',
                 ('debug', 'info', 'warn', 'error', 'fatal')))


def given(node: str, values: Mapping[str, str], *, without: Sequence[str] = ()) -> dict[str, Any]:
    """
    Return the parameters of a node that ``values`` sets.

    :raises ConfigError: for a text that the parameter cannot take.
    """
    return {spec.name: spec.parse(values[spec.name]) for spec in TABLES[node]
            if spec.name not in without and values.get(spec.name, '') != ''}


def _topics(values: Mapping[str, str]) -> dict[str, str]:
    return {name: values[name] for name in ('namespace', 'image_topic', 'camera_info_topic')}


def _perception(values: Mapping[str, str]) -> RunGraph:
    parameters = given('perception', values)
    return perception_graph(parameters.pop('model', None) or '', **_topics(values), **parameters)


def _shadow(values: Mapping[str, str]) -> RunGraph:
    parameters = given('shadow', values)
    return shadow_graph(parameters.pop('model', None) or '', **_topics(values), **parameters)


def _simulation(values: Mapping[str, str]) -> RunGraph:
    parameters = given('camera', values, without=('bag',))
    if parameters.get('source') == 'bag':
        raise ConfigError('source: bag is played by replay.launch.py; choose sim or carla')
    return in_namespace(simulation_graph(**parameters), values['namespace'])


def _replay(values: Mapping[str, str]) -> RunGraph:
    parameters = given('camera', values, without=('source', 'bag'))
    if not values['bag']:
        raise ConfigError('bag: give the path of a rosbag, video or image folder: bag:=<path>')
    return in_namespace(replay_graph(values['bag'], **parameters), values['namespace'])


def _comparison(values: Mapping[str, str]) -> RunGraph:
    monitor = {s.name: s for s in TABLES['monitor']}
    told = {name: monitor[name].parse(values[name]) if values[name] else monitor[name].default
            for name in _SPEC_OF_COMPARISON}
    if told['source'] == 'bag':
        if not values['bag']:
            raise ConfigError('bag: source:=bag needs bag:=<path>')
        told['scenario'] = values['bag']
    elif told['source'] == 'topic':
        told['scenario'] = values['image']
        told['pacing'] = values['pacing'] or 'realtime'
        told['placement'] = values['placement'] or 'concurrent'
    if not values['frames'] and (told['source'] == 'bag' or told['duration_s']):
        told['frames'] = 0
    camera = {s.name: s for s in TABLES['camera']}
    size = {name: int(str(camera[name].parse(values[name] or str(camera[name].default))))
            for name in ('width', 'height')}
    everything: dict[str, Any] = {**size, **told}
    spec = ComparisonSpec(arms=tuple(_arm(name, values) for name in ('a', 'b')), **everything)
    arms = given('perception', {k: values[k] for k in ('models_dir', 'autostart',
                                                       'image_transport')})
    if values['rviz'] == 'true':
        arms['publish_overlay'] = True
    graph = comparison_graph(
        spec, values['out'], perception=arms,
        camera=given('camera', {k: values[k] for k in _CAMERA_OF_COMPARISON}),
        monitor=given('monitor', {k: values[k] for k in _MONITOR_OF_COMPARISON}))
    return in_namespace(graph, values['namespace'])


def _arm(name: str, values: Mapping[str, str]) -> ArmSpec:
    if not values[name]:
        raise ConfigError(f'{name}: give the model of this arm: {name}:=<name or path>')
    specs = {s.name: s for s in TABLES['perception']}
    settings: dict[str, Any] = {
        p: specs[p].parse(text) if (text := values[f'{name}_{p}'] or values[p])
        else specs[p].default for p in _PER_ARM}
    return ArmSpec(name, values[name], **settings)


def _comparison_arguments() -> tuple[Argument, ...]:
    specs = {s.name: s for table in ('perception', 'camera', 'monitor') for s in TABLES[table]}
    arms = [Argument(n, '', f'Model of arm {n}: a name in models_dir, or a path. More than two '
                     'arms are compared by "kd_perception compare".') for n in 'ab']
    for parameter in _PER_ARM:
        arms.append(_argument(specs[parameter]))
        arms += [Argument(f'{n}_{parameter}', '', f'The same for arm {n} alone.') for n in 'ab']
    rest = ('models_dir', 'autostart', 'image_transport', *_SPEC_OF_COMPARISON, 'bag',
            *_CAMERA_OF_COMPARISON, 'width', 'height', *_MONITOR_OF_COMPARISON, 'out')
    image = Argument('image', '', 'Image topic of source:=topic; label_topic and classes are then '
                     'those of its ground truth.')
    return (*arms, image, *(_argument(specs[name]) for name in rest))


FILES: Mapping[str, LaunchFile] = {
    'perception': LaunchFile(
        (*of_parameters('perception'),
         *_TOPICS, _RVIZ, *common('perception.yaml')), _perception),
    'shadow': LaunchFile(
        (*of_parameters('shadow'),
         *_TOPICS, *common('shadow.yaml')), _shadow),
    'simulation': LaunchFile(
        (*of_parameters('camera', without=('bag', 'image_topic', 'label_topic',
                                           'label_dir', 'classes', 'loop', 'speed')),
         *common('ab_comparison.yaml')), _simulation),
    'replay': LaunchFile(
        (Argument('bag', '', 'Recording to play: rosbag, video or image folder.'),
         *of_parameters('camera', without=('source', 'bag', 'scenario', 'width', 'height',
                                           *_CARLA)),
         *common('ab_comparison.yaml')), _replay),
    'ab_comparison': LaunchFile(
        (*_comparison_arguments(), _RVIZ, *common('ab_comparison.yaml')), _comparison),
}
