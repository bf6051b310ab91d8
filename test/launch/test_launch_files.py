"""The launch files under the real ``launch``, where it is installed."""

import importlib.util

import pytest

pytest.importorskip('launch.actions', reason='launch is not installed')
pytest.importorskip('launch_ros.actions', reason='launch_ros is not installed')

from launch.actions import DeclareLaunchArgument, OpaqueFunction  # noqa: E402
from launch.launch_context import LaunchContext  # noqa: E402

from kd_perception.nodes.bringup.launch_arguments import FILES  # noqa: E402
from kd_perception.paths import share_directory  # noqa: E402


def description(name):
    path = share_directory() / 'launch' / f'{name}.launch.py'
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


@pytest.mark.parametrize('name', FILES)
def test_arguments_are_declared_with_description(name):
    declared = {a.name: a for a in description(name).get_launch_arguments()}
    assert set(declared) == {a.name for a in FILES[name].arguments}
    assert all(a.description for a in declared.values())


def test_nodes_are_those_of_the_graph():
    made = description('ab_comparison')
    context = LaunchContext()
    given = {'a': 'teacher', 'b': '007'}
    for entity in made.entities:
        if isinstance(entity, DeclareLaunchArgument):
            context.launch_configurations[entity.name] = given.get(
                entity.name, ''.join(s.text for s in entity.default_value))
    starter = next(e for e in made.entities if isinstance(e, OpaqueFunction))
    nodes = starter.execute(context)
    assert [n.node_executable for n in nodes] == ['camera', 'perception', 'perception', 'monitor']


@pytest.mark.parametrize(('installed', 'kind'), [(True, 'ExecuteProcess'), (False, 'LogInfo')])
def test_rviz_is_opened_or_missed_in_one_line(monkeypatch, installed, kind):
    monkeypatch.setattr('kd_perception.nodes.bringup.viewer.shutil.which',
                        lambda _: installed or None)
    context = LaunchContext()
    made = description('perception')
    for entity in made.entities:
        if isinstance(entity, DeclareLaunchArgument):
            context.launch_configurations[entity.name] = (
                'true' if entity.name == 'rviz' else ''.join(s.text for s in entity.default_value))
    starter = next(e for e in made.entities if isinstance(e, OpaqueFunction))
    node, viewer = starter.execute(context)
    assert node.node_executable == 'perception'
    assert type(viewer).__name__ == kind
