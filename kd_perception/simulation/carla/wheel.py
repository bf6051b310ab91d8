"""
CARLA's Python client: imported when it is needed, and its versions compared.

It is an extra of this package; nothing but the source ``carla`` needs it. It imports, and checks
nothing, without a server.
"""

from __future__ import annotations

import importlib
import re
import sys
from typing import Any

from kd_perception.errors import first_line, SimulationError

WHEEL = '0.9.16'
#: The Pythons that the client of that version is built for.
PYTHONS = ((3, 10), (3, 11), (3, 12))
INSTALL = "pip install 'kd_perception[carla]'"


def import_carla() -> Any:
    """
    Return the module ``carla``.

    :raises SimulationError: when it is not installed, not loadable or another thing of that name.
    """
    try:
        api = importlib.import_module('carla')
    except ModuleNotFoundError as error:
        if error.name != 'carla':
            raise SimulationError(f'the CARLA client cannot be loaded: {first_line(error)}') \
                from None
        raise SimulationError(
            f'the CARLA client is not installed: {INSTALL} (carla {WHEEL}, for Python '
            f'{told_pythons()}; this is {sys.version_info[0]}.{sys.version_info[1]})') from None
    except ImportError as error:
        raise SimulationError(f'the CARLA client cannot be loaded: {first_line(error)}') from None
    if not hasattr(api, 'Client'):
        # The folder PythonAPI/carla of a CARLA checkout, for one, imports as an empty package.
        where = next(iter(getattr(api, '__path__', [])), 'somewhere on the path')
        raise SimulationError(f'{where}: a folder named carla hides the CARLA client; start from '
                              'another directory or take it off PYTHONPATH')
    return api


def told_pythons() -> str:
    """Return the range of Python versions in words."""
    return ' to '.join('.'.join(map(str, PYTHONS[i])) for i in (0, -1))


def release(version: str) -> tuple[int, ...]:
    """
    Return the release of a version of client or server: ``0.9.16-dirty`` is (0, 9, 16).

    Servers that were built from source add a suffix; what is not numbered is ().
    """
    found = re.match(r'v?(\d+)\.(\d+)(?:\.(\d+))?', version)
    return tuple(int(part or 0) for part in found.groups()) if found else ()
