"""What one drive is, for each kind of recording."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from kd_perception.bags.cut import cut_bag, split_bag
from kd_perception.bags.drives import Drive, drives_of, file_drive, groups, shared
from kd_perception.bags.source import open_source
from kd_perception.bags.writer import BagWriter

SECOND = 1_000_000_000
REAL_NS = 1_700_000_000 * SECOND


@pytest.mark.parametrize(('stem', 'name'), [
    ('0006R0_f00930', '0006R0'), ('Seq05VD_f00000', 'Seq05VD'), ('0001TP_008550', '0001TP'),
    ('0016E5_00390', '0016E5'), ('aachen_000000_000019_leftImg8bit', 'aachen_000000'),
    ('tuesday_2-000123', 'tuesday_2'), ('run7b_cam0_0012', 'run7b_cam0')])
def test_a_name_before_the_number_of_the_frame_is_a_drive(stem: str, name: str) -> None:
    assert file_drive(stem, 'a', '1') == file_drive(stem, 'b', '2')
    assert file_drive(stem, 'a', '1').name == name


@pytest.mark.parametrize('stem', [
    '0000', 'frame_0012', 'frame0012', 'image_02_0000000012', 'cam0-0012', 'left0012',
    '1616005000.123456', '1616005000_123456', 'frame_1616005000_123456', '2011_09_26_0012', 'a1'])
def test_a_name_that_says_nothing_stands_for_its_folder(stem: str) -> None:
    assert not shared([file_drive(stem, 'a', '1')], [file_drive(stem, 'b', '2')])[0]


def test_cameras_of_one_folder_are_not_one_drive_per_frame() -> None:
    names = ['1616005000_123', '1616005001_456', '1616005002_789']
    assert len({file_drive(n, 'a', '1') for n in names}) == 1


def write(path: Path, start_ns: int) -> Path:
    """Write two drives of 3 s with a pause of 20 s; a topic goes on for 5 s of the pause."""
    with BagWriter(path) as writer:
        for n in range(12):
            at = start_ns + n * SECOND // 2 + (20 * SECOND if n >= 6 else 0)
            writer.write_image('cam/image', np.full((8, 8, 3), n, np.uint8), at)
        for n in range(5):
            writer.write_camera_info('cam/info', 8, 8, 1., 1., 4., 4.,
                                     start_ns + (4 + n) * SECOND)
    return path


def test_a_long_pause_of_all_topics_ends_a_drive_as_it_does_for_split(tmp_path: Path) -> None:
    bag = write(tmp_path / 'bag', SECOND)
    numbers = groups(drives_of(open_source(bag)))
    assert numbers == [0] * 6 + [1] * 6
    parts = split_bag(bag, tmp_path / 'parts', gap_s=10)
    assert [len(open_source(p.path)) for p in parts] == [6, 6]
    # A choice of frames is of the same drives.
    assert groups(drives_of(open_source(bag, count=3))) == [0, 1, 1]
    assert shared(drives_of(open_source(bag, limit=2)), drives_of(open_source(bag))) == \
        [True] * 6 + [False] * 6


def test_parts_of_a_drive_are_one_by_the_clock_of_the_recorder(tmp_path: Path) -> None:
    for name, start_ns, together in (('real', REAL_NS, True), ('simulated', SECOND, False)):
        bag = write(tmp_path / name, start_ns)
        cut_bag(bag, tmp_path / f'{name}_1', end_s=1.5)
        cut_bag(bag, tmp_path / f'{name}_2', start_s=1.5)
        one, two = (drives_of(open_source(tmp_path / f'{name}_{n}')) for n in (1, 2))
        assert (len(one), len(two)) == (3, 9)
        assert shared(one, two) == [together] * 3 + [False] * 6


def test_sameness_goes_on_from_drive_to_drive() -> None:
    def at(name: str, begin: int, end: int) -> Drive:
        return Drive(name, name, (REAL_NS + begin * SECOND, REAL_NS + end * SECOND))

    drives = [at('a', 0, 100), at('b', 10, 20), at('c', 109, 120), at('d', 131, 140), at('a', 0,
                                                                                     100)]
    assert groups(drives) == [0, 0, 0, 1, 0]
    assert groups([]) == []


def test_a_folder_of_several_drives_and_a_name_by_hand(tmp_path: Path) -> None:
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for name in ('0006R0_1', '0006R0_2', 'Seq05VD_1'):
        cv2.imwrite(str(folder / f'{name}.png'), np.zeros((8, 8, 3), np.uint8))
    source = open_source(folder)
    assert [d.name for d in drives_of(source)] == ['0006R0', '0006R0', 'Seq05VD']
    by_hand = drives_of(source, 'Seq05VD')
    assert shared(drives_of(source), by_hand) == [True] * 3
    assert shared(by_hand, drives_of(source)) == [False, False, True]
    both = open_source([folder, write(tmp_path / 'bag', SECOND)])
    assert groups(drives_of(both)) == [0, 0, 1, *[2] * 6, *[3] * 6]


def test_what_a_bundle_keeps_of_a_drive_is_the_drive() -> None:
    for drive in (Drive('a', 'name:a'), Drive('b', 'recording:1:0', (5, 6))):
        assert Drive.from_dict(drive.to_dict()) == drive
