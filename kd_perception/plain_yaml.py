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

# 20,000 classes take 1 MB. The reader manages about 0.2 MB a second.
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
        value = yaml.load(content, _PlainLoader)  # noqa: S506 (a safe loader that takes less)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f'not readable: {first_line(error)}') from None
    _check(value)
    return value


class _PlainLoader(yaml.SafeLoader):
    """A safe loader without aliases and with a limit on the depth."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError('an alias, which has no place here', mark)
        if self._depth == MAX_DEPTH:
            raise yaml.MarkedYAMLError(f'nested deeper than {MAX_DEPTH}', mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _check(value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _check(key)
            _check(inner)
    elif isinstance(value, list):
        for inner in value:
            _check(inner)
    elif isinstance(value, int):
        if value.bit_length() > _MAX_BITS:
            raise ConfigError(f'a number of {value.bit_length()} bits; at most {_MAX_BITS}')
    elif value is not None and not isinstance(value, (str, float)):
        raise ConfigError(f'holds a {type(value).__name__}; only mappings, lists, strings, '
                          'numbers, true, false and null are known')
