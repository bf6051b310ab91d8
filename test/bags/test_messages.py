"""Messages made and read without ROS."""

from __future__ import annotations

from mcap_ros2._dynamic import generate_dynamic
import numpy as np
import pytest

from kd_perception.bags import messages as msgs
from kd_perception.bags.storage import Channel
from kd_perception.errors import BagError


def channel(kind=msgs.IMAGE, definition='', fmt='msg', serialization='cdr'):
    return Channel(0, '/t', kind, definition, fmt, serialization)


@pytest.mark.parametrize('kind', [msgs.IMAGE, msgs.COMPRESSED_IMAGE, msgs.CAMERA_INFO,
                                  msgs.LABEL_INFO])
def test_an_independent_decoder_reads_what_we_write(kind):
    """The definitions and bytes are checked against the decoder of another project."""
    made = {
        msgs.IMAGE: msgs.make_image(np.arange(24, dtype=np.uint8).reshape(2, 4, 3), 'rgb8',
                                    3_000_000_004, 'front'),
        msgs.COMPRESSED_IMAGE: msgs.make_compressed(b'\xff\xd8x', 'jpeg', 3_000_000_004, 'front'),
        msgs.CAMERA_INFO: msgs.make_camera_info(4, 2, 1., 2., 3., 4., 3_000_000_004, 'front'),
        msgs.LABEL_INFO: msgs.make_label_info(('road', 'car'), 3_000_000_004, 'front'),
    }[kind]
    definition, _ = msgs.standard_types().generate_msgdef(kind, ros_version=2)
    read = generate_dynamic(kind, definition)[kind](msgs.to_cdr(made, kind))
    assert (read.header.stamp.sec, read.header.stamp.nanosec) == (3, 4)
    assert read.header.frame_id == 'front'
    if kind == msgs.IMAGE:
        assert (read.height, read.width, read.step, read.encoding) == (2, 4, 12, 'rgb8')
        assert bytes(read.data) == bytes(range(24))
    elif kind == msgs.COMPRESSED_IMAGE:
        assert (read.format, bytes(read.data)) == ('jpeg', b'\xff\xd8x')
    elif kind == msgs.CAMERA_INFO:
        assert list(read.k) == [1, 0, 3, 0, 2, 4, 0, 0, 1]
        assert list(read.p) == [1, 0, 3, 0, 0, 2, 4, 0, 0, 0, 1, 0]
    else:
        assert [(c.class_id, c.class_name) for c in read.class_map] == [(0, 'road'), (1, 'car')]


def test_header_without_the_message():
    data = msgs.to_cdr(msgs.make_image(np.zeros((1, 1, 3), np.uint8), 'rgb8', 5_000_000_006, 'c'),
                       msgs.IMAGE)
    assert msgs.header_of(data) == (5_000_000_006, 'c')
    assert msgs.header_of(data[:18]) == (5_000_000_006, 'c')
    for size in (0, 3, 10, 16):
        with pytest.raises(BagError, match='header is damaged'):
            msgs.header_of(data[:size])


def test_big_endian_messages():
    image = msgs.make_image(np.zeros((1, 2, 3), np.uint8), 'rgb8', 5_000_000_006, 'cam')
    data = bytes(msgs.standard_types().serialize_cdr(image, msgs.IMAGE, little_endian=False))
    assert msgs.header_of(data) == (5_000_000_006, 'cam')
    assert msgs.deserializer(channel())(data).width == 2


def test_negative_and_large_stamps():
    for stamp in (0, 1, 2**31 * 1_000_000_000 - 1):
        assert msgs.stamp_of(msgs.make_compressed(b'', 'jpeg', stamp, '')) == stamp


def test_bytes_behind_a_message_do_no_harm():
    data = msgs.to_cdr(msgs.make_label_info(('road',), 1), msgs.LABEL_INFO)
    assert msgs.deserializer(channel(msgs.LABEL_INFO))(data + bytes(64)).class_map[0].class_id == 0


def test_pixels_are_not_copied():
    data = msgs.to_cdr(msgs.make_image(np.zeros((8, 8, 3), np.uint8), 'rgb8', 1, 'c'), msgs.IMAGE)
    message = msgs.deserializer(channel())(data)
    assert np.shares_memory(message.data, np.frombuffer(data, np.uint8))


def test_damaged_messages_are_bag_errors():
    data = msgs.to_cdr(msgs.make_image(np.zeros((8, 8, 3), np.uint8), 'rgb8', 1, 'c'), msgs.IMAGE)
    decode = msgs.deserializer(channel())
    for size in (0, 1, 4, 7, 20, len(data) - 30):
        with pytest.raises(BagError, match=r'/t: a sensor_msgs/msg/Image message is damaged'):
            decode(data[:size])
    with pytest.raises(BagError):
        decode(b'\x28' + data[1:])


def test_a_recordings_own_definition_wins():
    """The same type name may have had other fields when the recording was made."""
    own = channel('std_msgs/msg/String', 'int32 number\n')
    assert msgs.deserializer(own)(b'\x00\x01\x00\x00\x07\x00\x00\x00').number == 7
    idl = ('module team { module msg { struct Speed { double value; }; }; };')
    one = channel('team/msg/Speed', idl, 'idl')
    assert msgs.deserializer(one)(b'\x00\x01\x00\x00' + np.float64(2.5).tobytes()).value == 2.5
    rule = '=' * 80 + '\nIDL: team/msg/Speed\n'
    many = channel('team/msg/Speed', rule + idl, 'idl')
    assert msgs.deserializer(many)(b'\x00\x01\x00\x00' + np.float64(2.5).tobytes()).value == 2.5


def test_a_broken_definition_of_a_common_type_is_replaced():
    data = msgs.to_cdr(msgs.make_label_info(('road',), 1), msgs.LABEL_INFO)
    assert msgs.deserializer(channel(msgs.LABEL_INFO, 'no ? definition'))(data).threshold == 0


def test_unknown_type_without_definition():
    with pytest.raises(BagError, match='no definition of team/msg/Odd'):
        msgs.deserializer(channel('team/msg/Odd'))


@pytest.mark.parametrize('definition', [
    'std_msgs/Header header\nfloat32[] data\n',
    'uint32 height\nuint8[] data\n',
])
def test_an_image_defined_otherwise_is_refused(definition):
    header = ('=' * 80 + '\nMSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n'
              + '=' * 80 + '\nMSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n')
    text = definition + (header if 'Header' in definition else '')
    with pytest.raises(BagError, match='defines .* otherwise than ROS does'):
        msgs.deserializer(channel(msgs.IMAGE, text))
