from __future__ import annotations

from pathlib import Path
import shutil

import cv2
import numpy as np
import pytest

from kd_perception.bags.source import open_source
from kd_perception.classes import ClassSet, load_class_set
from kd_perception.distillation.frame_store import FrameStore, labelled, open_sources
from kd_perception.distillation.recipe import SourceRecipe
from kd_perception.errors import ConfigError, ImageError, TrainingError

SIZE = (32, 48)


def store(folder: Path, driving: ClassSet, **options: object) -> FrameStore:
    sources = open_sources([SourceRecipe(str(folder), classes='driving')], driving)
    return FrameStore(sources, SIZE, **options)  # type: ignore[arg-type]


def test_frames_come_at_input_size_whether_kept_or_not(stripes: Path, driving: ClassSet) -> None:
    kept, read = store(stripes, driving), store(stripes, driving, memory_gb=0)
    assert len(kept) == len(read) == 24
    assert kept.keys == read.keys
    assert kept[3] is kept[3]
    assert read[3] is not read[3]
    for position in (0, 23):
        assert np.array_equal(kept[position].image, read[position].image)
        assert np.array_equal(kept[position].labels, read[position].labels)


def test_the_memory_limit_holds(stripes: Path, driving: ClassSet) -> None:
    per_frame = 4 * SIZE[0] * SIZE[1]
    limited = store(stripes, driving, memory_gb=5.5 * per_frame / 1e9)
    assert sum(limited[i] is limited[i] for i in range(24)) == 5


def test_other_sizes_are_resized(stripes: Path, driving: ClassSet) -> None:
    sources = open_sources([SourceRecipe(str(stripes), classes='driving')], driving)
    small = FrameStore(sources, (16, 24))
    labels = small[0].labels
    assert small[0].image.shape == (16, 24, 3)
    assert labels is not None
    assert labels.shape == (16, 24)
    assert set(np.unique(labels)) <= {*range(12), 255}


def test_counts_and_statistics(stripes: Path, driving: ClassSet) -> None:
    frames = store(stripes, driving)
    pixels = frames.class_pixels(12)
    assert pixels.sum() == 24 * 30 * 48
    statistics = frames.statistics(driving)
    assert statistics['frames'] == statistics['labelled_frames'] == 24
    assert sum(statistics['class_shares'].values()) == pytest.approx(1, abs=1e-4)
    image = np.stack([frames[i].image for i in range(24)]) / 255
    np.testing.assert_allclose(statistics['image_mean'], image.mean((0, 1, 2)), atol=0.02)


def test_the_tail_is_held_out_per_recording(stripes: Path, bare_stripes: Path,
                                            driving: ClassSet) -> None:
    sources = open_sources([SourceRecipe(str(stripes), classes='driving'),
                            SourceRecipe(str(bare_stripes))], driving)
    frames = FrameStore(sources, SIZE)
    learn, held = frames.split_tail(0.25)
    assert (len(learn), len(held)) == (30, 6)
    assert [k.index for k in held.keys] == list(range(18, 24))
    learn, held = frames.split_tail(0.25, labelled_only=False)
    assert (len(learn), len(held)) == (27, 9)
    with pytest.raises(TrainingError, match='too few'):
        frames.split_tail(0.0)


def test_nothing_is_learned_from_between_the_frames_that_are_held_out(
        stripes: Path, driving: ClassSet, tmp_path: Path) -> None:
    shutil.copytree(stripes, tmp_path / 'drive')
    (tmp_path / 'drive_labels').mkdir()
    for index in range(0, 24, 4):
        name = f'{index:04}.png'
        shutil.copy(stripes.with_name('train_labels') / name, tmp_path / 'drive_labels' / name)
    frames = store(tmp_path / 'drive', driving)
    learn, held = frames.split_tail(0.34)
    assert [k.index for k in held.keys] == [16, 20]
    assert [k.index for k in learn.keys] == list(range(16))
    # Only labelled frames are read to count labels.
    assert frames.class_pixels(12).sum() == 6 * 30 * 48


def test_unlabelled_recordings_are_left_out_where_labels_are_needed(
        stripes: Path, bare_stripes: Path, driving: ClassSet) -> None:
    sources = open_sources([SourceRecipe(str(stripes), classes='driving'),
                            SourceRecipe(str(bare_stripes))], driving)
    assert len(FrameStore(sources, SIZE, labels_only=True)) == 24
    with pytest.raises(TrainingError, match='no labelled frame'):
        FrameStore(sources[1:], SIZE, labels_only=True)


def test_a_damaged_picture_is_left_out(tmp_path: Path, driving: ClassSet) -> None:
    for index in range(3):
        cv2.imwrite(str(tmp_path / f'{index}.png'), np.zeros((32, 48, 3), np.uint8))
    (tmp_path / '1.png').write_bytes(b'no picture')
    frames = FrameStore([labelled(open_source(tmp_path), driving)], SIZE)
    assert [k.index for k in frames.keys] == [0, 2]


def test_many_damaged_pictures_are_two_lines(tmp_path: Path, driving: ClassSet,
                                             caplog: pytest.LogCaptureFixture) -> None:
    for index in range(6):
        cv2.imwrite(str(tmp_path / f'{index}.png'), np.zeros((32, 48, 3), np.uint8))
        if index in (1, 2, 4):
            (tmp_path / f'{index}.png').write_bytes(b'no picture')
    FrameStore([labelled(open_source(tmp_path), driving)], SIZE)
    told = [r.getMessage() for r in caplog.records if r.levelname == 'WARNING']
    assert len(told) == 2
    assert 'frame 1 left out' in told[0]
    assert '3 of 6 frames left out' in told[1]


def test_labels_that_mean_nothing_stop(tmp_path: Path, driving: ClassSet) -> None:
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a_labels').mkdir()
    cv2.imwrite(str(tmp_path / 'a' / '0.png'), np.zeros((32, 48, 3), np.uint8))
    cv2.imwrite(str(tmp_path / 'a_labels' / '0.png'), np.full((32, 48), 40, np.uint8))
    with pytest.raises((ImageError, TrainingError), match='40'):
        store(tmp_path / 'a', driving)
    cv2.imwrite(str(tmp_path / 'a_labels' / '0.png'), np.zeros((16, 48), np.uint8))
    with pytest.raises(ImageError, match='48x16'):
        store(tmp_path / 'a', driving)


def test_classes_without_a_map_are_refused(stripes: Path) -> None:
    with pytest.raises(ConfigError, match='no class map'):
        open_sources([SourceRecipe(str(stripes), classes='driving')], load_class_set('camvid'))
