"""Class names of a foreign network: from a class set, a file, a list, or the network itself."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
import json
from pathlib import Path
from typing import Any

from kd_perception.classes import ClassSet, load_class_set
from kd_perception.errors import ConfigError

# Under these keys exporters leave names in the metadata of a graph.
_KEYS = ('names', 'classes', 'class_names', 'labels', 'id2label', 'categories')
_MAX_TEXT = 1 << 22


def class_set(wish: str | Sequence[str], name: str) -> ClassSet:
    """
    Return the classes that a user means.

    :param wish: a shipped class set, the path of a class-set YAML, of a text file with one name
        per line or of a JSON list or ``id2label``, names with commas between, or only their
        number.
    :param name: what a new set is called.
    :raises ConfigError: when it is none of these.
    """
    if not isinstance(wish, str):
        return _made(name, wish, 'classes')
    if wish.isdecimal():
        return made_up(name, int(wish))
    path = Path(wish).expanduser()
    if path.suffix in ('.yaml', '.yml'):
        return load_class_set(wish)
    if path.suffix in ('.txt', '.names', '.json', '.csv') or path.is_file():
        return _made(path.stem, _from_file(path), str(path))
    if ',' in wish:
        return _made(name, [n.strip() for n in wish.split(',')], 'classes')
    return load_class_set(wish)


def recorded_names(metadata: Mapping[str, str]) -> tuple[str, tuple[str, ...]] | None:
    """Return key and names that a graph's metadata holds, or None; odd metadata is no error."""
    for key in _KEYS:
        text = metadata.get(key, '')
        if text and len(text) < _MAX_TEXT:
            try:
                names = _from_text(text)
            except ConfigError:
                continue
            if any(n.strip() for n in names):
                return key, usable(names)
    return None


def made_up(name: str, count: int) -> ClassSet:
    """Return ``class_0`` … for a network whose classes nobody named."""
    return ClassSet.from_names(name, (f'class_{i}' for i in range(count)))


def usable(names: Sequence[str]) -> tuple[str, ...]:
    """Return names that all differ; what has none is called ``class_<id>``."""
    # ImageNet has "crane" and "maillot" twice; ids tell them apart, names must too.
    counts: dict[str, int] = {}
    taken: dict[str, None] = {}
    for index, name in enumerate(names):
        plain = different = name.strip() or f'class_{index}'
        while different in taken:
            counts[plain] = counts.get(plain, 1) + 1
            different = f'{plain} ({counts[plain]})'
        taken[different] = None
    return tuple(taken)


def _made(name: str, names: Sequence[str], where: str) -> ClassSet:
    if any(not n.strip() for n in names):
        raise ConfigError(f'{where}: holds an empty name')
    return ClassSet.from_names(name, usable(names))


def _from_file(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _MAX_TEXT:
            raise ConfigError(f'{path}: is too large for a list of class names')
        text = path.read_text(encoding='utf-8')
    except OSError as error:
        raise ConfigError(f'{path}: not readable: {error.strerror}') from None
    except ValueError:
        raise ConfigError(f'{path}: is no text; expected one class name per line') from None
    if path.suffix == '.json':
        return _from_text(text, str(path))
    return [line.strip() for line in text.splitlines() if line.strip()]


def _from_text(text: str, where: str = 'class names') -> list[str]:
    """Return names of JSON, of a Python literal, or of comma or line separated text."""
    data: Any = None
    for reader in (json.loads, ast.literal_eval):
        try:
            data = reader(text)
            break
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    if isinstance(data, dict):
        data = data.get('id2label', data)
    if isinstance(data, dict):
        try:
            by_id = {int(k): str(v) for k, v in data.items()}
        except (TypeError, ValueError):
            raise ConfigError(f'{where}: ids must be numbers') from None
        if sorted(by_id) != list(range(len(by_id))):
            raise ConfigError(f'{where}: ids must be 0 to {len(by_id) - 1} without gaps')
        return [by_id[i] for i in range(len(by_id))]
    if isinstance(data, (list, tuple)):
        return [str(v) for v in data]
    if data is None and len(parts := [p.strip() for p in text.replace('\n', ',').split(',')]) > 1:
        return [p for p in parts if p]
    raise ConfigError(f'{where}: expected a list of names, or names by id')
