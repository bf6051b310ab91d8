"""Message types by name: their classes, and their definitions as text for recordings."""

from __future__ import annotations

import importlib
import re
from typing import Any

from kd_perception.bags.messages import standard_types
from kd_perception.errors import ConfigError

_RULE = '=' * 80
_NAMES = {'boolean': 'bool', 'octet': 'byte', 'float': 'float32', 'double': 'float64'}
_SEQUENCE = re.compile(r'sequence<(.+?)(?:, *(\d+))?>$')
_ARRAY = re.compile(r'(.+)\[(\d+)\]$')


def message_class(name: str) -> Any:
    """
    Return the class of a message type, e.g. ``sensor_msgs/msg/Image``.

    :raises ConfigError: when its package is not installed here.
    """
    package, _, short = name.partition('/msg/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), short)
    except (ImportError, AttributeError):
        raise ConfigError(f'message type {name} is not installed here; install and source '
                          f'package {package}') from None


def definition_of(name: str) -> str:
    """
    Return the definition of a message type with those that it uses, as recordings hold it.

    :raises ConfigError: when a package is not installed here.
    """
    store = standard_types()
    if name in store.fielddefs:
        return str(store.generate_msgdef(name, ros_version=2)[0])
    parts: list[str] = []
    waiting, done = [name], set[str]()
    while waiting:
        kind = waiting.pop(0)
        if kind in done:
            continue
        done.add(kind)
        lines, used = _fields(kind)
        short = kind.replace('/msg/', '/')
        parts.append('\n'.join(([_RULE, f'MSG: {short}'] if parts else []) + lines))
        waiting += used
    return '\n'.join(parts) + '\n'


def _fields(name: str) -> tuple[list[str], list[str]]:
    """Return the lines of one definition, and the types that it uses."""
    lines, used = [], []
    for field, kind in message_class(name).get_fields_and_field_types().items():
        suffix = ''
        if found := _SEQUENCE.match(kind):
            kind, suffix = found[1], f'[<={found[2]}]' if found[2] else '[]'
        elif found := _ARRAY.match(kind):
            kind, suffix = found[1], f'[{found[2]}]'
        kind = re.sub(r'^(w?string)<(\d+)>$', r'\1<=\2', _NAMES.get(kind, kind))
        if '/' in kind:
            used.append(kind.replace('/', '/msg/'))
        lines.append(f'{kind}{suffix} {field}')
    return lines, used
