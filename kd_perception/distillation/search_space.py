"""
What a search may change: dotted keys of a recipe, each with a range or with choices.

In a recipe::

    search:
      optimization.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
      distillation.losses.kl.temperature: {choices: [1, 2, 4]}

Keys may also be nested, as they are when they come from the command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
import json
import math
from typing import Any

import yaml

from kd_perception.errors import ConfigError

_RANGE = {'low', 'high', 'log'}


@dataclass(frozen=True)
class Dimension:
    """
    What one key may be.

    :param choices: or a range, when empty:
    :param low: smallest value; two whole ends mean whole numbers, unless the recipe has a fraction
        there.
    :param high: largest value.
    :param log: whether equal ratios are equally likely, not equal differences.
    """

    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether the range is one of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that must make a valid recipe if any are to."""
        return self.choices or (self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        """Return the form in a recipe."""
        if self.choices:
            return {'choices': list(self.choices)}
        return {'low': self.low, 'high': self.high, 'log': self.log}

    def fitting(self, value: Any) -> Dimension:
        """Return the dimension for a key that has ``value``: a fraction makes fractions."""
        if self.choices or not self.whole or not isinstance(value, float):
            return self
        return replace(self, low=float(self.low), high=float(self.high))

    def stored(self, value: Any) -> Any:
        """Return a value as the study keeps it: of choices JSON, for they may be of any kind."""
        if self.choices:
            # 2.0 in the recipe is the choice 2; true is no 1.
            same = (c for c in self.choices if c == value
                    and isinstance(c, bool) == isinstance(value, bool))
            return json.dumps(next(same, value), sort_keys=True)
        return int(value) if self.whole else float(value)

    def meant(self, stored: Any) -> Any:
        """Return the value that ``stored`` stands for."""
        return json.loads(stored) if self.choices else stored

    def holds(self, value: Any) -> bool:
        """Return whether a value is one of the possible ones."""
        if self.choices:
            return self.stored(value) in [self.stored(c) for c in self.choices]
        return isinstance(value, (int, float)) and not isinstance(value, bool) \
            and self.low <= value <= self.high and (not self.whole or float(value).is_integer())


def read_space(section: Any, where: str = 'search') -> dict[str, Dimension]:
    """
    Return what the ``search`` section of a recipe says, by dotted key.

    :raises ConfigError: with the dotted path of what is wrong.
    """
    if not isinstance(section, Mapping):
        raise ConfigError(f'{where}: must be a mapping of dotted keys of the recipe')
    return dict(_flat(section, '', where))


def as_text(value: Any) -> str:
    """Return a value as an override of a recipe takes it: YAML that reads as the same."""
    return yaml.safe_dump(value, default_flow_style=True).strip()


def _flat(node: Mapping[str, Any], prefix: str, where: str) -> Iterator[tuple[str, Dimension]]:
    for name, value in node.items():
        key = f'{prefix}{name}'
        if not isinstance(value, Mapping):
            raise ConfigError(f'{where}.{key}: must be {{low: …, high: …, log: false}} or '
                              f'{{choices: […]}}, not {value!r}')
        if {'low', 'high', 'choices'} & set(value):
            yield key, _dimension(value, f'{where}.{key}')
        else:
            yield from _flat(value, f'{key}.', where)


def _dimension(data: Mapping[str, Any], where: str) -> Dimension:
    if 'choices' in data:
        choices = data['choices']
        if not isinstance(choices, (list, tuple)) or not choices or set(data) != {'choices'}:
            raise ConfigError(f'{where}: choices must be a list of values, and all that is given')
        return Dimension(choices=tuple(choices))
    unknown = set(data) - _RANGE
    if unknown or not {'low', 'high'} <= set(data):
        raise ConfigError(f'{where}: a range has low, high and log, not {", ".join(data)}')
    low, high = (_number(data[end], f'{where}.{end}') for end in ('low', 'high'))
    log = data.get('log', False)
    if not isinstance(log, bool) or not low < high or (log and low <= 0):
        raise ConfigError(f'{where}: needs low < high, and with log: true a low above 0')
    return Dimension(low=low, high=high, log=log)


def _number(value: Any, where: str) -> float:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        number = float(value)  # YAML 1.1 reads 1e-3 as a string
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise ConfigError(f'{where}: must be a number, not {value!r}')
    return number
