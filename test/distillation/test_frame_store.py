from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import shutil
import threading

import cv2
import numpy as np
import pytest
import torch

from kd_perception.bags.files import FolderSource
from kd_perception.bags.source import open_source
from kd_perception.classes import ClassSet, load_class_set
from kd_perception.distillation.frame_store import FrameStore, labelled, open_sources
from kd_perception.distillation.processes import Processes
from kd_perception.distillation.recipe import SourceRecipe
from kd_perception.errors import ConfigError, ImageError, TrainingError
from kd_perception.frames import Frame

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
    assert limited.spare == pytest.approx(0.5 * per_frame)
    assert limited.subset(range(3)).spare == pytest.approx(2.5 * per_frame)


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


PER_FRAME_GB = 4 * SIZE[0] * SIZE[1] / 1e9


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the places of the frames that are decoded, as it happens."""
    places: list[int] = []
    decode = FolderSource._frame

    def counted(self: FolderSource, position: int) -> Frame:
        places.append(position)
        return decode(self, position)

    monkeypatch.setattr(FolderSource, '_frame', counted)
    return places


def test_nothing_is_decoded_beforehand_but_what_fits_into_memory(
        stripes: Path, driving: ClassSet, reads: list[int]) -> None:
    told: list[tuple[int, int]] = []
    frames = store(stripes, driving, memory_gb=5.5 * PER_FRAME_GB,
                   progress=lambda done, total, note: told.append((done, total)))
    assert reads == list(range(5))
    assert told == [(n, 5) for n in range(1, 6)]
    assert len(frames) == sum(frames.has_labels) == 24
    assert [k.index for k in frames.keys] == list(range(24))
    learn, held = frames.split_tail(0.25)
    assert (len(learn), len(held)) == (18, 6)
    assert reads == list(range(5))
    held[0], learn[0]
    assert reads[5:] == [18]


def test_processes_of_a_machine_divide_the_memory_and_see_the_same(
        stripes: Path, driving: ClassSet, reads: list[int]) -> None:
    half = store(stripes, driving, memory_gb=10.5 * PER_FRAME_GB, sharers=2)
    assert len(reads) == 10
    assert sum(half[i] is half[i] for i in range(24)) == 5


def test_only_frames_that_are_known_to_be_whole_are_left_for_later(
        stripes: Path, driving: ClassSet, reads: list[int]) -> None:
    store(stripes, driving, memory_gb=0, decodable=lambda key: key.index != 7)
    assert reads == [7]
    store(stripes, driving, memory_gb=0, whole=True)
    assert reads[1:] == list(range(24))


def damaged(stripes: Path, folder: Path, *places: int) -> Path:
    """Return a copy of the frames, labels too, with some that are no pictures."""
    for kind in ('', '_labels'):
        shutil.copytree(stripes.with_name(stripes.name + kind),
                        folder.with_name(folder.name + kind))
    for place in places:
        (folder / f'{place:04}.png').write_bytes(b'no picture')
    return folder


def test_the_next_frame_that_is_alike_stands_in_for_a_damaged_one(
        stripes: Path, driving: ClassSet, tmp_path: Path,
        caplog: pytest.LogCaptureFixture) -> None:
    folder = damaged(stripes, tmp_path / 'drive', 3, 4, 23)
    (tmp_path / 'drive_labels' / '0005.png').unlink()
    beforehand = store(folder, driving)
    assert len(beforehand) == 21
    frames = store(folder, driving, memory_gb=3 * PER_FRAME_GB)
    assert len(frames) == 24
    for position in (3, 23, 4, 3):  # in any order, whoever asks first
        assert frames[position].key.index == {3: 6, 4: 6, 23: 0}[position]
    assert frames.own(3) is None
    assert frames.own(6) is not None
    assert [r.levelname for r in caplog.records if 'frame 3 left out' in r.message] == \
        ['WARNING', 'WARNING']
    # What is counted is of frames that are there.
    assert frames.class_pixels(12).tolist() == beforehand.class_pixels(12).tolist()
    with pytest.raises(TrainingError, match='none of 2 frames can be decoded'):
        frames.subset([3, 4])[0]


def test_a_picture_that_is_not_to_be_shown_is_not(stripes: Path, driving: ClassSet) -> None:
    frames = store(stripes, driving, memory_gb=0, digests=True)
    assert frames.digests == [None] * 24
    held = store(stripes, driving, whole=True, digests=True).subset([5, 6])
    frames.avoid(d for d in held.digests or () if d is not None)
    assert [frames[p].key.index for p in (4, 5, 6, 7)] == [4, 7, 7, 7]


def test_recordings_are_read_side_by_side(stripes: Path, bare_stripes: Path, driving: ClassSet,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    sources = open_sources([SourceRecipe(str(stripes), classes='driving'),
                            SourceRecipe(str(bare_stripes))], driving)
    frames = FrameStore(sources, SIZE, memory_gb=0)
    decode, together = FolderSource._frame, threading.Barrier(2, timeout=20)

    def meeting(self: FolderSource, position: int) -> Frame:
        together.wait()
        return decode(self, position)

    monkeypatch.setattr(FolderSource, '_frame', meeting)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(frames.__getitem__, (0, 24))
    assert (one.key, two.key) == (frames.keys[0], frames.keys[24])


def test_class_pixels_are_divided_and_added_up(stripes: Path, driving: ClassSet,
                                               reads: list[int],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    whole = store(stripes, driving).class_pixels(12)
    reads.clear()
    monkeypatch.setattr(torch.distributed, 'all_reduce', lambda tensor: None)
    parts = [store(stripes, driving, memory_gb=0).class_pixels(12, Processes(rank, 2))
             for rank in (0, 1)]
    assert reads == [*range(0, 24, 2), *range(1, 24, 2)]
    assert (parts[0] + parts[1]).tolist() == whole.tolist()


def test_classes_without_a_map_are_refused(stripes: Path) -> None:
    with pytest.raises(ConfigError, match='no class map'):
        open_sources([SourceRecipe(str(stripes), classes='driving')], load_class_set('camvid'))
