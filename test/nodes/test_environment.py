import os
from pathlib import Path
import tempfile
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


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, '_DOMAINS', range(1, 2))
    monkeypatch.delenv('ROS_DOMAIN_ID', raising=False)
    victim = tmp_path / 'victim'
    (tmp_path / 'kd_perception_domain_1.lock').symlink_to(victim)
    with pytest.raises(GraphError), reserved_domain(tmp_path):
        pass
    assert not victim.exists()


def reserves_as_other_user(folder, held):
    """Return whether a user who owns nothing in ``folder`` can reserve a domain there."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            if held:
                with pytest.raises(GraphError), reserved_domain(folder):
                    pass
            else:
                with reserved_domain(folder):
                    pass
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def test_a_lock_file_of_another_user_neither_blocks_nor_is_shared(monkeypatch):
    monkeypatch.setattr(environment, '_DOMAINS', range(1, 2))
    monkeypatch.delenv('ROS_DOMAIN_ID', raising=False)
    with tempfile.TemporaryDirectory() as name:  # pytest's own belongs to one user alone
        folder = Path(name)
        folder.chmod(0o1777)
        before = os.umask(0o077)
        try:
            with reserved_domain(folder):
                assert reserves_as_other_user(folder, held=True)
        finally:
            os.umask(before)
        lock, = folder.iterdir()
        if os.geteuid() != 0:
            lock.chmod(0o444)  # what it is to others
        assert reserves_as_other_user(folder, held=False)


def test_isolation_by_distribution():
    own = {'ROS_DOMAIN_ID': '7', 'ROS_STATIC_PEERS': '', 'ROS_DISCOVERY_SERVER': ''}
    assert isolation(7, 'jazzy') == {**own, 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    assert isolation(7, 'humble') == {**own, 'ROS_LOCALHOST_ONLY': '1'}


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
