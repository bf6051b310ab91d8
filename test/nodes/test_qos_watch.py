"""Ends that get nothing because of their quality of service are named with the fix."""

from itertools import product

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import pytest
from rclpy.duration import Duration
from rclpy.logging import LoggingSeverity, set_logger_level
from rclpy.qos import (
    DurabilityPolicy,
    LivelinessPolicy,
    qos_check_compatible,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
)
from sensor_msgs.msg import Image

from kd_perception.nodes import qos
from kd_perception.nodes.conversion import header, image_message, values_of
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.qos_watch import mismatches

PROFILES = [QoSProfile(depth=1, reliability=reliability, durability=durability,
                       liveliness=liveliness, deadline=Duration(nanoseconds=deadline),
                       liveliness_lease_duration=Duration(nanoseconds=lease))
            for reliability, durability, liveliness, deadline, lease in product(
                (ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE),
                (DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL),
                (LivelinessPolicy.AUTOMATIC, LivelinessPolicy.MANUAL_BY_TOPIC),
                (0, 10_000_000, 20_000_000), (0, 10_000_000))]


def test_the_rules_are_those_of_ros():
    for offered, requested in product(PROFILES, PROFILES):
        fits = qos_check_compatible(offered, requested)[0] == QoSCompatibility.OK
        assert fits == (not mismatches(offered, requested))


def test_a_span_that_is_not_said_is_infinite():
    """As the graph shows it; ROS' own check takes infinite for more than not said."""
    silent, infinite = (QoSProfile(depth=1, deadline=Duration(nanoseconds=n))
                        for n in (0, 2**63 - 1))
    assert not mismatches(silent, infinite)
    assert mismatches(silent, QoSProfile(depth=1, deadline=Duration(seconds=1)))[0].requested == (
        '1 s')


@pytest.fixture
def options(bundles):
    return {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
            'warmup_iterations': 0}


def said(found, key='qos_mismatch'):
    return values_of(found[-1].status[0])[key] if found else ''


def run_fast(node):
    node._tick.timer_period_ns = 50_000_000


def test_a_subscription_that_asks_for_more_is_named_with_the_fix(bench, options, capfd):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    set_logger_level('perception', LoggingSeverity.WARN)
    try:
        with bench.running(PerceptionNode, **options) as node:
            run_fast(node)
            bench.spin_until(lambda: node.count_publishers('/segmentation/mask'))
            greedy = bench.node.create_subscription(
                Image, 'segmentation/mask', lambda _: None, qos.latched())
            bench.spin_until(lambda: said(found))
            told = ('QoS mismatch on /segmentation/mask: /observer requests durability '
                    'transient_local and gets nothing; let it subscribe with durability: '
                    'volatile')
            assert said(found) == told
            bench.spin_until(lambda: found[-1].status[0].level == b'\x01')
            seen = len(found)
            bench.spin_until(lambda: len(found) > seen + 5)
            bench.node.destroy_subscription(greedy)
            bench.spin_until(lambda: not said(found))
            # On the console: DDS forgets log messages that an observer does not take in time.
            assert capfd.readouterr().err.count(told) == 1
    finally:
        set_logger_level('perception', LoggingSeverity.FATAL)


def test_a_publisher_that_offers_less_is_named_while_others_are_heard(bench, other_bench,
                                                                      options):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    with bench.running(PerceptionNode, reliability='reliable', **options) as node:
        run_fast(node)
        bench.spin_until(lambda: node.count_publishers('/segmentation/mask'))
        good = bench.node.create_publisher(Image, 'image', qos.stream())
        loose = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        other_bench.node.create_publisher(Image, 'image', loose)
        bench.spin_until(lambda: said(found))
        picture = image_message(np.zeros((48, 64, 3), np.uint8), 'rgb8', header(1, 'c'))

        def heard():
            good.publish(picture)
            return node.counters()['published']

        bench.spin_until(heard)
        assert said(found) == (
            'QoS mismatch on /image: /observer publishes reliability best_effort where this '
            'subscription requests reliable; set reliability to best_effort or auto while the '
            'node is unconfigured, or start it so')
