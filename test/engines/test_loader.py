"""Choosing an engine, and one clear line where it cannot be had."""

from __future__ import annotations

import importlib.util
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from kd_perception import bundle as bundle_module
from kd_perception.bundle import DEPLOY, load_bundle, ModelBundle, WEIGHTS, write_bundle
from kd_perception.engines import loader
from kd_perception.engines.artefacts import ArtefactCache
from kd_perception.engines.choice import load_fastest
from kd_perception.engines.loader import (
    available_engines,
    check_possible,
    is_built,
    load_engine,
)
from kd_perception.errors import BundleError, EngineError
from kd_perception.paths import file_hash


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make the loader see a machine without these packages."""
    real = importlib.util.find_spec

    def find(name: str, *rest: Any) -> Any:
        return None if name in names else real(name, *rest)

    monkeypatch.setattr(loader.importlib.util, 'find_spec', find)


def test_auto_takes_the_first_installed(small: ModelBundle,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_engine(small).name == 'openvino'
    hide(monkeypatch, 'openvino')
    assert load_engine(small).name == 'onnxruntime'
    hide(monkeypatch, 'openvino', 'onnxruntime')
    assert load_engine(small).name == 'torch'
    hide(monkeypatch, *loader.ENGINES)
    with pytest.raises(EngineError, match='pip install'):
        load_engine(small)
    with pytest.raises(EngineError, match='openvino is missing: pip install'):
        load_engine(small, 'openvino')
    assert all(v.startswith('missing') for v in available_engines().values())


def test_available_engines_have_versions() -> None:
    for name, version in available_engines().items():
        assert version.startswith('missing') or version[0].isdigit(), name


@pytest.mark.parametrize(('wish', 'says'), [
    ({'engine': 'tensorflow'}, 'no engine named'),
    ({'precision': 'int4'}, 'one of auto, fp32'),
    ({'precision': 'int8'}, 'no int8 deploy graph, and this release cannot make one'),
    ({'precision': 'int8', 'graph': 'logits'}, 'no int8 logits graph'),
    ({'graph': 'teacher'}, 'one of deploy, logits'),
    ({'threads': -1}, 'threads'),
    ({'engine': 'onnxruntime', 'precision': 'bf16'}, 'in fp32 on cpu, not bf16'),
    ({'engine': 'onnxruntime', 'device': 'tpu'}, 'no device'),
    ({'engine': 'onnxruntime', 'device': 'cuda:x'}, 'no device'),
    ({'engine': 'openvino', 'device': 'cuda'}, 'no device'),
    ({'engine': 'openvino', 'device': 'gpu'}, 'finds no device gpu'),
    ({'engine': 'torch', 'device': 'tpu'}, 'cpu, cuda'),
    ({'engine': 'torch', 'device': 'cuda:'}, 'no device'),
    ({'engine': 'openvino', 'device': 'cpu:0'}, 'no device'),
    ({'device': 'banana'}, 'no device'),
    ({'engine': 'torch', 'precision': 'fp16'}, 'does not run fp16'),
    ({'engine': 'tensorrt'}, 'tensorrt is missing: pip install')])
def test_impossible_wishes(small: ModelBundle, wish: dict[str, Any], says: str) -> None:
    with pytest.raises(EngineError, match=says) as caught:
        load_engine(small, **wish)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('wish', [
    {'engine': 'openvino', 'device': 'cuda'}, {'engine': 'openvino', 'precision': 'int8'},
    {'engine': 'onnxruntime', 'device': 'tpu'}, {'engine': 'tensorflow'}])
def test_what_cannot_be_needs_no_building(small: ModelBundle, wish: dict[str, Any]) -> None:
    assert is_built(small, **wish)


@pytest.mark.parametrize('engine', ['torch', 'onnxruntime'])
def test_cuda_is_never_replaced_silently(small: ModelBundle, engine: str) -> None:
    import torch
    if torch.cuda.is_available():
        pytest.skip('this machine has a CUDA device')
    with pytest.raises(EngineError, match='CUDA'):
        load_engine(small, engine, device='cuda')


@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino'])
def test_a_flipped_byte_is_refused(small: ModelBundle, tmp_path: Path, engine: str) -> None:
    shutil.copytree(small.path, tmp_path / 'b')
    path = tmp_path / 'b' / DEPLOY
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match='differs from its hash'):
        load_engine(load_bundle(tmp_path / 'b', verify=False), engine)


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that are hashed while the test runs."""
    seen: list[str] = []
    monkeypatch.setattr(bundle_module, 'file_hash',
                        lambda path: seen.append(path.name) or file_hash(path))
    return seen


def test_only_what_the_engine_reads_is_hashed_and_once(small: ModelBundle,
                                                       hashes: list[str]) -> None:
    for engine, name in (('onnxruntime', DEPLOY), ('torch', WEIGHTS)):
        load_engine(small, engine).close()
        assert hashes == [name]
        hashes.clear()
    request: set[str] = set()
    for engine in ('onnxruntime', 'openvino', 'torch', 'torch'):
        load_engine(small, engine, hashed=request).close()
    assert hashes == [DEPLOY, WEIGHTS]
    load_engine(small, 'onnxruntime').close()
    assert hashes == [DEPLOY, WEIGHTS, DEPLOY], 'files may change: another request reads again'


def test_all_trials_of_a_choice_hash_once(small: ModelBundle, tmp_path: Path,
                                          hashes: list[str]) -> None:
    cache = ArtefactCache(tmp_path)
    load_fastest(small, cache=cache)[0].close()
    assert hashes == [DEPLOY]
    load_fastest(small, cache=cache)[0].close()
    assert hashes == [DEPLOY, DEPLOY]


def test_only_torch_is_compiled_on_demand(small: ModelBundle,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    asked: list[Any] = []
    monkeypatch.setattr(torch, 'compile', lambda module: asked.append(module) or module)
    load_engine(small, 'torch').close()
    assert not asked
    load_engine(small, 'torch', compiled=True).close()
    assert len(asked) == 1
    with pytest.raises(EngineError, match='openvino compiles by itself'):
        load_engine(small, 'openvino', compiled=True)


@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino'])
def test_a_graph_that_is_none_is_refused(small: ModelBundle, tmp_path: Path,
                                         engine: str) -> None:
    bundle = write_bundle(tmp_path / 'b', small.spec, {DEPLOY: b'not a graph'})
    with pytest.raises(EngineError, match='refuses the graph') as caught:
        load_engine(bundle, engine)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino'])
def test_runtimes_need_no_torch(small: ModelBundle, engine: str) -> None:
    """A vehicle has no torch: nothing on this way may import it."""
    code = (
        'import sys, numpy as np\n'
        'from kd_perception.bundle import load_bundle\n'
        'from kd_perception.engines.loader import load_engine\n'
        f'run = load_engine(load_bundle({str(small.path)!r}), {engine!r})\n'
        'run.infer(np.zeros((1, 45, 80, 3), np.uint8))\n'
        'assert "torch" not in sys.modules\n')
    subprocess.run([sys.executable, '-c', code], check=True, timeout=100)


def test_weights_alone_run_in_torch_only(small: ModelBundle, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / 'b', small.spec, {WEIGHTS: small.file(WEIGHTS)})
    assert load_engine(bundle, 'torch').name == 'torch'
    with pytest.raises(BundleError, match='kd_perception export'):
        load_engine(bundle)


@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino'])
def test_a_graph_that_fails_while_it_runs_is_one_line(small: ModelBundle, tmp_path: Path,
                                                      engine: str) -> None:
    """It reshapes to two pictures whatever comes; int64 takes the way of foreign graphs."""
    import onnx
    from onnx import helper, numpy_helper, TensorProto

    size = 45 * 80 * 3
    graph = helper.make_graph(
        [helper.make_node('Cast', ['images'], ['wide'], to=TensorProto.INT64),
         helper.make_node('Reshape', ['wide', 'shape'], ['mask'])], 'g',
        [helper.make_tensor_value_info('images', TensorProto.UINT8, ['n', 45, 80, 3])],
        [helper.make_tensor_value_info('mask', TensorProto.INT64, ['m', 's'])],
        [numpy_helper.from_array(np.array([2, size], np.int64), 'shape')])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    onnx.checker.check_model(model)
    bundle = write_bundle(tmp_path / 'b', small.spec, {DEPLOY: model.SerializeToString()})
    with pytest.raises(EngineError, match=f'{engine} (failed|refuses)') as caught:
        load_engine(bundle, engine).infer(np.zeros((1, 45, 80, 3), np.uint8))
    assert '\n' not in str(caught.value)


def test_int8_runs_the_quantized_file(small: ModelBundle, tmp_path: Path) -> None:
    # The content stands in for a quantized graph: what counts is which file is loaded.
    files = {name: small.file(name) for name in small.files}
    bundle = write_bundle(tmp_path / 'b', small.spec,
                          {**files, 'deploy.int8.onnx': small.file(DEPLOY)})
    for engine in ('onnxruntime', 'openvino'):
        run = load_engine(bundle, engine, precision='int8')
        assert run.precision == 'int8'
        assert run.infer(np.zeros((1, 45, 80, 3), np.uint8))['mask'].shape == (1, 45, 80)
    with pytest.raises(EngineError, match='torch does not run the int8'):
        load_engine(bundle, 'torch', precision='int8')


@pytest.mark.parametrize('engine', ['openvino', 'onnxruntime', 'torch'])
def test_threads_are_taken(small: ModelBundle, engine: str) -> None:
    import torch
    before = torch.get_num_threads()
    run = load_engine(small, engine, threads=1)
    assert run.infer(np.zeros((1, 45, 80, 3), np.uint8))['mask'].shape == (1, 45, 80)
    torch.set_num_threads(before)


def test_what_is_refused_without_a_bundle() -> None:
    check_possible()
    check_possible('onnxruntime', 'cuda:1')  # another engine may be asked for next
    with pytest.raises(EngineError, match="no engine has a device 'banana'; there are cpu, cuda"):
        check_possible('auto', 'banana')
    with pytest.raises(EngineError, match='no engine named'):
        check_possible('tensorflow')
