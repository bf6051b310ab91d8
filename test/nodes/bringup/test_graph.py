from dataclasses import replace
import json

import pytest
import yaml

from kd_perception.errors import ConfigError
from kd_perception.evaluation.comparison import ArmSpec, ComparisonSpec
from kd_perception.nodes.bringup.graph import (
    comparison_graph,
    NodeSpec,
    parameter_yaml,
    perception_graph,
    perception_node,
    replay_graph,
    RunGraph,
    shadow_graph,
    simulation_graph,
)

ARMS = (ArmSpec('a', 'teacher', 'onnxruntime', threads=2), ArmSpec('b', 'student', 'openvino'))


def test_comparison_has_camera_arms_and_monitor():
    graph = comparison_graph(ComparisonSpec(ARMS, frames=20, warmup=5, seed=4), '/tmp/out',
                             perception={'models_dir': '/m'}, monitor={'timeout_s': 3.0})
    nodes = {node.title: node for node in graph.nodes}
    assert list(nodes) == ['camera', 'a/perception', 'b/perception', 'monitor']
    assert graph.ends_with == 'monitor'
    assert nodes['camera'].parameters['frames'] == 25
    assert nodes['camera'].parameters['arms'] == ('a', 'b')
    assert nodes['camera'].parameters['seed'] == nodes['monitor'].parameters['seed'] == 4
    assert nodes['a/perception'].parameters['threads'] == 2
    assert nodes['b/perception'].parameters['engine'] == 'openvino'
    assert nodes['b/perception'].parameters['models_dir'] == '/m'
    assert nodes['monitor'].parameters['timeout_s'] == 3.0
    assert nodes['a/perception'].module == 'kd_perception.nodes.perception.node'


def test_a_bag_is_played_to_its_end():
    graph = comparison_graph(ComparisonSpec(ARMS, source='bag', scenario='/b', frames=0), 'o')
    camera = graph.nodes[0].parameters
    assert (camera['source'], camera['bag'], camera['frames']) == ('bag', '/b', 0)


@pytest.mark.parametrize(('more', 'reason'), [
    ({'source': 'carla', 'placement': 'isolated'}, 'frames of CARLA go by once'),
    ({'source': 'carla', 'frames': 0}, 'source carla has no end'),
    ({'placement': 'alternate', 'arms': (ARMS[0], replace(ARMS[0], name='b'))}, 'that differ'),
    ({'placement': 'alternate', 'arms': ARMS[:1]}, 'two arms or more'),
    ({'frames': 0}, 'no end'),
    ({'frames': 0, 'placement': 'isolated'}, 'isolated needs')])
def test_what_cannot_be_run_is_refused(more, reason):
    with pytest.raises(ConfigError, match=reason):
        comparison_graph(ComparisonSpec(**{'arms': ARMS, **more}), 'o')


def test_bad_parameters_are_refused_before_anything_starts():
    with pytest.raises(ConfigError, match="node a/perception: no parameter 'enginee'"):
        perception_node('a', enginee='x')
    with pytest.raises(ConfigError, match='node camera: rate_hz: -1.0 is below'):
        simulation_graph(rate_hz=-1)
    with pytest.raises(ConfigError, match="no node 'planner'"):
        NodeSpec('planner', 'planner')
    with pytest.raises(ConfigError, match='different names'):
        RunGraph((perception_node(), perception_node()))
    with pytest.raises(ConfigError, match='cannot end with'):
        RunGraph((perception_node(),), ends_with='monitor')


def test_images_and_intrinsics_are_remapped_to_the_topics_that_are_there():
    graph = perception_graph('m', image_topic='/cam/image_raw')
    assert graph.nodes[0].remappings == (
        ('image', '/cam/image_raw'), ('camera_info', '/cam/camera_info'))
    assert perception_graph('m').nodes[0].remappings == ()
    assert replay_graph('/bag', loop=True).nodes[0].parameters['bag'] == '/bag'


@pytest.mark.parametrize(('make', 'topic', 'transport', 'info'), [
    (perception_graph, '/cam/c', 'compressed', '/cam/camera_info'),
    (perception_graph, '/cam/image_raw/compressed', 'compressed', '/cam/camera_info'),
    (shadow_graph, '/cam/image_raw/compressed', 'compressed', '/cam/camera_info'),
    (shadow_graph, 'cam/image', 'raw', 'cam/camera_info'),
    (perception_graph, 'image_rect', 'raw', 'camera_info'),
    (perception_graph, '/image', 'raw', '/camera_info'),
    (perception_graph, '/cam/compressed', 'raw', '/cam/camera_info')])
def test_intrinsics_are_beside_the_raw_topic(make, topic, transport, info):
    made = make('m', image_topic=topic, image_transport=transport).nodes[0].remappings
    own = 'image/compressed' if transport == 'compressed' else 'image'
    assert made == ((own, topic), ('camera_info', info))


@pytest.mark.parametrize('make', [perception_graph, shadow_graph])
def test_intrinsics_from_elsewhere(make):
    given = {'camera_info_topic': '/lens'}
    assert make('m', **given).nodes[0].remappings == (('camera_info', '/lens'),)
    assert make('m', image_topic='/a/b', **given).nodes[0].remappings == (
        ('image', '/a/b'), ('camera_info', '/lens'))


@pytest.mark.parametrize('topic', ['image_topic', 'camera_info_topic'])
def test_one_topic_for_several_cameras_is_refused(topic):
    with pytest.raises(ConfigError, match='cameras names front, left: remap front/image and'):
        perception_graph('m', cameras=('front', 'left'), **{topic: '/cam/x'})


def test_strings_stay_strings_in_parameter_files():
    values = {'model': 'y', 'scenario': '1e3', 'arms': (), 'cameras': ('no', '007'), 'seed': 3}
    text = json.dumps(parameter_yaml(values))
    assert yaml.safe_load(text)['/**']['ros__parameters'] == {
        'model': 'y', 'scenario': '1e3', 'arms': [''], 'cameras': ['no', '007'], 'seed': 3}


def test_models_that_alternate_share_a_node():
    spec = ComparisonSpec(ARMS, placement='alternate', swap_every=7)
    nodes = {n.title: n.parameters for n in comparison_graph(spec, 'o').nodes}
    assert list(nodes) == ['camera', 'shared/perception', 'monitor']
    assert nodes['camera']['arms'] == ('shared',)
    assert nodes['camera']['frames'] == 0
    assert nodes['shared/perception']['model'] == 'teacher'
    assert nodes['monitor']['arms'] == ('a', 'b')
    assert nodes['monitor']['swap_every'] == 7
    assert [json.loads(s)['model'] for s in nodes['monitor']['settings']] == ['teacher', 'student']


def test_a_live_topic_has_no_camera():
    spec = ComparisonSpec(ARMS, source='topic', scenario='cam/image', placement='concurrent',
                          pacing='realtime')
    graph = comparison_graph(spec, 'o', perception={'image_transport': 'compressed'},
                             camera={'label_topic': '/cam/truth'})
    nodes = {n.title: n for n in graph.nodes}
    assert list(nodes) == ['a/perception', 'b/perception', 'monitor']
    image = ('image/compressed', '/cam/image')
    assert nodes['b/perception'].remappings == (image,)
    assert nodes['monitor'].remappings == (image, ('labels', '/cam/truth'),
                                           ('label_info', '/cam/label_info'))
    assert nodes['monitor'].parameters['truth'] == 'required'
    with pytest.raises(ConfigError, match='live topics only'):
        comparison_graph(ComparisonSpec(ARMS), 'o', perception={'image_transport': 'compressed'})
