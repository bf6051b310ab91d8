"""
Losses, one module each: an equation, the paper it is from, and settings that a recipe gives.

Every module is imported on first use, so a new loss is one new file.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
import difflib
import importlib
import pkgutil
from typing import Any

from kd_perception.distillation.losses.loss import KINDS, Loss
from kd_perception.distillation.strict import build, to_plain
from kd_perception.errors import ConfigError


def loss_kinds() -> dict[str, type[Loss]]:
    """Return the losses that recipes can choose, by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f'{__name__}.{module.name}')
    return dict(sorted(KINDS.items()))


def build_losses(settings: Mapping[str, Any],
                 where: str = 'distillation.losses') -> dict[str, Loss]:
    """
    Return the losses of a recipe by name; one without weight, or set to null, is left out.

    :raises ConfigError: one line with the dotted path of what is wrong.
    """
    kinds = loss_kinds()
    losses = {}
    for name, given in settings.items():
        if name not in kinds:
            near = difflib.get_close_matches(str(name), kinds, n=2)
            hint = f'did you mean {" or ".join(near)}?' if near else f'known: {", ".join(kinds)}'
            raise ConfigError(f'{where}.{name}: no such loss; {hint}')
        if given is None:
            continue
        try:
            losses[name] = build(kinds[name], given, f'{where}.{name}')
        except ConfigError as error:
            # A loss checks its own values and does not know where it stands in a recipe.
            text = str(error)
            raise ConfigError(text if text.startswith(where) else f'{where}.{name}.{text}') \
                from None
    losses = {name: loss for name, loss in losses.items() if loss.weight}
    if not losses:
        raise ConfigError(f'{where}: leaves nothing to learn: give a loss a weight above 0')
    _require_no_gap(losses, where)
    return losses


def with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return settings of losses with what they leave to defaults spelled out, by name.

    What makes no loss yet (null, or settings without one that it needs) stays as it is given.
    """
    kinds = loss_kinds()
    out = dict(settings)
    for name, given in settings.items():
        if name in kinds and given is not None:
            with suppress(ConfigError):
                out[name] = to_plain(build(kinds[name], given, name))
    return out


def require_batch(losses: Mapping[str, Loss], views: int,
                  where: str = 'distillation.losses') -> None:
    """
    Check that all losses can be computed on batches of so many views.

    :raises ConfigError: one line with the dotted path of the setting of the first that cannot.
    """
    for name, loss in losses.items():
        try:
            loss.require_batch(views)
        except ConfigError as error:
            raise ConfigError(f'{where}.{name}.{error}') from None


def _require_no_gap(losses: Mapping[str, Loss], where: str) -> None:
    """
    Check that at every moment of the run some loss counts.

    :raises ConfigError: naming the first part in which none does.
    """
    covered = 0.0
    for loss in sorted(losses.values(), key=lambda x: x.start):
        if loss.start > covered:
            break
        covered = max(covered, loss.end)
    if covered < 1:
        until = min((x.start for x in losses.values() if x.start > covered), default=1.0)
        raise ConfigError(f'{where}: none counts from {covered:g} to {until:g} of the run; move '
                          'the start or end of one')
