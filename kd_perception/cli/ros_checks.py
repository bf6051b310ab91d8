"""
What ``doctor`` looks at of ROS: where it comes from, its environment, DDS, messages, codec.

Out: ``Check`` s. ROS is never imported here: the bootstrap of its wheels would replace this
process, so a child does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata
import importlib.util
import os
from pathlib import Path
import shutil
import sys

from kd_perception.cli.checks import Check, installed, MISSING, OK, probe, WARN
from kd_perception.nodes.cv_bridge_codec import probe_cv_bridge
from kd_perception.paths import share_directory

_NEEDED = ('sensor_msgs', 'std_msgs', 'std_srvs', 'diagnostic_msgs', 'lifecycle_msgs',
           'rcl_interfaces', 'rosgraph_msgs')
_PIP_ROS = 'pip install -r tools/pip_ros/requirements.txt && python -m tools.pip_ros'


def ros_checks(environment: Mapping[str, str] | None = None) -> list[Check]:
    """Return all checks of this module, in reading order."""
    environment = os.environ if environment is None else environment
    source = ros_source(environment)
    if source == '':
        return [Check('ROS', 'rclpy', MISSING,
                      'not found: bags, training and evaluation work, nodes do not',
                      f'source /opt/ros/<distribution>/setup.bash, or {_PIP_ROS}'),
                image_codec()]
    return [*_rclpy(source), *_messages(), *_variables(environment, source),
            *dds_profile(environment), image_codec(), *_launch(environment)]


def ros_source(environment: Mapping[str, str]) -> str:
    """Return ``wheels``, ``sourced``, or '' where there is no rclpy."""
    try:
        spec = importlib.util.find_spec('rclpy')
    except (ImportError, ValueError):
        return ''
    if spec is None:
        return ''
    home = Path(spec.origin or '')
    # Wheels lie in the environment's own site-packages; a sourced ROS comes by PYTHONPATH.
    prefixes = [p for p in environment.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    if any(home.is_relative_to(p) for p in prefixes if Path(p) != Path(sys.prefix)):
        return 'sourced'
    return 'wheels' if home.is_relative_to(sys.prefix) else 'sourced'


def dds_profile(environment: Mapping[str, str]) -> Iterable[Check]:
    """Check the middleware and whether its shared memory takes camera images."""
    rmw = environment.get('RMW_IMPLEMENTATION', '')
    name = 'DDS profile'
    if rmw and 'fastrtps' not in rmw:
        yield Check('ROS', name, OK, f'{rmw}: the Fast DDS profile is not used')
        return
    variable = 'FASTRTPS_DEFAULT_PROFILES_FILE'
    given = environment.get(variable, '')
    own = share_directory() / 'config' / 'fastdds.xml'
    if 'FASTDDS_DEFAULT_PROFILES_FILE' in environment and not given:
        yield Check('ROS', name, WARN, 'FASTDDS_DEFAULT_PROFILES_FILE is set, but Fast DDS 2.14 '
                    'ignores that spelling', f'export {variable}={own}')
    elif given and not Path(given).is_file():
        yield Check('ROS', name, WARN, f'{variable} names {given}, which does not exist',
                    f'export {variable}={own}')
    elif given and Path(given).resolve() != own.resolve():
        yield Check('ROS', name, OK, f'your own: {given} (large images need a shared-memory '
                    'segment of 16 MB)')
    else:
        yield Check('ROS', name, OK, f'set by demo, compare and the launch files; for publishers '
                    f'of your own: export {variable}={own}')


def image_codec() -> Check:
    """Say which code turns image messages into arrays."""
    encodings, reason = probe_cv_bridge()
    name = 'cv_bridge' if encodings else 'own codec (imaging)'
    return Check('ROS', 'image codec', OK, f'{name}; {reason}')


def _rclpy(source: str) -> Iterable[Check]:
    works, answer = probe('import rclpy; rclpy.init(); rclpy.shutdown(); print("works")')
    try:
        version = metadata.version('ros-rclpy' if source == 'wheels' else 'rclpy')
    except metadata.PackageNotFoundError:
        version = ''
    origin = 'wheels in this environment' if source == 'wheels' else (
        f'sourced, {os.environ.get("ROS_DISTRO", "distribution unknown")}')
    detail = f'{version} ({origin})'.strip()
    if works:
        yield Check('ROS', 'rclpy', OK, detail)
    else:
        yield Check('ROS', 'rclpy', MISSING, f'{detail}: does not start: {answer}',
                    _PIP_ROS if source == 'wheels' else 'use the Python that this ROS was '
                    'built for, in an environment made with --system-site-packages')


def _messages() -> Iterable[Check]:
    absent = [m for m in _NEEDED if not installed(m)]
    yield Check('ROS', 'messages', MISSING if absent else OK,
                f'missing: {", ".join(absent)}' if absent else ', '.join(_NEEDED),
                f'apt-get install the ros-<distribution>-… packages, or {_PIP_ROS}'
                if absent else '')
    works, answer = (probe('from vision_msgs.msg import Detection2DArray, LabelInfo; '
                           'LabelInfo(); print("works")')
                     if installed('vision_msgs') else (False, 'not installed'))
    yield Check('ROS', 'vision_msgs', OK if works else MISSING, answer, '' if works else
                'python -m tools.pip_ros (wheels), or apt-get install '
                'ros-<distribution>-vision-msgs')


def _variables(environment: Mapping[str, str], source: str) -> Iterable[Check]:
    prefix = environment.get('AMENT_PREFIX_PATH', '')
    if source == 'wheels' and not prefix and shutil.which('ros2'):
        yield Check('ROS', 'AMENT_PREFIX_PATH', WARN, 'not set: the ros2 command finds nothing '
                    'of the wheels', f'export AMENT_PREFIX_PATH={sys.prefix}')
    else:
        yield Check('ROS', 'AMENT_PREFIX_PATH', OK, prefix or 'not set; nodes of this package '
                    'do not need it')
    domain = environment.get('ROS_DOMAIN_ID', '0')
    yield Check('ROS', 'domain', OK, f'ROS_DOMAIN_ID {domain} for your nodes; demo and compare '
                'take a private one, on this host alone')
    if environment.get('ROS_PYTHON_CHECK_FIELDS', '') not in ('', '0'):
        yield Check('ROS', 'ROS_PYTHON_CHECK_FIELDS', WARN, 'set: every image costs 38 to 360 ms '
                    'of checking', 'unset ROS_PYTHON_CHECK_FIELDS')


def _launch(environment: Mapping[str, str]) -> Iterable[Check]:
    if installed('launch') and installed('launch_ros'):
        yield Check('ROS', 'launch', OK, 'launch and launch_ros are installed')
    else:
        yield Check('ROS', 'launch', OK, 'not installed; demo and compare start the same nodes '
                    'without it')
