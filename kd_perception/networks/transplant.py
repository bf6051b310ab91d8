"""
Weight distillation: a student begins with selected layers and channels of its teacher.

Layers correspond by name, blocks of a stage by their order: where the student has fewer of them,
some are chosen. Of each group of coupled channels (``coupling.py``) the student takes as many as
it has, the same ones in every layer that shares them. Chosen by the L1 norm of filters (Li et
al., 2017, Pruning filters for efficient ConvNets, arXiv:1608.08710): with W_l the filters of the
layers l that write the group's channels, channel c has the importance

    I(c) = sum over l of ||W_l[c]||_1 / mean over c' of ||W_l[c']||_1

so that a layer does not count more for large weights, which a normalisation behind it undoes.
Statistics of batch normalisation come along. What corresponds to nothing keeps its fresh weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from kd_perception.frames import evenly
from kd_perception.networks.channels import outputs_dimension, widths
from kd_perception.networks.coupling import couple, Coupling, IN, OUT

CHANNELS = ('l1', 'even', 'first')
BLOCKS = ('even', 'first', 'last')
# The teacher's channel for each of the student's by side of a layer, -1: none.
Positions = dict[str, 'np.ndarray | None']


@dataclass(frozen=True)
class Transplant:
    """
    What a student took over.

    :param tensors: parameter tensors that came from the teacher, wholly or in rows,
    :param of_tensors: of so many.
    :param parameters: single numbers in them, of ``of_parameters``.
    :param fresh: names of the tensors that nothing of the teacher corresponds to.
    """

    tensors: int
    of_tensors: int
    parameters: int
    of_parameters: int
    fresh: tuple[str, ...]

    @property
    def share(self) -> float:
        """Return the share of the student's parameters that are the teacher's."""
        return self.parameters / max(1, self.of_parameters)


def transplant(teacher: nn.Module, student: nn.Module, size: tuple[int, int], *,
               channels: str = 'l1', blocks: str = 'even',
               classes: Sequence[int] | None = None) -> Transplant:
    """
    Give a student weights of its teacher, in place.

    :param size: height and width of the input.
    :param channels: which of a group's channels: ``l1`` the largest filters, ``even``, ``first``.
    :param blocks: which of a stage's blocks: ``even`` keeps first and last, ``first``, ``last``.
    :param classes: the teacher's class of each of the student's, -1 where it has none; None: the
        classes are the same.
    :raises ConfigError: when channels differ and torch-pruning is missing or cannot follow them.
    """
    pairs = matched_layers(teacher, student, blocks)
    found = _Selection(teacher, student, pairs, channels, classes, size)
    donors, layers = dict(teacher.named_modules()), dict(student.named_modules())
    taken: dict[str, int] = {}
    with torch.no_grad():
        for name, donor in pairs.items():
            for kind, count in _take_over(donors[donor], layers[name], found.positions(name)):
                taken[f'{name}.{kind}'.lstrip('.')] = count
    own = {name: p.numel() for name, p in student.named_parameters()}
    return Transplant(len(taken), len(own), sum(taken.values()), sum(own.values()),
                      tuple(name for name in own if name not in taken))


def matched_layers(teacher: nn.Module, student: nn.Module, blocks: str) -> dict[str, str]:
    """Return which layer of the teacher corresponds to each layer of the student, by name."""
    pairs: dict[str, str] = {}

    def pair(mine: nn.Module, other: nn.Module, name: str, donor: str) -> None:
        if type(mine) is not type(other):
            return
        if any(True for _ in mine.parameters(recurse=False)):
            pairs[name] = donor
        ours, theirs = dict(mine.named_children()), dict(other.named_children())
        numbered = all(map(str.isdigit, [*ours, *theirs]))
        chosen = (_blocks(ours, theirs, blocks) if numbered else
                  {key: key for key in ours if key in theirs})
        for key, match in chosen.items():
            pair(ours[key], theirs[match], f'{name}.{key}'.lstrip('.'),
                 f'{donor}.{match}'.lstrip('.'))

    pair(student, teacher, '', '')
    return pairs


def chosen(count: int, of: int, how: str) -> np.ndarray:
    """Return ``count`` of the numbers below ``of``: evenly with both ends, the first, the last."""
    if how == 'even' and count > 1:
        return np.array(evenly(of, count))
    return np.arange(count) + (of - count if how == 'last' else 0)


def importance(module: nn.Module, coupling: Coupling) -> list[np.ndarray]:
    """Return the importance of each channel by group, float64 (equation above)."""
    out = [np.zeros(n) for n in coupling.sizes]
    layers = dict(module.named_modules())
    for (name, side), labels in coupling.sides.items():
        layer = layers[name]
        if side != OUT or len(widths(layer) or ()) < 2:
            continue
        weight = layer.weight.detach().double().cpu()  # type: ignore[union-attr, operator]
        norms = weight.transpose(0, outputs_dimension(layer)).abs().flatten(1).sum(1).numpy()
        if len(norms) != len(labels) or not norms.any():
            continue  # the weight of a grouped transposed convolution counts per group
        for group in set(labels[:, 0].tolist()) - {-1}:
            here = labels[:, 0] == group
            np.add.at(out[group], labels[here, 1], norms[here] / norms.mean())
    return out


def _blocks(ours: dict[str, nn.Module], theirs: dict[str, nn.Module], how: str,
            ) -> dict[str, str]:
    """Pair blocks of one make in their order; where there are fewer, ``how`` says which."""
    out: dict[str, str] = {}
    makes = {key: _make(block) for key, block in theirs.items()}
    for make in dict.fromkeys(map(_make, ours.values())):
        mine = [key for key, block in ours.items() if _make(block) == make]
        other = [key for key in theirs if makes[key] == make]
        if len(mine) <= len(other):
            picked = [other[i] for i in chosen(len(mine), len(other), how)]
        else:
            picked = other  # the last of the student's blocks stay fresh
        out.update(zip(mine, picked, strict=False))
    return out


def _make(block: nn.Module) -> tuple[object, ...]:
    """Return what two blocks must share to stand for each other: all but numbers of channels."""
    return (type(block), *((name, type(part), getattr(part, 'kernel_size', None),
                            getattr(part, 'stride', None)) for name, part in block.named_modules()
                           if not any(True for _ in part.children())))


class _Selection:
    """Which of the teacher's channels stand at which place of the student."""

    def __init__(self, teacher: nn.Module, student: nn.Module, pairs: dict[str, str],
                 how: str, classes: Sequence[int] | None, size: tuple[int, int]) -> None:
        donors, layers = dict(teacher.named_modules()), dict(student.named_modules())
        self._pairs = pairs
        self._classes = None if classes is None else np.asarray(classes)
        self._same = self._classes is None and all(
            widths(donors[donor]) == widths(layers[name]) for name, donor in pairs.items())
        if self._same:
            return  # nothing to select, nothing to follow
        self._theirs, self._own = couple(teacher, size), couple(student, size)
        votes: dict[int, Counter[int]] = {}
        for side, labels in self._own.sides.items():
            if side[0] not in pairs:
                continue
            ours, theirs = _parts(labels), _parts(self._theirs.sides[pairs[side[0]], side[1]])
            if len(ours) == len(theirs):
                for mine, other in zip(ours, theirs):
                    votes.setdefault(mine, Counter())[other] += 1
        weights = importance(teacher, self._theirs)
        self._donor_groups = {mine: votes[mine].most_common(1)[0][0] for mine in votes}
        self._selected = {mine: self._select(mine, other, weights, how)
                          for mine, other in self._donor_groups.items() if mine >= 0}

    def positions(self, name: str) -> Positions | None:
        """
        Return where the channels of a layer come from.

        A side is None where no channels correspond; all is None where all do, in their order.
        """
        if self._same:
            return None
        return {side: self._side(name, side) for side in (IN, OUT)
                if (name, side) in self._own.sides}

    def _select(self, mine: int, other: int, weights: list[np.ndarray],
                how: str) -> np.ndarray | None:
        """Return channels of the teacher's group ``other`` for the student's group ``mine``."""
        if other < 0:
            return None
        count, of = self._own.sizes[mine], self._theirs.sizes[other]
        if mine in self._own.outputs:
            # Classes are not chosen by their weights.
            selected = np.arange(of) if self._classes is None else self._classes
            return selected if len(selected) == count and other in self._theirs.outputs else None
        if count > of:
            return None
        if count < of and how == 'l1':
            # Stable: of equal channels the first.
            return np.sort(np.argsort(-weights[other], kind='stable')[:count])
        return chosen(count, of, how)

    def _side(self, name: str, side: str) -> np.ndarray | None:
        ours = self._own.sides[name, side]
        theirs = self._theirs.sides[self._pairs[name], side]
        places = _places(theirs)
        out = np.full(len(ours), -1, np.int64)
        for channel, positions in _places(ours).items():
            group, number = channel
            if group >= 0:
                selected = self._selected.get(group)
                if selected is None:
                    return None
                if selected[number] < 0:
                    continue
                channel = self._donor_groups[group], int(selected[number])
            found = places.get(channel, [])
            if len(found) != len(positions):
                return None
            out[positions] = found
        return out


def _parts(labels: np.ndarray) -> list[int]:
    """Return the groups of a side in the order in which they begin."""
    return list(dict.fromkeys(labels[:, 0].tolist()))


def _places(labels: np.ndarray) -> dict[tuple[int, int], list[int]]:
    """
    Return the positions of each channel; behind a flattening it has several.

    Channels of no group, as the colours of the picture, are one channel of many places.
    """
    out: dict[tuple[int, int], list[int]] = {}
    for position, (group, channel) in enumerate(labels.tolist()):
        out.setdefault((group, channel if group >= 0 else 0), []).append(position)
    return out


def _take_over(donor: nn.Module, layer: nn.Module,
               positions: Positions | None) -> list[tuple[str, int]]:
    """Copy what corresponds; return the names of the parameters with the numbers copied."""
    state = {**dict(donor.named_parameters(recurse=False)),
             **dict(donor.named_buffers(recurse=False))}
    own = {**dict(layer.named_parameters(recurse=False)),
           **dict(layer.named_buffers(recurse=False))}
    out = []
    for name, value in own.items():
        copied = name in state and _copy(layer, value, state[name], positions)
        if copied and isinstance(value, nn.Parameter):
            out.append((name, int(copied)))
    return out


def _copy(layer: nn.Module, value: torch.Tensor, source: torch.Tensor,
          positions: Positions | None) -> int:
    """Copy one tensor as far as it corresponds; return how many numbers did."""
    if not positions or not value.ndim:
        if value.shape != source.shape:
            return 0
        value.copy_(source)
        return value.numel()
    out, into = positions[OUT], positions.get(IN)
    if out is None:
        return 0
    rows = torch.from_numpy(np.flatnonzero(out >= 0))
    if value.ndim == 1:
        value[rows] = source[torch.from_numpy(out[out >= 0])]
        return len(rows)
    # Outputs first; a view of the same memory.
    at = outputs_dimension(layer)
    value, source = value.transpose(0, at), source.transpose(0, at)
    if IN in positions and (into is None or (into < 0).any()):
        return 0
    if into is not None and value.shape[1] == len(into):
        source = source[:, torch.from_numpy(into)]
    # Else the layer is depthwise, or grouped and whole.
    if value.shape[1:] != source.shape[1:] or len(out) != len(value):
        return 0
    value[rows] = source[torch.from_numpy(out[out >= 0])]
    return value[rows].numel()
