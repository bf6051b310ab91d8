import importlib.util
import json
from pathlib import Path
import sys

import pytest

from tools.pip_ros import __main__ as pip_ros
from tools.pip_ros.build import BuildError, check_tools
from tools.pip_ros.install import fingerprint, is_current

FOLDER = Path(pip_ros.__file__).parent / 'vision_msgs'
BUILT = Path(sys.prefix) / 'share' / 'vision_msgs'

wheels_only = pytest.mark.skipif(
    not (BUILT / '.built_by_pip_ros').is_file(),
    reason='vision_msgs comes from a sourced ROS, not from tools/pip_ros')


@wheels_only
def test_types_are_the_ones_of_the_official_package():
    described = json.loads((BUILT / 'msg' / 'LabelInfo.json').read_text())
    hashes = {h['type_name']: h['hash_string'] for h in described['type_hashes']}
    # As in the binary package of Jazzy: nodes of both sides understand each other.
    assert hashes['vision_msgs/msg/LabelInfo'] == (
        'RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783')
    assert hashes['vision_msgs/msg/VisionClass'] == (
        'RIHS01_1e4a11f0fed50b5623cb8ff26ca0e37952a48a9c074d16f804b44e9164c2037a')


@wheels_only
def test_installed_bindings_are_current():
    assert is_current('vision_msgs', Path(sys.prefix), fingerprint(FOLDER))


@pytest.mark.skipif(importlib.util.find_spec('rosidl_generator_py') is None,
                    reason='the ROS wheels are not installed')
def test_fingerprint_follows_the_fields(tmp_path):
    for copy in ('a', 'b'):
        (tmp_path / copy / 'msg').mkdir(parents=True)
    (tmp_path / 'a/msg/X.msg').write_text('float64 x\n')
    (tmp_path / 'b/msg/X.msg').write_text('float32 x\n')
    assert fingerprint(tmp_path / 'a') != fingerprint(tmp_path / 'b')


def test_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv('PATH', '/nonexistent')
    with pytest.raises(BuildError, match='apt-get install gcc g\\+\\+'):
        check_tools()
