from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import numpy as np
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import Image

from kd_perception.errors import ConfigError
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import header, image_message
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.perception.serving import ServingModel

NAME = '/perception'


@pytest.fixture
def options(bundles):
    return {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
            'warmup_iterations': 0}


def change(bench, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    return bench.call(ChangeState, f'{NAME}/change_state', request).success


def test_parameters_that_cannot_be_read_leave_the_node_alive(bench, options):
    with bench.running(PerceptionNode, **options) as node:
        bench.spin_until(lambda: node.count_publishers('/segmentation/mask'))
        for model in ('x' * 300, '~nosuchuser/x', '/proc/self/mem'):
            result = bench.set_parameters(NAME, model=model)[0]
            assert not result.successful
            assert model in result.reason
            assert 'unexpected' not in result.reason
        for name in ('model', 'cameras', 'threads'):
            unset = Parameter(name=name, value=ParameterValue(
                type=ParameterType.PARAMETER_NOT_SET))
            answer = bench.call(SetParameters, f'{NAME}/set_parameters',
                                SetParameters.Request(parameters=[unset]))
            assert not answer.results[0].successful
        assert bench.get_parameter(NAME, 'model') == 'one'
        assert not node.failure


def test_a_defect_in_the_callback_is_an_answer(bench, options, monkeypatch):
    def broken(settings):
        raise ZeroDivisionError('a defect')

    with bench.running(PerceptionNode, **options) as node:
        bench.spin_until(lambda: node.count_publishers('/segmentation/mask'))
        monkeypatch.setattr('kd_perception.nodes.perception.node.check_settings', broken)
        result = bench.set_parameters(NAME, model='two')[0]
        assert not result.successful
        assert 'ZeroDivisionError: a defect' in result.reason
        monkeypatch.undo()
        assert bench.set_parameters(NAME, model='two')[0].successful
        assert not node.failure


def test_a_camera_without_a_possible_name_is_refused(bench, options):
    with pytest.raises(ConfigError, match="cameras: 'bad name'"):
        PerceptionNode(context=bench.context, parameter_overrides=[
            *_overrides(options), *_overrides({'cameras': ['front', 'bad name']})])
    with bench.running(PerceptionNode, autostart=False, **options):
        for name in ('bad name', '1st', 'front/', 'a-b'):
            result = bench.set_parameters(NAME, cameras=['front', name])[0]
            assert not result.successful
            assert repr(name) in result.reason


def _overrides(values):
    from rclpy.parameter import Parameter as Given

    return [Given(k, value=v) for k, v in values.items()]


def test_a_failed_configure_leaves_no_topic_and_no_model_behind(bench, options, monkeypatch):
    closed = []
    close = ServingModel.close
    monkeypatch.setattr(ServingModel, 'close', lambda self: closed.append(1) or close(self))
    with bench.running(PerceptionNode, autostart=False, **options) as node:
        # Too long for a topic, which only its creation tells.
        assert bench.set_parameters(NAME, cameras=['front', 'x' * 300])[0].successful
        assert not change(bench, Transition.TRANSITION_CONFIGURE)
        left = [t.topic_name for t in (*node.subscriptions, *node.publishers)]
        assert not [t for t in left if 'front' in t or 'xxx' in t]
        assert closed == [1]
        assert bench.set_parameters(NAME, cameras=['rear'])[0].successful
        assert change(bench, Transition.TRANSITION_CONFIGURE)
        assert change(bench, Transition.TRANSITION_ACTIVATE)
        picture = image_message(np.zeros((48, 64, 3), np.uint8), 'rgb8', header(1, 'c'))
        masks = bench.collect(Image, 'rear/segmentation/mask', qos.stream(5))
        front, rear = (bench.node.create_publisher(Image, f'{c}/image', qos.stream(5))
                       for c in ('front', 'rear'))
        bench.spin_until(rear.get_subscription_count)
        bench.spin_until(lambda: bench.node.count_publishers('rear/segmentation/mask'))
        front.publish(picture)
        rear.publish(picture)
        bench.spin_until(lambda: masks)
        assert node.counters()['received'] == 1
        assert not node.failure
