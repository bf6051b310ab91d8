from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
import shutil

import cv2
import numpy as np
import pytest

from kd_perception.bags.source import open_source
from kd_perception.bundle import (
    BundleSpec,
    InputSpec,
    LOGITS,
    ModelBundle,
    NetworkSpec,
    write_bundle,
)
from kd_perception.classes import ClassSet
from kd_perception.distillation import cache_shards
from kd_perception.distillation.cache import SoftLabelCache
from kd_perception.distillation.cache_shards import held, open_for_writing
from kd_perception.distillation.labelling import check, label
from kd_perception.distillation.labelling_log import LABELLING_LOG, read_cost
from kd_perception.engines.loader import load_engine
from kd_perception.errors import BundleError, ConfigError, TrainingError
from kd_perception.frames import FrameSource
from kd_perception.networks.deploy import save_bundle
from kd_perception.networks.registry import build
from kd_perception.tasks.placement import network_input, place
from kd_perception.tasks.soft_labels import SoftLabelCodec

CODEC = SoftLabelCodec(name='fp16', stride=1)


@pytest.fixture
def source(bare_stripes: Path) -> Iterator[FrameSource]:
    opened = open_source(bare_stripes)
    yield opened
    opened.close()


def run(teacher: ModelBundle, source: FrameSource, out: Path, **options: object) -> object:
    settings = {'codec': CODEC, 'engine': 'onnxruntime', 'shard_size': 5, **options}
    return label(teacher, source, out, **settings)  # type: ignore[arg-type]


def test_every_frame_gets_the_logits_of_the_engine(teacher: ModelBundle, source: FrameSource,
                                                   tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = run(teacher, source, tmp_path / 'c', progress=lambda d, t, _: calls.append((d, t)))
    assert (report.labelled, report.present, report.bad) == (12, 0, 0)  # type: ignore[attr-defined]
    assert calls[-1] == (12, 12)
    cache = SoftLabelCache(tmp_path / 'c')
    assert len(cache) == 12
    engine = load_engine(teacher, 'onnxruntime', graph='logits')
    for index in (0, 4, 5, 11):
        frame = source[index]
        logits = engine.infer(frame.image[None])['logits'][0]
        np.testing.assert_allclose(cache[frame.key], logits - logits.max(0), atol=0.01)


def test_labelling_goes_on_behind_a_stop_with_the_same_bytes(
        teacher: ModelBundle, source: FrameSource, tmp_path: Path) -> None:
    run(teacher, source, tmp_path / 'whole')

    def interrupt(done: int, total: int, note: str) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(teacher, source, tmp_path / 'c', progress=interrupt)
    assert len(SoftLabelCache(tmp_path / 'c')) == 5
    report = run(teacher, source, tmp_path / 'c')
    assert (report.labelled, report.present) == (7, 5)  # type: ignore[attr-defined]
    files = sorted(p.name for p in (tmp_path / 'whole').iterdir())
    assert files == sorted(p.name for p in (tmp_path / 'c').iterdir())
    files.remove(LABELLING_LOG)  # how long it took is no part of what the labels are
    cost = read_cost([tmp_path / 'c'])
    assert cost is not None
    assert cost.frames == 12
    assert cost.ran_on == ('onnxruntime cpu fp32',)
    for name in files:
        assert (tmp_path / 'whole' / name).read_bytes() == (tmp_path / 'c' / name).read_bytes()


def test_what_a_kill_has_left_goes_when_nobody_else_is_at_work(
        teacher: ModelBundle, source: FrameSource, tmp_path: Path) -> None:
    run(teacher, source, tmp_path / 'c', rank=0, world=2)
    left = tmp_path / 'c' / '.shard-0123-00001.safetensors.abc.safetensors'
    left.write_bytes(b'half of it')
    with held(tmp_path / 'c'):
        assert not left.exists()
        left.write_bytes(b'another process is writing it')
        run(teacher, source, tmp_path / 'c', rank=1, world=2)
        assert left.exists(), 'removed under the hands of a process at work'
    report = run(teacher, source, tmp_path / 'c')
    assert report.labelled == 0  # type: ignore[attr-defined]
    assert not left.exists()


def test_a_process_that_starts_a_moment_later_finds_the_cache_of_the_first(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = {'schema_version': 1, 'codec': 'x'}
    open_for_writing(tmp_path / 'c', manifest)
    read = cache_shards.read_manifest
    for codec in ('x', 'y'):
        too_early = [True]  # it looks before the first has written, and once more behind that
        monkeypatch.setattr(cache_shards, 'read_manifest',
                            lambda path, early=too_early: None if early and early.pop()
                            else read(path))
        with pytest.raises(TrainingError, match='another making') if codec == 'y' \
                else nullcontext():
            open_for_writing(tmp_path / 'c', {**manifest, 'codec': codec})


def test_a_truncated_shard_is_labelled_again(teacher: ModelBundle, source: FrameSource,
                                             tmp_path: Path) -> None:
    run(teacher, source, tmp_path)
    shard = sorted(tmp_path.glob('*.safetensors'))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100])
    report = run(teacher, source, tmp_path)
    assert (report.labelled, report.present) == (5, 7)  # type: ignore[attr-defined]
    assert shard.read_bytes() == whole


def test_recordings_add_up(teacher: ModelBundle, source: FrameSource, stripes: Path,
                           tmp_path: Path) -> None:
    run(teacher, source, tmp_path)
    other = open_source(stripes, classes='driving', limit=6)
    run(teacher, other, tmp_path)
    cache = SoftLabelCache(tmp_path)
    assert len(cache) == 18
    cache.require_frames([source[11].key, other[5].key])


def test_damaged_frames_are_counted_and_left_out(
        teacher: ModelBundle, bare_stripes: Path, tmp_path: Path,
        caplog: pytest.LogCaptureFixture) -> None:
    folder = shutil.copytree(bare_stripes, tmp_path / 'frames')
    for name in ('0000.png', '0003.png', '0005.png'):
        (folder / name).write_bytes(b'no picture')
    report = run(teacher, open_source(folder), tmp_path / 'c')
    assert (report.labelled, report.bad) == (9, 3)  # type: ignore[attr-defined]
    told = [r.getMessage() for r in caplog.records if r.levelname == 'WARNING']
    assert len(told) == 2
    assert 'frame 0 left out' in told[0]
    assert '3 of 12 frames left out' in told[1]
    again = run(teacher, open_source(folder), tmp_path / 'c')
    assert (again.labelled, again.present, again.bad) == (0, 9, 3)  # type: ignore[attr-defined]
    for file in folder.iterdir():
        file.write_bytes(b'no picture')
    with pytest.raises(TrainingError, match='not one of 12 frames can be decoded'):
        run(teacher, open_source(folder), tmp_path / 'd')
    assert not (tmp_path / 'd').exists()


def test_check_finds_the_teacher_again_and_sees_a_coarse_cache(
        teacher: ModelBundle, source: FrameSource, tmp_path: Path) -> None:
    run(teacher, source, tmp_path / 'fine')
    fine = check(teacher, source, tmp_path / 'fine', samples=4, engine='onnxruntime')
    assert fine.frames == 4
    assert fine.agreement > 0.995
    assert set(fine.divergence) == {1.0, 4.0}
    assert max(fine.divergence.values()) < 1e-4
    run(teacher, source, tmp_path / 'packed', codec=SoftLabelCodec('packed', stride=8))
    packed = check(teacher, source, tmp_path / 'packed', samples=4, engine='onnxruntime')
    assert packed.agreement > 0.9999
    run(teacher, source, tmp_path / 'coarse', codec=SoftLabelCodec('u8', stride=16))
    coarse = check(teacher, source, tmp_path / 'coarse', samples=4, engine='onnxruntime')
    assert coarse.agreement < fine.agreement
    assert coarse.divergence[1.0] > 10 * fine.divergence[1.0]


def test_wrong_use_is_refused(teacher: ModelBundle, source: FrameSource, tmp_path: Path) -> None:
    run(teacher, source, tmp_path)
    with pytest.raises(TrainingError, match='soft labels of another making'):
        run(teacher, source, tmp_path, codec=SoftLabelCodec())
    with pytest.raises(ConfigError, match='shard size 0'):
        run(teacher, source, tmp_path, shard_size=0)
    with pytest.raises(ConfigError, match='check of 0 frames'):
        check(teacher, source, tmp_path, samples=0)
    foreign = ModelBundle(teacher.path, teacher.spec, teacher.files, 'e' * 64)
    with pytest.raises(TrainingError, match='was labelled by'):
        check(foreign, source, tmp_path)
    files = {k: v for k, v in teacher.files.items() if k != LOGITS}
    with pytest.raises(BundleError, match='has no logits.onnx'):
        run(ModelBundle(teacher.path, teacher.spec, files, teacher.hash), source, tmp_path)


def test_pictures_of_another_size_are_resized(teacher: ModelBundle, tmp_path: Path) -> None:
    (tmp_path / 'large').mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / 'large' / '0.png'), picture)
    run(teacher, open_source(tmp_path / 'large'), tmp_path / 'c')
    cache = SoftLabelCache(tmp_path / 'c')
    assert cache[cache.keys[0]].shape == (12, 16, 24)


@pytest.mark.parametrize('resize', ['letterbox', 'pad'])
def test_labels_lie_on_the_frame_whatever_the_policy(
        driving: ClassSet, source: FrameSource, tmp_path: Path, resize: str) -> None:
    """A teacher of another aspect: its bars are in no label, and stripes stay where they are."""
    size = (64, 64) if resize == 'letterbox' else (48, 64)
    spec = BundleSpec(name='wide', task='segmentation', role='teacher', classes=driving,
                      input=InputSpec(*size, resize=resize), network=NetworkSpec('toy'))
    made = save_bundle(tmp_path / 'b', build(spec.network, len(driving)), spec)
    run(made, source, tmp_path / 'c')
    frame = source[0]
    stored = SoftLabelCache(tmp_path / 'c')[frame.key]
    where = place((32, 48), spec.input)
    assert stored.shape[1:] == ((22, 32) if resize == 'letterbox' else (16, 24))
    whole = load_engine(made, 'onnxruntime', graph='logits').infer(
        network_input(frame.image, spec.input)[None])['logits'][0]
    expected = whole[:, where.top // 2:(where.top + where.height) // 2,
                     where.left // 2:(where.left + where.width) // 2]
    if resize == 'pad':
        np.testing.assert_allclose(stored, expected - expected.max(0), atol=0.01)
    assert check(made, source, tmp_path / 'c', samples=3, engine='onnxruntime').agreement > 0.9


def test_networks_that_cannot_label_say_so(driving: ClassSet, source: FrameSource,
                                           tmp_path: Path) -> None:
    ids = BundleSpec(name='ids', task='segmentation', role='teacher', classes=driving,
                     input=InputSpec(32, 48))
    for spec, message in [(ids, 'gives ids alone, of which there are no soft labels'),
                          (replace(ids, task='classification'), 'cannot label yet')]:
        made = write_bundle(tmp_path / spec.task, spec, {'deploy.onnx': b''})
        with pytest.raises(BundleError, match=message):
            run(made, source, tmp_path / 'c')
