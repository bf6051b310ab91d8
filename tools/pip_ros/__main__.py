"""
Compile ``vision_msgs`` for the ROS wheels of this environment: ``python -m tools.pip_ros``.

The wheels bring rclpy, the common interfaces and the message generators, but no ``vision_msgs``.
Does nothing where the bindings are up to date, or where a sourced ROS has them already. Exit
code 2 and one line where a compiler or a header is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
import sys
import tempfile
import time

from tools.pip_ros.build import BuildError, check_tools, compile_package, generate
from tools.pip_ros.install import fingerprint, install, is_current

PACKAGE = 'vision_msgs'
DEPENDENCIES = ('builtin_interfaces', 'std_msgs', 'geometry_msgs')


def main() -> int:
    """Build and install the package where it is missing or out of date."""
    parser = argparse.ArgumentParser(prog='python -m tools.pip_ros',
                                     description='Compile vision_msgs for the ROS wheels.')
    parser.add_argument('--force', action='store_true', help='build even when up to date')
    args = parser.parse_args()
    source = Path(__file__).resolve().parent / PACKAGE
    prefix = Path(sys.prefix)
    try:
        if importlib.util.find_spec('rosidl_generator_py') is None:
            raise BuildError('the ROS wheels are not installed in this environment; run '
                             'pip install -r tools/pip_ros/requirements.txt')
        mark = fingerprint(source)
        if not args.force and is_current(PACKAGE, prefix, mark):
            return 0
        found = importlib.util.find_spec(PACKAGE)
        if found is not None and not str(found.origin).startswith(str(prefix)):
            print(f'pip_ros: {PACKAGE} comes from {found.origin}; nothing to do')
            return 0
        started = time.monotonic()
        check_tools()
        with tempfile.TemporaryDirectory(prefix='pip_ros.') as folder:
            sources = generate(PACKAGE, source, Path(folder), DEPENDENCIES, prefix)
            compile_package(sources, prefix)
            install(sources, source, prefix, mark)
        print(f'pip_ros: compiled {PACKAGE} in {time.monotonic() - started:.0f} s')
    except BuildError as error:
        print(f'pip_ros: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
