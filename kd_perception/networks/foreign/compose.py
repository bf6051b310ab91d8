"""
Our graphs around a foreign one: bytes before it, mask and confidence behind it.

The foreign graph stays as it is, operator by operator; nodes of ours are joined to its ends with
``onnx.compose``. They are written for the opset that the graph has (11 and later).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import compose, helper, numpy_helper, TensorProto

from kd_perception.bundle import DEPLOY, InputSpec, LOGITS
from kd_perception.errors import BundleError
from kd_perception.networks.foreign.facts import InputFacts
from kd_perception.networks.foreign.facts_output import OutputFacts
from kd_perception.networks.foreign.graph_file import GraphFile, MAX_BYTES, pruned, subgraphs

IMAGES = 'images'
PROBABILITIES = 'probabilities'
# The logarithm of less than this says nothing of a 16-bit probability.
SMALLEST_PROBABILITY = 1e-7
# Below, upsampling by two matrix products is faster than the runtimes' resize operators.
_MATMUL_MAX_WORK = 2.0e7
_PREFIX = 'foreign/'


def graphs(graph: GraphFile, view: InputFacts, out: OutputFacts) -> dict[str, bytes]:
    """
    Return the files of a bundle: ``deploy.onnx``, and ``logits.onnx`` where there are scores.

    :raises BundleError: when the parts cannot be joined.
    """
    try:
        core = _fixed(pruned(graph.model, out.name), view, out)
        _prefix(core.graph)
        made = {DEPLOY: _joined(core, graph, view, out, deploy=True)}
        if out.values != 'ids':
            made[LOGITS] = _joined(core, graph, view, out, deploy=False)
        if max(m.ByteSize() for m in made.values()) > MAX_BYTES:
            raise BundleError(f'{graph.path}: is too large for one ONNX file (2 GB)')
        return {name: m.SerializeToString() for name, m in made.items()}
    except BundleError:
        raise
    except Exception as error:  # onnx raises what its checks and protobuf raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise BundleError(f'{graph.path}: cannot be joined with our nodes: '
                          f'{(lines or [type(error).__name__])[0][:200]}') from None


class _Nodes:
    """A graph that grows node by node, in one opset."""

    def __init__(self, opset: int, prefix: str) -> None:
        self.opset = opset
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._prefix = prefix

    def add(self, kind: str, *inputs: str, name: str = '', **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        output = name or f'{self._prefix}{len(self.nodes)}'
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f'{self._prefix}w{len(self.weights)}'
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def cast(self, x: str, kind: int, name: str = '') -> str:
        return self.add('Cast', x, name=name, to=kind)

    def reduce(self, kind: str, x: str, *, keepdims: int) -> str:
        """Reduce over the class axis; axes became an input in opset 13 and 18."""
        if self.opset >= (13 if kind == 'ReduceSum' else 18):
            return self.add(kind, x, self.constant([1], np.int64), keepdims=keepdims)
        return self.add(kind, x, axes=[1], keepdims=keepdims)

    def reshape(self, x: str, shape: tuple[int, ...], name: str = '') -> str:
        return self.add('Reshape', x, self.constant(shape, np.int64), name=name)

    def model(self, like: Any, inputs: list[Any], outputs: list[Any], name: str) -> Any:
        made = helper.make_graph(self.nodes, name, inputs, outputs, self.weights)
        return helper.make_model(made, ir_version=like.ir_version,
                                 opset_imports=list(like.opset_import))


def _fixed(model: Any, view: InputFacts, out: OutputFacts) -> Any:
    """Give input and output the sizes of the bundle; an open batch stays open."""
    sides = model.graph.input[0].type.tensor_type.shape.dim
    for axis, side in list(enumerate(view.shape))[1:]:
        sides[axis].dim_value = side
    # What the output said of its size may have been of any other.
    kind = model.graph.output[0].type.tensor_type.elem_type
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(
        out.name, kind, [_batch(view), *out.shape[1:]]))
    return model


def _prefix(graph: Any) -> None:
    """
    Rename all that a graph holds, so that no name is one of ours.

    ``onnx.compose.add_prefix`` leaves alone what graphs within nodes read of outer initializers.
    """
    sparse = [t for s in graph.sparse_initializer for t in (s.values, s.indices)]
    for named in (*graph.input, *graph.output, *graph.initializer, *sparse, *graph.value_info,
                  *graph.node):
        if named.name:
            named.name = _PREFIX + named.name
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [n and _PREFIX + n for n in names]  # '' is an input that is left out
        for attribute in node.attribute:
            for inner in subgraphs(attribute):
                _prefix(inner)


def _joined(core: Any, graph: GraphFile, view: InputFacts, out: OutputFacts, *,
            deploy: bool) -> Any:
    before = _before(core, graph, view)
    after, outputs = _after(core, graph, view, out, deploy=deploy)
    joined = compose.merge_models(before, core, [('pre/out', core.graph.input[0].name)])
    joined = compose.merge_models(joined, after, [(core.graph.output[0].name, 'post/in')])
    joined.graph.name = 'deploy' if deploy else 'logits'
    joined.producer_name = 'kd_perception'
    assert [o.name for o in joined.graph.output] == outputs
    return joined


def _batch(view: InputFacts) -> int | str:
    return view.port.shape[0] or 'N'


def _before(core: Any, graph: GraphFile, view: InputFacts) -> Any:
    """Bytes ``[N, H, W, 3]`` to what the graph takes: the same sums as our own networks."""
    nodes, spec = _Nodes(_opset(core), 'pre/'), view.spec
    planes = view.layout == 'nchw'
    x = nodes.add('Transpose', IMAGES, perm=[0, 3, 1, 2]) if planes else IMAGES
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(view.dtype))
    if view.dtype != 'uint8':
        x = nodes.cast(x, TensorProto.FLOAT)
        shape = (1, 3, 1, 1) if planes else (1, 1, 1, 3)
        mean, std = np.asarray(spec.mean, np.float64), np.asarray(spec.std, np.float64)
        if (spec.scale / std != 1).any():
            x = nodes.add('Mul', x, nodes.constant((spec.scale / std).reshape(shape)))
        if mean.any():
            x = nodes.add('Add', x, nodes.constant((-mean / std).reshape(shape)))
        if view.dtype != 'float32':
            x = nodes.cast(x, kind)
    nodes.add('Identity', x, name='pre/out')
    images = helper.make_tensor_value_info(
        IMAGES, TensorProto.UINT8, [_batch(view), spec.height, spec.width, 3])
    fed = helper.make_tensor_value_info('pre/out', kind, [_batch(view), *view.shape[1:]])
    return nodes.model(core, [images], [fed], 'before')


def _after(core: Any, graph: GraphFile, view: InputFacts, out: OutputFacts, *,
           deploy: bool) -> tuple[Any, list[str]]:
    """Return the nodes behind the graph, and the names of what comes out."""
    nodes = _Nodes(_opset(core), 'post/')
    batch, size = _batch(view), (view.spec.height, view.spec.width)
    kind = core.graph.output[0].type.tensor_type.elem_type
    given = helper.make_tensor_value_info('post/in', kind, [batch, *out.shape[1:]])
    x = 'post/in' if kind == TensorProto.FLOAT else nodes.cast('post/in', TensorProto.FLOAT)
    if out.values == 'ids':
        _ids(nodes, x, out, size)
    else:
        x = _scores(nodes, x, out)
        if not deploy:
            nodes.add('Identity', x, name='logits')
        elif out.task == 'classification':
            nodes.add('Softmax', x, axis=1, name=PROBABILITIES)
        else:
            _mask(nodes, x, len(out.classes), out.grid, size)
    count = len(out.classes)
    if not deploy:
        sides = [batch, count] + ([] if out.task == 'classification' else list(out.grid))
        outputs = [helper.make_tensor_value_info('logits', TensorProto.FLOAT, sides)]
    elif out.task == 'classification':
        outputs = [helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT,
                                                 [batch, count])]
    else:
        outputs = [helper.make_tensor_value_info(n, TensorProto.UINT8, [batch, *size])
                   for n in ('mask', 'confidence')]
    return nodes.model(core, [given], outputs, 'after'), [o.name for o in outputs]


def _scores(nodes: _Nodes, x: str, out: OutputFacts) -> str:
    """Whatever the scores are, float32 logits ``[N, K, h, w]`` or ``[N, K]``."""
    if out.task == 'classification':
        x = nodes.reshape(x, (-1, 1 if out.binary else len(out.classes)))
    elif len(out.shape) == 3:
        x = nodes.reshape(x, (-1, 1, *out.grid))
    elif out.layout == 'nhwc':
        x = nodes.add('Transpose', x, perm=[0, 3, 1, 2])
    if out.values == 'logits':
        # Softmax of (0, x) is the sigmoid of x.
        return nodes.add('Concat', nodes.add('Sub', x, x), x, axis=1) if out.binary else x
    if out.binary:
        x = nodes.add('Concat', nodes.add('Sub', nodes.constant(1.0), x), x, axis=1)
    return nodes.add('Log', nodes.add('Max', x, nodes.constant(SMALLEST_PROBABILITY)))


def _mask(nodes: _Nodes, x: str, count: int, grid: tuple[int, int],
          size: tuple[int, int]) -> None:
    """Mask and confidence of logits, as ``networks/deploy.py`` computes them, and why so."""
    x = nodes.add('Sub', x, nodes.reduce('ReduceMax', x, keepdims=1))
    x = nodes.reshape(_upsampled(nodes, x, count, grid, size), (0, count, -1))
    best = nodes.add('Exp', nodes.reduce('ReduceMax', x, keepdims=0))
    total = nodes.reduce('ReduceSum', nodes.add('Exp', x), keepdims=0)
    share = nodes.add('Div', best, nodes.add('Add', total, nodes.constant(1e-30)))
    level = nodes.add('Add', nodes.add('Mul', share, nodes.constant(255.0)), nodes.constant(0.5))
    mask = nodes.cast(nodes.add('ArgMax', x, axis=1, keepdims=0), TensorProto.UINT8)
    nodes.reshape(mask, (-1, *size), name='mask')
    nodes.reshape(nodes.cast(level, TensorProto.UINT8), (-1, *size), name='confidence')


def _upsampled(nodes: _Nodes, x: str, count: int, grid: tuple[int, int],
               size: tuple[int, int]) -> str:
    if grid == size:
        return x
    if grid[0] * size[1] * (grid[1] + size[0]) <= _MATMUL_MAX_WORK:
        across = nodes.constant(bilinear_matrix(grid[1], size[1]).T)
        down = nodes.constant(bilinear_matrix(grid[0], size[0]))
        return nodes.add('MatMul', down, nodes.add('MatMul', x, across))
    return _resized(nodes, x, (count, *size), mode='linear')


def _resized(nodes: _Nodes, x: str, shape: tuple[int, int, int], **attributes: str) -> str:
    batch = nodes.add('Gather', nodes.add('Shape', x), nodes.constant([0], np.int64))
    sizes = nodes.add('Concat', batch, nodes.constant(shape, np.int64), axis=0)
    nothing = nodes.constant([], np.float32)  # these two could not be left out before opset 13
    return nodes.add('Resize', x, nothing, nothing, sizes,
                     coordinate_transformation_mode='half_pixel', **attributes)


def _ids(nodes: _Nodes, x: str, out: OutputFacts, size: tuple[int, int]) -> None:
    """Ids as they come, brought to size; what is no class becomes 255 with confidence 0."""
    x = nodes.reshape(x, (-1, 1, *out.grid))
    if out.grid != size:
        x = _resized(nodes, x, (1, *size), mode='nearest', nearest_mode='round_prefer_floor')
    count = nodes.constant(len(out.classes) - 0.5)
    valid = nodes.add('And', nodes.add('Less', x, count),
                      nodes.add('Greater', x, nodes.constant(-0.5)))
    void, sure = nodes.constant(255.0), nodes.constant(0.0)
    mask = nodes.cast(nodes.add('Where', valid, x, void), TensorProto.UINT8)
    level = nodes.cast(nodes.add('Where', valid, void, sure), TensorProto.UINT8)
    nodes.reshape(mask, (-1, *size), name='mask')
    nodes.reshape(level, (-1, *size), name='confidence')


def bilinear_matrix(source: int, target: int) -> np.ndarray:
    """
    Return float32 ``[target, source]``; row i holds the weights of output i.

    Pixel centres lie at halves, edges are repeated (``align_corners=False``).
    """
    at = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.minimum(at.astype(np.int64), max(source - 2, 0))
    high = np.minimum(low + 1, source - 1)
    weights = np.zeros((target, source))
    rows = np.arange(target)
    weights[rows, low] += 1 - (at - low)
    weights[rows, high] += at - low
    return weights.astype(np.float32)


def normalised(images: np.ndarray, view: InputFacts) -> np.ndarray:
    """
    Return what the foreign graph takes, computed apart from our graph.

    :param images: uint8 ``[N, H, W, 3]`` in the network's channel order.
    """
    spec: InputSpec = view.spec
    x = images
    if view.dtype != 'uint8':
        x = ((images.astype(np.float64) * spec.scale - np.asarray(spec.mean))
             / np.asarray(spec.std)).astype(view.dtype)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2) if view.layout == 'nchw' else x)


def _opset(model: Any) -> int:
    return next(o.version for o in model.opset_import if o.domain in ('', 'ai.onnx'))

