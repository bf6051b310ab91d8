"""Small foreign graphs, written operator by operator without torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import pytest

SIZE = (32, 48)
CLASSES = 4


@pytest.fixture(scope='session')
def weights() -> np.ndarray:
    """Return float32 [K, 3]: what each class likes of the colours."""
    # A seed for which every class is the best of some colour, of the first two alone as well.
    return (np.random.default_rng(453).normal(0, 8, (CLASSES, 3))).astype(np.float32)


@pytest.fixture
def make_graph(tmp_path: Path, weights: np.ndarray) -> Callable[..., Path]:
    """
    Return a writer of graphs: a 1x1 convolution with a stride, and what may follow it.

    ``ends`` is softmax, log (not finite), sigmoid (of one: without its axis), ids, far ids (from
    100 on), ids in floats (float ...), upsample linear or nearest, or one map; ``layout`` and
    ``dtype`` are the input's; ``batch`` and ``size`` may be names, which leave the side open.
    """
    def make(*, opset: int = 17, layout: str = 'nchw', out_layout: str = 'nchw',
             dtype: str = 'float32', ends: str = '', stride: int = 2, batch: Any = 'n',
             size: tuple[Any, Any] = SIZE, name: str = 'net.onnx', classes: int = CLASSES,
             metadata: dict[str, str] | None = None, more_outputs: bool = False) -> Path:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        nodes, x = [], 'images'

        def add(op: str, *inputs: str, **attributes: Any) -> str:
            output = f't{len(nodes)}'
            nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
            return output

        if layout == 'nhwc':
            x = add('Transpose', x, perm=[0, 3, 1, 2])
        if dtype == 'uint8':
            x = add('Mul', add('Cast', x, to=TensorProto.FLOAT), 'byte')
        x = add('Conv', x, 'w', strides=[stride, stride], kernel_shape=[1, 1])
        if ends == 'softmax':
            x = add('Softmax', x, axis=1)
        elif ends == 'log':
            x = add('Log', x)
        elif ends.startswith('sigmoid'):
            x = add('Sigmoid', x)
            # As "[:, 0]" is exported.
            x = add('Gather', x, 'zero', axis=1) if ends == 'sigmoid of one' else x
        elif ends.startswith('upsample'):
            x = add('Upsample', x, 'scales', mode=ends.split()[1])
        elif ends.endswith('ids') and not ends.startswith('float'):
            x = add('ArgMax', x, axis=1, keepdims=0)
            x = add('Add', x, 'hundred') if ends == 'far ids' else x
        elif ends.startswith('float'):
            x = add('ArgMax', x, axis=1, keepdims=int(ends == 'float plane'))
            x = add('Cast', x, to=TensorProto.FLOAT)
            x = add('Abs', x) if ends == 'float guess' else x
        elif ends == 'one map':
            x = add('ReduceMax', x, axes=[1], keepdims=0)
        if out_layout == 'nhwc' and not ends.endswith('ids'):
            x = add('Transpose', x, perm=[0, 2, 3, 1])
        nodes.append(helper.make_node('Identity', [x], ['logits']))
        w = weights[:classes] if classes <= CLASSES else np.tile(weights, (-(-classes // 4), 1))
        half = dtype == 'float16'
        constants = [numpy_helper.from_array(
            w[:classes, :, None, None].astype(np.float16 if half else np.float32), 'w')]
        if dtype == 'uint8':
            constants.append(numpy_helper.from_array(np.float32(1 / 255), 'byte'))
        more = {'sigmoid of one': ('zero', np.int64(0)), 'far ids': ('hundred', np.int64(100))}
        if ends.startswith('upsample'):
            more[ends] = ('scales', np.array([1, 1, stride, stride], np.float32))
        if ends in more:
            constants.append(numpy_helper.from_array(more[ends][1], more[ends][0]))
        shape = [batch, 3, *size] if layout == 'nchw' else [batch, *size, 3]
        given = helper.make_tensor_value_info('images', kind, shape)
        outputs = [helper.make_tensor_value_info(
            'logits', TensorProto.INT64 if ends in ('ids', 'far ids') else
            (TensorProto.FLOAT16 if half else TensorProto.FLOAT), None)]
        if more_outputs:
            nodes.append(helper.make_node('Neg', ['logits'], ['other']))
            outputs.append(helper.make_tensor_value_info('other', TensorProto.FLOAT, None))
        graph = helper.make_graph(nodes, 'net', [given], outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', opset)],
                                  ir_version=8)
        for key, value in (metadata or {}).items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return make
