"""
YAML that a program wrote and somebody else may have changed: plain data, or one line.

Comes in: the bytes of a file. Goes out: mappings, lists, strings, numbers, truth values and None.
Everything else that YAML can say is refused, and so is what costs much more to read, to print or
to pass on than its bytes: deep nesting, aliases, numbers of thousands of digits.
"""

from __future__ import annotations

from typing import Any

import yaml

from kd_perception.errors import ConfigError, first_line
from kd_perception.fast_yaml import load_yaml

# 20,000 classes take 1 MB.
MAX_BYTES = 8 * 2**20
MAX_DEPTH = 32
_MAX_BITS = 64


def parse_plain_yaml(content: bytes) -> Any:
    """
    Return what the text says.

    :raises ConfigError: what is wrong, without saying where the text came from.
    """
    if len(content) > MAX_BYTES:
        raise ConfigError(f'{len(content)} bytes are too many: at most {MAX_BYTES}')
    try:
        value = load_yaml(content.decode())
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f'not readable: {first_line(error)}') from None
    except RecursionError:
        raise ConfigError(f'not readable: nested deeper than {MAX_DEPTH}') from None
    _check(value, 1, set())
    return value


def _check(value: Any, depth: int, seen: set[int]) -> None:
    """
    Refuse what is no plain data.

    :param depth: of ``value``.
    :param seen: ``id`` of each mapping and list so far; one that comes again was an alias.
    """
    if isinstance(value, (dict, list)):
        if depth > MAX_DEPTH:
            raise ConfigError(f'not readable: nested deeper than {MAX_DEPTH}')
        if id(value) in seen:
            raise ConfigError('not readable: an alias, which has no place here')
        seen.add(id(value))
        inner = value if isinstance(value, list) else [x for item in value.items() for x in item]
        for each in inner:
            _check(each, depth + 1, seen)
    elif isinstance(value, int):
        if value.bit_length() > _MAX_BITS:
            raise ConfigError(f'a number of {value.bit_length()} bits; at most {_MAX_BITS}')
    elif value is not None and not isinstance(value, (str, float)):
        raise ConfigError(f'holds a {type(value).__name__}; only mappings, lists, strings, '
                          'numbers, true, false and null are known')
