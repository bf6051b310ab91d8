"""
ONNX files of other makers: read with care, reduced to one input and the outputs that matter.

A file is data from somewhere: what it claims of itself is checked before anything runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.errors import BundleError, first_line

try:
    import onnx
    from onnx import external_data_helper, inliner
except ImportError as error:
    raise BundleError(f'reading ONNX graphs needs onnx ({error}); '
                      "pip install 'kd_perception[train]'") from None

# One protobuf message, so one graph with its weights, holds no more.
MAX_BYTES = 2**31 - 1
_MARGIN = 1 << 20
MIN_OPSET = 7
# Domains that ONNX Runtime brings along.
_KNOWN_DOMAINS = ('', 'ai.onnx', 'ai.onnx.ml', 'com.microsoft')
_PLAIN_DOMAINS = ('', 'ai.onnx')


@dataclass(frozen=True)
class Port:
    """
    An input or output of a graph.

    :param dtype: numpy name of the element type.
    :param shape: sides; None where the graph leaves one open.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sides = ', '.join('?' if s is None else str(s) for s in self.shape)
        return f'{self.name} {self.dtype}[{sides}]'


@dataclass(frozen=True)
class GraphFile:
    """
    A graph that was read and found sound, weights inside.

    :param sha256: of the file, and of its external data where it has some.
    :param needs: domains beyond plain ONNX, which not every runtime has.
    """

    path: Path
    model: Any
    sha256: str
    opset: int
    input: Port
    outputs: tuple[Port, ...]
    metadata: dict[str, str]
    needs: tuple[str, ...]

    def output(self, name: str) -> Port:
        """
        Return an output by name.

        :raises BundleError: which lists those there are.
        """
        for port in self.outputs:
            if port.name == name:
                return port
        raise BundleError(f'{self.path}: has no output {name!r}; it has '
                          f'{"; ".join(map(str, self.outputs))}')


def read_graph(path: Path) -> GraphFile:
    """
    Read an ONNX file with its external data.

    :raises BundleError: one line, for a file that is none, is damaged, too large, needs operators
        of its own or has not exactly one picture as input.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise BundleError(f'{path}: is no regular file; give the path of an ONNX file')
        if size > MAX_BYTES:
            raise BundleError(f'{path}: has {size / 1e9:.1f} GB; one ONNX file holds at most 2')
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f'{path}: not readable: {error.strerror}') from None
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
        sound = bool(model.graph.node and model.graph.output and model.opset_import)
    except Exception as error:  # DecodeError, and what else a damaged message raises
        raise BundleError(f'{path}: is no ONNX file or is damaged: {first_line(error)}') from None
    if not sound:
        raise BundleError(f'{path}: is no ONNX file or is damaged: it holds no graph')
    digest = hashlib.sha256(content)
    del content
    try:
        _load_external(model, path, digest)
        needs = _domains(model, path)
        model = _plain(model, path)
        opset = next(o.version for o in model.opset_import if o.domain in _PLAIN_DOMAINS)
        inputs = _inputs(model)
        outputs = tuple(_port(o, path) for o in model.graph.output)
        metadata = {m.key: m.value for m in model.metadata_props}
    except BundleError:
        raise
    except Exception as error:  # the message parsed, but is not what its fields promise
        raise BundleError(f'{path}: is damaged: {first_line(error)}') from None
    if len(inputs) != 1:
        told = '; '.join(str(_port(i, path)) for i in inputs[:4]) or 'none'
        raise BundleError(f'{path}: has {len(inputs)} inputs ({told}); only graphs that take one '
                          'picture and nothing else can be imported')
    return GraphFile(path, model, digest.hexdigest(), opset, _port(inputs[0], path), outputs,
                     metadata, needs)


def pruned(model: Any, output: str) -> Any:
    """Return a copy of a model that computes one of its outputs and nothing else."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    needed, kept = {output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_read_by(node))
    nodes = kept[::-1]
    chosen = [o for o in graph.output if o.name == output]
    weights = [i for i in graph.initializer if i.name in needed]
    for repeated, values in ((graph.node, nodes), (graph.output, chosen),
                             (graph.initializer, weights)):
        copies = [_copy(v) for v in values]
        del repeated[:]
        repeated.extend(copies)
    names = {i.name for i in graph.initializer}
    inputs = [_copy(i) for i in graph.input if i.name not in names]
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.value_info[:]  # sizes in there may be of another input size
    del graph.quantization_annotation[:]
    return out


def subgraphs(attribute: Any) -> list[Any]:
    """Return the graphs that an attribute of a node holds, as the branches of an ``If``."""
    return [*attribute.graphs, *([attribute.g] if attribute.HasField('g') else [])]


def constants(model: Any) -> dict[str, np.ndarray]:
    """Return small constants of a graph by name: initializers and ``Constant`` nodes."""
    tensors = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == 'Constant' and node.output:
            tensors.update((node.output[0], a.t) for a in node.attribute if a.name == 'value')
    found = {}
    for name, tensor in tensors.items():
        # They only help to guess: what is damaged shows when the graph runs.
        with suppress(Exception):
            if 0 < int(np.prod(tensor.dims)) <= 16:
                found[name] = onnx.numpy_helper.to_array(tensor)
    return found


def _load_external(model: Any, path: Path, digest: Any) -> None:
    """Bring weights beside the file into the message, from plain files of its folder only."""
    total = model.ByteSize()
    for tensor in _tensors(model):
        if not external_data_helper.uses_external_data(tensor):
            continue
        entries = {e.key: e.value for e in tensor.external_data}
        location = entries.get('location', '')
        file = path.parent / location
        if (not location or Path(location).is_absolute() or '..' in Path(location).parts
                or not file.resolve().is_relative_to(path.parent.resolve())):
            raise BundleError(f'{path}: tensor {tensor.name!r} refers to {location!r}, which is '
                              'not in the folder of the graph')
        if not file.is_file():
            raise BundleError(f'{path}: its weights are in {file}, which is missing; copy both '
                              'files')
        try:
            offset = int(entries.get('offset') or 0)
            length = int(entries.get('length') or file.stat().st_size - offset)
        except ValueError:
            offset = length = -1
        if offset < 0 or length < 0 or offset + length > file.stat().st_size:
            raise BundleError(f'{file}: is shorter than {path.name} says; copy both files again')
        total += length
        if total > MAX_BYTES - _MARGIN:
            raise BundleError(f'{path}: has more than 2 GB of weights, which one ONNX file cannot '
                              'hold; export it in float16')
        with file.open('rb') as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        digest.update(tensor.raw_data)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _domains(model: Any, path: Path) -> tuple[str, ...]:
    """
    Return the domains beyond plain ONNX that a graph needs.

    :raises BundleError: for operators that no runtime here has.
    """
    own = {(f.domain, f.name) for f in model.functions}
    used = {(n.domain, n.op_type) for n in _nodes(model)} - own
    foreign = sorted(f'{d}::{o}' for d, o in used if d not in _KNOWN_DOMAINS)
    if foreign:
        raise BundleError(f'{path}: needs operators that are no part of ONNX: '
                          f'{", ".join(foreign[:4])}; export it without them')
    known = {s.name for s in onnx.defs.get_all_schemas_with_history()
             if s.domain in _PLAIN_DOMAINS}
    unknown = sorted(o for d, o in used if d in _PLAIN_DOMAINS and o not in known)
    if unknown:
        raise BundleError(f'{path}: needs operators that are no part of ONNX: '
                          f'{", ".join(unknown[:4])}; export it without them')
    return tuple(sorted({d for d, _ in used if d not in _PLAIN_DOMAINS}))


def _plain(model: Any, path: Path) -> Any:
    """Return a model without functions, in an opset that our own nodes are written for."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    version = next((o.version for o in model.opset_import if o.domain in _PLAIN_DOMAINS), 0)
    if version < MIN_OPSET:
        raise BundleError(f'{path}: is of opset {version}; export it with opset 13 or newer '
                          f'(at least {MIN_OPSET})')
    if version < 11:
        # Before 11 no operator resizes as networks are trained to.
        try:
            model = onnx.version_converter.convert_version(model, 17)
            _resize_as_before(model)
        except Exception as error:
            raise BundleError(f'{path}: opset {version} cannot be converted to 17 '
                              f'({first_line(error)}); export it with opset 13 or newer') from None
    return model


def _resize_as_before(model: Any) -> None:
    """
    Let a converted graph resize as the old operators did.

    They knew one way, from the upper left corner and rounding down; the converter leaves it out,
    and what is left out means pixel centres today.
    """
    old = {'coordinate_transformation_mode': 'asymmetric', 'nearest_mode': 'floor'}
    for node in model.graph.node:
        if node.op_type == 'Resize':
            given = {a.name for a in node.attribute}
            node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in old.items()
                                  if k not in given)


def _inputs(model: Any) -> list[Any]:
    # Old exporters list weights among the inputs.
    weights = {i.name for i in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in weights]


def _port(value: Any, path: Path) -> Port:
    kind = value.type.tensor_type
    if not value.type.HasField('tensor_type') or not kind.elem_type:
        raise BundleError(f'{path}: {value.name!r} is no tensor; only graphs of tensors can be '
                          'imported')
    try:
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    except KeyError:
        raise BundleError(f'{path}: {value.name!r} has an unknown element type') from None
    shape = tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)
    return Port(value.name, dtype, shape)


def _tensors(model: Any) -> Iterator[Any]:
    def of(graph: Any) -> Iterator[Any]:
        yield from graph.initializer
        yield from of_nodes(graph.node)

    def of_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField('t'):
                    yield attribute.t
                yield from attribute.tensors
                for graph in subgraphs(attribute):
                    yield from of(graph)

    yield from of(model.graph)
    for function in model.functions:
        yield from of_nodes(function.node)


def _nodes(model: Any) -> Iterator[Any]:
    def of(nodes: Iterable[Any]) -> Iterator[Any]:
        for node in nodes:
            yield node
            for attribute in node.attribute:
                for graph in subgraphs(attribute):
                    yield from of(graph.node)

    yield from of(model.graph.node)
    for function in model.functions:
        yield from of(function.node)


def _read_by(node: Any) -> Iterator[str]:
    """Yield the names that a node and the graphs within it read."""
    yield from node.input
    for attribute in node.attribute:
        for graph in subgraphs(attribute):
            for inner in graph.node:
                yield from _read_by(inner)
            for output in graph.output:
                yield output.name


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
