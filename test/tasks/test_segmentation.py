"""Decoding of engine outputs."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.errors import EngineError
from kd_perception.tasks.segmentation import decode, decode_batch


def outputs(n: int = 1) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {'mask': generator.integers(0, 5, (n, 6, 8)).astype(np.uint8),
            'confidence': generator.integers(0, 256, (n, 6, 8)).astype(np.uint8)}


def test_plain() -> None:
    given = outputs()
    result = decode(given)
    assert (result.mask == given['mask'][0]).all()
    assert (result.confidence == given['confidence'][0]).all()


@pytest.mark.parametrize('threshold', [0.25, 0.5, 1.0])
def test_threshold(threshold: float) -> None:
    given = outputs()
    before = given['mask'].copy()
    result = decode(given, confidence_threshold=threshold)
    unsure = given['confidence'][0] / 255.0 < threshold
    assert unsure.any()
    assert ((result.mask == 255) == unsure).all()
    assert (given['mask'] == before).all()


def test_output_size_is_nearest_and_after_the_threshold() -> None:
    given = outputs()
    result = decode(given, confidence_threshold=0.5, output_size=(12, 16))
    small = decode(given, confidence_threshold=0.5)
    assert (result.mask == small.mask.repeat(2, 0).repeat(2, 1)).all()
    assert (result.confidence == small.confidence.repeat(2, 0).repeat(2, 1)).all()


def test_batch() -> None:
    given = outputs(3)
    results = decode_batch(given)
    assert len(results) == 3
    assert (results[2].mask == given['mask'][2]).all()
    with pytest.raises(EngineError, match='3 masks where 1'):
        decode(given)


def test_wrong_outputs() -> None:
    with pytest.raises(EngineError, match='lack'):
        decode({'logits': np.zeros((1, 5, 6, 8), np.float32)})
    given = outputs()
    given['mask'] = given['mask'].astype(np.int64)
    with pytest.raises(EngineError, match='uint8'):
        decode(given)
