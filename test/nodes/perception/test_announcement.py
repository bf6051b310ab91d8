"""What late subscribers learn: the model that serves, its classes, and that none does."""

import json

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import pytest
from std_msgs.msg import String
from vision_msgs.msg import LabelInfo

from kd_perception.nodes import qos
from kd_perception.nodes.perception.node import PerceptionNode

NAME = '/perception'


@pytest.fixture
def options(bundles):
    return {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
            'warmup_iterations': 0}


def change(bench, label):
    return bench.call(ChangeState, f'{NAME}/change_state', ChangeState.Request(
        transition=Transition(label=label))).success


def latched(bench, kind, topic):
    """Return what a subscriber gets that comes now."""
    found = bench.collect(kind, topic, qos.latched())
    bench.spin_until(lambda: found)
    return found[-1]


def test_who_comes_late_learns_the_threshold_of_now(bench, camera, other_bench, options):
    with bench.running(PerceptionNode, cameras=('front', 'left'), **options):
        camera('front').ask()
        assert latched(bench, LabelInfo, 'front/segmentation/label_info').threshold == 0.0
        assert bench.set_parameters(NAME, confidence_threshold=0.25)[0].successful
        for name in ('front', 'left'):
            info = latched(other_bench, LabelInfo, f'{name}/segmentation/label_info')
            assert info.threshold == 0.25
            assert info.class_map
        # It stays with the next model.
        models = bench.collect(String, 'perception/active_model', qos.latched())
        assert bench.set_parameters(NAME, model='two')[0].successful
        bench.spin_until(lambda: models and json.loads(models[-1].data)['model'] == 'two')
        infos = bench.collect(LabelInfo, 'left/segmentation/label_info', qos.latched())
        bench.spin_until(lambda: infos and infos[-1].threshold == 0.25)


def test_who_comes_after_the_cleanup_learns_that_nothing_serves(bench, camera, other_bench,
                                                                options):
    with bench.running(PerceptionNode, **options):
        camera().ask()
        first = json.loads(latched(bench, String, 'perception/active_model').data)
        assert change(bench, 'deactivate')
        assert json.loads(latched(bench, String, 'perception/active_model').data) == first
        assert change(bench, 'cleanup')
        told = json.loads(latched(other_bench, String, 'perception/active_model').data)
        assert told == {'schema_version': first['schema_version'], 'model': '', 'name': '',
                        'hash': '', 'exchange': 1}
        assert change(bench, 'configure')
        told = json.loads(latched(bench, String, 'perception/active_model').data)
        assert (told['model'], told['exchange']) == ('one', 2)


def test_a_node_that_never_served_says_nothing(bench, options):
    models = bench.collect(String, 'perception/active_model', qos.latched())
    with bench.running(PerceptionNode, **{**options, 'model': 'three', 'autostart': False}):
        assert not change(bench, 'configure')
        bench.spin_for(0.2)
        assert not models
