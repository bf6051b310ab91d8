"""What a foreign graph gives: which output, what it holds, in which layout, of which classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kd_perception.classes import ClassSet, MAX_MASK_CLASSES, named_like
from kd_perception.errors import BundleError, some
from kd_perception.networks.foreign.facts import ASKED, DEFAULT, Fact, GRAPH, GUESSED, InputFacts
from kd_perception.networks.foreign.graph_file import GraphFile
from kd_perception.networks.foreign.names import (
    class_set,
    made_up,
    recorded_names,
)
from kd_perception.networks.foreign.wishes import VALUES, Wishes

# So far beyond 0..1 a probability may be: cubic resizing overshoots at edges.
_OVERSHOOT = 0.25


@dataclass(frozen=True)
class OutputFacts:
    """
    What comes out.

    :param values: ``logits``, ``probabilities`` or ``ids``.
    :param layout: ``nchw`` or ``nhwc``; of ids, where an axis of length 1 stands (or ''). Scores
        of one class may lack their axis.
    :param shape: for one picture, as it was seen.
    :param binary: one score per pixel, of the second of two classes.
    """

    name: str
    task: str
    values: str
    layout: str
    shape: tuple[int, ...]
    classes: ClassSet
    binary: bool

    @property
    def grid(self) -> tuple[int, int]:
        """Return rows and columns of a segmentation's output."""
        if len(self.shape) == 3:
            return self.shape[1], self.shape[2]
        rows, columns = self.shape[2:4] if self.layout == 'nchw' else self.shape[1:3]
        return rows, columns


def output_facts(graph: GraphFile, seen: Mapping[str, np.ndarray], view: InputFacts,
                 asked: Wishes) -> tuple[OutputFacts, list[Fact]]:
    """
    Return what a graph gives.

    :param seen: its outputs for one picture.
    :raises BundleError: when that cannot be told, or does not fit what was asked.
    """
    name, how, why = _output_name(graph, seen, asked)
    value = seen[name]
    if not value.size:
        raise BundleError(f'{graph.path}: {name} gives an empty output {list(value.shape)} for a '
                          f'picture of {view.spec.width}x{view.spec.height}; give another --size, '
                          'or choose another output with --output')
    facts = [Fact('output', f'{name} {value.dtype}{list(value.shape)}', how, why)]
    task, how = (asked.task, ASKED) if asked.task else (
        'classification' if value.size == max(value.shape, default=0) and value.ndim in (2, 4)
        else 'segmentation', GRAPH)
    facts.append(Fact('task', task, how))
    values, how, why = _values(graph, name, value, task, view, asked)
    facts.append(Fact('values', values, how, why))
    layout, count = '', 0
    if task == 'classification':
        count = value.size
        if count != max(value.shape, default=0):
            raise BundleError(f'{graph.path}: {name} {list(value.shape)} is a map, not the scores '
                              'of one picture; leave --task out')
        if values == 'ids':
            raise BundleError(f'{graph.path}: {name} gives the class alone; a classification '
                              'needs scores')
    elif values == 'ids':
        layout = _ids_layout(graph, name, value)
    elif _lone_plane(value, view) and (asked.values or values == 'probabilities'):
        layout, count = 'nchw', 1
        facts.append(Fact('output_layout', 'one score per pixel', GRAPH))
    else:
        layout, how, why = _output_layout(graph, name, value, view, asked)
        facts.append(Fact('output_layout', layout, how, why))
        count = value.shape[1 if layout == 'nchw' else 3]
        rows, columns = value.shape[2:4] if layout == 'nchw' else value.shape[1:3]
        stride = view.spec.height / rows
        facts.append(Fact('stride', f'{stride:.3g} ({columns}x{rows})', GRAPH))
    binary = count == 1
    classes, fact = _classes(graph, 2 if binary else count, asked, task, name)
    facts.append(fact)
    return OutputFacts(name, task, values, layout, value.shape, classes, binary), facts


def _output_name(graph: GraphFile, seen: Mapping[str, np.ndarray],
                 asked: Wishes) -> tuple[str, str, str]:
    if asked.output is not None:
        graph.output(asked.output)
        if asked.output not in seen:
            raise BundleError(f'{graph.path}: output {asked.output!r} is no tensor')
        return asked.output, ASKED, ''
    told = '; '.join(f'{n} {v.dtype}{list(v.shape)}' for n, v in seen.items()) or 'none'
    if len(seen) == 1:
        return next(iter(seen)), GRAPH, 'the only one'
    maps = [n for n, v in seen.items() if v.ndim in (3, 4)]
    main = [n for n in maps if not n.lower().startswith('aux')]
    if len(main) == 1:
        return main[0], GUESSED, f'the only map among {len(seen)} outputs' if len(maps) == 1 else (
            'the others are auxiliary')
    raise BundleError(f'{graph.path}: has several outputs, choose one with --output: {told}')


def _values(graph: GraphFile, name: str, value: np.ndarray, task: str, view: InputFacts,
            asked: Wishes) -> tuple[str, str, str]:
    integers = value.dtype.kind in 'iub'
    if integers:
        if asked.values not in (None, 'ids'):
            raise BundleError(f'{graph.path}: {name} gives whole numbers ({value.dtype}), not '
                              f'{asked.values}; they are ids')
        return ('ids', ASKED, '') if asked.values else ('ids', GRAPH, 'whole numbers')
    numbers = value.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise BundleError(f'{graph.path}: {name} is not finite for a picture in this range; check '
                          'range, mean and std')
    if asked.values:
        if asked.values == 'probabilities' and (
                numbers.min() < -_OVERSHOOT or numbers.max() > 1 + _OVERSHOOT):
            raise BundleError(f'{graph.path}: {name} gives values from {numbers.min():.3g} to '
                              f'{numbers.max():.3g}, which are no probabilities; leave --values '
                              'out, or say --values logits')
        return asked.values, ASKED, ''
    last = _last_operator(graph, name)
    whole = bool((numbers == np.floor(numbers)).all()) and numbers.min() >= 0
    one_plane = numbers.ndim == 3 or numbers.ndim == 4 and 1 in (numbers.shape[1],
                                                                 numbers.shape[3])
    if task == 'segmentation' and one_plane and whole:
        # A score per pixel would not be whole on every pixel, unless it is of zeros and ones.
        if last == 'ArgMax':
            return 'ids', GRAPH, 'the graph ends in ArgMax'
        if numbers.max() > 1:
            return 'ids', GUESSED, f'all whole, from {numbers.min():.0f} to {numbers.max():.0f}'
    if numbers.min() < 0 or numbers.max() > 1 + 1e-3:
        return 'logits', GUESSED, f'values from {numbers.min():.3g} to {numbers.max():.3g}'
    axes = [1] if task == 'classification' else [1, 3][:max(1, numbers.ndim - 2)]
    if numbers.ndim > 1 and any(numbers.shape[a] > 1 and np.allclose(
            numbers.sum(a), 1, atol=1e-2) for a in axes):
        return 'probabilities', GUESSED, 'they add up to 1'
    if last == 'Sigmoid':
        return 'probabilities', GUESSED, 'the graph ends in Sigmoid'
    raise BundleError(f'{graph.path}: {name} gives values from {numbers.min():.3g} to '
                      f'{numbers.max():.3g} that do not add up to 1; say what they are with '
                      f'--values {", ".join(VALUES)}')


def _last_operator(graph: GraphFile, name: str) -> str:
    """Return the type of the last operator that computes something."""
    makers = {o: n for n in graph.model.graph.node for o in n.output}
    while name in makers:
        node = makers.pop(name)  # taken out, so that a ring in a broken graph ends
        if node.op_type not in ('Identity', 'Transpose', 'Cast', 'Reshape', 'Squeeze', 'Unsqueeze',
                                'Gather', 'Slice', 'Flatten'):
            return node.op_type
        name = node.input[0] if node.input else ''
    return ''


def _ids_layout(graph: GraphFile, name: str, value: np.ndarray) -> str:
    if value.ndim == 3:
        return ''
    if value.ndim == 4 and 1 in (value.shape[1], value.shape[3]):
        return 'nchw' if value.shape[1] == 1 else 'nhwc'
    raise BundleError(f'{graph.path}: {name} {list(value.shape)} is no map of ids '
                      '[N, H, W] or [N, 1, H, W]')


def _lone_plane(value: np.ndarray, view: InputFacts) -> bool:
    """Return whether an output is one map ``[1, h, w]`` of the picture's aspect."""
    if value.ndim != 3 or value.shape[0] != 1:
        return False
    strides = view.spec.height / value.shape[1], view.spec.width / value.shape[2]
    return 0.8 < strides[0] / strides[1] < 1.25


def _output_layout(graph: GraphFile, name: str, value: np.ndarray, view: InputFacts,
                   asked: Wishes) -> tuple[str, str, str]:
    if value.ndim != 4:
        raise BundleError(f'{graph.path}: {name} {list(value.shape)} is no map of scores with '
                          'four axes; if it holds the class of each pixel, say --values ids; '
                          'if one score of each, --values logits')
    if asked.output_layout:
        return asked.output_layout, ASKED, ''
    aspect = view.spec.width / view.spec.height
    fits = []
    for layout, (rows, columns, count) in {
            'nchw': (value.shape[2], value.shape[3], value.shape[1]),
            'nhwc': (value.shape[1], value.shape[2], value.shape[3])}.items():
        # A stride rounds up, so that coarse maps may have a slightly other aspect.
        slack = 1.5 / rows + 1.5 / columns + 0.02
        if (count <= MAX_MASK_CLASSES and rows <= 2 * view.spec.height
                and abs(np.log(columns / rows / aspect)) < slack):
            fits.append(layout)
    if len(fits) == 1:
        return fits[0], GUESSED, "the other axes have the picture's aspect"
    if len(fits) == 2 and view.layout in fits:
        return view.layout, GUESSED, 'as the input'
    raise BundleError(f'{graph.path}: which axis of {name} {list(value.shape)} are the classes? '
                      'Give --output-layout nchw or nhwc')


def _classes(graph: GraphFile, count: int, asked: Wishes, task: str,
             output: str) -> tuple[ClassSet, Fact]:
    """Return the classes; ``count`` 0 is an output that does not tell how many there are."""
    name = asked.name or graph.path.stem
    recorded = recorded_names(graph.metadata)
    if asked.classes is not None:
        classes, how, why = class_set(asked.classes, name), ASKED, ''
    elif recorded and len(recorded[1]) == count or recorded and not count:
        classes, how = named_like(recorded[1], name), GRAPH
        why = f'metadata {recorded[0]!r}'
    elif not count:
        raise BundleError(f'{graph.path}: {output} gives ids, so nothing tells how many classes '
                          'there are; name them with --classes')
    else:
        if task == 'segmentation' and count > MAX_MASK_CLASSES:
            raise BundleError(f'{graph.path}: {output} gives {count} classes; masks of bytes hold '
                              f'{MAX_MASK_CLASSES}')
        classes, how = made_up(name, count), DEFAULT
        why = 'nobody names them: give --classes'
    if count and len(classes) != count:
        raise BundleError(f'{graph.path}: {output} gives {count} classes, but {classes.name!r} '
                          f'names {len(classes)}: {some(classes.names, 4)}')
    return classes, Fact('classes', f'{len(classes)} of {classes.name}: '
                                    f'{some(classes.names)}', how, why)
