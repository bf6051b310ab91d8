"""
A graph with its precision written into it, as TensorRT wants it.

TensorRT 11 computes in the types that the graph names and in no others; before, builder flags
let it choose, also where it matters: in bfloat16 a confidence of 255.5 is 256, which is no byte.
So the part that costs time, from the first convolution to the last, becomes float16 or bfloat16,
and what comes before and after stays float32. TensorRT also takes bytes only at the very edge of
a graph: casts move there. Needs the package ``onnx``.

onnxconverter-common (1.16) would write float16 as well when it is told which nodes to leave, but
no bfloat16; which nodes, and the casts at the edges, would still be found here. The same function
in onnxruntime.transformers (1.31) leaves the nodes of such a graph unsorted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from kd_perception.errors import EngineError

# They move values and compute nothing: a cast may be drawn to their other side.
_MOVES = frozenset({'Transpose', 'Reshape', 'Identity', 'Squeeze', 'Unsqueeze', 'Flatten',
                    'Slice', 'Gather'})
_ANCHORS = frozenset({'Conv', 'ConvTranspose', 'Gemm'})
# Inputs that are float32 in every precision: regions and scales.
_ALWAYS_FLOAT = {'Resize': (1, 2), 'Upsample': (1,)}


def typed_graph(content: bytes, precision: str) -> bytes:
    """
    Return an ONNX graph with casts at its edges and its convolutions in ``precision``.

    :param precision: ``fp16`` or ``bf16``; ``fp32`` and ``int8`` leave the arithmetic alone.
    :raises EngineError: when onnx is missing or the graph computes on bytes.
    """
    try:
        import onnx
        from onnx import shape_inference
    except ImportError:
        raise EngineError("the package onnx is missing: pip install 'kd_perception[tensorrt]'"
                          ) from None
    model = onnx.load_from_string(content)
    del model.graph.value_info[:]  # types of tensors inside, some of which change now
    _cast_inputs(onnx, model.graph)
    _cast_outputs(onnx, model.graph)
    if precision in ('fp16', 'bf16'):
        typed = shape_inference.infer_shapes(model)
        types = {v.name: v.type.tensor_type.elem_type for v in (
            *typed.graph.value_info, *typed.graph.input, *typed.graph.output)}
        types.update({i.name: i.data_type for i in model.graph.initializer})
        _narrow(onnx, model.graph, types, precision)
    return model.SerializeToString()


def _cast_inputs(onnx: Any, graph: Any) -> None:
    """Let bytes become float32 before they are moved, not after."""
    kinds = onnx.TensorProto
    wide = {i.name: f'{i.name}_float' for i in graph.input
            if i.type.tensor_type.elem_type == kinds.UINT8}
    casts = [onnx.helper.make_node('Cast', [name], [new], to=kinds.FLOAT)
             for name, new in wide.items()]
    carried = set(wide.values())
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in wide:
                node.input[index] = wide[name]
        if not carried & set(node.input):
            continue
        if node.op_type == 'Cast':
            if node.attribute[0].i == kinds.FLOAT:
                node.op_type = 'Identity'
                del node.attribute[:]
        elif node.op_type in _MOVES:
            carried.update(node.output)
        elif node.op_type not in ('Shape', 'Size'):
            raise EngineError(f'tensorrt cannot compute on bytes: {node.op_type} {node.name} '
                              'takes uint8; cast the images to float first')
    _put_first(graph, casts)


def _cast_outputs(onnx: Any, graph: Any) -> None:
    """Let results become bytes after they were moved, not before."""
    kinds = onnx.TensorProto
    makers = {name: node for node in graph.node for name in node.output}
    uses = [name for node in graph.node for name in node.input]
    for output in graph.output:
        if output.type.tensor_type.elem_type != kinds.UINT8:
            continue
        last = node = makers[output.name]
        while node.op_type in _MOVES and node.input[0] in makers:
            node = makers[node.input[0]]
            if any(uses.count(name) != 1 for name in node.output):
                raise EngineError(f'tensorrt cannot give {output.name} as bytes: {node.op_type} '
                                  f'{node.name} is used twice')
        if node is last or node.op_type != 'Cast':
            continue
        node.attribute[0].i = kinds.FLOAT
        wide = f'{output.name}_float'
        last.output[list(last.output).index(output.name)] = wide
        graph.node.append(onnx.helper.make_node('Cast', [wide], [output.name], to=kinds.UINT8))


def _narrow(onnx: Any, graph: Any, types: dict[str, int], precision: str) -> None:
    """Let everything between the first and the last convolution compute in ``precision``."""
    kinds = onnx.TensorProto
    narrow = kinds.FLOAT16 if precision == 'fp16' else kinds.BFLOAT16
    inside = _between(list(graph.node))
    if not inside:
        raise EngineError(f'the graph has no convolution to compute in {precision}; choose fp32')
    weights = {i.name: i for i in graph.initializer}
    made: dict[tuple[str, int], str] = {}
    nodes: list[Any] = []

    def cast(name: str, kind: int) -> str:
        if (name, kind) not in made:
            new = made[name, kind] = f'{name}_{precision if kind == narrow else "fp32"}'
            if name in weights:
                graph.initializer.append(_narrowed(onnx, weights[name], new, narrow))
            else:
                nodes.append(onnx.helper.make_node('Cast', [name], [new], to=kind))
        return made[name, kind]

    results = {name for index in inside for name in graph.node[index].output
               if types.get(name) == kinds.FLOAT}
    for index, node in enumerate(graph.node):
        keep = _ALWAYS_FLOAT.get(node.op_type, ())
        for place, name in enumerate(node.input):
            if types.get(name) != kinds.FLOAT:
                continue
            if index in inside and name not in results and place not in keep:
                node.input[place] = cast(name, narrow)
            elif name in results and (index not in inside or place in keep):
                node.input[place] = cast(name, kinds.FLOAT)
        if index in inside and node.op_type == 'Cast' and node.attribute[0].i == kinds.FLOAT:
            node.attribute[0].i = narrow
        nodes.append(node)
    for output in graph.output:
        if output.name in results:
            inner = f'{output.name}_{precision}'
            for node in nodes:
                for names in (node.input, node.output):
                    for place, name in enumerate(names):
                        if name == output.name:
                            names[place] = inner
            nodes.append(onnx.helper.make_node('Cast', [inner], [output.name], to=kinds.FLOAT))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    used = {name for node in graph.node for name in node.input}
    kept = [i for i in graph.initializer if i.name in used]
    del graph.value_info[:], graph.initializer[:]
    graph.initializer.extend(kept)


def _between(nodes: list[Any]) -> set[int]:
    """Return the indices of nodes on a way from a convolution to a convolution, with these."""
    after = _reached(nodes, range(len(nodes)), lambda n: n.input, lambda n: n.output)
    before = _reached(nodes, reversed(range(len(nodes))), lambda n: n.output, lambda n: n.input)
    return after & before


def _reached(nodes: list[Any], order: Iterable[int], entry: Any, way_out: Any) -> set[int]:
    tensors: set[str] = set()
    found = set()
    for index in order:
        node = nodes[index]
        if node.op_type in _ANCHORS or tensors & set(entry(node)):
            found.add(index)
            tensors.update(name for name in way_out(node) if name)
    return found


def _narrowed(onnx: Any, tensor: Any, name: str, kind: int) -> Any:
    values = onnx.numpy_helper.to_array(tensor)
    if kind == onnx.TensorProto.FLOAT16:
        top = np.finfo(np.float16).max
        return onnx.numpy_helper.from_array(values.clip(-top, top).astype(np.float16), name)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype('<u2')
    return onnx.helper.make_tensor(name, kind, values.shape, rounded.tobytes(), raw=True)


def _put_first(graph: Any, first: list[Any]) -> None:
    rest = [type(node).FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend([*first, *rest])
