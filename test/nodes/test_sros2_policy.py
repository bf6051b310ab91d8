"""The SROS 2 policy allows what the node really has, and nothing else."""

import gc
import xml.etree.ElementTree as ElementTree

from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.paths import share_directory

RULES = {'publish', 'subscribe', 'reply'}


def allowed():
    """Return (rule, full name) of everything that the policy allows."""
    root = ElementTree.parse(share_directory() / 'config' / 'sros2' / 'policy.xml').getroot()
    assert root.attrib == {'version': '0.2.0'}
    profile, = root.iter('profile')
    assert profile.attrib == {'ns': '/', 'node': 'perception'}
    out = set()
    for block in profile:
        assert set(block.attrib.values()) == {'ALLOW'}
        assert set(block.attrib) <= RULES
        for entry in block:
            name = entry.text.replace('~', '/perception')
            name = name if name.startswith('/') else f'/{name}'
            out |= {(rule, name) for rule in block.attrib}
    return out


def real(bench, bundles, transport):
    options = {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime',
               'threads': 1, 'warmup_iterations': 0,
               'use_sim_time': True, 'image_transport': transport}
    # rclpy keeps the state machine of a destroyed node, with its services, until the node is
    # collected; the graph would show one of that name, too.
    gc.collect()
    bench.spin_until(lambda: 'perception' not in bench.node.get_node_names())
    with bench.running(PerceptionNode, **options):
        def ends():
            node = bench.node
            return {
                *(('publish', n) for n, _ in
                  node.get_publisher_names_and_types_by_node('perception', '/')),
                *(('subscribe', n) for n, _ in
                  node.get_subscriber_names_and_types_by_node('perception', '/')),
                *(('reply', n) for n, _ in
                  node.get_service_names_and_types_by_node('perception', '/'))}

        # The graph fills in the middleware's own time; services come last of all.
        bench.spin_until(lambda: 'perception' in bench.node.get_node_names()
                         and ('publish', '/overlay') in ends(), 60.0)
        bench.spin_until(lambda: ('reply', '/perception/get_transition_graph') in ends()
                         and ('subscribe', '/clock') in ends())
        bench.spin_for(0.2)
        return ends()


def test_the_policy_is_the_nodes_interface(bench, bundles):
    found = real(bench, bundles, 'raw') | real(bench, bundles, 'compressed')
    assert found == allowed()
