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
from kd_perception.fast_yaml import safe_loader

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
        text = content.decode()
        loader = safe_loader(text)(text)
        try:
            node = loader.get_single_node()
            _check_node(node, set(), 0)
            value = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise ConfigError(f'nested deeper than {MAX_DEPTH}') from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f'not readable: {first_line(error)}') from None
    _check_value(value)
    return value


def _check_node(node: Any, seen: set[int], depth: int) -> None:
    if id(node) in seen:
        raise ConfigError('holds an alias, which could stand for any amount of data')
    if depth > MAX_DEPTH:
        raise ConfigError(f'nested deeper than {MAX_DEPTH}')
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            _check_node(inner, seen, depth + 1)
    elif isinstance(node, yaml.MappingNode):
        for key, inner in node.value:
            _check_node(key, seen, depth + 1)
            _check_node(inner, seen, depth + 1)


def _check_value(value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_value(key)
            _check_value(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_value(inner)
    elif isinstance(value, int):
        if value.bit_length() > _MAX_BITS:
            raise ConfigError(f'a number of {value.bit_length()} bits; at most {_MAX_BITS}')
    elif value is not None and not isinstance(value, (str, float)):
        raise ConfigError(f'holds a {type(value).__name__}; only mappings, lists, strings, '
                          'numbers, true, false and null are known')
