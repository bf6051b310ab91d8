"""Image folders and videos as frames."""

from __future__ import annotations

import os
import pickle
import shutil

import cv2
import numpy as np
import pytest

from kd_perception.bags.files import FIRST_STAMP_NS
from kd_perception.bags.sampling import LabelError
from kd_perception.bags.source import open_source
from kd_perception.errors import BagError, ConfigError, ImageError
from kd_perception.imaging import encode_jpeg, encode_png


@pytest.fixture
def folder(tmp_path, picture, label_image):
    """Return a folder of five images with labels beside it."""
    path = tmp_path / 'val'
    labels = tmp_path / 'val_labels'
    path.mkdir()
    labels.mkdir()
    for n in range(5):
        data = encode_png(picture(n)) if n % 2 else encode_jpeg(picture(n))
        (path / f'frame{n}.{"png" if n % 2 else "JPG"}').write_bytes(data)
        (labels / f'frame{n}.png').write_bytes(encode_png(label_image(n)))
    (path / 'notes.txt').write_text('not an image')
    return path


def test_folder(folder, picture, label_image):
    source = open_source(folder, classes='driving')
    assert (len(source), source.has_labels, source.label_classes.name) == (5, True, 'driving')
    frames = list(source)
    np.testing.assert_array_equal(frames[3].image, picture(3))
    np.testing.assert_array_equal(source[3].labels, label_image(3))
    assert [f.stamp_ns - FIRST_STAMP_NS for f in frames[:3]] == [0, 66_666_667, 133_333_333]
    assert [f.key.index for f in open_source(folder, rate_hz=7.5, limit=2)] == [0, 2]
    with pytest.raises(IndexError):
        source[5]
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert [f.key for f in copy] == [f.key for f in frames]
    source.close()


@pytest.mark.parametrize('place', ['val', 'val_labels'])
def test_a_pipe_in_a_folder_is_not_waited_for(place, folder, tmp_path):
    os.mkfifo(tmp_path / place / 'pipe.png')
    with pytest.raises(BagError, match=f'{place}/pipe.png: is no regular file; move it out'):
        list(open_source(folder))


def test_labels_may_lie_elsewhere_or_be_missing(folder, tmp_path):
    (tmp_path / 'val_labels').rename(tmp_path / 'other')
    assert not open_source(folder).has_labels
    source = open_source(folder, label_dir=tmp_path / 'other')
    assert source.has_labels
    assert source.label_classes is None
    (tmp_path / 'other' / 'frame1.png').unlink()
    source = open_source(folder, label_dir=tmp_path / 'other')
    assert [f.labels is None for f in source] == [False, True, False, False, False]
    with pytest.raises(BagError, match='no such folder of labels'):
        open_source(folder, label_dir=tmp_path / 'nowhere')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(BagError, match='no label PNG has the name of an image'):
        open_source(folder, label_dir=tmp_path / 'empty')


def test_labels_that_do_not_fit(folder, tmp_path, label_image):
    file = tmp_path / 'val_labels' / 'frame2.png'
    file.write_bytes(encode_png(label_image(2, 12, 20)))
    with pytest.raises(LabelError, match='frame2.png: labels are 20x12, but the image is 40x24'):
        list(open_source(folder))
    file.write_bytes(encode_png(label_image(2) // 64 * 50))
    with pytest.raises(LabelError, match=r"frame2.png: labels hold ids \[150\], which .*'camvid'"):
        list(open_source(folder, classes='camvid'))


@pytest.mark.parametrize('content', [b'', b'no picture at all', b'\xff\xd8\xff cut'])
def test_spoilt_files_are_bad_frames(content, folder):
    (folder / 'frame2.JPG').write_bytes(content)
    source = open_source(folder)
    assert [f.key.index for f in source] == [0, 1, 3, 4]
    assert source.bad_frames == 1
    with pytest.raises(ImageError, match='frame2.JPG: compressed image'):
        source[2]


def test_spoilt_label_file_is_a_bad_frame(folder, tmp_path, picture):
    (tmp_path / 'val_labels' / 'frame2.png').write_bytes(encode_png(picture(2)))
    source = open_source(folder)
    assert [f.key.index for f in source] == [0, 1, 3, 4]


def test_fingerprint_of_a_folder(folder, tmp_path, picture):
    first = open_source(folder).fingerprint
    shutil.copytree(folder, tmp_path / 'copy')
    assert open_source(tmp_path / 'copy').fingerprint == first
    (tmp_path / 'copy' / 'frame1.png').write_bytes(encode_png(picture(77)))
    assert open_source(tmp_path / 'copy').fingerprint != first


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    """Return a video of twenty grey frames, each brighter than the one before, at 10 Hz."""
    path = tmp_path_factory.mktemp('video') / 'clip.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10.0, (48, 32))
    assert writer.isOpened()
    for n in range(20):
        writer.write(np.full((32, 48, 3), (10 * n, 5, 0), np.uint8))
    writer.release()
    return path


def brightness(frame):
    """Return which frame of the video this is; its blue is ten times its number."""
    return round(frame.image[..., 2].mean() / 10)


def test_video(video):
    source = open_source(video)
    assert (len(source), source.has_labels, source.label_classes) == (20, False, None)
    frames = list(source)
    assert [brightness(f) for f in frames] == list(range(20))
    assert frames[3].image.shape == (32, 48, 3)
    assert frames[3].stamp_ns == FIRST_STAMP_NS + 300_000_000
    assert [brightness(source[n]) for n in (7, 8, 2, 19, 0)] == [7, 8, 2, 19, 0]
    with pytest.raises(IndexError):
        source[20]
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert brightness(copy[5]) == 5
    source.close()


def test_video_at_a_lower_rate(video):
    source = open_source(video, rate_hz=5.0, limit=4)
    assert [brightness(f) for f in source] == [0, 2, 4, 6]
    assert brightness(source[3]) == 6
    assert source[3].key.index == 6


def test_cut_off_video_is_a_line_or_counts_what_is_missing(video, tmp_path, test_data):
    path = tmp_path / 'cut.avi'
    path.write_bytes(video.read_bytes()[:2000])
    with pytest.raises(BagError, match='cut.avi'):
        open_source(path)
    whole = (test_data / 'video' / 'highway_cars_1280x720_25fps.mp4').read_bytes()
    path = tmp_path / 'cut.mp4'
    path.write_bytes(whole[:len(whole) // 2])
    source = open_source(path)
    assert len(source) == 38
    frames = list(source)
    assert 0 < len(frames) < 38
    assert len(frames) + source.bad_frames == 38
    with pytest.raises(ImageError, match='frame 37 cannot be decoded'):
        source[37]
    assert source[1].image.shape == (720, 1280, 3)


def test_videos_have_no_labels(video, tmp_path):
    with pytest.raises(ConfigError, match='is a video'):
        open_source(video, label_dir=tmp_path)
