from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kd_perception.bundle import ModelBundle
from kd_perception.distillation import cache as cache_module
from kd_perception.distillation.cache import SoftLabelCache
from kd_perception.distillation.cache_shards import (
    LabelledFrame,
    MANIFEST,
    open_for_writing,
    provenance,
    recording_id,
    shard_path,
    write_shard,
)
from kd_perception.errors import TrainingError
from kd_perception.frames import FrameKey
from kd_perception.paths import file_hash
from kd_perception.tasks.soft_labels import SoftLabelCodec

CODEC = SoftLabelCodec(name='fp16', stride=1)


def frame(index: int, codec: SoftLabelCodec = CODEC) -> LabelledFrame:
    logits = np.random.default_rng(index).normal(0, 3, (12, 4, 6)).astype(np.float32)
    return LabelledFrame(FrameKey('f' * 8, 'camera/image', index), 0, 10 * index, 'front',
                         codec.encode(logits))


@pytest.fixture
def written(tmp_path: Path, teacher: ModelBundle) -> Path:
    path = tmp_path / 'cache'
    open_for_writing(path, provenance(teacher, CODEC, 'fp32'))
    write_shard(shard_path(path, 'abc', 0), [frame(i) for i in (0, 2, 3)], bad=[1])
    write_shard(shard_path(path, 'abc', 1), [frame(i) for i in range(4, 12)])
    write_shard(shard_path(path, 'abc', 2), [], bad=[12, 13])
    return path


def test_gives_back_what_was_written_by_key(written: Path) -> None:
    cache = SoftLabelCache(written)
    assert len(cache) == len(cache.keys) == 11
    for index in (0, 2, 3, 11):
        key = FrameKey('f' * 8, 'camera/image', index)
        assert key in cache
        logits = np.random.default_rng(index).normal(0, 3, (12, 4, 6))
        np.testing.assert_allclose(cache[key], logits - logits.max(0), atol=0.02)
    side = json.loads(shard_path(written, 'abc', 0).with_suffix('.json').read_text())
    assert side['bad'] == [1]
    assert side['frames'][1]['log_ns'] == 20
    assert side['frames'][1]['frame_id'] == 'front'


def test_as_many_lessons_are_kept_decoded_as_there_is_room_for(
        written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SoftLabelCache(written)
    decoded = []
    decode = SoftLabelCodec.decode
    monkeypatch.setattr(SoftLabelCodec, 'decode', lambda codec, record: (
        decoded.append(1), decode(codec, record))[1])
    before = [cache.lesson(key)[0] for key in cache.keys]
    cache.keep(2.5 * before[0].nbytes)
    for _ in range(3):
        for key, expected in zip(cache.keys, before, strict=True):
            np.testing.assert_array_equal(cache.lesson(key)[0], expected)
    assert len(decoded) == 11 + 11 + 9 + 9
    assert not cache.lesson(cache.keys[0])[0].flags.writeable
    assert cache.lesson(cache.keys[2])[0].flags.writeable


def test_frames_that_are_missing_are_counted_and_named(written: Path) -> None:
    cache = SoftLabelCache(written)
    cache.require_frames(cache.keys)
    absent = FrameKey('f' * 8, 'camera/image', 1)
    with pytest.raises(TrainingError, match='1 of 12 frames have no soft labels.*image:1'):
        cache.require_frames([*cache.keys, absent])
    # Three could not be decoded when they were labelled: which, only reading tells.
    more = [FrameKey('f' * 8, 'camera/image', i) for i in (12, 13, 14)]
    cache.require_frames([*cache.keys, absent, *more[:2]], undecoded=True)
    with pytest.raises(TrainingError, match='4 of 15 frames have no soft labels'):
        cache.require_frames([*cache.keys, absent, *more], undecoded=True)
    with pytest.raises(TrainingError, match='has no soft labels of frame'):
        cache[absent]


def test_another_teacher_or_use_is_refused(written: Path, teacher: ModelBundle) -> None:
    cache = SoftLabelCache(written)
    cache.require(teacher)
    other = ModelBundle(teacher.path, teacher.spec, teacher.files, 'e' * 64)
    with pytest.raises(TrainingError, match=f"by 'toy_teacher' .{teacher.hash[:12]}., not by"):
        cache.require(other)
    with pytest.raises(TrainingError, match="cannot serve loss 'cwd', which looks at"):
        cache.require_service("loss 'cwd'", 'logits', 2.0)
    manifest = json.loads((written / MANIFEST).read_text())
    manifest['preprocessing']['hash'] = '0'
    (written / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(TrainingError, match='another preprocessing'):
        SoftLabelCache(written).require(teacher)


def test_a_cache_of_another_making_is_not_written_into(written: Path,
                                                       teacher: ModelBundle) -> None:
    open_for_writing(written, provenance(teacher, CODEC, 'fp32'))
    with pytest.raises(TrainingError, match="precision: 'fp32' -> 'bf16'"):
        open_for_writing(written, provenance(teacher, CODEC, 'bf16'))
    with pytest.raises(TrainingError, match='codec.stride: 1 -> 4'):
        open_for_writing(written, provenance(teacher, SoftLabelCodec(name='fp16'), 'fp32'))
    foreign = written.with_name('foreign')
    foreign.mkdir()
    (foreign / f'.{MANIFEST}.k3j2.json').touch()  # killed while it was begun
    open_for_writing(foreign, provenance(teacher, CODEC, 'fp32'))
    (foreign / MANIFEST).unlink()
    (foreign / 'x').touch()
    with pytest.raises(TrainingError, match='is not empty and no soft-label cache'):
        open_for_writing(foreign, provenance(teacher, CODEC, 'fp32'))


def test_few_shards_are_open_and_each_is_compared_once(written: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr(cache_module, '_MOST_OPEN', 1)
    monkeypatch.setattr(cache_module, 'file_hash', lambda p: hashed.append(p) or file_hash(p))
    cache = SoftLabelCache(written)
    for index in (0, 4, 2, 5, 3):
        logits = np.random.default_rng(index).normal(0, 3, (12, 4, 6))
        np.testing.assert_allclose(cache[FrameKey('f' * 8, 'camera/image', index)],
                                   logits - logits.max(0), atol=0.02)
        assert len(cache._files) == 1
    assert hashed == [shard_path(written, 'abc', 0), shard_path(written, 'abc', 1)]


def test_damage_is_told_in_one_line(written: Path) -> None:
    shard = shard_path(written, 'abc', 1)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-5])
    with pytest.raises(TrainingError, match='missing or truncated'):
        SoftLabelCache(written)
    shard.write_bytes(b'\xff' * len(whole))
    cache = SoftLabelCache(written)
    with pytest.raises(TrainingError, match='is damaged'):
        cache[FrameKey('f' * 8, 'camera/image', 5)]
    flipped = bytearray(whole)
    flipped[-3] ^= 1  # in a tensor: the container is fine, the soft label is not
    shard.write_bytes(flipped)
    cache = SoftLabelCache(written)
    assert cache[FrameKey('f' * 8, 'camera/image', 0)].shape == (12, 4, 6)  # another shard
    with pytest.raises(TrainingError, match='00001.safetensors: is damaged .*label again') as told:
        cache[FrameKey('f' * 8, 'camera/image', 5)]
    assert '\n' not in str(told.value)
    shard.write_bytes(whole)
    assert SoftLabelCache(written)[FrameKey('f' * 8, 'camera/image', 5)].shape == (12, 4, 6)
    (written / 'shard-abc-00001.json').write_text('{')
    with pytest.raises(TrainingError, match='not readable'):
        SoftLabelCache(written)
    (written / MANIFEST).write_text('{"schema_version": 99}')
    with pytest.raises(TrainingError, match='schema_version 99'):
        SoftLabelCache(written)
    (written / MANIFEST).write_text('[]')
    with pytest.raises(TrainingError, match='not readable'):
        SoftLabelCache(written)
    with pytest.raises(TrainingError, match='is no soft-label cache'):
        SoftLabelCache(written.with_name('nothing'))


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    paths = [shard_path(tmp_path / name, 'abc', 0) for name in 'ab']
    for path in paths:
        write_shard(path, [frame(0), frame(1)])
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_limit_or_a_rate_makes_another_recording() -> None:
    ends = [FrameKey('f', 't', 0), FrameKey('f', 't', 9)]
    other = [FrameKey('f', 't', 0), FrameKey('f', 't', 18)]
    assert len({recording_id(ends, 10), recording_id(ends, 5), recording_id(other, 10)}) == 3


def test_frames_chosen_otherwise_have_other_shards() -> None:
    ends = [FrameKey('a', '/t', 0), FrameKey('a', '/t', 9)]
    assert recording_id(ends, 5) == recording_id(ends, 5, '')
    assert len({recording_id(ends, 5, chosen) for chosen in ('', 'x', 'y')}) == 3
