"""Codecs: what comes back is what went in, as far as each promises."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kd_perception.errors import ConfigError
from kd_perception.tasks.soft_labels import CODECS, SoftLabelCodec

K = 7


@pytest.fixture
def logits() -> np.ndarray:
    """Return smooth logits [7, 32, 48] with clear regions and the spread of a trained net."""
    generator = np.random.default_rng(3)
    coarse = generator.normal(0, 8, (K, 5, 7))
    rows, columns = np.linspace(0, 3.999, 32), np.linspace(0, 5.999, 48)
    r, c = rows.astype(int), columns.astype(int)
    fr, fc = (rows - r)[:, None], (columns - c)[None]
    top = coarse[:, r][:, :, c] * (1 - fc) + coarse[:, r][:, :, c + 1] * fc
    low = coarse[:, r + 1][:, :, c] * (1 - fc) + coarse[:, r + 1][:, :, c + 1] * fc
    return (top * (1 - fr) + low * fr + 5).astype(np.float32)


def softmax(x: np.ndarray, temperature: float) -> np.ndarray:
    e = np.exp((x - x.max(0)).astype(np.float64) / temperature)
    return e / e.sum(0)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * (np.log(p + 1e-30) - np.log(q + 1e-30))).sum(0).mean())


@pytest.mark.parametrize(('name', 'limit'), [('fp16', 1e-6), ('u8', 1e-3), ('packed', 3e-3)])
@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_distributions_survive(logits: np.ndarray, name: str, limit: float,
                               temperature: float) -> None:
    codec = SoftLabelCodec(name, stride=1)
    back = codec.decode(codec.encode(logits))
    assert back.dtype == np.float32
    assert back.shape == logits.shape
    assert (back.max(0) == 0).all()
    assert (back.argmax(0) == logits.argmax(0)).mean() > (0.99 if name == 'packed' else 0.999)
    assert divergence(softmax(logits, temperature), softmax(back, temperature)) < limit
    assert codec.serves('softmax', temperature)


@pytest.mark.parametrize('temperature', [0.5, 1.0])
def test_top_k_keeps_the_rest_at_its_temperature(logits: np.ndarray, temperature: float) -> None:
    codec = SoftLabelCodec('topk', stride=1, k=3, temperature=temperature)
    record = codec.encode(logits)
    back = softmax(codec.decode(record), temperature)
    truth = softmax(logits, temperature)
    order = np.argsort(-logits, 0, kind='stable')
    for table in (back, truth):
        np.testing.assert_allclose(table.sum(0), 1)
    kept = np.take_along_axis(truth, order[:3], 0)
    np.testing.assert_allclose(np.take_along_axis(back, order[:3], 0), kept, atol=0.02)
    np.testing.assert_allclose(np.take_along_axis(back, order[3:], 0).sum(0),
                               1 - kept.sum(0), atol=0.02)
    assert codec.serves('softmax', temperature)
    assert not codec.serves('softmax', temperature + 1)
    assert sum(a.nbytes for a in record.values()) < 8 * 32 * 48


def test_top_k_of_few_classes_keeps_all(logits: np.ndarray) -> None:
    codec = SoftLabelCodec('topk', stride=1, k=3)
    few = logits[:2]
    back = codec.decode(codec.encode(few))
    np.testing.assert_allclose(back, few - few.max(0), atol=0.2)


@pytest.mark.parametrize('name', CODECS)
def test_stride_averages_areas(logits: np.ndarray, name: str) -> None:
    codec = SoftLabelCodec(name, stride=4, k=K)
    back = codec.decode(codec.encode(logits))
    mean = logits.reshape(K, 8, 4, 12, 4).mean((2, 4))
    assert back.shape == (K, 8, 12)
    below = np.maximum(mean - mean.max(0), -24) if name == 'packed' else mean - mean.max(0)
    np.testing.assert_allclose(back, below, atol=0.4 if name == 'packed' else 0.25)


def test_packed_keeps_the_winner_where_it_is_finer(logits: np.ndarray) -> None:
    codec = SoftLabelCodec('packed', stride=4)
    record = codec.encode(logits)
    np.testing.assert_array_equal(codec.winner(record), logits.argmax(0))
    twice = codec.winner(codec.encode(logits, (64, 96)))
    assert twice is not None
    assert (twice[::2, ::2] == logits.argmax(0)).mean() > 0.9
    # Logits that are kept as they are need no winner beside them, nor do other codecs have one.
    assert codec.winner(SoftLabelCodec('packed', stride=1).encode(logits)) is None
    assert codec.winner(SoftLabelCodec('u8').encode(logits)) is None


def test_a_damaged_packed_record_is_refused(logits: np.ndarray) -> None:
    codec = SoftLabelCodec('packed')
    record = codec.encode(logits)
    for change in ({'planes': record['planes'][:40]}, {'planes': np.zeros(9, np.uint8)},
                   {'shape': np.array([K, 9, 12], np.uint16)}):
        with pytest.raises(ConfigError, match='are no planes of shape'):
            codec.decode({**record, **change})
    with pytest.raises(ConfigError, match='are no ids of shape'):
        codec.winner({**record, 'winner': record['winner'][:-9]})


def test_stride_refers_to_the_full_size(logits: np.ndarray) -> None:
    codec = SoftLabelCodec('fp16', stride=4)
    # Logits at stride 2 of a 64x96 picture: halved once more.
    assert codec.grid((32, 48), (64, 96)) == (16, 24)
    assert codec.encode(logits, (64, 96))['logits'].shape == (K, 16, 24)
    # Coarser than the codec's stride: kept, never enlarged.
    assert codec.grid((32, 48), (256, 384)) == (32, 48)
    assert codec.grid((10, 10), (10, 10)) == (3, 3)


def test_constant_and_huge_logits() -> None:
    for value in (np.zeros((3, 4, 4)), np.full((3, 4, 4), 1e5), np.arange(48.).reshape(3, 4, 4)
                  * 1e4):
        for name in CODECS:
            codec = SoftLabelCodec(name, stride=1)
            back = codec.decode(codec.encode(value.astype(np.float32)))
            assert np.isfinite(back).all()
            assert (back.argmax(0) == value.argmax(0)).all()


def test_bad_logits_are_refused(logits: np.ndarray) -> None:
    logits[0, 0, 0] = np.nan
    with pytest.raises(ConfigError, match='finite'):
        SoftLabelCodec('u8', stride=1).encode(logits)
    with pytest.raises(ConfigError, match='K, h, w'):
        SoftLabelCodec('u8').encode(logits[0])


def test_manifest_form() -> None:
    for codec in (SoftLabelCodec('u8', 8), SoftLabelCodec('topk', 4, k=2, temperature=4.0)):
        assert SoftLabelCodec.from_dict(json.loads(json.dumps(codec.to_dict()))) == codec
    for bad in ({'name': 'jpeg', 'stride': 4}, {'name': 'u8'}, {'name': 'u8', 'stride': 0},
                {'name': 'u8', 'stride': 4, 'quality': 3},
                {'name': 'topk', 'stride': 4, 'params': {'j': 1}}):
        with pytest.raises(ConfigError):
            SoftLabelCodec.from_dict(bad)


def test_what_is_served() -> None:
    assert not SoftLabelCodec('fp16').serves('logits', 4.0)
    assert not SoftLabelCodec('u8').serves('softmax', 0.1)
    assert not SoftLabelCodec('u8').serves('softmax', 0.0)
    assert not SoftLabelCodec('topk').serves('softmax', 3.0)
    # What is spread evenly, or cut off, is most of a lesson that is softened much.
    assert not SoftLabelCodec('topk', temperature=4.0).serves('softmax', 4.0)
    for looks_at in ('softmax', 'logits'):
        assert SoftLabelCodec('packed', offset=True).serves(looks_at, 4.0)
        assert not SoftLabelCodec('packed', offset=True).serves(looks_at, 4.5)
        assert SoftLabelCodec('u8', offset=True).serves(looks_at, 100.0)
    for temperature in (1.0, 4.0):
        served = [c for c in CODECS if SoftLabelCodec(c, temperature=temperature).serves(
            'the other classes', temperature)]
        assert served == ['fp16', 'u8']
    assert SoftLabelCodec('u8').serves('relative logits', 1.0)
    assert not SoftLabelCodec('topk').serves('relative logits', 1.0)


def test_foreign_record_is_refused(logits: np.ndarray) -> None:
    record = SoftLabelCodec('fp16').encode(logits)
    with pytest.raises(ConfigError, match='u8'):
        SoftLabelCodec('u8').decode(record)


@pytest.mark.parametrize('name', ['fp16', 'u8', 'packed'])
def test_kept_offsets_give_the_logits_themselves_back(logits: np.ndarray, name: str) -> None:
    plain, kept = (SoftLabelCodec(name, stride=4, offset=o) for o in (False, True))
    record = kept.encode(logits)
    without = plain.decode(plain.encode(logits))
    exact = SoftLabelCodec('fp16', stride=4, offset=True)
    back, mean = kept.decode(record), exact.decode(exact.encode(logits))
    np.testing.assert_allclose(back.max(0), mean.max(0), atol=0.02)
    np.testing.assert_allclose(back - back.max(0), without, atol=1e-5)
    # Two bytes per cell and no more.
    size = sum(a.nbytes for a in record.values())
    assert size == sum(a.nbytes for a in plain.encode(logits).values()) + 2 * 8 * 12
    assert kept.serves('logits', 4.0)
    assert not plain.serves('logits', 4.0)
    assert SoftLabelCodec.from_dict(json.loads(json.dumps(kept.to_dict()))) == kept
    assert kept.to_dict() != plain.to_dict()


def test_offsets_of_what_is_spread_evenly_are_refused() -> None:
    with pytest.raises(ConfigError, match='--codec packed --keep-logits'):
        SoftLabelCodec('topk', offset=True)


@pytest.mark.parametrize(('codec', 'looks_at', 'temperature', 'advice'), [
    (SoftLabelCodec(), 'logits', 4, '--keep-logits'),
    (SoftLabelCodec(), 'features', 1, '--distillation.view online'),
    (SoftLabelCodec('u8'), 'softmax', 0.25, '--codec fp16'),
    (SoftLabelCodec('topk', temperature=0.5), 'softmax', 1, '--codec topk --temperature 1'),
    (SoftLabelCodec('topk'), 'softmax', 4, 'label again with --codec packed'),
    (SoftLabelCodec('topk'), 'logits', 4, '--codec packed --keep-logits'),
    (SoftLabelCodec(), 'softmax', 8, '--codec u8'),
    (SoftLabelCodec(offset=True), 'logits', 8, '--codec u8 --keep-logits'),
    (SoftLabelCodec(), 'the other classes', 4, '--codec u8'),
    (SoftLabelCodec(), 'the other classes', 0.25, '--codec fp16'),
    (SoftLabelCodec('topk'), 'relative logits', 1, '--codec packed')])
def test_what_is_not_served_comes_with_the_flag_that_helps(
        codec: SoftLabelCodec, looks_at: str, temperature: float, advice: str) -> None:
    assert not codec.serves(looks_at, temperature)
    assert advice in codec.advice(looks_at, temperature)
