"""
What a foreign network wants to be fed: asked by the user, read from the graph, or guessed.

Every fact keeps how it was found, so that the user sees it before the bundle is used. Guesses are
made only where a wrong one would show (a layout that does not fit fails at once); what no graph
tells, the normalisation, is a default that is marked as such.
"""

from __future__ import annotations

from dataclasses import dataclass
import itertools

import numpy as np

from kd_perception.bundle import InputSpec
from kd_perception.errors import BundleError
from kd_perception.networks.foreign.graph_file import constants, GraphFile, Port
from kd_perception.networks.foreign.wishes import IMAGENET_MEAN, IMAGENET_STD, RANGES, Wishes

ASKED, GRAPH, GUESSED, DEFAULT = 'asked', 'graph', 'guessed', 'default'
_FLOATS = ('float32', 'float16', 'float64')
_NOTHING_TELLS = 'nothing tells: check with the training code'
# What a pass through the graph's first nodes may cross before the input is scaled.
_TRANSPARENT = ('Cast', 'Transpose', 'Identity', 'Unsqueeze', 'Squeeze')


@dataclass(frozen=True)
class Fact:
    """One fact for the table: key, value in words, how it was found, and why that."""

    key: str
    value: str
    how: str
    why: str = ''


@dataclass(frozen=True)
class InputFacts:
    """
    How a picture is brought to the graph.

    :param spec: size, normalisation and resize policy, as the bundle will have them.
    :param layout: ``nchw`` or ``nhwc``.
    :param dtype: numpy name of what the graph takes.
    """

    port: Port
    spec: InputSpec
    layout: str
    dtype: str

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return the shape for one picture."""
        size = (self.spec.height, self.spec.width)
        return (1, 3, *size) if self.layout == 'nchw' else (1, *size, 3)


def input_facts(graph: GraphFile, asked: Wishes) -> tuple[InputFacts, list[Fact]]:
    """
    Return how pictures are brought to a graph.

    :raises BundleError: when the graph does not take one picture, or its size is not known.
    """
    port, facts = graph.input, []
    if len(port.shape) != 4:
        raise BundleError(f'{graph.path}: its input {port} has {len(port.shape)} axes; a picture '
                          'has four')
    if port.dtype not in (*_FLOATS, 'uint8'):
        raise BundleError(f'{graph.path}: its input {port} is of a type that pictures are not')
    if port.shape[0] not in (None, 1):
        raise BundleError(f'{graph.path}: its input {port} takes {port.shape[0]} pictures at '
                          'once; export it with a batch of 1 or an open one')
    layout, how, why = _input_layout(graph, asked)
    facts.append(Fact('layout', layout, how, why))
    height, width, fact, padded = _size(graph, layout, asked)
    facts += [fact, Fact('type', port.dtype, GRAPH)]
    resize = resize_fact(asked, padded)
    span, mean, std, more = _graph_normalisation(graph, asked)
    order = order_fact(asked)
    facts += [resize, order]
    spec = input_spec((height, width), span, mean, std, order.value, resize.value)
    return InputFacts(port, spec, layout, port.dtype), facts + more


def _input_layout(graph: GraphFile, asked: Wishes) -> tuple[str, str, str]:
    shape = graph.input.shape
    channels_at = {layout: shape[axis] for layout, axis in (('nchw', 1), ('nhwc', 3))}
    fits = [layout for layout, n in channels_at.items() if n == 3]
    if asked.layout:
        if channels_at[asked.layout] not in (3, None):
            raise BundleError(f'{graph.path}: layout {asked.layout} does not fit its input '
                              f'{graph.input}: it has {channels_at[asked.layout]} channels there')
        return asked.layout, ASKED, ''
    if len(fits) == 1:
        return fits[0], GRAPH, '3 channels'
    if fits or None in channels_at.values():
        raise BundleError(f'{graph.path}: where are the channels of its input {graph.input}? Give '
                          '--layout nchw or nhwc')
    raise BundleError(f'{graph.path}: its input {graph.input} has no three channels; only colour '
                      'pictures can be fed')


def _size(graph: GraphFile, layout: str, asked: Wishes) -> tuple[int, int, Fact, bool]:
    """Return height, width, the fact, and whether the size was rounded up for padding."""
    sides = graph.input.shape[2:4] if layout == 'nchw' else graph.input.shape[1:3]
    wish = asked.size
    padded = False
    if wish is not None and asked.multiple:
        padded = rounded(wish, asked.multiple) != wish
        wish = rounded(wish, asked.multiple)
    size = []
    for name, side, own in zip(('height', 'width'), sides, wish or (None, None), strict=True):
        if side is not None and own is not None and own != side:
            raise BundleError(f'{graph.path}: takes a {name} of {side} only, not {own}; leave '
                              '--size out: frames of any size are brought to it')
        if side is None and own is None:
            raise BundleError(f'{graph.path}: takes any {name}; say which with --size WxH, best '
                              "the camera's or the training's")
        chosen = side if side is not None else own
        assert chosen is not None
        size.append(chosen)
    how = ASKED if asked.size else GRAPH
    why = f'rounded up to multiples of {asked.multiple}' if padded else ''
    return size[0], size[1], Fact('size', f'{size[1]}x{size[0]}', how, why), padded


def normalisation(asked: Wishes, where: str, own: tuple[str, str] | None = None,
                  usual: Wishes | None = None) -> tuple[
        str, tuple[float, ...], tuple[float, ...], list[Fact]]:
    """
    Return range, mean and std (in the scale of the range) with how they were found.

    :param own: range that the network scales itself, and how that is known.
    :param usual: mean and std of range 0..1 that an architecture was published with.
    :raises BundleError: when mean and range do not fit each other.
    """
    none, one = (0.0,) * 3, (1.0,) * 3
    span, how, why = '0..1', DEFAULT, _NOTHING_TELLS
    if asked.range:
        span, how, why = asked.range, ASKED, ''
    elif own:
        span, how, why = own[0], GUESSED, own[1]
    elif max((*(asked.mean or none), *(asked.std or one))) > 2:
        span, how, why = '0..255', GUESSED, 'mean and std are of that range'
    if span != '0..1' and (asked.mean == IMAGENET_MEAN or asked.std == IMAGENET_STD):
        raise BundleError(f"{where}: ImageNet's mean and std are of range 0..1, not of {span}; "
                          'give --range 0..1' + (
                              ', or --mean 123.675,116.28,103.53 --std 58.395,57.12,57.375'
                              if span == '0..255' else ''))
    facts = [Fact('range', span, how, why)]
    default: dict[str, tuple[float, ...]] = {'mean': none, 'std': one}
    reason = ''
    # One of them alone means that the other was nothing, but those of ImageNet are a pair.
    half = span == '0..1' and (asked.mean == IMAGENET_MEAN or asked.std == IMAGENET_STD)
    if half or span == '0..1' and not own and not asked.mean and not asked.std:
        if not half and usual is not None and usual.mean and usual.std:
            default = {'mean': usual.mean, 'std': usual.std}
            reason = 'of the published weights: check with the training code'
        else:
            default = {'mean': IMAGENET_MEAN, 'std': IMAGENET_STD}
            reason = 'ImageNet: check with the training code'
    chosen = {}
    for key, value in default.items():
        wish = getattr(asked, key)
        chosen[key] = value if wish is None else wish
        facts.append(Fact(key, ' '.join(f'{v:.4g}' for v in chosen[key]),
                          ASKED if wish is not None else DEFAULT,
                          reason if wish is None else ''))
    if max(chosen['mean']) > 2 and span != '0..255':
        raise BundleError(f'{where}: a mean of {max(chosen["mean"]):g} is none of the range '
                          f'{span}; give --range 0..255')
    return span, chosen['mean'], chosen['std'], facts


def input_spec(size: tuple[int, int], span: str, mean: tuple[float, ...],
               std: tuple[float, ...], order: str, resize: str) -> InputSpec:
    """Return what a bundle says of these facts."""
    factor, shift = RANGES[span]
    return InputSpec(*size, channel_order=order, scale=factor,
                     mean=tuple(m + shift for m in mean), std=std, resize=resize)


def order_fact(asked: Wishes) -> Fact:
    """Return the order of the channels."""
    if asked.channel_order:
        return Fact('channel_order', asked.channel_order, ASKED)
    return Fact('channel_order', 'rgb', DEFAULT, _NOTHING_TELLS)


def resize_fact(asked: Wishes, padded: bool) -> Fact:
    """Return the resize policy."""
    resize = asked.resize or ('pad' if padded else 'stretch')
    return Fact('resize', resize, ASKED if asked.resize or padded else DEFAULT, {
        'stretch': 'frames of another size are stretched', 'letterbox': 'bars keep the aspect',
        'pad': 'frames lie in the upper left corner'}[resize])


def rounded(size: tuple[int, int], multiple: int | None) -> tuple[int, int]:
    """Return a size with sides rounded up to multiples."""
    step = multiple or 1
    return -(-size[0] // step) * step, -(-size[1] // step) * step


def _graph_normalisation(graph: GraphFile, asked: Wishes) -> tuple[
        str, tuple[float, ...], tuple[float, ...], list[Fact]]:
    """Return the same for a graph, which may take bytes or scale them itself."""
    none, one = (0.0,) * 3, (1.0,) * 3
    if graph.input.dtype != 'uint8':
        return normalisation(asked, str(graph.path), _own_normalisation(graph))
    if asked.range not in (None, '0..255') or asked.mean not in (None, none) or (
            asked.std not in (None, one)):
        raise BundleError(f'{graph.path}: takes bytes and so normalises them itself; leave '
                          'range, mean and std out')
    return '0..255', none, one, [Fact('range', '0..255', GRAPH, 'the graph takes bytes')]


def _own_normalisation(graph: GraphFile) -> tuple[str, str] | None:
    """Return range and reason where the graph begins by scaling bytes itself."""
    known = constants(graph.model)
    name = graph.input.name
    for node in itertools.islice(graph.model.graph.node, 16):
        if name not in node.input or not node.output:
            continue
        others = [known[i] for i in node.input if i in known]
        if node.op_type in _TRANSPARENT:
            name = node.output[0]
        elif node.op_type in ('Sub', 'Add', 'Mul', 'Div') and others and others[0].size in (1, 3):
            largest = float(np.abs(np.asarray(others[0], np.float64)).max())
            told = f'the graph begins with {node.op_type} {largest:.4g}'
            scaled = (node.op_type == 'Div' and largest > 20) or (
                node.op_type == 'Mul' and 0 < largest < 0.1)
            if scaled or (node.op_type in ('Sub', 'Add') and largest > 2):
                return '0..255', told
            return '0..1', told
        else:
            return None
    return None
