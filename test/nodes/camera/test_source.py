"""Pictures of the street as the camera node takes them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from kd_perception.bags.source import open_source
from kd_perception.bags.truth import write_depth, write_detections, write_pose
from kd_perception.bags.writer import BagWriter
from kd_perception.errors import ConfigError, SimulationError
from kd_perception.frames import CameraPlace
from kd_perception.nodes.camera.source import RecordedPictures, StreetPictures
from kd_perception.nodes.camera.times import playing_times, round_ns
from kd_perception.paths import share_directory
from kd_perception.simulation.scenario import scenario_sha256

SETTINGS = {'seed': 7, 'rate_hz': 10., 'width': 64, 'height': 36, 'frame_id': 'front'}


def test_the_scenario_decides_world_and_intrinsics():
    source = StreetPictures('clear,world=highway,camera.fov_deg=60', **SETTINGS)
    assert source.name == 'simulator:clear:highway:7'
    assert source.intrinsics is not None
    assert source.intrinsics.fx == pytest.approx(32 / np.tan(np.radians(30)))
    try:
        picture = source.picture(50)
    except SimulationError as error:
        pytest.skip(str(error))
    finally:
        source.close()
    assert (picture.stamp_ns, picture.frame_id) == (5_000_000_000, 'front')
    assert picture.labels is not None
    assert 28 in picture.labels                 # guard rails


def test_a_scenario_of_ones_own_is_told_by_its_content(tmp_path):
    shipped = (share_directory() / 'config' / 'scenarios' / 'clear.yaml').read_text()
    found = []
    for number, text in enumerate((shipped, shipped.replace('clouds: ', 'clouds: .9 #'))):
        path = tmp_path / str(number) / 'clear.yaml'
        path.parent.mkdir()
        path.write_text(text)
        source = StreetPictures(str(path), **SETTINGS)
        found.append(source.identity)
        assert source.identity['scenario_sha256'] == hashlib.sha256(text.encode()).hexdigest()
    assert found[0]['fingerprint'] != found[1]['fingerprint']
    named = StreetPictures('clear', **SETTINGS).identity
    assert named == {'fingerprint': found[0]['fingerprint'], 'scenario_sha256': ''}
    assert scenario_sha256('HardRainNoon,camera.fov_deg=60') == ''


def test_an_unknown_world_is_refused():
    with pytest.raises(ConfigError, match='moon'):
        StreetPictures('clear,world=moon', **SETTINGS)


@pytest.fixture
def drives(tmp_path):
    """Return a folder of two recordings, ``a`` and ``b``, of the same three stamps."""
    for name in 'ab':
        with BagWriter(tmp_path / name) as writer:
            for number in range(3):
                writer.write_image('camera/image', np.full((8, 8, 3), number, np.uint8),
                                   (number + 1) * 1_000_000_000)
    return tmp_path


def test_a_pattern_may_stand_for_one_recording(drives):
    pictures = RecordedPictures(str(drives / 'a*'), frame_id='front')
    assert pictures.notes == ()
    assert pictures.identity == {'fingerprint': open_source(drives / 'a').fingerprint,
                                 'image_topic': '/camera/image'}
    assert [pictures.picture(n).stamp_ns for n in range(3)] == [n * 10**9 for n in (1, 2, 3)]
    pictures.close()


def test_stamps_that_repeat_between_recordings_are_seen(drives):
    pictures = RecordedPictures(str(drives), frame_id='front')
    assert 'zero or repeat' in pictures.notes[0]
    assert len({pictures.picture(n).stamp_ns for n in range(6)}) == 6
    pictures.close()


def test_a_recording_played_again_goes_on_in_time(drives):
    for path in (drives / 'a', drives):
        pictures = RecordedPictures(str(path), frame_id='front')
        first = [pictures.picture(n).stamp_ns for n in range(pictures.frames)]
        again = [stamp + pictures.round_ns for stamp in first]
        assert min(again) - max(first) > 900_000_000
        pictures.close()


def test_frames_are_due_as_they_were_recorded():
    times = np.array([0, 100, 250, 20_250, 20_350]) * 10**6
    # The pause between two recordings lasts one period.
    assert playing_times(times) == pytest.approx([0, 0.1, 0.25, 0.35, 0.45, 0.55])
    assert playing_times(times[:1]) == pytest.approx([0, 0.1])
    assert round_ns(np.array([0, 100, 200, -1])) == 300


def test_a_recording_shows_what_is_known_of_its_pictures(tmp_path):
    table = {'ids': ['9 step_out'], 'tags': np.array([12]), 'scores': np.array([0.5]),
             'boxes': np.array([[1, 2, 5, 6]]), 'positions': np.array([[3., 0., 4.]])}
    with BagWriter(tmp_path / 'bag') as writer:
        for stamp in (10, 20):
            writer.write_image('camera/image', np.full((8, 12, 3), stamp, np.uint8), stamp, 'c')
            writer.write_camera_info('camera/camera_info', 12, 8, 7., 7., 6., 4., stamp, 'c')
            if stamp == 20:
                writer.write_image('camera/instances', np.full((8, 12), 9, np.uint16), stamp, 'c',
                                   'mono16')
                write_detections(writer, 'camera/detections', stamp, 'c', **table)
                write_depth(writer, 'camera/depth', np.full((8, 12), 2.5), stamp, 'c')
                write_pose(writer, 'camera/pose', CameraPlace(np.eye(3), np.arange(3.)), stamp,
                           'c')
    source = RecordedPictures(str(tmp_path / 'bag'), frame_id='c')
    try:
        assert source.picture(0).known() is None
        known = source.picture(1).known()
    finally:
        source.close()
    assert known.table.names == ['9 step_out']
    assert known.table.distance_m.tolist() == [5.]
    assert (known.instances == 9).all()
    assert (known.depth == 2.5).all()
    assert known.place.eye.tolist() == [0, 1, 2]
    assert known.lens == (7, 7, 6, 4)
