"""Launch arguments, YAML files and declared parameters, held equal without ``launch``."""

import pytest
import yaml

from kd_perception.errors import ConfigError
from kd_perception.nodes.bringup.launch_arguments import FILES
from kd_perception.nodes.parameters import declare, TABLES, value_of
from kd_perception.paths import share_directory

SHARE = share_directory()
CARLA = {spec.name for spec in TABLES['camera'] if spec.name.startswith('carla_')}
COMMON = {'namespace', 'params_file', 'use_sim_time', 'log_level'}


def texts(name, **more):
    values = {a.name: a.default for a in FILES[name].arguments}
    assert set(more) <= set(values)
    return {**values, **more}


def make(name, **more):
    graph = FILES[name].make(texts(name, **more))
    return {node.title: node for node in graph.nodes}


def yaml_sections():
    perception = yaml.safe_load((SHARE / 'config' / 'perception.yaml').read_text())
    comparison = yaml.safe_load((SHARE / 'config' / 'ab_comparison.yaml').read_text())
    shadow = yaml.safe_load((SHARE / 'config' / 'shadow.yaml').read_text())
    return {'perception': perception['/**'], 'shadow': shadow['/**'],
            'camera': comparison['/**/camera'], 'monitor': comparison['/**/monitor']}


def test_every_launch_file_is_declared_and_every_declaration_has_its_file():
    there = {p.name.removesuffix('.launch.py') for p in (SHARE / 'launch').glob('*.launch.py')}
    assert there == set(FILES)


@pytest.mark.parametrize('node', TABLES)
def test_yaml_keys_and_values_are_the_declared_parameters(node):
    told = yaml_sections()[node]['ros__parameters']
    assert list(told) == [spec.name for spec in TABLES[node]]
    for spec in TABLES[node]:
        value = told[spec.name]
        if isinstance(spec.default, tuple):
            assert tuple(v for v in value if v) == spec.default
        else:
            assert value == spec.default
            assert type(value) is type(spec.default)


@pytest.mark.parametrize(('name', 'node', 'absent'), [
    ('perception', 'perception', set()),
    ('shadow', 'shadow', set()),
    ('simulation', 'camera', {'bag', 'image_topic', 'label_topic', 'label_dir', 'classes',
                              'loop', 'speed'}),
    ('replay', 'camera', {'source', 'scenario', 'width', 'height', *CARLA})])
def test_launch_arguments_are_the_declared_parameters(name, node, absent):
    declared = {spec.name for spec in TABLES[node]} - absent
    topics = {'image_topic', 'camera_info_topic'}
    own = {'perception': {*topics, 'rviz'}, 'shadow': topics}.get(name, set())
    arguments = [a.name for a in FILES[name].arguments]
    assert len(set(arguments)) == len(arguments)
    assert set(arguments) == declared | COMMON | own
    for argument in FILES[name].arguments:
        assert len(argument.description) > 10


def test_comparison_arguments_are_parameters_or_models():
    known = {spec.name for table in TABLES.values() for spec in table}
    own = {'a', 'b', 'rviz', 'image'}
    rest = {a.name for a in FILES['ab_comparison'].arguments} - COMMON - own
    assert {n.removeprefix('a_').removeprefix('b_') for n in rest} <= known


def test_the_two_arms_say_where_more_are_compared():
    told = {a.name: a.description for a in FILES['ab_comparison'].arguments}
    assert all('"kd_perception compare"' in told[arm] for arm in 'ab')


def test_empty_arguments_leave_the_parameter_file_alone():
    node = make('perception')['perception']
    assert node.parameters == {}
    assert node.remappings == ()
    assert make('simulation')['camera'].parameters == {'source': 'sim'}


def test_arguments_become_typed_parameters():
    node = make('perception', model='007', threads='3', publish_overlay='false', namespace='car',
                cameras='[front, left]', max_age_ms='50')['car/perception']
    assert node.parameters == {'model': '007', 'threads': 3, 'publish_overlay': False,
                               'cameras': ('front', 'left'), 'max_age_ms': 50.0}


@pytest.mark.parametrize('name', ['perception', 'shadow'])
def test_topics_of_a_camera_from_arguments(name):
    node = make(name, model='m', image_topic='/cam/image_raw')[name]
    assert node.remappings == (('image', '/cam/image_raw'), ('camera_info', '/cam/camera_info'))
    node = make(name, model='m', image_topic='/cam/image_raw', camera_info_topic='/lens')[name]
    assert node.remappings == (('image', '/cam/image_raw'), ('camera_info', '/lens'))


@pytest.mark.parametrize('name', ['perception', 'ab_comparison'])
def test_standard_arguments_are_there_with_choices(name):
    arguments = {a.name: a for a in FILES[name].arguments}
    assert COMMON | {'autostart'} <= set(arguments)
    assert arguments['use_sim_time'].choices == ('', 'true', 'false')
    assert 'debug' in arguments['log_level'].choices
    assert all(a.default in a.choices for a in arguments.values() if a.choices)


def test_autostart_holds_for_both_arms():
    nodes = make('ab_comparison', a='t', b='s', autostart='false')
    assert [nodes[f'{n}/perception'].parameters['autostart'] for n in 'ab'] == [False, False]


def test_a_shadow_from_arguments():
    node = make('shadow', model='teacher', out_dir='/m', share='0.05', namespace='car',
                keep_for='[novelty]', image_topic='/cam')['car/shadow']
    assert node.parameters == {'model': 'teacher', 'out_dir': '/m', 'share': 0.05,
                               'keep_for': ('novelty',)}
    assert ('image', '/cam') in node.remappings
    node = make('shadow', image_transport='compressed', image_topic='/c')['shadow']
    assert ('image/compressed', '/c') in node.remappings


def test_comparison_from_arguments():
    nodes = make('ab_comparison', a='teacher', b='student', engine='openvino',
                 b_engine='onnxruntime', threads='2', frames='30', placement='isolated',
                 scenario='dense_fog', width='320', timeout_s='4', models_dir='/m', namespace='x')
    assert list(nodes) == ['x/camera', 'x/a/perception', 'x/b/perception', 'x/monitor']
    assert nodes['x/a/perception'].parameters['engine'] == 'openvino'
    assert nodes['x/b/perception'].parameters['engine'] == 'onnxruntime'
    assert nodes['x/b/perception'].parameters['threads'] == 2
    assert nodes['x/a/perception'].parameters['models_dir'] == '/m'
    assert nodes['x/camera'].parameters['scenario'] == 'dense_fog'
    assert nodes['x/camera'].parameters['width'] == 320
    assert nodes['x/monitor'].parameters['timeout_s'] == 4.0


def test_a_live_topic_is_compared_as_it_comes():
    nodes = make('ab_comparison', a='t', b='s', source='topic', image='cam/image', namespace='x',
                 duration_s='30', image_transport='compressed', label_topic='/cam/labels')
    assert list(nodes) == ['x/a/perception', 'x/b/perception', 'x/monitor']
    assert nodes['x/a/perception'].remappings == (('image/compressed', '/cam/image'),)
    told = nodes['x/monitor'].parameters
    assert (told['placement'], told['pacing']) == ('concurrent', 'realtime')
    assert (told['frames'], told['duration_s']) == (0, 30.0)
    assert told['image_transport'] == 'compressed'
    assert ('label_info', '/cam/label_info') in nodes['x/monitor'].remappings


def test_models_that_alternate_are_one_node():
    nodes = make('ab_comparison', a='t', b='s', placement='alternate', swap_every='9')
    assert list(nodes) == ['camera', 'shared/perception', 'monitor']
    assert nodes['monitor'].parameters['swap_every'] == 9


def test_carla_is_a_camera_and_a_source_of_comparisons():
    node = make('simulation', source='carla', carla_host='pc', carla_port='2002',
                carla_map='Town03', scenario='HardRainNoon')['camera']
    assert node.parameters == {'source': 'carla', 'carla_host': 'pc', 'carla_port': 2002,
                               'carla_map': 'Town03', 'scenario': 'HardRainNoon'}
    nodes = make('ab_comparison', a='t', b='s', source='carla', carla_vehicles='5', frames='30')
    assert nodes['camera'].parameters['source'] == nodes['monitor'].parameters['source'] == 'carla'
    assert nodes['camera'].parameters['carla_vehicles'] == 5
    assert nodes['camera'].parameters['frames'] == 40
    assert 'carla_host' not in nodes['camera'].parameters


def test_a_recording_is_compared_to_its_end():
    nodes = make('ab_comparison', a='t', b='s', source='bag', bag='/drive')
    assert nodes['camera'].parameters['frames'] == 0
    assert nodes['camera'].parameters['bag'] == '/drive'
    assert make('replay', bag='/drive', loop='true')['camera'].parameters['loop'] is True


@pytest.mark.parametrize(('name', 'values', 'reason'), [
    ('perception', {'engine': 'magic'}, "'magic' is not one of"),
    ('perception', {'threads': 'two'}, "threads: 'two' is no int"),
    ('perception', {'autostart': 'maybe'}, "'maybe' is no bool"),
    ('perception', {'confidence_threshold': '2'}, 'above'),
    ('perception', {'cameras': '[front]', 'image_topic': '/i'}, 'remap front/image'),
    ('ab_comparison', {'a': 't'}, 'b: give the model'),
    ('ab_comparison', {'a': 't', 'b': 's', 'source': 'bag'}, 'needs bag:='),
    ('ab_comparison', {'a': 't', 'b': 's', 'source': 'topic'}, 'name of an image topic'),
    ('ab_comparison', {'a': 't', 'b': 's', 'source': 'topic', 'image': '/i',
                       'placement': 'turns'}, 'choose concurrent, realtime'),
    ('simulation', {'source': 'bag'}, 'is played by replay.launch.py'),
    ('simulation', {'source': 'carla', 'carla_port': '0'}, 'carla_port: 0 is below 1'),
    ('ab_comparison', {'a': 't', 'b': 's', 'source': 'carla', 'placement': 'isolated'},
     'go by once'),
    ('shadow', {'share': '0'}, 'share: 0.0 is below'),
    ('shadow', {'blur': 'faces'}, "'faces' is not one of none, faces_and_plates"),
    ('replay', {}, 'give the path')])
def test_bad_arguments_are_one_line(name, values, reason):
    with pytest.raises(ConfigError, match=reason):
        make(name, **values)


@pytest.mark.parametrize(('node', 'changed'), [
    ('camera', ('rate_hz', '12.5')), ('monitor', ('warmup', '77')),
    ('perception', ('max_age_ms', '33.0')), ('shadow', ('max_rate_hz', '7.5'))])
def test_nodes_take_their_section_of_the_file(ros_environment, tmp_path, node, changed):
    rclpy = pytest.importorskip('rclpy')
    from rclpy.context import Context

    source = f'{node}.yaml' if node in ('perception', 'shadow') else 'ab_comparison.yaml'
    lines = (SHARE / 'config' / source).read_text().splitlines()
    name, value = changed
    own = next(i for i, line in enumerate(lines) if line in (f'/**/{node}:', '/**:'))
    at = next(i for i in range(own, len(lines)) if lines[i].strip().startswith(f'{name}:'))
    lines[at] = f'    {name}: {value}'
    path = tmp_path / 'p.yaml'
    path.write_text('\n'.join(lines))
    context = Context()
    rclpy.init(context=context)
    made = rclpy.create_node(node, context=context, cli_args=[
        '--ros-args', '--params-file', str(path)])
    try:
        declare(made, TABLES[node])
        assert value_of(made, name) == float(value)
    finally:
        made.destroy_node()
        rclpy.shutdown(context=context)
