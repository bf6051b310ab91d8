"""ROS 1 bags."""

from __future__ import annotations

import numpy as np
import pytest
from rosbags.rosbag1 import Writer
from rosbags.typesys import get_typestore, Stores

from kd_perception.bags import messages as msgs
from kd_perception.bags.reader import BagReader
from kd_perception.errors import BagError


@pytest.fixture
def ros1_bag(tmp_path, picture):
    """Write five images and a CameraInfo in compressed chunks."""
    store = get_typestore(Stores.ROS1_NOETIC)
    types = store.types
    path = tmp_path / 'a.bag'
    writer = Writer(path)
    writer.set_compression(Writer.CompressionFormat.BZ2)
    writer.chunk_threshold = 5000
    with writer:
        images = writer.add_connection('/cam/image', msgs.IMAGE, typestore=store)
        infos = writer.add_connection('/cam/camera_info', msgs.CAMERA_INFO, typestore=store)
        for n in range(5):
            header = types['std_msgs/msg/Header'](
                seq=n, stamp=types['builtin_interfaces/msg/Time'](sec=5, nanosec=n),
                frame_id='cam')
            image = types[msgs.IMAGE](header=header, height=24, width=40, encoding='bgr8',
                                      is_bigendian=0, step=120, data=picture(n).reshape(-1))
            writer.write(images, 10 + n, store.serialize_ros1(image, msgs.IMAGE))
        info = types[msgs.CAMERA_INFO](
            header=header, height=24, width=40, distortion_model='plumb_bob', D=np.zeros(5),
            K=np.arange(9.), R=np.eye(3).reshape(-1), P=np.arange(12.), binning_x=0, binning_y=0,
            roi=types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False))
        writer.write(infos, 20, store.serialize_ros1(info, msgs.CAMERA_INFO))
    return path


def test_images_and_headers(ros1_bag, picture):
    with BagReader(ros1_bag) as reader:
        assert reader.camera_topics[0].encoding == 'bgr8'
        index = reader.index('/cam/image')
        assert len(index) == 5
        for n in (4, 0, 3):
            np.testing.assert_array_equal(index.message(n).data, picture(n).reshape(-1))
            assert index.header(n) == (5_000_000_000 + n, 'cam')


def without_index(path):
    data = bytearray(path.read_bytes())
    place = data.index(b'index_pos=') + len(b'index_pos=')
    data[place:place + 8] = bytes(8)
    path.write_bytes(data)


def test_bag_without_index_is_walked(ros1_bag, picture):
    without_index(ros1_bag)
    with BagReader(ros1_bag) as reader:
        assert 'has no index; 6 messages found in it are used' in reader.warnings[0]
        index = reader.index('/cam/image')
        assert len(index) == 5
        for n in (4, 0, 3):
            np.testing.assert_array_equal(index.message(n).data, picture(n).reshape(-1))
        assert reader.index('/cam/camera_info').message(0).width == 40


@pytest.mark.parametrize(('share', 'left'), [(0.5, 2), (0.85, 4), (0.95, 5)])
def test_what_lies_before_the_cut_is_read(ros1_bag, share, left):
    data = ros1_bag.read_bytes()
    ros1_bag.write_bytes(data[:int(len(data) * share)])
    with BagReader(ros1_bag) as reader:
        assert 'cut off' in reader.warnings[0]
        assert left - 1 <= len(list(reader.messages(['/cam/image']))) <= left


def test_a_cut_before_the_first_message_is_one_line(ros1_bag):
    ros1_bag.write_bytes(ros1_bag.read_bytes()[:5000])
    with pytest.raises(BagError, match=r'a\.bag: holds no readable message') as caught:
        BagReader(ros1_bag)
    assert '\n' not in str(caught.value)


def test_digests_of_zeros_do_no_harm(ros1_bag):
    """Some writers do not know the MD5 of a definition."""
    data = bytearray(ros1_bag.read_bytes())
    place = data.index(b'md5sum=')
    while place >= 0:
        data[place + 7:place + 39] = b'0' * 32
        place = data.find(b'md5sum=', place + 39)
    ros1_bag.write_bytes(data)
    with BagReader(ros1_bag) as reader:
        assert len(list(reader.messages())) == 6


def test_damaged_chunk_is_a_damaged_message(ros1_bag):
    data = bytearray(ros1_bag.read_bytes())
    place = data.index(b'BZh') + 30
    data[place:place + 500] = bytes(500)
    ros1_bag.write_bytes(data)
    with BagReader(ros1_bag) as reader:
        index = reader.index('/cam/image')
        with pytest.raises(BagError, match='is damaged'):
            index.message(0)
        index.message(4)
