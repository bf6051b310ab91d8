"""
Class sets (which id means what) and the maps between them.

Masks everywhere are uint8 with ids 0 … K-1 and 255 for "unlabelled", the convention of
``vision_msgs/LabelInfo``. Files live in ``config/classes``: ``<name>.yaml`` for a set and
``<source>_to_<target>.yaml`` for a map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kd_perception.errors import ConfigError, first_line
from kd_perception.paths import config_file, share_directory

UNLABELLED = 255
MAX_MASK_CLASSES = 255
_MAX_CLASSES = 65535


@dataclass(frozen=True)
class ClassSet:
    """
    Names and colours of the classes 0 … K-1.

    :param name: short name, e.g. ``driving``.
    :param names: class names; the position is the id. Masks hold up to 255 classes; only
        classifications may have more.
    :param colors: RGB triples, one per class.
    :param void_ids: ids that label images of this set use for "unlabelled" besides 255.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    void_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        where = f'class set {self.name!r}'
        if not 1 <= len(self.names) <= _MAX_CLASSES:
            raise ConfigError(f'{where}: 1 to {_MAX_CLASSES} classes, not {len(self.names)}')
        if len(set(self.names)) != len(self.names):
            double = sorted({n for n in self.names if self.names.count(n) > 1})
            raise ConfigError(f'{where}: class names must differ: {double}')
        if len(self.colors) != len(self.names):
            raise ConfigError(f'{where}: {len(self.names)} names but {len(self.colors)} colors')
        for color in self.colors:
            if len(color) != 3 or not all(0 <= c <= 255 for c in color):
                raise ConfigError(f'{where}: {color} is no RGB color of three bytes')
        for void in self.void_ids:
            if not 0 <= void <= 255 or void < len(self.names):
                raise ConfigError(f'{where}: void id {void} is out of range or is a class')

    def __len__(self) -> int:
        return len(self.names)

    def palette(self) -> np.ndarray:
        """Return uint8 ``[256, 3]`` RGB colours by id; ids outside the set are black."""
        table = np.zeros((256, 3), np.uint8)
        table[:len(self)] = self.colors
        return table

    def lookup(self) -> np.ndarray:
        """Return uint8 ``[256]``: own ids unchanged, void and unknown ids 255."""
        table = np.full(256, UNLABELLED, np.uint8)
        table[:len(self)] = np.arange(len(self))
        return table

    def unknown_ids(self, labels: np.ndarray) -> list[int]:
        """Return the ids in ``labels`` (uint8) that are neither classes nor void."""
        present = np.bincount(np.ravel(labels), minlength=256)[:256].astype(bool)
        present[:len(self)] = False
        present[list(self.void_ids) + [UNLABELLED]] = False
        return [int(i) for i in np.flatnonzero(present)]

    def to_dict(self) -> dict[str, Any]:
        """Return the form that YAML files and bundles hold."""
        out: dict[str, Any] = {'name': self.name}
        if self.void_ids:
            out['void_ids'] = list(self.void_ids)
        out['classes'] = [{'name': n, 'color': list(c)}
                          for n, c in zip(self.names, self.colors, strict=True)]
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = 'class set') -> ClassSet:
        """
        Build a set from the form of the YAML files.

        :raises ConfigError: when keys are missing, unknown or of a wrong type.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get('classes'), Sequence):
            raise ConfigError(f'{where}: needs "name" and a list "classes"')
        unknown = set(data) - {'name', 'classes', 'void_ids'}
        if unknown:
            raise ConfigError(f'{where}: unknown keys {sorted(map(str, unknown))}')
        try:
            return cls(
                name=str(data['name']),
                names=tuple(str(c['name']) for c in data['classes']),
                colors=tuple(_rgb(c['color']) for c in data['classes']),
                void_ids=tuple(int(v) for v in data.get('void_ids', ())))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f'{where}: bad or missing entry {error}') from None

    @classmethod
    def from_names(cls, name: str, names: Iterable[str]) -> ClassSet:
        """Build a set from names alone, with well separated colours made up for them."""
        names = tuple(names)
        return cls(name=name, names=names, colors=tuple(_made_up(i) for i in range(len(names))))


@dataclass(frozen=True)
class ClassMap:
    """
    A table from the ids of one class set to those of another.

    :param table: uint8 ``[256]``; 255 where a source id is ignored or dropped.
    :param dropped: source ids that are left out of predictions, so that what is left shares their
        probability; an ignored class keeps its pixels from being taught. Labels know no
        difference.
    """

    source: str
    target: str
    table: np.ndarray
    dropped: tuple[int, ...] = ()

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Return ``labels`` (uint8, any shape) with the ids of the target set."""
        return self.table[labels]


def load_class_set(name: str) -> ClassSet:
    """
    Load ``config/classes/<name>.yaml``, or a path.

    :raises ConfigError: when it does not exist or is not a class set.
    """
    path = config_file('classes', name)
    return ClassSet.from_dict(_read_yaml(path), str(path))


def named_like(names: Sequence[str], name: str = 'imported') -> ClassSet:
    """Return the set of ``config/classes`` that has these names, or a new one called ``name``."""
    for path in sorted((share_directory() / 'config' / 'classes').glob('*.yaml')):
        data = _read_yaml(path)
        if isinstance(data, Mapping) and 'classes' in data:
            known = ClassSet.from_dict(data, str(path))
            if known.names == tuple(names):
                return known
    return ClassSet.from_names(name, names)


def load_class_map(source: ClassSet, target: ClassSet, name: str = '') -> ClassMap:
    """
    Return the map from ``source`` to ``target``, checked both ways.

    Sets of equal names map one to one. Otherwise the file ``<source>_to_<target>`` (or ``name``)
    must give every source class a target class or list it under ``ignore`` or ``drop``, and must
    reach every target class.

    :raises ConfigError: when no map is known or it does not fit the two sets.
    """
    if not name and source.names == target.names:
        return ClassMap(source.name, target.name, source.lookup())
    path = _map_file(source, target, name)
    if path is None:
        raise ConfigError(
            f'no class map from {source.name!r} to {target.name!r}: write config/classes/'
            f'{source.name}_to_{target.name}.yaml or give the path of a map')
    return class_map_from_dict(_read_yaml(path), source, target, str(path))


def map_speaks_of(source: ClassSet, target: ClassSet, name: str = '') -> tuple[int, int]:
    """
    Return how far a map is one from ``source`` to ``target``, whether or not it is right.

    To compare with the same of the other direction, so that its error is told.

    :return: how many of the two sets its head names, and how many of its entries are classes of
        the set that they should be of; (0, 0) without a map.
    :raises ConfigError: when there is no file of this name or it is not readable.
    """
    path = _map_file(source, target, name)
    data = None if path is None else _read_yaml(path)
    if not isinstance(data, Mapping):
        return 0, 0
    head = sum(data.get(key) == classes.name
               for key, classes in (('source', source), ('target', target)))
    groups = data['map'] if isinstance(data.get('map'), Mapping) else {}
    listed = [group for group in (*groups.values(), data.get('ignore'), data.get('drop'))
              if isinstance(group, (list, tuple))]
    return head, (sum(key in target.names for key in groups)
                  + sum(entry in source.names for group in listed for entry in group))


def _map_file(source: ClassSet, target: ClassSet, name: str) -> Path | None:
    stem = name or f'{source.name}_to_{target.name}'
    if not name and not (share_directory() / 'config' / 'classes' / f'{stem}.yaml').is_file():
        return None
    return config_file('classes', stem)


def class_map_from_dict(data: Mapping[str, Any], source: ClassSet, target: ClassSet,
                        where: str = 'class map') -> ClassMap:
    """
    Build a map from ``{source, target, map: {target name: [source names]}, ignore: [...],
    drop: [...]}``.

    :raises ConfigError: when a class is missing, unknown or mapped twice.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f'{where}: needs a mapping "map" of target classes to source classes')
    unknown = sorted(str(k) for k in set(data) - {'source', 'target', 'map', 'ignore',
                                                   'drop'})
    if unknown or not isinstance(data.get('map'), Mapping) or None in data['map']:
        raise ConfigError(f'{where}: needs a mapping "map"; unknown keys {unknown}')
    for key, classes in (('source', source), ('target', target)):
        if data.get(key, classes.name) != classes.name:
            raise ConfigError(
                f'{where}: {key} is {data[key]!r}, but it is used for {classes.name!r}')
    table = np.full(256, UNLABELLED, np.uint8)
    seen: set[str] = set()
    groups = [*data['map'].items(), *((key, data.get(key, [])) for key in ('ignore', 'drop'))]
    for name, group in groups:
        if not isinstance(group, (list, tuple)):
            raise ConfigError(f'{where}: {name} needs a list of classes of {source.name!r}, not '
                              f'{group!r}')
    pairs = [(t, s) for t, group in data['map'].items() for s in group]
    pairs += [(None, s) for key in ('ignore', 'drop') for s in data.get(key, [])]
    for target_name, source_name in pairs:
        if source_name not in source.names:
            raise ConfigError(f'{where}: {source_name!r} is no class of {source.name!r}')
        if target_name is not None and target_name not in target.names:
            raise ConfigError(f'{where}: {target_name!r} is no class of {target.name!r}')
        if source_name in seen:
            raise ConfigError(f'{where}: {source_name!r} is mapped twice')
        seen.add(source_name)
        if target_name is not None:
            table[source.names.index(source_name)] = target.names.index(target_name)
    missing = [n for n in source.names if n not in seen]
    if missing:
        raise ConfigError(f'{where}: classes of {source.name!r} neither mapped nor ignored: '
                          f'{missing}')
    unreached = [n for i, n in enumerate(target.names) if i not in set(table[:len(source)])]
    if unreached:
        raise ConfigError(f'{where}: nothing maps to {unreached} of {target.name!r}')
    dropped = tuple(source.names.index(name) for name in data.get('drop', []))
    return ClassMap(source.name, target.name, table, dropped)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise ConfigError(f'{path}: not readable as YAML: {first_line(error)}') from None


def _rgb(color: Any) -> tuple[int, int, int]:
    red, green, blue = color
    return int(red), int(green), int(blue)


def _made_up(index: int) -> tuple[int, int, int]:
    """Spread hues by the golden angle, so that neighbours in id differ in colour."""
    hue = (index * 0.618033988749895) % 1.0
    channels = []
    for shift in (0.0, 2 / 3, 1 / 3):
        distance = abs(((hue + shift) % 1.0) * 6.0 - 3.0)
        channels.append(int(64 + 160 * min(1.0, max(0.0, distance - 1.0))))
    return channels[0], channels[1], channels[2]
