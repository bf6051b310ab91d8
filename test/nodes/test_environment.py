import os
from pathlib import Path
import xml.etree.ElementTree as ElementTree

import pytest

from kd_perception.errors import GraphError
from kd_perception.nodes import environment
from kd_perception.nodes.environment import isolation, reserved_domain, tuning


def test_no_two_runs_share_a_domain(tmp_path):
    with reserved_domain(tmp_path) as one, reserved_domain(tmp_path) as two:
        assert one != two
        assert 0 < one <= 101
        assert 0 < two <= 101
    with reserved_domain(tmp_path) as again:
        assert again == one


def test_the_users_own_domain_is_never_taken(tmp_path, monkeypatch):
    with reserved_domain(tmp_path) as first:
        pass
    monkeypatch.setenv('ROS_DOMAIN_ID', str(first))
    with reserved_domain(tmp_path) as other:
        assert other != first


def test_no_domain_left_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, '_DOMAINS', range(1, 2))
    monkeypatch.delenv('ROS_DOMAIN_ID', raising=False)
    with (reserved_domain(tmp_path),
          pytest.raises(GraphError, match='every private DDS domain'),
          reserved_domain(tmp_path)):
        pass


def test_isolation_by_distribution():
    assert isolation(7, 'jazzy') == {'ROS_DOMAIN_ID': '7',
                                     'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    assert isolation(7, 'humble') == {'ROS_DOMAIN_ID': '7', 'ROS_LOCALHOST_ONLY': '1'}


def test_tuning_never_overrides():
    assert 'FASTRTPS_DEFAULT_PROFILES_FILE' in tuning({})
    assert 'FASTRTPS_DEFAULT_PROFILES_FILE' not in tuning({'FASTRTPS_DEFAULT_PROFILES_FILE': 'x'})
    assert 'FASTRTPS_DEFAULT_PROFILES_FILE' not in tuning(
        {'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp'})
    assert tuning({**os.environ, **tuning({})}) == {}


def test_the_profile_is_one_that_fast_dds_takes():
    path = Path(tuning({})['FASTRTPS_DEFAULT_PROFILES_FILE'])
    tree = ElementTree.parse(path)
    found = {e.tag.rpartition('}')[2]: e.text for e in tree.iter()}
    assert int(found['segment_size']) >= int(found['maxMessageSize'])
    # Docker gives 64 MB of shared memory to all participants together.
    assert int(found['segment_size']) <= 16 * 2**20
