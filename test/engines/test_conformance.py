"""Every engine and precision does what torch does, with a trained network on real frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kd_perception.bundle import ModelBundle
from kd_perception.engines.engine import Engine
from kd_perception.engines.loader import available_engines, load_engine
from kd_perception.errors import EngineError

ON_CPU = [('torch', 'fp32'), ('torch', 'bf16'), ('onnxruntime', 'fp32'), ('openvino', 'fp32'),
          ('openvino', 'bf16')]
LIMITS = {'fp32': 0.999, 'bf16': 0.995}


def load(bundle: ModelBundle, engine: str, precision: str, graph: str = 'deploy') -> Engine:
    if available_engines()[engine].startswith('missing'):
        pytest.skip(f'{engine} is {available_engines()[engine]}')
    try:
        return load_engine(bundle, engine, precision=precision, graph=graph)
    except EngineError as error:
        if precision == 'bf16':
            pytest.skip(f'no bf16 on this processor: {error}')
        raise


@pytest.mark.parametrize('network', ['trained', 'shipped'])
@pytest.mark.parametrize(('engine', 'precision'), ON_CPU)
def test_masks_agree_with_torch(request: pytest.FixtureRequest, network: str, engine: str,
                                precision: str) -> None:
    bundle, frames = request.getfixturevalue(network)
    reference = load(bundle, 'torch', 'fp32').infer(frames)
    assert len(np.unique(reference['mask'])) >= 8, 'the network must predict eight classes'
    assert (reference['confidence'] > 230).mean() > 0.5, 'and be sure of most pixels'
    run = load(bundle, engine, precision)
    assert run.precision == precision
    masks = np.concatenate([run.infer(frame[None])['mask'] for frame in frames])
    assert (masks == reference['mask']).mean() >= LIMITS[precision]
    confidence = run.infer(frames)['confidence'].astype(int)
    assert np.abs(confidence - reference['confidence']).mean() < (
        0.1 if precision == 'fp32' else 3)


@pytest.mark.parametrize(('engine', 'precision'), ON_CPU)
def test_shapes_types_and_names(small: ModelBundle, images: Callable[[int], np.ndarray],
                                engine: str, precision: str) -> None:
    run = load(small, engine, precision)
    assert isinstance(run, Engine)
    assert (run.name, run.device, run.precision) == (engine, 'cpu', precision)
    assert run.input_shape == (45, 80)
    assert run.output_names == ('mask', 'confidence')
    for n in (1, 3, 1):
        result = run.infer(images(n))
        assert set(result) == {'mask', 'confidence'}
        for value in result.values():
            assert value.dtype == np.uint8
            assert value.shape == (n, 45, 80)
    logits = load(small, engine, precision, 'logits')
    assert logits.output_names == ('logits',)
    value = logits.infer(images(2))['logits']
    assert value.dtype == np.float32
    assert value.shape == (2, 5, 12, 20)


@pytest.mark.parametrize('engine', ['torch', 'onnxruntime', 'openvino'])
def test_results_are_the_callers(small: ModelBundle, images: Callable[[int], np.ndarray],
                                 engine: str) -> None:
    run = load(small, engine, 'fp32')
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


@pytest.mark.parametrize('engine', ['torch', 'onnxruntime', 'openvino'])
def test_a_picture_in_a_batch_is_the_picture_alone(
        small: ModelBundle, images: Callable[[int], np.ndarray], engine: str) -> None:
    run = load(small, engine, 'fp32')
    batch = images(3)
    together = run.infer(batch)['mask']
    for i in range(3):
        assert (run.infer(batch[i:i + 1])['mask'][0] == together[i]).mean() > 0.999


@pytest.mark.parametrize('engine', ['torch', 'onnxruntime', 'openvino'])
def test_read_only_views_are_taken(small: ModelBundle, images: Callable[[int], np.ndarray],
                                   engine: str) -> None:
    """A frame is often a view of a message's memory that nobody may write to."""
    run = load(small, engine, 'fp32')
    given = images(1)
    expected = run.infer(given)['mask']
    frozen = np.frombuffer(given.tobytes(), np.uint8).reshape(given.shape)
    assert not frozen.flags.writeable
    assert (run.infer(frozen)['mask'] == expected).all()


@pytest.mark.parametrize('engine', ['torch', 'onnxruntime', 'openvino'])
@pytest.mark.parametrize(('bad', 'says'), [
    (np.zeros((1, 45, 81, 3), np.uint8), r'uint8\[N, 45, 80, 3\]'),
    (np.zeros((45, 80, 3), np.uint8), 'do not fit'),
    (np.zeros((0, 45, 80, 3), np.uint8), 'do not fit'),
    (np.zeros((1, 45, 80, 3), np.float32), 'float32'),
    (np.zeros((1, 45, 80, 6), np.uint8)[..., ::2], 'contiguous')])
def test_wrong_images_are_refused(small: ModelBundle, engine: str, bad: np.ndarray,
                                  says: str) -> None:
    with pytest.raises(EngineError, match=says):
        load(small, engine, 'fp32').infer(bad)


def test_the_cached_model_is_the_built_one(trained: tuple[ModelBundle, np.ndarray],
                                           own_cache: Path) -> None:
    bundle, frames = trained
    first = load(bundle, 'openvino', 'fp32').infer(frames[:1])
    blobs = {p: p.stat().st_mtime_ns for p in (own_cache / 'kd_perception').rglob('*.blob')}
    assert blobs
    second = load(bundle, 'openvino', 'fp32')
    assert second.precision == 'fp32'
    for name, value in second.infer(frames[:1]).items():
        assert (value == first[name]).all()
    for path, stamp in blobs.items():
        assert path.stat().st_mtime_ns == stamp
