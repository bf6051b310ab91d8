"""Which parameters a node was given that it does not have: mistyped names, in one line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

# Declared when the subscription is made, which may be long after the start.
_LATER = ('qos_overrides.',)


def unknown_parameters(given: Iterable[str], known: Iterable[str]) -> str:
    """
    Return one sentence about names that are not known; empty when all are.

    :param given: names from parameter files and command lines.
    :param known: names that the node has declared.
    """
    known = sorted(known)
    told = []
    for name in sorted(set(given) - set(known)):
        if name.startswith(_LATER):
            continue
        near = get_close_matches(name, known, 1)
        told.append(f'{name} (did you mean {near[0]}?)' if near else name)
    if not told:
        return ''
    return f'given, but no parameter of this node, so without effect: {", ".join(told)}'


def warn_of_unknown_parameters(node: Any) -> None:
    """Log one warning if ``node`` was started with parameters that it has not declared."""
    # rclpy keeps what a node was started with here and nowhere else.
    overrides = node._parameter_overrides
    if told := unknown_parameters(overrides, node.get_parameters_by_prefix('')):
        node.get_logger().warning(told)
