"""
What the student is: its network, what of it comes from the teacher, and who stands between them.

Sections of a recipe; no torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kd_perception.errors import ConfigError

NONE, WEIGHTS, ARCHITECTURE, BOTH = 'none', 'weights', 'architecture', 'both'
FROM_TEACHER = (NONE, WEIGHTS, ARCHITECTURE, BOTH)
CHANNELS = ('l1', 'even', 'first')
BLOCKS = ('even', 'first', 'last')
ASSISTANT = 'assistant'  # the role of a bundle that only passes on what its teachers know


@dataclass(frozen=True)
class NetworkRecipe:
    """
    The network that is trained.

    :param builder: name in the network registry; may be left out where the network is derived
        from the teacher's (``distillation.student.from_teacher``).
    :param arguments: of the builder.
    :param channels: widths by layer name where a network was slimmed; layers that are not named
        are as the builder makes them.
    """

    builder: str = ''
    arguments: dict[str, Any] = field(default_factory=dict)
    channels: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudentRecipe:
    """
    What the student takes over from its teacher before it learns.

    :param from_teacher: ``weights``: the recipe's network begins with selected channels and
        blocks of the teacher; ``architecture``: its network is the teacher's with fewer channels
        (``network`` is not looked at); ``both``; ``none``.
    :param ratio: share of the teacher's channels that a derived network has; of each group of
        coupled channels a multiple of 8.
    :param channels: which channels give their weights: ``l1``: those of the largest filters;
        ``even``: evenly spread; ``first``.
    :param blocks: of which blocks, where the student has fewer in a stage: ``even``: evenly
        spread; ``first``; ``last``.
    """

    from_teacher: str = NONE
    ratio: float = 0.5
    channels: str = 'l1'
    blocks: str = 'even'

    @property
    def takes_weights(self) -> bool:
        """Whether the student begins with weights of the teacher."""
        return self.from_teacher in (WEIGHTS, BOTH)

    @property
    def derives_network(self) -> bool:
        """Whether the student's network is made from the teacher's."""
        return self.from_teacher in (ARCHITECTURE, BOTH)


@dataclass(frozen=True)
class AssistantRecipe:
    """
    A network between teacher and student: taught by the one before it, it teaches the next.

    :param network: the assistant's network.
    :param optimization: keys of the recipe's ``optimization`` that are other for it.
    :param student: what it takes over from the one that teaches it.
    """

    network: NetworkRecipe = field(default_factory=NetworkRecipe)
    optimization: dict[str, Any] = field(default_factory=dict)
    student: StudentRecipe = field(default_factory=StudentRecipe)


def check_learner(network: NetworkRecipe, student: StudentRecipe, where: str = '',
                  section: str = 'distillation.student') -> None:
    """
    Check a network and what it takes from its teacher.

    :param where: what stands before ``network`` in messages.
    :param section: dotted path of ``student``.
    :raises ConfigError: one line with the dotted path of what makes no sense.
    """
    for key, allowed in (('from_teacher', FROM_TEACHER), ('channels', CHANNELS),
                         ('blocks', BLOCKS)):
        value = getattr(student, key)
        if value not in allowed:
            raise ConfigError(f'{section}.{key}: {value!r} is none of {", ".join(allowed)}')
    if not 0.01 <= student.ratio <= 1:
        raise ConfigError(f'{section}.ratio: {student.ratio:g} is not within 0.01 to 1')
    if not network.builder and not student.derives_network:
        raise ConfigError(f'{where}network.builder: is missing; name one, or take the teacher in '
                          f'narrow: --{section}.from_teacher both')
    for name, widths in network.channels.items():
        if not (isinstance(name, str) and isinstance(widths, (list, tuple))
                and all(type(n) is int and n >= 0 for n in widths) and 1 <= len(widths) <= 3):
            raise ConfigError(f'{where}network.channels: {name!r}: {widths!r} is no list of one '
                              'to three numbers of channels')


def overridden(section: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return an ``optimization`` with an assistant's changes; a new length replaces the other."""
    out = {**section, **changes}
    for asked, other in (('steps', 'epochs'), ('epochs', 'steps')):
        if changes.get(asked):
            out[other] = changes.get(other, 0)
    return out
