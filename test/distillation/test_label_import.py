"""Labels that exist already, by stamp, index and name, and a student of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
import io
import os
from pathlib import Path
import shutil
import struct
import zipfile
import zlib

import cv2
import numpy as np
import pytest

from kd_perception.bags.source import open_source
from kd_perception.bags.writer import BagWriter
from kd_perception.classes import ClassSet
from kd_perception.distillation import trainer
from kd_perception.distillation.cache import SoftLabelCache
from kd_perception.distillation.label_files import key_of, label_files
from kd_perception.distillation.label_import import import_labels
from kd_perception.distillation.recipe import Recipe, SourceRecipe
from kd_perception.distillation.trainer import distill
from kd_perception.errors import ConfigError, KdPerceptionError, TrainingError
from kd_perception.frames import FrameSource, Progress
from kd_perception.tasks.soft_labels import decided, SoftLabelCodec

CODEC = SoftLabelCodec(name='fp16', stride=4)
FIRST = 1_700_000_000_000_000_000


@pytest.fixture
def source(bare_stripes: Path) -> Iterator[FrameSource]:
    opened = open_source(bare_stripes)
    yield opened
    opened.close()


@pytest.fixture
def bag(tmp_path: Path) -> Iterator[FrameSource]:
    """Four frames of 48x32, 0.1 s apart."""
    with BagWriter(tmp_path / 'bag') as writer:
        for i in range(4):
            writer.write_image('/camera/image', np.full((32, 48, 3), 50 * i, np.uint8),
                               FIRST + i * 10**8, encoding='rgb8')
    opened = open_source(tmp_path / 'bag')
    yield opened
    opened.close()


def stripe_ids(driving: ClassSet, image: np.ndarray) -> np.ndarray:
    distance = np.abs(image[:, :, None].astype(int) - driving.palette()[:12].astype(int)).sum(-1)
    return distance.argmin(-1).astype(np.uint8)


def write_ids(folder: Path, source: FrameSource, driving: ClassSet,
              name: Callable[[int], str]) -> Path:
    folder.mkdir()
    for i in range(len(source)):
        ids = stripe_ids(driving, source[i].image)
        ids[:8] = 255
        cv2.imwrite(str(folder / f'{name(i)}.png'), ids)
    return folder


def test_a_student_learns_from_id_images(source: FrameSource, driving: ClassSet, tmp_path: Path,
                                         make_recipe: Callable[..., Recipe], bare_stripes: Path,
                                         stopped_at: Callable[..., Progress]) -> None:
    labels = write_ids(tmp_path / 'l', source, driving, lambda i: f'{i:04d}')
    report = import_labels(labels, source, tmp_path / 'c', driving, codec=CODEC)
    assert (report.imported, report.missing, report.unused) == (12, 0, 0)
    assert (report.kind, report.match) == ('ids', 'name')
    cache = SoftLabelCache(tmp_path / 'c')
    assert cache.imported
    frame = source[3]
    logits = cache[frame.key]
    assert logits.shape == (12, 8, 12)
    truth = stripe_ids(driving, frame.image)[2::4, 2::4]
    assert (decided(logits)[2:] == truth[2:]).all()
    assert (decided(logits)[:2] == 255).all()
    share = np.exp(logits[:, 4, 4]) / np.exp(logits[:, 4, 4]).sum()
    assert abs(share.max() - (0.9 + 0.1 / 12)) < 1e-3
    recipe = make_recipe(train=bare_stripes, steps=40)
    with pytest.raises(KeyboardInterrupt):
        distill(recipe, tmp_path / 'run', teacher=None, cache_dir=tmp_path / 'c',
                progress=stopped_at(3))
    # Labels that differ in content alone are others, too.
    other = cv2.imread(str(labels / '0003.png'), cv2.IMREAD_UNCHANGED)
    shutil.copytree(labels, tmp_path / 'l2')
    cv2.imwrite(str(tmp_path / 'l2' / '0003.png'), np.where(other == 255, 255, 0).astype(np.uint8))
    import_labels(tmp_path / 'l2', source, tmp_path / 'c2', driving, codec=CODEC)
    with pytest.raises(TrainingError, match='another recipe .identity.soft_labels.content'):
        distill(recipe, tmp_path / 'run', teacher=None, cache_dir=tmp_path / 'c2')
    bundle = distill(recipe, tmp_path / 'run', teacher=None, cache_dir=tmp_path / 'c')
    assert bundle.spec.lineage.parents == ()


def test_a_recording_without_imported_labels_is_not_left_out_unseen(
        bag: FrameSource, source: FrameSource, driving: ClassSet, tmp_path: Path,
        make_recipe: Callable[..., Recipe], bare_stripes: Path, stripes: Path,
        caplog: pytest.LogCaptureFixture) -> None:
    labels = write_ids(tmp_path / 'l', source, driving, str)
    (labels / '3.png').unlink()
    import_labels(labels, source, tmp_path / 'c', driving, codec=CODEC, partial=True)
    recipe = make_recipe(train=bare_stripes, steps=2)
    more = SourceRecipe(path=str(tmp_path / 'bag'))
    checked = replace(more, path=str(stripes), classes='driving')
    recipe = replace(recipe, data=replace(recipe.data, validation=(checked,),
                                          allow_shared_drives=True))
    both = replace(recipe, data=replace(recipe.data, train=(*recipe.data.train, more)))
    with pytest.raises(TrainingError, match='none of the 4 frames of bag, topic /camera/image; '):
        distill(both, tmp_path / 'both', teacher=None, cache_dir=tmp_path / 'c')
    with caplog.at_level('WARNING'):
        distill(recipe, tmp_path / 'one', teacher=None, cache_dir=tmp_path / 'c')
    assert '1 of 12 frames have no soft labels and teach nothing' in caplog.text


def test_a_camera_without_imported_labels_is_refused_before_frames_are_read(
        driving: ClassSet, tmp_path: Path, make_recipe: Callable[..., Recipe],
        monkeypatch: pytest.MonkeyPatch) -> None:
    with BagWriter(tmp_path / 'two') as writer:
        for i in range(4):
            for topic in ('/front/image', '/left/image'):
                writer.write_image(topic, np.full((32, 48, 3), 50 * i, np.uint8),
                                   FIRST + i * 10**8, encoding='rgb8')
    cameras = [SourceRecipe(path=str(tmp_path / 'two'), image_topic=topic)
               for topic in ('/front/image', '/left/image')]
    front = open_source(tmp_path / 'two', image_topic='/front/image')
    labels = write_ids(tmp_path / 'l', front, driving, str)
    import_labels(labels, front, tmp_path / 'c', driving, codec=CODEC)
    front.close()
    recipe = make_recipe(steps=2)
    recipe = replace(recipe, data=replace(recipe.data, train=tuple(cameras)))
    monkeypatch.setattr(trainer, 'read_frames', None)
    with pytest.raises(TrainingError, match='none of the 4 frames of two, topic /left/image; add'):
        distill(recipe, tmp_path / 'run', teacher=None, cache_dir=tmp_path / 'c')
    assert not (tmp_path / 'run').exists()


def test_a_teacher_and_imported_labels_exclude_each_other(source: FrameSource, driving: ClassSet,
                                                          tmp_path: Path, teacher: object,
                                                          make_recipe: Callable[..., Recipe],
                                                          ) -> None:
    labels = write_ids(tmp_path / 'l', source, driving, str)
    import_labels(labels, source, tmp_path / 'c', driving, codec=CODEC)
    with pytest.raises(TrainingError, match='holds imported labels; leave --teacher out'):
        distill(make_recipe(), tmp_path / 'r', teacher=teacher,  # type: ignore[arg-type]
                cache_dir=tmp_path / 'c')


@pytest.mark.parametrize('layout', ['khw', 'hwk', 'one file'])
def test_probabilities_by_stamp(bag: FrameSource, driving: ClassSet, tmp_path: Path,
                                layout: str) -> None:
    share = np.random.default_rng(2).dirichlet(np.ones(12), (4, 8, 12)).astype(np.float32)
    share = np.moveaxis(share, -1, 1)
    (tmp_path / 'l').mkdir()
    stamps = [FIRST + i * 10**8 for i in range(4)]
    if layout == 'one file':
        path = tmp_path / 'l' / 'all.npz'
        np.savez(path, **{str(s): p for s, p in zip(stamps, share, strict=True)})
    else:
        path = tmp_path / 'l'
        for s, p in zip(stamps, share, strict=True):
            name = f'{s // 10**9}.{s % 10**9:09d}' if layout == 'hwk' else str(s)
            np.savez(path / f'{name}.npz', p if layout == 'khw' else np.moveaxis(p, 0, -1))
    report = import_labels(path, bag, tmp_path / 'c', driving, codec=CODEC)
    assert (report.kind, report.match, report.imported) == ('probabilities', 'stamp', 4)
    cache = SoftLabelCache(tmp_path / 'c')
    for i in range(4):
        got = np.exp(cache[bag[i].key])
        np.testing.assert_allclose(got / got.sum(0), share[i], atol=2e-3)


def test_stamps_and_indices_of_names() -> None:
    assert key_of('1700000000.5') == 1_700_000_000_500_000_000
    assert key_of('1700000000_000000007') == 1_700_000_000_000_000_007
    assert key_of('000123') == 123
    assert key_of('frame7') is None


def test_what_does_not_fit_is_counted(bag: FrameSource, driving: ClassSet,
                                      tmp_path: Path) -> None:
    def refused(message: str, **options: object) -> None:
        with pytest.raises(KdPerceptionError, match=message) as told:
            import_labels(folder, bag, tmp_path / 'c', driving, **options)  # type: ignore[arg-type]
        assert '\n' not in str(told.value)
        assert not (tmp_path / 'c').exists()

    folder = tmp_path / 'l'
    refused('no such folder of labels')
    folder.mkdir()
    refused('holds no labels')
    good = np.zeros((32, 48), np.uint8)
    for i in range(4):
        cv2.imwrite(str(folder / f'{i}.png'), good)
    cv2.imwrite(str(folder / '1.png'), good + 77)
    cv2.imwrite(str(folder / '2.png'), good.T)
    (folder / '3.png').write_bytes(b'no picture')
    refused(r'3 of 4 labels do not fit: 2 cannot be used \(first: .*1.png: holds ids \[77\].*; '
            r'1 are not of the shape of their frame \(first: .*32x48 for a frame of 48x32')
    for i in (1, 2):
        cv2.imwrite(str(folder / f'{i}.png'), good)
    (folder / '3.png').unlink()
    refused(r'1 of 4 frames of bag have no label by index, the first is frame 3')
    refused('smoothing 1:', smoothing=1.0)
    refused('holds no probabilities', kind='probabilities', partial=True)
    cv2.imwrite(str(folder / '03.png'), good)
    cv2.imwrite(str(folder / '3.png'), good)
    refused('second labels of a frame')
    for file in folder.iterdir():
        file.rename(folder / f'frame_{file.name}')
    refused('its name is neither a stamp, nor an index')
    for file in list(folder.iterdir()):
        file.rename(folder / f'18{file.stem[6:]:0>17}.png')
    refused('none of 4 labels belongs to a frame of bag by stamp; the first label is')


def test_partly_labelled_and_imported_again(bag: FrameSource, driving: ClassSet,
                                            tmp_path: Path) -> None:
    folder = tmp_path / 'l'
    folder.mkdir()
    for stamp in (FIRST, FIRST + 10**8 + 3_000_000, 5):
        cv2.imwrite(str(folder / f'{stamp}.png'), np.zeros((64, 96), np.uint8))
    report = import_labels(folder, bag, tmp_path / 'c', driving, partial=True, tolerance_ms=5.0)
    assert (report.imported, report.missing, report.unused) == (2, 2, 1)
    report = import_labels(folder, bag, tmp_path / 'c', driving, partial=True)
    assert (report.imported, report.missing, report.unused) == (1, 3, 2)
    assert len(SoftLabelCache(tmp_path / 'c')) == 1
    with pytest.raises(TrainingError, match='another making'):
        import_labels(folder, bag, tmp_path / 'c', driving, partial=True, smoothing=0.0)


def test_another_sampling_replaces_the_labels(bare_stripes: Path, source: FrameSource,
                                              driving: ClassSet, tmp_path: Path) -> None:
    """Imports of all frames and of the first five, in either order, leave the later alone."""
    def ids(folder: str, value: int) -> Path:
        labels = tmp_path / folder / 'labels'
        labels.mkdir(parents=True)
        for i in range(len(source)):
            cv2.imwrite(str(labels / f'{i}.png'), np.full((32, 48), value, np.uint8))
        return labels

    old, new = ids('old', 1), ids('new', 2)
    part = open_source(bare_stripes, limit=5)
    for number, (first, then) in enumerate(((source, part), (part, source))):
        cache = tmp_path / f'c{number}'
        import_labels(old, first, cache, driving, codec=CODEC, match='index', shard_size=4)
        import_labels(new, then, cache, driving, codec=CODEC, match='index', shard_size=4)
        labels = SoftLabelCache(cache)
        assert len(labels) == len(then)
        assert all((decided(labels[key]) == 2).all() for key in labels.keys)
        assert len(list(cache.iterdir())) == 1 + 2 * -(-len(then) // 4)
    part.close()


def test_a_cut_off_import_leaves_the_earlier_one(source: FrameSource, driving: ClassSet,
                                                 tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    labels = write_ids(tmp_path / 'l', source, driving, str)
    cache = tmp_path / 'c'

    def again(progress: Progress | None = None) -> None:
        import_labels(labels, source, cache, driving, codec=CODEC, match='index', shard_size=4,
                      progress=progress)

    def stop(done: int, total: int, what: str) -> None:
        if what == 'written':
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again(stop)
    assert len(SoftLabelCache(cache)) == 0
    again()
    before = sorted(f.name for f in cache.iterdir())
    with pytest.raises(KeyboardInterrupt):
        again(stop)
    assert sorted(f.name for f in cache.iterdir()) == before
    assert len(SoftLabelCache(cache)) == 12

    replace, left = os.replace, [4]

    def killed(start: Path, end: Path) -> None:
        """Die while the second shard's files come among the others."""
        if Path(end).parent == cache and Path(start).parent != cache:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
        replace(start, end)

    monkeypatch.setattr('os.replace', killed)
    with pytest.raises(KeyboardInterrupt):
        again()
    monkeypatch.undo()
    with pytest.raises(TrainingError, match='an import was cut off'):
        SoftLabelCache(cache)
    again()
    assert len(SoftLabelCache(cache)) == 12
    assert len(list(cache.iterdir())) == 1 + 2 * 3


def test_two_labels_of_one_frame_are_refused(source: FrameSource, driving: ClassSet,
                                             tmp_path: Path) -> None:
    labels = write_ids(tmp_path / 'l', source, driving, str)
    import_labels(labels, source, tmp_path / 'c', driving, codec=CODEC, match='index')
    for file in list((tmp_path / 'c').glob('shard-*')):
        shutil.copy(file, file.with_name(file.name.replace('-00000', '-00001')))
    with pytest.raises(TrainingError, match='has two labels, in shard-.* and shard-'):
        SoftLabelCache(tmp_path / 'c')


def test_a_palette_of_colours_changes_no_id(bag: FrameSource, driving: ClassSet,
                                            tmp_path: Path) -> None:
    """Four frames of class 2, as indices of a palette in which that is some red."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return (struct.pack('>I', len(data)) + name + data
                + struct.pack('>I', zlib.crc32(name + data)))

    (tmp_path / 'l').mkdir()
    for i in range(4):
        (tmp_path / 'l' / f'{i}.png').write_bytes(
            b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 48, 32, 8, 3, 0, 0, 0))
            + chunk(b'PLTE', bytes([0, 0, 0, 90, 90, 90, 128, 0, 0]))
            + chunk(b'IDAT', zlib.compress((b'\0' + b'\2' * 48) * 32)) + chunk(b'IEND', b''))
    import_labels(tmp_path / 'l', bag, tmp_path / 'c', driving, codec=CODEC)
    cache = SoftLabelCache(tmp_path / 'c')
    assert all((decided(cache[bag[i].key]) == 2).all() for i in range(4))


@pytest.mark.parametrize('name', ['0.npz', '0.npy', 'all.npz'])
def test_a_label_that_claims_too_much_is_not_unpacked(tmp_path: Path, name: str) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {
        'descr': '|u1', 'fortran_order': False, 'shape': (1 << 15, (1 << 15) + 1)})
    if name.endswith('.npy'):
        (tmp_path / name).write_bytes(header.getvalue())
    else:
        with zipfile.ZipFile(tmp_path / name, 'w') as archive:
            archive.writestr('0.npy', header.getvalue())
    path = tmp_path / name if name == 'all.npz' else tmp_path
    with pytest.raises(ConfigError, match='is too large for a label'):
        label_files(path)[0].read()
