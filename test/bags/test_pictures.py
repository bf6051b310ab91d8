"""Camera topics of every kind of message, above all video streams, as frames."""

from __future__ import annotations

import json
import logging
import os

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from kd_perception.bags import messages as msgs
from kd_perception.bags.reader import BagReader
from kd_perception.bags.source import open_source
from kd_perception.cli.main import main
from kd_perception.errors import BagError, ImageError

TOPIC = '/front/video'
KEYS = (0, 30)


@pytest.fixture(scope='module')
def drive(test_data):
    """Return (H.264 packets, pictures RGB) of 36 frames of a drive; key frames 0 and 30."""
    path = str(test_data / 'video' / 'highway_960x540_25fps.mp4')
    raw = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    shown = cv2.VideoCapture(path)
    packets = [np.frombuffer(raw.read()[1].tobytes(), np.uint8) for _ in range(36)]
    return packets, [cv2.cvtColor(shown.read()[1], cv2.COLOR_BGR2RGB) for _ in range(36)]


def foxglove(packet, stamp_ns, codec='h264'):
    types = msgs.standard_types().types
    header = msgs.make_header(stamp_ns, 'front')
    return types[msgs.COMPRESSED_VIDEO](timestamp=header.stamp, frame_id='front', data=packet,
                                        format=codec)


def ffmpeg(packet, stamp_ns, codec='libx264'):
    return msgs.standard_types().types[msgs.FFMPEG_PACKET](
        header=msgs.make_header(stamp_ns, 'front'), width=960, height=540, encoding=codec, pts=0,
        flags=0, is_bigendian=False, data=packet)


@pytest.fixture
def video_bag(write_messages, stamp):
    """Return a function that writes packets as one topic."""
    def write(packets, make=foxglove, **options):
        kind = msgs.COMPRESSED_VIDEO if make is foxglove else msgs.FFMPEG_PACKET
        rows = [(TOPIC, kind, make(p, stamp(n), **options), stamp(n))
                for n, p in enumerate(packets)]
        return write_messages(rows, plugin=StoragePlugin.MCAP)
    return write


@pytest.mark.parametrize('make', [foxglove, ffmpeg])
def test_a_video_topic_is_a_camera(video_bag, drive, stamp, make):
    packets, pictures = drive
    path = video_bag(packets, make)
    with BagReader(path) as reader:
        (camera,) = reader.camera_topics
    assert (camera.name, camera.encoding, camera.width, camera.height) == (TOPIC, 'h264', 960, 540)
    source = open_source(path)
    frames = list(source)
    assert [f.key.index for f in frames] == list(range(36))
    assert source.bad_frames == 0
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, pictures[number])
        assert (frame.stamp_ns, frame.frame_id) == (stamp(number), 'front')
    source.close()


def test_frames_in_any_order(video_bag, drive):
    packets, pictures = drive
    source = open_source(video_bag(packets))
    for number in (33, 4, 5, 3, 29, 30, 0, 35, 34, 35, 12):
        np.testing.assert_array_equal(source[number].image, pictures[number])
    source.close()


def test_frames_before_the_first_key_frame_are_counted_and_said(video_bag, drive, caplog):
    packets, pictures = drive
    source = open_source(video_bag(packets[26:]))
    with caplog.at_level(logging.WARNING):
        frames = list(source)
    assert [f.key.index for f in frames] == list(range(4, 10))
    np.testing.assert_array_equal(frames[0].image, pictures[30])
    assert source.bad_frames == 4
    assert 'comes before the first key frame of the video' in caplog.text
    assert '4 of 10 frames' in caplog.text
    with pytest.raises(ImageError, match=r'/front/video\[2\]: comes before the first key frame'):
        source[2]
    source.close()


def test_lost_and_damaged_packets_cost_their_own_frames(video_bag, drive):
    packets, pictures = drive
    damaged = list(packets)
    damaged[29] = packets[29][:0]
    damaged[34] = np.frombuffer(b'nonsense', np.uint8)
    source = open_source(video_bag(damaged))
    frames = {f.key.index: f.image for f in source}
    assert sorted(set(range(36)) - set(frames)) == [29, 34]
    assert source.bad_frames == 2
    for number in (0, 28, 30, 33):
        np.testing.assert_array_equal(frames[number], pictures[number])
    source.close()


def test_parameter_sets_may_come_before_the_key_frame(video_bag, drive):
    packets, pictures = drive
    units = [u.rstrip(b'\0') for u in bytes(packets[0]).split(b'\0\0\1')[1:]]
    sets = [u for u in units if u[0] & 31 in (7, 8)]
    others = [u for u in units if u[0] & 31 not in (7, 8)]
    joined = [np.frombuffer(b''.join(b'\0\0\0\1' + u for u in part), np.uint8)
              for part in (sets, others)]
    source = open_source(video_bag([*joined, *packets[1:4]]))
    frames = {f.key.index: f.image for f in source}
    assert sorted(frames) == [1, 2, 3, 4]
    np.testing.assert_array_equal(frames[4], pictures[3])
    source.close()


def test_subsampled_video(video_bag, drive):
    packets, pictures = drive
    source = open_source(video_bag(packets), rate_hz=2.0)
    assert [f.key.index for f in source] == [0, 10, 20, 30]
    np.testing.assert_array_equal(source[3].image, pictures[30])
    source.close()


def test_after_a_fork(video_bag, drive):
    packets, pictures = drive
    source = open_source(video_bag(packets[:8]))
    source[2]
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(source[5].image, pictures[5]) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(source[3].image, pictures[3])
    source.close()


@pytest.mark.parametrize('codec', ['vp9', 'av1', ''])
def test_other_codecs_are_listed_and_refused(video_bag, codec):
    path = video_bag([np.arange(99, dtype=np.uint8)] * 3, codec=codec)
    with BagReader(path) as reader:
        (camera,) = reader.camera_topics
        assert (camera.encoding, camera.width) == (codec, 0)
    source = open_source(path)
    with pytest.raises(ImageError, match=f"video codec '{codec}' is not decoded; h264 and h265"):
        source[1]
    assert list(source) == []
    assert source.bad_frames == 3
    source.close()


def test_bag_info_shows_the_codec(video_bag, drive, capsys):
    path = video_bag(drive[0][:3])
    assert main(['bag', 'info', str(path), '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['camera_topics'] == [TOPIC]
    assert facts['topics'][0]['encoding'] == 'h264'


def test_raw_encodings_as_frames(write_messages, stamp):
    """A mosaic with padded rows, and NV12; depth is no camera, and refused by name."""
    rows = []
    mosaic = np.zeros((6, 8), np.uint8)
    mosaic[0::2, 0::2], mosaic[1::2, 1::2] = 200, 40
    mosaic[0::2, 1::2] = mosaic[1::2, 0::2] = 100
    bayer = msgs.make_image(np.pad(mosaic, ((0, 0), (0, 5))), 'bayer_rggb8', stamp(0), 'c')
    bayer.width = 8
    planar = msgs.make_image(np.full((9, 8), 128, np.uint8), 'nv12', stamp(0), 'c')
    planar.height = 6
    depth = msgs.make_image(np.ones((6, 8), np.uint16), '16UC1', stamp(0), 'c')
    deep = msgs.make_image(np.full((6, 8), 257 * 9, np.uint16), 'mono16', stamp(0), 'c')
    for topic, message in (('/bayer/image', bayer), ('/planar/image', planar),
                           ('/depth/image', depth), ('/thermal/image', deep),
                           ('/depth/registered', deep)):
        rows.append((topic, msgs.IMAGE, message, stamp(0)))
    path = write_messages(rows)
    with BagReader(path) as reader:
        assert [t.name for t in reader.camera_topics] == ['/bayer/image', '/planar/image',
                                                          '/thermal/image']
    with pytest.raises(BagError, match='several camera topics'):
        open_source(path)
    for topic, colour in (('/bayer/image', (200, 100, 40)), ('/planar/image', (130, 130, 130)),
                          ('/thermal/image', (9, 9, 9))):
        source = open_source(path, image_topic=topic)
        np.testing.assert_array_equal(source[0].image, np.broadcast_to(colour, (6, 8, 3)))
        source.close()
    source = open_source(path, image_topic='/depth/image')
    with pytest.raises(ImageError, match="encoding '16UC1' is depth, no picture"):
        source[0]
    source.close()
