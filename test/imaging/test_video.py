"""Packets of a real drive's H.264 stream, taken out of its file."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kd_perception.errors import ImageError
from kd_perception.imaging.video import is_key_frame, parameter_sets, video_codec, VideoDecoder

START = b'\0\0\0\1'


@pytest.fixture(scope='module')
def drive(test_data):
    """Return (packets in Annex B, pictures RGB) of the first 40 frames; key frames 0 and 30."""
    path = str(test_data / 'video' / 'highway_960x540_25fps.mp4')
    raw = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    shown = cv2.VideoCapture(path)
    packets = [raw.read()[1].tobytes() for _ in range(40)]
    pictures = [cv2.cvtColor(shown.read()[1], cv2.COLOR_BGR2RGB) for _ in range(40)]
    return packets, pictures


@pytest.mark.parametrize(('name', 'codec'), [
    ('h264', 'h264'), ('H264', 'h264'), ('libx264', 'h264'), ('h264_nvenc', 'h264'),
    ('avc1', 'h264'), ('h264;yuv420p;bgr8;bgr8', 'h264'), ('hevc', 'h265'), ('H265', 'h265'),
    ('libx265', 'h265'), ('hevc_vaapi', 'h265'), ('vp9', 'vp9'), ('av1;x', 'av1'), ('', '')])
def test_names_of_codecs(name, codec):
    assert video_codec(name) == codec


def test_key_frames(drive):
    packets, _ = drive
    assert [i for i, p in enumerate(packets) if is_key_frame(p, 'h264')] == [0, 30]
    sets = parameter_sets(packets[0], 'h264')
    assert [unit[0] & 31 for unit in sets.split(START)[1:]] == [7, 8]
    assert parameter_sets(packets[1], 'h264') == b''


@pytest.mark.parametrize(('kind', 'key'), [(19, True), (20, True), (21, True), (1, False),
                                           (0, False)])
def test_key_frames_of_h265(kind, key):
    sets = b''.join(START + bytes([k << 1, 1, 7]) for k in (32, 33, 34))
    packet = sets + START + bytes([kind << 1, 1]) + bytes(range(100, 120))
    assert is_key_frame(packet, 'h265') is key
    assert parameter_sets(packet, 'h265') == sets


def test_every_packet_gives_its_picture(drive):
    packets, pictures = drive
    with VideoDecoder(packets, 'h264') as decoder:
        found = list(decoder)
    assert [number for number, _ in found] == list(range(40))
    for (_, image), expected in zip(found, pictures):
        np.testing.assert_array_equal(image, expected)


def test_one_packet_is_enough(drive):
    packets, pictures = drive
    with VideoDecoder(packets[30:31], 'h264') as decoder:
        number, image = decoder.read()
        assert number == 0
        np.testing.assert_array_equal(image, pictures[30])
        assert decoder.read() is None


def test_an_empty_packet_shifts_nothing(drive):
    packets, pictures = drive
    with VideoDecoder([*packets[:29], b'', *packets[30:34]], 'h264') as decoder:
        found = dict(decoder)
    assert 29 not in found
    for number in (0, 28, 30, 33):
        np.testing.assert_array_equal(found[number], pictures[number])


def test_without_a_key_frame_nothing_comes(drive):
    packets, _ = drive
    with VideoDecoder(packets[3:8], 'h264') as decoder:
        assert list(decoder) == []


def test_pictures_that_come_out_of_order_are_refused(drive):
    """What a stream with B-frames does: the decoder gives a picture when a later packet came."""
    class Late:
        """A decoder that holds back two pictures, as OpenCV tells of it by their times."""

        def __init__(self):
            self.numbers = [2, 3, 4]

        def read(self):
            return True, np.zeros((2, 2, 3), np.uint8)

        def get(self, _):
            return 40.0 * self.numbers.pop(0)

        def release(self):
            pass

    with VideoDecoder(drive[0][:3], 'h264') as decoder:
        decoder._capture.release()
        decoder._capture = Late()
        with pytest.raises(ImageError, match='has B-frames, or a damaged key frame'):
            decoder.read()


@pytest.mark.parametrize(('data', 'codec', 'reason'), [
    (b'', 'h264', 'no Annex B'), (bytes(100), 'h265', 'no Annex B'),
    (b'\0\0\0\x20avcC', 'h264', 'no Annex B: it begins with 00000020'),
    (START + b'\x65', 'vp9', "'vp9' is not decoded; h264 and")])
def test_what_is_no_packet_is_refused(data, codec, reason):
    with pytest.raises(ImageError, match=reason):
        is_key_frame(data, codec)
