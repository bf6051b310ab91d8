"""
What every engine does, in every precision that it has on this machine.

A new engine is one line in ``CASES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest
import torch

from kd_perception.bundle import ModelBundle
from kd_perception.engines import openvino_engine
from kd_perception.engines.engine import Engine
from kd_perception.engines.loader import available_engines, load_engine
from kd_perception.errors import EngineError
from kd_perception.paths import child_environment

Images = Callable[[int], np.ndarray]
Maker = Callable[..., ModelBundle]

# Share of mask pixels that must be those of torch in fp32.
AGREEMENT = {'fp32': 0.999, 'fp16': 0.995, 'bf16': 0.995, 'int8': 0.985}
# Mean difference from its confidence, of 255.
CONFIDENCE = {'fp32': 0.1, 'fp16': 3, 'bf16': 3, 'int8': 6}


@dataclass(frozen=True)
class Case:
    """One way to run a bundle."""

    engine: str
    precision: str
    device: str = 'cpu'

    def __str__(self) -> str:
        return f'{self.engine}-{self.device}-{self.precision}'

    def load(self, bundle: ModelBundle, graph: str = 'deploy') -> Engine:
        return load_engine(bundle, self.engine, device=self.device, precision=self.precision,
                           graph=graph)

    def absent(self) -> str:
        """Return why this machine cannot run it, or ''."""
        state = available_engines()[self.engine]
        if state.startswith('missing'):
            return state
        if self.device != 'cpu' and self.engine == 'onnxruntime':
            import onnxruntime
            provider = {'cuda': 'CUDA', 'tensorrt': 'Tensorrt'}[self.device]
            if f'{provider}ExecutionProvider' not in onnxruntime.get_available_providers():
                return f'built without {provider}'
        elif self.device == 'cuda' and not torch.cuda.is_available():
            return 'no CUDA device'
        if self.engine == 'openvino' and self.precision in ('bf16', 'fp16'):
            core = openvino_engine._shared_core()
            if self.precision.upper() not in core.get_property(
                    'CPU', 'OPTIMIZATION_CAPABILITIES'):
                return f'this processor has no {self.precision}'
        return ''


CASES = (
    Case('torch', 'fp32'), Case('torch', 'bf16'), Case('onnxruntime', 'fp32'),
    Case('onnxruntime', 'int8'), Case('openvino', 'fp32'), Case('openvino', 'bf16'),
    Case('openvino', 'fp16'), Case('openvino', 'int8'),
    Case('torch', 'fp32', 'cuda'), Case('torch', 'fp16', 'cuda'), Case('torch', 'bf16', 'cuda'),
    Case('onnxruntime', 'fp32', 'cuda'), Case('onnxruntime', 'fp16', 'cuda'),
    Case('onnxruntime', 'fp32', 'tensorrt'), Case('onnxruntime', 'fp16', 'tensorrt'),
    Case('onnxruntime', 'int8', 'tensorrt'),
    Case('tensorrt', 'fp32', 'cuda'), Case('tensorrt', 'fp16', 'cuda'),
    Case('tensorrt', 'int8', 'cuda'))
ABSENT = {case: case.absent() for case in CASES}


@pytest.mark.parametrize('left_out', [c for c in CASES if ABSENT[c]], ids=str)
def test_not_here(left_out: Case) -> None:
    pytest.skip(f'{left_out}: {ABSENT[left_out]}')


@pytest.fixture(scope='module', params=[c for c in CASES if not ABSENT[c]], ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope='module')
def prepared(case: Case, quantized: Maker, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Return what makes of a bundle what the case can run: int8 needs a graph of its own."""
    def make(bundle: ModelBundle, frames: np.ndarray) -> ModelBundle:
        if case.precision != 'int8':
            return bundle
        return quantized(bundle, frames, tmp_path_factory.mktemp('int8') / 'q',
                         symmetric='tensorrt' in (case.engine, case.device))

    return make


@pytest.fixture(scope='module')
def small(small: ModelBundle, images: Images, prepared: Maker) -> ModelBundle:
    return prepared(small, images(4))


@pytest.fixture(scope='module')
def tiny(tiny: ModelBundle, prepared: Maker) -> ModelBundle:
    return prepared(tiny, np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8))


@pytest.fixture(scope='module')
def decisive(decisive: tuple[ModelBundle, np.ndarray],
             prepared: Maker) -> tuple[ModelBundle, np.ndarray]:
    bundle, frames = decisive
    return prepared(bundle, frames), frames


@pytest.fixture(scope='module')
def run(case: Case, small: ModelBundle) -> Iterator[Engine]:
    """Return the small network on the engine of the case."""
    engine = case.load(small)
    yield engine
    engine.close()


def test_masks_are_those_of_torch(case: Case,
                                  decisive: tuple[ModelBundle, np.ndarray]) -> None:
    bundle, frames = decisive
    run = case.load(bundle)
    assert run.precision == case.precision
    reference = load_engine(bundle, 'torch', precision='fp32').infer(frames)
    assert len(np.unique(reference['mask'])) == 8, 'the network must predict all classes'
    assert (reference['confidence'] > 230).mean() > 0.5, 'and be sure of most pixels'
    masks = np.concatenate([run.infer(frame[None])['mask'] for frame in frames])
    assert (masks == reference['mask']).mean() >= AGREEMENT[case.precision]
    confidence = run.infer(frames)['confidence'].astype(int)
    assert np.abs(confidence - reference['confidence']).mean() < CONFIDENCE[case.precision]
    run.close()


@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino'])
def test_the_shipped_teacher(shipped: tuple[ModelBundle, np.ndarray, np.ndarray],
                             engine: str) -> None:
    bundle, frame, expected = shipped
    run = Case(engine, 'fp32').load(bundle)
    assert (run.infer(frame)['mask'] == expected).mean() >= AGREEMENT['fp32']
    run.close()


def test_it_says_what_it_is(run: Engine, case: Case) -> None:
    assert isinstance(run, Engine)
    assert (run.name, run.device, run.precision) == (case.engine, case.device, case.precision)
    assert run.input_shape == (45, 80)
    assert run.output_names == ('mask', 'confidence')


def test_batches_of_changing_size(run: Engine, case: Case, images: Images) -> None:
    batch = images(4)
    alone = [run.infer(batch[i:i + 1])['mask'][0] for i in range(4)]
    for n in (4, 1, 3, 2, 1):
        result = run.infer(batch[:n])
        assert set(result) == {'mask', 'confidence'}
        for value in result.values():
            assert value.dtype == np.uint8
            assert value.shape == (n, 45, 80)
        # Another batch may take other kernels, and this network is random: near ties flip.
        limit = 0.999 if case.precision == 'fp32' else 0.97
        for i in range(n):
            assert (result['mask'][i] == alone[i]).mean() > limit


def test_logits(case: Case, small: ModelBundle, images: Images) -> None:
    if case.precision == 'int8':
        with pytest.raises(EngineError, match='no int8 logits graph'):
            case.load(small, 'logits')
        return
    run = case.load(small, 'logits')
    assert run.output_names == ('logits',)
    value = run.infer(images(2))['logits']
    assert value.dtype == np.float32
    assert value.shape == (2, 5, 12, 20)
    assert np.isfinite(value).all()
    run.close()


def test_repeatable_to_the_bit(run: Engine, images: Images) -> None:
    first = run.infer(images(1))
    for n in (1, 3, 1, 2, 1):
        run.infer(images(n + 4)[:n])
        again = run.infer(images(1))
        for name, value in first.items():
            assert (again[name] == value).all()


def test_results_are_the_callers(case: Case, small: ModelBundle, images: Images) -> None:
    run = case.load(small)
    given = images(1)
    before = given.copy()
    first = run.infer(given)
    kept = {name: value.copy() for name, value in first.items()}
    for n in range(2, 5):
        run.infer(images(n)[:1])
    run.close()
    del run
    assert (given == before).all()
    for name, value in first.items():
        assert (value == kept[name]).all()
        assert value.flags.writeable


def test_read_only_views_are_taken(run: Engine, images: Images) -> None:
    """A frame is often a view of a message's memory that nobody may write to."""
    given = images(1)
    expected = run.infer(given)['mask']
    frozen = np.frombuffer(given.tobytes(), np.uint8).reshape(given.shape)
    assert not frozen.flags.writeable
    assert (run.infer(frozen)['mask'] == expected).all()


@pytest.mark.parametrize(('bad', 'says'), [
    (np.zeros((1, 45, 81, 3), np.uint8), r'uint8\[N, 45, 80, 3\]'),
    (np.zeros((45, 80, 3), np.uint8), 'do not fit'),
    (np.zeros((0, 45, 80, 3), np.uint8), 'do not fit'),
    (np.zeros((1, 45, 80, 3), np.float32), 'float32'),
    (np.zeros((1, 45, 80, 6), np.uint8)[..., ::2], 'contiguous')])
def test_wrong_images_are_refused(run: Engine, bad: np.ndarray, says: str) -> None:
    with pytest.raises(EngineError, match=says) as caught:
        run.infer(bad)
    assert '\n' not in str(caught.value)


def test_closing(case: Case, small: ModelBundle, images: Images) -> None:
    run = case.load(small)
    run.infer(images(1))
    run.close()
    with pytest.raises(EngineError, match='closed'):
        run.infer(images(1))
    run.close()


def test_a_graph_for_one_picture(case: Case, small: ModelBundle, images: Images,
                                 fixed_batch: Maker, tmp_path: Path) -> None:
    """Foreign graphs may fix their batch."""
    if case.engine == 'torch' or case.precision == 'int8':
        return  # they have other files, whose batch is free
    run = case.load(fixed_batch(small, 1, tmp_path / 'one'))
    expected = case.load(small).infer(images(1))
    assert (run.infer(images(1))['mask'] == expected['mask']).mean() > 0.97
    with suppress(EngineError):  # the node gives it one after the other then
        assert run.infer(images(3))['mask'].shape == (3, 45, 80)
    assert (run.infer(images(1))['mask'] == expected['mask']).mean() > 0.97
    run.close()


def test_a_graph_for_several_pictures_only(case: Case, small: ModelBundle, images: Images,
                                           fixed_batch: Maker, tmp_path: Path) -> None:
    if case.engine == 'torch' or case.precision == 'int8':
        return
    bundle = fixed_batch(small, 4, tmp_path / 'four')
    if case.engine == 'openvino':  # it gives the graph another shape
        assert case.load(bundle).infer(images(1))['mask'].shape == (1, 45, 80)
        return
    with pytest.raises(EngineError, match='exactly 4 images in each call') as caught:
        case.load(bundle)
    assert '\n' not in str(caught.value)


# Calls and pictures per call, so that lost results would be 2 MB at least. Torch takes
# milliseconds even for nothing: as many calls as of the others are for who has the time.
TORCH_CALLS = int(os.environ.get('KD_PERCEPTION_TORCH_CALLS', '300'))
CALLS = {'torch': (TORCH_CALLS, 4)}


@pytest.mark.timeout(180 + TORCH_CALLS // 10)
def test_no_memory_is_lost_over_many_calls(case: Case, tiny: ModelBundle,
                                           own_cache: Path) -> None:
    """In a process of its own: other tests' memory is not this engine's."""
    code = (
        'import sys, numpy as np, psutil\n'
        'from kd_perception.bundle import load_bundle\n'
        'from kd_perception.engines.loader import load_engine\n'
        'path, engine, device, precision, calls, batch = sys.argv[1:]\n'
        'run = load_engine(load_bundle(path), engine, device=device, precision=precision,\n'
        '                  threads=1)\n'
        'images = np.random.default_rng(0).integers(0, 256, (int(batch), 32, 32, 3), np.uint8)\n'
        'rss = psutil.Process().memory_info\n'
        'for call in range(int(calls)):\n'
        '    run.infer(images)\n'
        '    if call == int(calls) // 10:\n'
        '        before = rss().rss\n'
        'print(rss().rss - before)\n'
        'run.close()\n')
    calls, batch = CALLS.get(case.engine, (10_000, 1))
    done = subprocess.run(
        [sys.executable, '-c', code, str(tiny.path), case.engine, case.device, case.precision,
         str(calls), str(batch)], env=child_environment(), capture_output=True, text=True,
        timeout=150 + TORCH_CALLS // 10, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 1.5e6
