"""
Strict reading of YAML mappings into frozen dataclasses, with dotted overrides.

What comes in is plain YAML data; what goes out is checked: an unknown key, a missing key or a
value of a wrong type raises one line that names the dotted path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass, MISSING
import difflib
import types
from typing import Any, get_args, get_origin, get_type_hints, TypeVar, Union

import yaml

from kd_perception.errors import ConfigError, first_line

T = TypeVar('T')


def build(cls: type[T], data: Any, where: str) -> T:
    """
    Return an instance of the dataclass ``cls`` from the mapping ``data``.

    :param where: dotted path for messages, e.g. ``recipe.yaml: optimization``.
    :raises ConfigError: for unknown or missing keys and values of a wrong type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f'{where}: must be a mapping, not {_said(data)}')
    hints = get_type_hints(cls)
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for key in data:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f'; did you mean {near[0]!r}?' if near else f'; known: {", ".join(names)}'
            raise ConfigError(f'{where}.{key}: unknown key{hint}')
    values = {}
    for item in fields(cls):  # type: ignore[arg-type]
        if item.name in data:
            values[item.name] = _convert(hints[item.name], data[item.name],
                                         f'{where}.{item.name}')
        elif item.default is MISSING and item.default_factory is MISSING:
            raise ConfigError(f'{where}.{item.name}: is missing')
    return cls(**values)


def override(data: dict[str, Any], overrides: Mapping[str, str]) -> dict[str, Any]:
    """
    Return a copy of ``data`` with dotted keys set, e.g. ``{'optimization.steps': '100'}``.

    Values are read as YAML. A mapping given for a mapping is merged into it.

    :raises ConfigError: when a dotted key goes through something that is no mapping.
    """
    out = _copy(data)
    for path, text in overrides.items():
        node = out
        *parents, last = path.split('.')
        for parent in parents:
            child = node.get(parent)
            if child is None:
                child = node[parent] = {}
            if not isinstance(child, dict):
                raise ConfigError(f'--{path}: {parent!r} is {_said(child)}, not a mapping')
            node = child
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(
                f'--{path}={text}: not readable: {first_line(error)}') from None
        if isinstance(value, dict) and isinstance(node.get(last), dict):
            node[last] = {**node[last], **value}
        else:
            node[last] = value
    return out


def dotted_keys(cls: type, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yield ``(dotted key, default)`` of every leaf of a tree of dataclasses."""
    hints = get_type_hints(cls)
    for item in fields(cls):
        name = f'{prefix}{item.name}'
        if is_dataclass(hints[item.name]):
            yield from dotted_keys(hints[item.name], f'{name}.')  # type: ignore[arg-type]
        else:
            default = item.default
            if item.default_factory is not MISSING:
                default = item.default_factory()
            yield name, None if default is MISSING else default


def to_plain(value: Any) -> Any:
    """Return nested dataclasses and tuples as the dicts and lists that YAML knows."""
    if is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {k: to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    return value


def first_difference(old: Any, new: Any, path: str = '') -> str:
    """Return ``key: old -> new`` for the first difference of two plain trees, or ``''``."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            found = first_difference(old.get(key), new.get(key), f'{path}.{key}' if path else key)
            if found:
                return found
        return ''
    return '' if old == new else f'{path}: {old!r} -> {new!r}'


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        options = get_args(hint)
        if value is None and type(None) in options:
            return None
        return _convert(next(o for o in options if o is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ConfigError(f'{where}: must be a list, not {_said(value)}')
        kinds = get_args(hint)
        if len(kinds) == 2 and kinds[1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if len(kinds) != len(value):
            raise ConfigError(f'{where}: must have {len(kinds)} values, not {len(value)}')
        return tuple(_convert(k, v, f'{where}[{i}]')
                     for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f'{where}: must be a mapping, not {_said(value)}')
        return _copy(value)
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 as a string: only 1.0e-3 is a number to it.
        with suppress(ValueError):
            value = float(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any:
        return value
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f'{where}: must be {hint.__name__}, not {_said(value)}')
    return value


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copy(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_copy(v) for v in value]
    return value


def _said(value: Any) -> str:
    return f'{type(value).__name__} {value!r}' if value is not None else 'empty'
