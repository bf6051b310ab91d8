"""ONNX files that are broken, huge or hostile: one line each, and nothing runs away."""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import onnx
from onnx import external_data_helper, helper, numpy_helper, TensorProto
import pytest

from kd_perception.errors import BundleError, KdPerceptionError
from kd_perception.networks.foreign import probe
from kd_perception.networks.foreign.facts import input_facts
from kd_perception.networks.foreign.graph_file import pruned, read_graph
from kd_perception.networks.foreign.import_onnx import import_onnx
from kd_perception.networks.foreign.wishes import Wishes

Make = Callable[..., Path]
FUZZ = int(os.environ.get('KD_PERCEPTION_FUZZ', '300'))


def refuse(path: Path, message: str) -> None:
    with pytest.raises(BundleError, match=message) as told:
        read_graph(path)
    assert '\n' not in str(told.value)


def test_no_graph_is_one_line(tmp_path: Path) -> None:
    refuse(tmp_path / 'none.onnx', 'not readable')
    for content in (b'', b'garbage', b'\x08\x08', bytes(1000)):
        (tmp_path / 'x.onnx').write_bytes(content)
        refuse(tmp_path / 'x.onnx', 'is no ONNX file or is damaged')


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'pipe.onnx')
    for path in (tmp_path, tmp_path / 'pipe.onnx'):
        # In a child, which can be ended if it waits.
        code = f'''
from pathlib import Path
from kd_perception.networks.foreign.graph_file import read_graph
read_graph(Path({str(path)!r}))
'''
        done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                              check=False, timeout=60)
        assert f'BundleError: {path}: is no regular file' in done.stderr


def test_more_than_two_gigabytes_are_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / 'x.onnx').open('wb') as stream:
        stream.truncate(3 * 10**9)
    refuse(tmp_path / 'x.onnx', '3.0 GB; one ONNX file holds at most 2')


def test_operators_of_others_are_refused(make_graph: Make) -> None:
    path = make_graph()
    model = onnx.load(path)
    model.graph.node[0].domain = 'team.ops'
    onnx.save(model, path)
    refuse(path, 'no part of ONNX: team.ops::Conv')
    model.graph.node[0].domain, model.graph.node[0].op_type = '', 'Konv'
    onnx.save(model, path)
    refuse(path, 'no part of ONNX: Konv')


def test_local_functions_are_no_foreign_operators(make_graph: Make) -> None:
    path = make_graph()
    model = onnx.load(path)
    body = helper.make_function('team.ops', 'Twice', ['x'], ['y'],
                                [helper.make_node('Add', ['x', 'x'], ['y'])],
                                [helper.make_opsetid('', 17)])
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid('team.ops', 1))
    model.graph.node[-1].CopyFrom(
        helper.make_node('Twice', list(model.graph.node[-1].input), ['logits'],
                         domain='team.ops'))
    onnx.save(model, path)
    assert {n.op_type for n in read_graph(path).model.graph.node} == {'Conv', 'Add'}


def test_weights_beside_the_file(make_graph: Make, tmp_path: Path) -> None:
    path = make_graph()
    model = onnx.load(path)
    expected = numpy_helper.to_array(model.graph.initializer[0])
    onnx.save(model, path, save_as_external_data=True, location='net.onnx_data',
              size_threshold=0)
    graph = read_graph(path)
    assert np.array_equal(numpy_helper.to_array(graph.model.graph.initializer[0]), expected)
    before = graph.sha256
    data = bytearray((tmp_path / 'net.onnx_data').read_bytes())
    data[0] ^= 1
    (tmp_path / 'net.onnx_data').write_bytes(data)
    assert read_graph(path).sha256 != before
    (tmp_path / 'net.onnx_data').write_bytes(data[:10])
    refuse(path, 'is shorter than net.onnx says')
    (tmp_path / 'net.onnx_data').unlink()
    refuse(path, 'which is missing; copy both files')


@pytest.mark.parametrize('location', ['../secret', '/etc/hostname', 'link'])
def test_weights_elsewhere_are_not_read(make_graph: Make, tmp_path: Path, location: str) -> None:
    path = make_graph()
    (tmp_path.parent / 'secret').write_bytes(bytes(1000))
    (tmp_path / 'link').symlink_to('/etc/hostname')
    model = onnx.load(path)
    external_data_helper.set_external_data(model.graph.initializer[0], location)
    model.graph.initializer[0].ClearField('raw_data')
    path.write_bytes(model.SerializeToString())
    refuse(path, 'not in the folder of the graph')


def test_one_picture_is_the_only_input(make_graph: Make) -> None:
    path = make_graph()
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info('scale', TensorProto.FLOAT, [1]))
    onnx.save(model, path)
    refuse(path, r'has 2 inputs \(images .*scale float32\[1\]\)')
    model.graph.initializer.append(numpy_helper.from_array(np.float32([1]), 'scale'))
    onnx.save(model, path)
    assert read_graph(path).input.name == 'images'


def test_pruning_leaves_what_the_output_needs(make_graph: Make) -> None:
    model = read_graph(make_graph(more_outputs=True)).model
    left = pruned(model, 'logits')
    assert [o.name for o in left.graph.output] == ['logits']
    assert 'Neg' not in {n.op_type for n in left.graph.node}
    assert len(model.graph.output) == 2


def test_a_graph_that_asks_for_all_memory(tmp_path: Path) -> None:
    nodes = [helper.make_node('ConstantOfShape', ['huge'], ['big']),
             helper.make_node('ReduceSum', ['big'], ['sum'], keepdims=0),
             helper.make_node('Add', ['images', 'sum'], ['out'])]
    graph = helper.make_graph(
        nodes, 'bomb',
        [helper.make_tensor_value_info('images', TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info('out', TensorProto.FLOAT, [1, 3, 8, 8])],
        [numpy_helper.from_array(np.array([1 << 40], np.int64), 'huge')])
    onnx.save(helper.make_model(graph, ir_version=8,
                                opset_imports=[helper.make_opsetid('', 17)]), tmp_path / 'b.onnx')
    with pytest.raises(BundleError, match='does not run on a picture|died of this graph'):
        import_onnx(tmp_path / 'b.onnx', None)


def test_a_graph_that_does_not_end(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node('Identity', ['c'], ['c2']), helper.make_node('Add', ['x', 'x'], ['x2'])],
        'body', [helper.make_tensor_value_info('i', TensorProto.INT64, []),
                 helper.make_tensor_value_info('c', TensorProto.BOOL, []),
                 helper.make_tensor_value_info('x', TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info('c2', TensorProto.BOOL, []),
         helper.make_tensor_value_info('x2', TensorProto.FLOAT, None)])
    graph = helper.make_graph(
        [helper.make_node('Loop', ['most', 'go', 'images'], ['out'], body=body)], 'endless',
        [helper.make_tensor_value_info('images', TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info('out', TensorProto.FLOAT, [1, 3, 8, 8])],
        [numpy_helper.from_array(np.array(1 << 60, np.int64), 'most'),
         numpy_helper.from_array(np.array(True), 'go')])
    path = tmp_path / 'b.onnx'
    onnx.save(helper.make_model(graph, ir_version=8,
                                opset_imports=[helper.make_opsetid('', 17)]), path)
    assert read_graph(path).input.name == 'images'
    job = probe.Job(str(path), 'onnxruntime', 'frame', (1, 3, 8, 8))
    with pytest.raises(BundleError, match='took more than 2 s'):
        probe.run([job], {'frame': np.zeros((1, 3, 8, 8), np.float32)}, 'b', timeout_s=2.0)


def test_no_module_beside_a_graph_is_run(make_graph: Make, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_graph()
    for name in ('onnxruntime', 'numpy', 'kd_perception'):
        (path.parent / f'{name}.py').write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(path.parent)
    job = probe.Job(path.name, 'onnxruntime', 'frame', (1, 3, 32, 48))
    results = probe.run([job], {'frame': np.zeros((1, 3, 32, 48), np.float32)}, 'b')
    assert isinstance(results[0], dict), results
    assert not (tmp_path / 'ran').exists()


def test_mutated_graphs_are_read_or_refused(make_graph: Make, tmp_path: Path) -> None:
    whole = make_graph(metadata={'names': "['a', 'b', 'c', 'd']"}).read_bytes()
    rng = np.random.default_rng(11)
    path = tmp_path / 'mutated.onnx'
    refused: list[str] = []
    for _ in range(FUZZ):
        data = bytearray(whole)
        for position in rng.integers(0, len(data), rng.integers(1, 6)):
            data[position] = rng.integers(256)
        if rng.random() < 0.2:
            data = data[:rng.integers(len(data))]
        path.write_bytes(data)
        try:
            input_facts(read_graph(path), Wishes())
        except KdPerceptionError as error:
            refused.append(str(error))
    assert refused
    assert not any('\n' in line for line in refused)
