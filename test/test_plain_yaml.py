"""Plain YAML: data come out, and what is more than data is refused at once."""

from __future__ import annotations

import pytest
import yaml

from kd_perception.errors import ConfigError
from kd_perception.plain_yaml import MAX_BYTES, MAX_DEPTH, parse_plain_yaml

DOUBLING = 'a0: &a0 [x, x]\n' + ''.join(
    f'a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n' for n in range(1, 40))


def nested(depth):
    return b'[' * depth + b'3' + b']' * depth


@pytest.mark.parametrize('value', [
    None, True, -3, 2**64 - 1, 1.5, float('inf'), 'é\n', [], {}, {'a': [1, {'b': None}], 2: 'x'}])
def test_what_was_written_is_read(value):
    assert parse_plain_yaml(yaml.safe_dump(value, allow_unicode=True).encode()) == value


def test_nested_as_deep_as_allowed():
    assert parse_plain_yaml(nested(MAX_DEPTH)) is not None


@pytest.mark.parametrize(('text', 'message'), [
    (nested(MAX_DEPTH + 1), 'nested deeper than 32'),
    (nested(100_000), 'nested deeper than 32'),
    ('- ' * 100_000, 'nested deeper than 32'),
    (''.join(f'{" " * n}a:\n' for n in range(900)), 'nested deeper than 32'),
    (DOUBLING, 'an alias'),
    ('&a [*a]', 'an alias'),
    ('a: &a {b: 1}\nc: {<<: *a}', 'an alias'),
    ('!!python/object/apply:os.system ["true"]', 'could not determine a constructor'),
    ('a: [', 'not readable'),
    ('a: 2001-99-99', 'not readable'),
    ('a: 2001-01-01', 'holds a date'),
    ('!!set {a, b}', 'holds a set'),
    ('{!!binary aGFsbG8=: 1}', 'holds a bytes'),
    (f'a: 0x{"f" * 9000}', 'a number of 36000 bits'),
    (f'a: {"9" * 9000}', 'not readable'),
    (b'\xff\xfe\xfd', 'not readable'),
    (b' ' * (MAX_BYTES + 1), 'bytes are too many'),
])
def test_what_is_refused(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_plain_yaml(text.encode() if isinstance(text, str) else text)
    assert len(str(caught.value)) < 300
