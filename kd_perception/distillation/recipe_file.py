"""Reading recipes: a YAML file or plain data, with overrides, into a checked ``Recipe``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kd_perception.bags.collection import find_recordings
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.search_space import read_space
from kd_perception.distillation.strict import build, override
from kd_perception.errors import ConfigError, first_line
from kd_perception.paths import config_file


def load_recipe(name: str | Path, overrides: Mapping[str, str] | None = None, *,
                train: Sequence[str | Path] = (),
                validation: Sequence[str | Path] = ()) -> Recipe:
    """
    Load ``config/recipes/<name>.yaml`` or a path and resolve it.

    :param overrides: dotted keys with YAML values, e.g. ``{'optimization.steps': '100'}``.
    :param train: recordings that replace those of the recipe.
    :param validation: the same for validation.
    :raises ConfigError: one line with the dotted path of what is wrong.
    """
    path = config_file('recipes', str(name))
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f'{path}: not readable as YAML: {first_line(error)}') from None
    if not isinstance(data, dict):
        raise ConfigError(f'{path}: must be a mapping')
    return recipe_from_dict(data, overrides, train=train, validation=validation, where=path.name)


def recipe_from_dict(data: Mapping[str, Any], overrides: Mapping[str, str] | None = None, *,
                     train: Sequence[str | Path] = (), validation: Sequence[str | Path] = (),
                     where: str = 'recipe') -> Recipe:
    """
    Build a recipe from plain data; the arguments are those of ``load_recipe``.

    :raises ConfigError: one line with the dotted path of what is wrong.
    """
    resolved = _override(dict(data), overrides or {})
    section = resolved.get('data') or {}
    if not isinstance(section, dict):
        raise ConfigError(f'{where}.data: must be a mapping')
    defaults = section.get('defaults') or {}
    if not isinstance(defaults, dict) or 'path' in defaults:
        raise ConfigError(f'{where}.data.defaults: must be a mapping without "path"')
    # What is chosen to learn from is no choice of what to measure on.
    measured = {k: v for k, v in defaults.items() if k not in ('selection', 'labels')}
    for key, given, filled in (('train', train, defaults), ('validation', validation, measured)):
        entries: Any = [str(p) for p in given] or section.get(key) or []
        if not isinstance(entries, list):
            raise ConfigError(f'{where}.data.{key}: must be a list of paths or mappings')
        section[key] = [source for entry in entries
                        for source in _sources(entry, filled, f'{where}.data.{key}')]
    resolved['data'] = section
    resolved['search'] = {key: dimension.to_dict() for key, dimension in
                          read_space(resolved.get('search') or {}, f'{where}.search').items()}
    return build(Recipe, resolved, where)


def _override(data: dict[str, Any], overrides: Mapping[str, str]) -> dict[str, Any]:
    """Return ``override``; another builder leaves arguments and channels of the recipe's own."""
    resolved = override(data, overrides)
    network = data.get('network')
    if not isinstance(network, dict) or not {'arguments', 'channels'} & set(network):
        return resolved
    chosen = resolved.get('network')
    if not isinstance(chosen, dict) or chosen.get('builder') == network.get('builder'):
        return resolved
    without = {k: v for k, v in network.items() if k not in ('arguments', 'channels')}
    return override({**data, 'network': without}, overrides)


def _sources(entry: Any, defaults: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Return the single recordings that an entry stands for."""
    if isinstance(entry, str):
        entry = {'path': entry}
    if not isinstance(entry, dict):
        raise ConfigError(f'{where}: {entry!r} is neither a path nor a mapping with "path"')
    out = {**defaults, **entry}
    # A run is resumed from anywhere, so paths in the resolved recipe do not hang on where we are.
    path, topic = out.get('path'), out.get('image_topic', '')
    if isinstance(out.get('selection'), str) and out['selection']:
        out['selection'] = str(Path(out['selection']).expanduser().absolute())
    if not isinstance(path, str) or not isinstance(topic, (str, list)):
        return [out]  # told with its dotted path when the recipe is built
    return [{**out, 'path': str(one.path.absolute()), 'image_topic': one.topic}
            if topic else {**out, 'path': str(one.path.absolute())}
            for one in find_recordings(path, topic)]
