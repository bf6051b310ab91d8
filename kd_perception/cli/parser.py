"""The argument parser of all verbs: errors are one line, and mappings have options below them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import difflib
import re
from typing import Any

_UNITS = {'': 1, 'k': 10 ** 3, 'm': 10 ** 6, 'g': 10 ** 9, 't': 10 ** 12}


class Parser(argparse.ArgumentParser):
    """
    An argument parser whose errors are one line.

    ``mappings`` names options that stand for mappings: ``--losses.kl.weight 2`` is then taken
    where only ``--losses`` is declared. ``below`` of what comes out holds these, by dotted key.
    Options are written in full: what is short for one key of a recipe today is wrong, or another
    key, when a second one begins alike.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault('allow_abbrev', False)
        super().__init__(*args, **kwargs)
        self.mappings: tuple[str, ...] = ()

    def error(self, message: str) -> None:  # type: ignore[override]
        """Leave with exit code 2 and one line."""
        self.exit(2, f'{self.prog}: {message} (see {self.prog} --help)\n')

    def parse_known_args(self, args: Sequence[str] | None = None,  # type: ignore[override]
                         namespace: argparse.Namespace | None = None,
                         ) -> tuple[argparse.Namespace, list[str]]:
        """Take the options below mappings out, parse the rest."""
        below: dict[str, str] = {}
        if args is not None and self.mappings:
            args = self._take(list(args), below)
        found, extra = super().parse_known_args(args, namespace)
        # Told here, where the options are known: the parser above this one has none of them.
        unknown = next((word for word in extra if word.startswith('--')), '')
        if unknown:
            self.error(f'unrecognized arguments: {" ".join(extra)}{self._near(unknown)}')
        if self.mappings:
            found.below = below
        return found, extra

    def _near(self, word: str) -> str:
        """Return which options may have been meant, for the end of a message."""
        word = word.partition('=')[0]
        known = [option for action in self._actions for option in action.option_strings]
        parts = word[2:].split('.')
        near = ([option for option in known if option.startswith(f'{word}.')][:4]
                or [f'--{m}' for m in self.mappings if difflib.get_close_matches(
                    '.'.join(parts[:m.count('.') + 1]), [m], cutoff=0.9)][:2]
                or difflib.get_close_matches(word, known, n=2, cutoff=0.7))
        return f'; did you mean {" or ".join(near)}?' if near else ''

    def _take(self, words: list[str], below: dict[str, str]) -> list[str]:
        prefixes = tuple(f'--{m}.' for m in self.mappings)
        rest: list[str] = []
        while words:
            word = words.pop(0)
            if not word.startswith(prefixes):
                rest.append(word)
                continue
            key, equals, value = word[2:].partition('=')
            if not equals:
                if not words:
                    self.error(f'argument --{key}: expected one argument')
                value = words.pop(0)
            below[key] = value
        return rest


def at_least_one(text: str) -> int:
    """Return a number of 1 or more; an argument type."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r}: at least 1')
    return int(text)


def byte_count(text: str) -> int:
    """Return the bytes that a text like ``500MB`` or ``4GB`` stands for; an argument type."""
    found = re.fullmatch(r'(\d+(?:\.\d+)?) *([kmgt]?)i?b?', text.lower())
    if not found or float(found[1]) <= 0:
        raise argparse.ArgumentTypeError(f'{text!r} is no size; e.g. 500MB or 4GB')
    return int(float(found[1]) * _UNITS[found[2]])
