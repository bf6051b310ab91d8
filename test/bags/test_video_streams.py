"""
Video streams as encoders make them: with B-frames or without, of any length, of changing form.

The streams below show twelve grey pictures of 64x48, each 15 brighter than the one before, so
that the brightness tells which picture it is.
"""

from __future__ import annotations

import base64
import gc
import json
from pathlib import Path
import re
import shutil
import subprocess
import sys
import weakref

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from kd_perception.bags import messages as msgs
from kd_perception.bags.cut import cut_bag, split_bag
from kd_perception.bags.source import open_source
from kd_perception.errors import BagError, ImageError
from kd_perception.imaging import video
from kd_perception.imaging.video import refuse_b_frames, stream_format, VideoDecoder
from kd_perception.imaging.video_headers import InterlaceWatch

PLAIN = (
    'AAAAAWdNQAraEehAAAADAEAAAAyDxImoAAAAAWjuDyyAAAABZYiEC//+9q78yyqK9JUuHVl7SxuXuHetKD4YwQAA'
    'AAFBmiIZ/8U34HsDF//EHkI/oF8zhDJJjxTV1q0DEDYAAAABQZpCGf/FN+B7Axf/xBskP6BfM4QySY8U1datAxA3'
    'AAAAAUGaYhn/xTfgewMX/8QYaf+gXzOEMkmPFNXWrQMQNgAAAAFBmoIZ/8U34HsDF//ED5T+gXzOEMkmPFNXWrQM'
    'QNkAAAABQZqiGf/FN+B7Axf/w/pH+gXzOEMkmPFNXWrQMQNhAAAAAUGawhn/x2NzgUaoAdNGve0OUOVKIsWLbDcA'
    'AAABQZriGf/HY3OBNSIdNGve0OUOVKIsWLbDYQAAAAFBmwIZ/8U34HsDF//D5on6BfM4QySY8U1datAxA2AAAAAB'
    'QZsiGf/FN+B7Axf/xAqlfoF8zhDJJjxTV1q0DEDYAAAAAUGbQhf/vzfgesHX/8QScH4rTU1awThSca53krodWQAA'
    'AAFBm2IV/7yHgUcf//8QXsx9naJWH8C3Hel7MoZFAbA=')
REORDERED = (
    'AAAAAWdNQArpiPQgAAADACAAAAZB4kSnAAAAAWjujyyAAAABZYiEAGf//vbsvgU1nMBQlxEsxaZ+/eRA2RUgkmEA'
    'AAABQZomEN/IN+B7g7//hKAIf7B0aFKNLZL4Y0gaBlFjAAAAAQGeQohX//iQPhHBOYMWBbg7LWSOud7ZLqqHEDb0'
    'f4EAAAABAZ5EiFf/+JA+EcE5gxYFuDstZI653tkuqocQNvR/gAAAAAFBmkwQ38ppj5lfhwF+41auNFHlCgvXm+s7'
    'AAAAAQGeaIhX/xSxAAAAAQGeaohX/xSxAAAAAUGachDPx2NzgUwefh00a97Q5Q5UoixYtsNhAAAAAQGejohX/xSw'
    'AAAAAQGekIhX/xSwAAAAAUGalhCvvIeBRx///xBezH2dolYfwLcd6XsyhkUBsQAAAAEBnrSIV/8UsA==')
REORDERED_H265 = (
    'AAAAAUABDAH//wFgAAADAJAAAAMAAAMAHpWQCQAAAAFCAQEBYAAAAwCQAAADAAADAB6gIIMWWVkuTK5oCAAAAwAI'
    'AAADAMhAAAAAAUQBwXPQiQAAASgBrx2A7iOP/8wIdfNWywAAAAECAdAZX4pJgUmOQPl8dAAAAAECAeBEl+GEkACM'
    'LC8ODG3318AAAAABAAHgJP/6LCmAin6AAAAAAQIB0DCX19ykgYFhjsD5fHQAAAABAgHgoiXX9xhJAIwriw4MbffX'
    'wAAAAAEAAeCG//0iwpiKfoAAAAABAgHQSLfX9ykgYFxjsPl8dAAAAAECAeECJd/3GEkAjCuLDgxt99fAAAAAAQAB'
    '4Ob//SLCiIp+gAAAAAECAdBYtdf3MoGDxjv5fHQAAAABAAHhQi9/3GFEin6A')
LOW_DELAY_H265 = (
    'AAAAAUABDAH//wFgAAADAJAAAAMAAAMAHpKAkAAAAAFCAQEBYAAAAwCQAAADAAADAB6gIIMWWSrkyuaAgAAAAwCA'
    'AAAMhAAAAAFEAcFz0IkAAAEoAa8dgO4jj//MCHXzVssAAAABAgHQCX4+OHmOwPl8dAAAAAECAdAR/9TKGHmOQPl8'
    'dAAAAAECAdAYn/3PgOHmOfl8dAAAAAECAdAgn/3MoGHmO/l8dAAAAAECAdAon/3PgYcY5Pl8dAAAAAECAdAwn/3P'
    'gYeY7Pl8dAAAAAECAdA4n/3PgYeY5Pl8dAAAAAECAdBAn/3PgYeY5Pl8dAAAAAECAdBIn/3PgYeY7Pl8dAAAAAEC'
    'AdBQn/3KSBGY5Pl8dAAAAAECAdBYn/3KSBJjsPl8dA==')
# Coded as fields; or so that they could be, with frames all the same.
MBAFF = (
    'AAAAAWdNQBX0In5cBEAAAAMAQAAADIfFCqgAAAABaN4DvIAAAAABZYiCLDqTFAAFt+TFAAFt/JyeTk8nJ669deuvXXgA'
    'AAABQZojYDK/GRQABCcigACE5FAAEJyKAAITkUAAQnIoAAhORQABCcigACE5FAAEJyKAAITkUAAQnIoAAhORQABCcigA'
    'CE5FAAEJyKAAITn4yKAAITkUAAQnIoAAhORQABCcigACE5FAAEJyKAAITkUAAQnIoAAhORQABCcigACE5FAAEJyKAAIT'
    'kUAAQnIoAAhORQABCc4nxPxPififE/P5/n8/z+f5/P4AAAABQZpFYDK/GRQABCcigACE5FAAEJyKAAITkUAAQnIoAAhO'
    'RQABCcigACE5FAAEJyKAAITkUAAQnIoAAhORQABCcigACE5FAAEJyKAAITn4yKAAITkUAAQnIoAAhORQABCcigACE5FA'
    'AEJyKAAITkUAAQnIoAAhORQABCcigACE5FAAEJyKAAITkUAAQnIoAAhORQABCc4nxPxPififE/P5/n8/z+f5/P4=')
FIELDS_H265 = (
    'AAAAAUABDAH//wFgAAADAEAAAAMAAAMAHpKAkAAAAAFCAQEBYAAAAwBAAAADAAADAB6gIIMWWSrkyvAWhoAAAAMAgAAA'
    'DIQAAAABRAHBc9CJAAAAAU4BgQEPgAAAAAFOAQEBEYAAAAABKAGvHYDuI4//0cx181bLAAAAAU4BAQEhgAAAAAECAdAJ'
    'fj5h4g7A+Xx0AAAAAU4BAQERgAAAAAECAdAR/9SkhgkIOfl8dAAAAAFOAQEBIYAAAAABAgHQGJ/9ykgYJiDk+Xx0')
FAKE_INTERLACED = (
    'AAAAAWdNQBXaER8uAiAAAAMAIAAABkHixdQAAAABaM4DvIAAAAFliIIdExQABYVk5OTrrrrrrrrrrrrwAAAAAUGaIBle'
    'MigACEJFAAEISKAAIQkUAAQhIoAAhCRQABCEigACEJFAAEISKAAIQkUAAQhIoAAhCRQABCEigACEJFAAEISKAAIQkUAA'
    'QhMT4nxPn8/n8/n8/n8/LAAAAAFBmkAZXjIoAAhCRQABCEigACEJFAAEISKAAIQkUAAQhIoAAhCRQABCEigACEJFAAEI'
    'SKAAIQkUAAQhIoAAhCRQABCEigACEJFAAEITE+J8T5/P5/P5/P5/PywAAAABQZpgGV4yKAAIQkUAAQhIoAAhCRQABCEi'
    'gACEJFAAEISKAAIQkUAAQhIoAAhCRQABCEigACEJFAAEISKAAIQkUAAQhIoAAhCRQABCExPifE+fz+fz+fz+fz8sAAAA'
    'AUGagBleMigACEJFAAEISKAAIQkUAAQhIoAAhCRQABCEigACEJFAAEISKAAIQkUAAQhIoAAhCRQABCEigACEJFAAEISK'
    'AAIQkUAAQhMT4nxPn8/n8/n8/n8/LAAAAAFBmqAZXjIoAAhCRQABCEigACEJFAAEISKAAIQkUAAQhIoAAhCRQABCEigA'
    'CEJFAAEISKAAIQkUAAQhIoAAhCRQABCEigACEJFAAEITE+J8T5/P5/P5/P5/PywAAAABQZrAGVE4oAAjV4nxPifP5/P5'
    '/P5/P5+WAAAAAUGa4BlROKAAIPGJ8T4nz+fz+fz+fz+flgAAAAFBmwAZXjIoAAhCRQABCEigACEJFAAEISKAAIQkUAAQ'
    'hIoAAhCRQABCEigACEJFAAEISKAAIQkUAAQhIoAAhCRQABCEigACEJFAAEITE+J8T5/P5/P5/P5/PywAAAABQZsgGV4y'
    'KAAIQkUAAQhIoAAhCRQABCEigACEJFAAEISKAAIQkUAAQhIoAAhCRQABCEigACEJFAAEISKAAIQkUAAQhIoAAhCRQABC'
    'ExPifE+fz+fz+fz+fz8sAAAAAUGbQBleMigACEJFAAEISKAAIQkUAAQhIoAAhCRQABCEigACEJFAAEISKAAIQkUAAQhI'
    'oAAhCRQABCEigACEJFAAEISKAAIQkUAAQhMT4nxPn8/n8/n8/n8/LAAAAAFBm2AZXjIoAAhCRQABCEigACEJFAAEISKA'
    'AIQkUAAQhIoAAhCRQABCEigACEJFAAEISKAAIQkUAAQhIoAAhCRQABCEigACEJFAAEITE+J8T5/P5/P5/P5/Pyw=')
TOPIC = '/front/video'
START = b'\0\0\0\1'
SLICES = {'h264': {1, 5}, 'h265': {1, 0, 19, 20}}


def packets_of(stream, codec='h264'):
    """Return the packets of a stream with one slice per picture."""
    out, pending = [], b''
    for unit in re.split(b'\0{2,3}\1', base64.b64decode(stream))[1:]:
        pending += START + unit
        if (unit[0] & 31 if codec == 'h264' else unit[0] >> 1 & 63) in SLICES[codec]:
            out.append(pending)
            pending = b''
    return out


def number_of(image):
    return round((float(image.mean()) - 30) / 15)


@pytest.fixture
def opened(write_messages, stamp):
    """Return a function that opens packets as a source, and closes it in the end."""
    sources = []

    def open_it(packets, codec='h264'):
        types = msgs.standard_types().types
        rows = [(TOPIC, msgs.COMPRESSED_VIDEO, types[msgs.COMPRESSED_VIDEO](
            timestamp=msgs.make_header(stamp(n), 'c').stamp, frame_id='c', format=codec,
            data=np.frombuffer(p, np.uint8)), stamp(n)) for n, p in enumerate(packets)]
        sources.append(open_source(write_messages(rows, plugin=StoragePlugin.MCAP)))
        return sources[-1]

    yield open_it
    for source in sources:
        source.close()


@pytest.mark.parametrize(('stream', 'codec'), [(PLAIN, 'h264'), (LOW_DELAY_H265, 'h265')])
def test_each_stamp_has_its_picture(opened, stream, codec):
    source = opened(packets_of(stream, codec), codec)
    assert len(source) == 12
    assert [number_of(f.image) for f in source] == list(range(12))
    assert [number_of(source[n].image) for n in (7, 2, 11)] == [7, 2, 11]


@pytest.mark.parametrize(('stream', 'codec'), [(REORDERED, 'h264'), (REORDERED_H265, 'h265')])
def test_b_frames_are_refused_by_name(opened, stream, codec):
    source = opened(packets_of(stream, codec), codec)
    assert len(source) == 12
    assert list(source) == []
    assert source.bad_frames == 12
    with pytest.raises(ImageError, match=r'/front/video\[5\]: the video has B-frames'):
        source[5]


def test_b_frames_that_begin_later_shift_no_picture(opened):
    """An encoder that was started anew; the decoder is past its look ahead by then."""
    plain, reordered = packets_of(PLAIN), packets_of(REORDERED)
    source = opened([*plain * 8, *reordered, *plain])
    frames = [(f.key.index, number_of(f.image)) for f in source]
    assert frames == [(n, n % 12) for n in (*range(96), *range(108, 120))]
    assert source.bad_frames == 12


@pytest.mark.parametrize(('stream', 'codec'), [(MBAFF, 'h264'), (FIELDS_H265, 'h265')])
def test_interlaced_video_is_refused_by_name(opened, stream, codec):
    packets = packets_of(stream, codec)
    source = opened(packets, codec)
    assert len(source) == len(packets) >= 3
    assert list(source) == []
    assert source.bad_frames == len(packets)
    with pytest.raises(ImageError, match=r'/front/video\[2\]: the video is interlaced: .*'
                                         're-encode it as progressive'):
        source[2]


@pytest.mark.parametrize(('stream', 'codec', 'fourcc'), [
    (MBAFF, 'h264', b'H264'), (FIELDS_H265, 'h265', b'HEVC')])
def test_an_interlaced_file_is_refused_by_name(stream, codec, fourcc, tmp_path):
    file = tmp_path / 'drive.avi'
    with file.open('wb') as out:
        shutil.copyfileobj(video._AviStream(packets_of(stream, codec), fourcc), out)
    with pytest.raises(BagError, match='drive.avi: the video is interlaced: '):
        open_source(file)


def test_frames_in_a_stream_that_may_have_fields_are_read(opened):
    source = opened(packets_of(FAKE_INTERLACED))
    assert [number_of(f.image) for f in source] == list(range(12))


def test_field_pictures_are_seen_by_their_slices():
    """What PAFF encoders make: some pictures are frames, others are fields."""
    watch = InterlaceWatch('h264')
    key, *others = packets_of(FAKE_INTERLACED)
    units = key.split(START)[1:]
    assert not any(watch.sees(u[0] & 31, u) for u in units)
    unit = others[0].removeprefix(START)
    # Macroblock 0: 1; P slice: 00110; parameter set 0: 1; number 1: 0001; no field: 0.
    bits = f'{int.from_bytes(unit[1:5], "big"):032b}'
    assert bits.startswith('1' '00110' '1' '0001' '0')
    assert not watch.sees(1, unit)
    field = int(f'{bits[:11]}1{bits[12:]}', 2).to_bytes(4, 'big')
    assert watch.sees(1, unit[:1] + field + unit[5:])


def test_b_slices_are_seen():
    for packet in packets_of(PLAIN):
        refuse_b_frames(packet, 'h264')
    seen = 0
    for packet in packets_of(REORDERED):
        try:
            refuse_b_frames(packet, 'h264')
        except ImageError:
            seen += 1
    assert seen == 7
    refuse_b_frames(packets_of(REORDERED_H265, 'h265')[1], 'h265')  # H.265 says it at the start
    assert stream_format(packets_of(REORDERED)[0], 'h264') \
        != stream_format(packets_of(PLAIN)[0], 'h264') != b''
    assert stream_format(packets_of(PLAIN)[1], 'h264') == b''


def test_a_part_begins_at_the_key_frame_before_it(opened, tmp_path, stamp):
    """At 20 Hz, with a key frame every twelve pictures."""
    path = opened(packets_of(PLAIN) * 4)._reader.path
    part = cut_bag(path, tmp_path / 'cut', start_s=0.9, end_s=1.5)
    source = open_source(tmp_path / 'cut')
    assert [(f.log_ns, number_of(f.image)) for f in source] == [
        (stamp(n), n % 12) for n in range(12, 30)]
    assert source.bad_frames == 0
    assert part.duration_s == pytest.approx(0.85)
    split_bag(path, tmp_path / 'parts', length_s=1.0)
    for name, numbers in (('bag_000', range(20)), ('bag_001', range(12, 40)),
                          ('bag_002', range(36, 48))):
        source = open_source(tmp_path / 'parts' / name)
        assert [number_of(f.image) for f in source] == [n % 12 for n in numbers]


@pytest.mark.parametrize('least', [4, 40])
def test_without_streaming_a_file_serves(opened, monkeypatch, least):
    """As before OpenCV 4.11: within one key frame's stretch, and over several."""
    monkeypatch.setattr(video, '_STREAMED', False)
    monkeypatch.setattr(video, '_FILE_PACKETS', least)
    plain = packets_of(PLAIN)
    source = opened([*plain * 2, b'', *plain])
    assert [(f.key.index, number_of(f.image)) for f in source] \
        == [(n, (n - (n > 24)) % 12) for n in range(37) if n != 24]
    assert source.bad_frames == 1
    assert [number_of(source[n].image) for n in (23, 1, 12)] == [11, 1, 0]


def test_without_streaming_the_file_is_bounded(opened, monkeypatch):
    monkeypatch.setattr(video, '_STREAMED', False)
    monkeypatch.setattr(video, '_FILE_BYTES', 400)
    monkeypatch.setattr(video, '_FILE_PACKETS', 4)
    source = opened(packets_of(PLAIN) * 3)
    found = [f.key.index for f in source]
    assert found[:2] == [0, 1]
    assert {12, 13, 24, 25} < set(found)  # each key frame begins anew
    with pytest.raises(ImageError, match=r'\[11\]: its video packet is more than 0 MiB behind the '
                                         r'last key frame; OpenCV 4\.11 or later can decode that'):
        source[11]


READ = '''
import json, sys
from kd_perception.bags.source import open_source
def memory():
    said = open('/proc/self/status').read().split()
    return {k: int(said[said.index(k + ':') + 1]) / 1024 for k in ('VmHWM', 'VmRSS')}
source = open_source(sys.argv[1])
source[0]
before = memory()['VmHWM']
read = [round(float(source[int(n)].image.mean())) for n in sys.argv[2:]]
print(json.dumps({'read': read, 'grown_mb': memory()['VmHWM'] - before}))
'''


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs Linux')
@pytest.mark.skipif(not video._STREAMED, reason='needs OpenCV 4.11')
@pytest.mark.parametrize('wanted', [range(0, 45, 4), [44]], ids=['in order', 'at once'])
def test_memory_does_not_follow_the_distance_to_the_key_frame(opened, wanted):
    plain = packets_of(PLAIN)
    filler = START + b'\x0c' + b'\xff' * 2_000_000 + b'\x80'  # belongs to no picture
    rows = [packet for one in plain for packet in (one, *[filler] * 3)]  # 70 MB
    source = opened(rows)
    done = subprocess.run(
        [sys.executable, '-c', READ, str(source._reader.path), *map(str, wanted)], check=True,
        capture_output=True, text=True)
    said = json.loads(done.stdout)
    assert [round((level - 30) / 15) for level in said['read']] == [n // 4 for n in wanted]
    assert said['grown_mb'] < 40


@pytest.mark.skipif(not video._STREAMED, reason='needs OpenCV 4.11')
def test_packets_are_taken_as_they_are_needed():
    taken = 0

    def endless():
        nonlocal taken
        while True:
            yield from packets_of(PLAIN)
            taken += 12

    with VideoDecoder(endless(), 'h264') as decoder:
        for n in range(300):
            number, image = decoder.read()
            assert (number, number_of(image)) == (n, n % 12)
        # Some are looked at before the first picture.
        assert 300 < decoder.taken < 1500


@pytest.mark.skipif(not video._STREAMED, reason='needs OpenCV 4.11')
def test_what_happens_while_opencv_reads_is_told():
    def broken():
        yield from packets_of(PLAIN) * 40
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), VideoDecoder(broken(), 'h264') as decoder:
        list(decoder)


def test_a_source_that_is_let_go_frees_its_decoder(opened):
    """Its decoder holds a generator, which the garbage collector cannot see."""
    path = opened(packets_of(PLAIN))._reader.path
    source = open_source(path)
    source[3]
    stream = weakref.ref(source._pictures._video)
    del source
    gc.collect()
    assert stream() is None
