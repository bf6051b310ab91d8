"""From a run of ``graph`` to the actions of ``launch``; the only module that imports it."""

from __future__ import annotations

from typing import Any

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    Shutdown,
)
from launch.launch_context import LaunchContext
from launch.launch_description import LaunchDescription
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from kd_perception.nodes.bringup.graph import NodeSpec, PACKAGE, RunGraph
from kd_perception.nodes.bringup.launch_arguments import Argument, FILES
from kd_perception.nodes.bringup.viewer import missing_rviz, rviz_command
from kd_perception.nodes.environment import tuning


def launch_description(name: str) -> LaunchDescription:
    """Return the description of the launch file ``<name>.launch.py``."""
    return LaunchDescription([*(_declare(argument) for argument in FILES[name].arguments),
                              OpaqueFunction(function=lambda context: _start(context, name))])


def _declare(argument: Argument) -> DeclareLaunchArgument:
    more = {'choices': list(argument.choices)} if argument.choices else {}
    return DeclareLaunchArgument(argument.name, default_value=argument.default,
                                 description=argument.description, **more)


def _start(context: LaunchContext, name: str) -> list[LaunchDescriptionEntity]:
    """Make the nodes when the values of the arguments are known."""
    launch_file = FILES[name]
    values = {a.name: LaunchConfiguration(a.name).perform(context) for a in launch_file.arguments}
    graph = launch_file.make(values)
    if graph.ends_with:
        # Not above: a vehicle that serves needs neither street nor bundles in its launch process.
        from kd_perception.nodes.bringup.inputs import check_inputs

        check_inputs(graph)
    nodes: list[LaunchDescriptionEntity] = [_node(spec, graph, values) for spec in graph.nodes]
    if values.get('rviz') == 'true':
        cameras = graph.nodes[0].parameters.get('cameras', ())
        missing = missing_rviz()
        nodes.append(LogInfo(msg=missing) if missing else
                     ExecuteProcess(cmd=rviz_command(name, values, cameras), output='log'))
    return nodes


def _node(spec: NodeSpec, graph: RunGraph, values: dict[str, str]) -> Node:
    overrides: dict[str, Any] = {k: _typed(v) for k, v in spec.parameters.items()}
    if values['use_sim_time']:
        overrides['use_sim_time'] = values['use_sim_time'].lower() == 'true'
    # In a comparison no node may be missing, so the end of one is the end of all.
    more = {'on_exit': Shutdown(reason=f'{spec.title} has ended')} if graph.ends_with else {}
    return Node(package=PACKAGE, executable=spec.executable, name=spec.name,
                namespace=spec.namespace, parameters=[values['params_file'], overrides],
                remappings=list(spec.remappings), output='screen',
                sigterm_timeout=f'{spec.patience_s:g}',
                additional_env={**tuning(), **spec.environment},
                arguments=['--ros-args', '--log-level', values['log_level']], **more)


def _typed(value: Any) -> Any:
    """Keep texts texts: launch reads a bare one as YAML, where 007 is a number."""
    if isinstance(value, str):
        return ParameterValue(value, value_type=str)
    if isinstance(value, tuple):
        return ParameterValue(list(value) or [''], value_type=list[str])
    return value
