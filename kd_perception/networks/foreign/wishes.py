"""
What a user says of a foreign network, by options or in a small YAML; nothing is guessed here.

Both speak of the same keys. An option beats the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
import difflib
from pathlib import Path
from typing import Any

import yaml

from kd_perception.bundle import RESIZE_POLICIES
from kd_perception.errors import ConfigError

# Name of a range -> factor of bytes and what is taken off then.
RANGES: dict[str, tuple[float, float]] = {
    '0..1': (1 / 255, 0.0), '0..255': (1.0, 0.0), '-1..1': (2 / 255, 1.0)}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VALUES = ('logits', 'probabilities', 'ids')
LAYOUTS = ('nchw', 'nhwc')
_CHOICES: dict[str, tuple[str, ...]] = {
    'task': ('segmentation', 'classification'), 'range': tuple(RANGES),
    'channel_order': ('rgb', 'bgr'), 'layout': LAYOUTS, 'values': VALUES,
    'output_layout': LAYOUTS, 'resize': RESIZE_POLICIES}
# Scores of more do not fit into memory, and checking them takes minutes.
MAX_PIXELS = 1 << 25
_MAX_YAML = 1 << 20


@dataclass(frozen=True)
class Wishes:
    """
    Facts of a foreign network; None where the user said nothing.

    :param task: ``segmentation`` or ``classification``.
    :param size: height and width of the network's input.
    :param range: what bytes are scaled to before mean and std: a key of ``RANGES``.
    :param mean: taken off the scaled values, per channel in the network's order.
    :param std: what the result is divided by.
    :param channel_order: ``rgb`` or ``bgr``.
    :param layout: of the input.
    :param resize: a policy of the bundle.
    :param multiple: sides of the input are rounded up to multiples of it, and frames padded.
    :param output: name of the output to take.
    :param values: what it holds.
    :param output_layout: of the output.
    :param classes: a class set, a file of names, or names.
    :param name: of the bundle.
    :param role: of the bundle.
    """

    task: str | None = None
    size: tuple[int, int] | None = None
    range: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    channel_order: str | None = None
    layout: str | None = None
    resize: str | None = None
    multiple: int | None = None
    output: str | None = None
    values: str | None = None
    output_layout: str | None = None
    classes: str | tuple[str, ...] | None = None
    name: str | None = None
    role: str | None = None


def wishes(data: Mapping[str, Any], where: str) -> Wishes:
    """
    Return the checked form of plain values, of YAML or of the command line.

    :param data: by key; None is "not said".
    :raises ConfigError: naming the key.
    """
    known = [f.name for f in fields(Wishes)]
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise ConfigError(f'{where}: unknown key {key!r}; ' + (
                f'did you mean {near[0]!r}?' if near else f'known: {", ".join(known)}'))
    out: dict[str, Any] = {}
    for key, value in data.items():
        if value is None:
            continue
        told = f'{where}: {key} {_short(value)}'
        if key in _CHOICES:
            # YAML reads a bare -1..1 as text and 0..1 too, but people also write [0, 1].
            text = _range(value) if key == 'range' else str(value).lower()
            if text not in _CHOICES[key]:
                raise ConfigError(f'{told}: choose {", ".join(_CHOICES[key])}')
            out[key] = text
        elif key == 'size':
            out[key] = _size(value, told)
        elif key in ('mean', 'std'):
            out[key] = _triple(value, key, told)
        elif key == 'multiple':
            if not str(value).isdecimal() or not 1 <= int(value) <= 1024:
                raise ConfigError(f'{told}: a number of pixels from 1 to 1024')
            out[key] = int(value)
        elif key == 'classes':
            out[key] = _classes(value, told)
        elif isinstance(value, (dict, list)):
            raise ConfigError(f'{told}: must be text')
        else:
            out[key] = str(value)
    return Wishes(**out)


def read_wishes(path: Path) -> Wishes:
    """
    Read a YAML of wishes.

    :raises ConfigError: when it is no mapping of known keys.
    """
    try:
        if path.stat().st_size > _MAX_YAML:
            raise ConfigError(f'{path}: is too large for a spec; expected a few lines of YAML')
        data = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise ConfigError(f'{path}: not readable: {error.strerror}') from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f'{path}: not readable as YAML: {reason}') from None
    if not isinstance(data, dict):
        raise ConfigError(f'{path}: must be a mapping such as "range: 0..1"')
    return wishes(data, str(path))


def merged(first: Wishes, then: Wishes) -> Wishes:
    """Return ``first`` with what ``then`` does not leave open."""
    return replace(first, **{f.name: value for f in fields(Wishes)
                             if (value := getattr(then, f.name)) is not None})


def _range(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        low, high = value
        return f'{low:g}..{high:g}' if all(isinstance(v, (int, float)) for v in value) else ''
    return str(value).replace(' ', '').replace(',', '..')


def _size(value: Any, told: str) -> tuple[int, int]:
    """Return height and width of ``WxH`` or ``[H, W]``."""
    if isinstance(value, str):
        width, _, height = value.lower().partition('x')
        parts: list[Any] = [height, width]
    else:
        parts = list(value) if isinstance(value, (list, tuple)) else []
    if len(parts) != 2 or not all(str(p).isascii() and str(p).isdecimal() for p in parts):
        raise ConfigError(f'{told}: give width and height as in 640x360, or [height, width]')
    height_px, width_px = int(parts[0]), int(parts[1])
    if not (0 < height_px <= 16384 and 0 < width_px <= 16384):
        raise ConfigError(f'{told}: sides from 1 to 16384 pixels')
    if height_px * width_px > MAX_PIXELS:
        raise ConfigError(f'{told}: {height_px * width_px / 1e6:.0f} million pixels; at most '
                          f'{MAX_PIXELS / 1e6:.1f} million, as 7680x4320')
    return height_px, width_px


def _triple(value: Any, key: str, told: str) -> tuple[float, float, float]:
    if isinstance(value, str):
        named = {'imagenet': IMAGENET_MEAN if key == 'mean' else IMAGENET_STD,
                 'none': (0.0,) * 3 if key == 'mean' else (1.0,) * 3}
        if value.lower() in named:
            first, second, third = named[value.lower()]
            return first, second, third
        value = value.replace(',', ' ').split()
    if isinstance(value, (int, float)):
        value = [value]
    try:
        # YAML's true would count as 1.
        numbers = [] if any(isinstance(v, bool) for v in value) else [float(v) for v in value]
    except (TypeError, ValueError):
        numbers = []
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    if len(numbers) != 3 or not all(abs(n) < 1e6 for n in numbers) or (
            key == 'std' and min(numbers) <= 0):
        raise ConfigError(f'{told}: one or three numbers{", above zero" * (key == "std")}, or '
                          'imagenet, or none')
    return numbers[0], numbers[1], numbers[2]


def _classes(value: Any, told: str) -> str | tuple[str, ...]:
    if isinstance(value, dict):
        try:
            value = [value[k] for k in sorted(value, key=int)]
        except (TypeError, ValueError):
            raise ConfigError(f'{told}: ids must be numbers') from None
    if isinstance(value, (list, tuple)):
        if not value or any(isinstance(v, (dict, list)) for v in value):
            raise ConfigError(f'{told}: must be a list of names')
        return tuple(str(v) for v in value)
    return str(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + '...'
