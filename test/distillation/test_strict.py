from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from kd_perception.distillation.strict import (
    build,
    dotted_keys,
    first_difference,
    override,
    to_plain,
)
from kd_perception.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    size: tuple[int, int]
    rate: float = 0.5
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    title: str
    inner: Inner
    extra: dict[str, Any] = field(default_factory=dict)
    flag: bool = False
    maybe: int | None = None


def test_builds_and_returns_to_plain() -> None:
    data = {'title': 'a', 'inner': {'size': [1, 2], 'rate': 1, 'names': ['x']},
            'extra': {'k': [1]}, 'flag': True, 'maybe': 3}
    made = build(Outer, data, 'file')
    assert made == Outer('a', Inner((1, 2), 1.0, ('x',)), {'k': [1]}, True, 3)
    assert to_plain(made) == data


@pytest.mark.parametrize(('text', 'value'), [('1e-3', 1e-3), (1e-3, 1e-3), (2, 2.0)])
def test_numbers_that_yaml_reads_as_strings_are_numbers(text: object, value: float) -> None:
    assert build(Inner, {'size': [1, 2], 'rate': text}, '').rate == value


@pytest.mark.parametrize(('data', 'message'), [
    ({'title': 'a', 'inner': {'size': [1, 2]}, 'titel': 'b'}, "file.titel: unknown key; did you "
     "mean 'title'?"),
    ({'title': 'a', 'inner': {'size': [1, 2], 'zzz': 1}}, 'file.inner.zzz: unknown key; known: '),
    ({'inner': {'size': [1, 2]}}, 'file.title: is missing'),
    ({'title': 'a', 'inner': {'size': [1]}}, 'file.inner.size: must have 2 values, not 1'),
    ({'title': 'a', 'inner': {'size': [1, 'x']}}, r'file.inner.size\[1\]: must be int, not str'),
    ({'title': 'a', 'inner': {'size': [1, 2], 'rate': 'fast'}}, 'file.inner.rate: must be float'),
    ({'title': 'a', 'inner': {'size': [1, 2], 'names': 'x'}}, 'inner.names: must be a list'),
    ({'title': 'a', 'inner': {'size': [True, 2]}}, 'must be int, not bool'),
    ({'title': 'a', 'inner': [1]}, 'file.inner: must be a mapping'),
    ({'title': 'a', 'inner': {'size': [1, 2]}, 'extra': 3}, 'file.extra: must be a mapping'),
    ({'title': 'a', 'inner': {'size': [1, 2]}, 'flag': 1}, 'file.flag: must be bool'),
])
def test_names_the_dotted_path_of_what_is_wrong(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Outer, data, 'file')


def test_overrides_set_merge_and_leave_the_original_alone() -> None:
    data = {'a': {'b': 1, 'c': {'d': 2}}}
    assert override(data, {'a.b': '[1, 2]', 'a.c': '{e: 3}', 'x.y': 'true'}) == {
        'a': {'b': [1, 2], 'c': {'d': 2, 'e': 3}}, 'x': {'y': True}}
    assert data == {'a': {'b': 1, 'c': {'d': 2}}}


def test_override_through_a_value_or_with_bad_yaml_is_refused() -> None:
    with pytest.raises(ConfigError, match="--a.b.c: 'b' is int 1, not a mapping"):
        override({'a': {'b': 1}}, {'a.b.c': '2'})
    with pytest.raises(ConfigError, match='--a=.*not readable'):
        override({}, {'a': '[1'})


def test_dotted_keys_reach_every_leaf() -> None:
    assert dict(dotted_keys(Outer)) == {
        'title': None, 'inner.size': None, 'inner.rate': 0.5, 'inner.names': (), 'extra': {},
        'flag': False, 'maybe': None}


def test_first_difference_names_the_key() -> None:
    assert first_difference({'a': {'b': 1}}, {'a': {'b': 1}}) == ''
    assert first_difference({'a': {'b': 1}}, {'a': {'b': 2}}) == 'a.b: 1 -> 2'
    assert first_difference({}, {'c': 1}) == 'c: None -> 1'
