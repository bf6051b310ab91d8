"""Frames of rosbags."""

from __future__ import annotations

import logging
import os
import pickle

import numpy as np
import pytest

from kd_perception.bags import messages as msgs
from kd_perception.bags.sampling import LabelError
from kd_perception.bags.source import BagSource, open_source
from kd_perception.bags.writer import BagWriter
from kd_perception.classes import load_class_set
from kd_perception.errors import BagError, ConfigError, ImageError
from kd_perception.frames import FrameKey, FrameSource


def short_image(stamp_ns, frame_id='camera'):
    """Return an image whose header claims far more pixels than it carries."""
    message = msgs.make_image(np.zeros((5, 2, 3), np.uint8), 'rgb8', stamp_ns, frame_id)
    message.height, message.width, message.step = 480, 640, 1920
    return message


def test_frames_with_labels(labelled_bag, picture, label_image, stamp):
    source = open_source(labelled_bag)
    assert isinstance(source, FrameSource)
    assert (len(source), source.name, source.has_labels) == (6, 'labelled', True)
    assert source.label_classes == load_class_set('driving')
    for n, frame in enumerate(source):
        np.testing.assert_array_equal(frame.image, picture(n))
        np.testing.assert_array_equal(frame.labels, label_image(n))
        assert (frame.stamp_ns, frame.log_ns, frame.frame_id) == (stamp(n), stamp(n), 'camera')
        assert frame.key == FrameKey(source.fingerprint, '/camera/image', n)
    np.testing.assert_array_equal(source[4].image, picture(4))
    np.testing.assert_array_equal(source[-1].labels, label_image(5))
    with pytest.raises(IndexError):
        source[6]
    source.close()


def test_which_frames_have_labels_is_known_without_decoding(labelled_bag, tmp_path, picture,
                                                            label_image, monkeypatch):
    some = bag_with_labels(tmp_path / 'some', picture, [label_image(n) for n in range(4)],
                           label_stamps=[0, None, 2, None])
    for bag, options, expected in ((labelled_bag, {}, [1] * 6), (some, {}, [1, 0, 1, 0]),
                                   (some, {'limit': 2}, [1, 0]),
                                   (some, {'labels': False}, [0] * 4)):
        source = open_source(bag, **options)
        assert [frame.labels is not None for frame in source] == expected
        with monkeypatch.context() as patch:
            patch.setattr(BagSource, '_frame', None)
            assert source.labelled.tolist() == expected
        source.close()


def test_subsampled_frames_keep_their_keys(labelled_bag):
    source = open_source(labelled_bag, rate_hz=10.0, limit=2)
    assert [f.key.index for f in source] == [0, 2]
    assert source[1].key.index == 2


def test_source_travels_to_another_process(labelled_bag):
    source = open_source(labelled_bag, image_topic='camera/image', rate_hz=10.0)
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert [f.key for f in copy] == [f.key for f in source]
    copy.close()


def test_bad_frames_are_skipped_counted_and_raised(write_messages, picture, caplog):
    rows = []
    for n in range(6):
        message = short_image(n) if n in (1, 4) else \
            msgs.make_image(picture(n), 'rgb8', n, 'c')
        rows.append(('/image', msgs.IMAGE, message, n))
    source = open_source(write_messages(rows))
    with caplog.at_level(logging.WARNING):
        assert [f.key.index for f in source] == [0, 2, 3, 5]
        assert [f.key.index for f in source] == [0, 2, 3, 5]
    assert source.bad_frames == 2
    assert 'claims 640x480 rgb8 (921600 bytes) but carries 30' in caplog.text
    assert len(source) == 6
    with pytest.raises(ImageError, match=r'/image\[4\]: image claims 640x480'):
        source[4]


def test_cut_off_jpeg_is_a_bad_frame(tmp_path, picture):
    with BagWriter(tmp_path / 'bag') as writer:
        writer.write_image('image', picture(0), 1, encoding='jpeg')
        data = msgs.make_compressed(b'\xff\xd8 cut off', 'jpeg', 2, 'camera')
        writer.write_compressed('image', data.data.tobytes(), 'jpeg', 2)
    source = open_source(tmp_path / 'bag')
    assert len(list(source)) == 1
    assert source.bad_frames == 1


def test_several_cameras_must_be_chosen_from(tmp_path, picture, label_image):
    path = tmp_path / 'bag'
    with BagWriter(path) as writer:
        for n in range(2):
            for side in ('left', 'right'):
                writer.write_image(f'{side}/image', picture(n), n, side, 'png')
            writer.write_labels('left/labels', label_image(n), n, 'left')
    with pytest.raises(BagError, match='several camera topics, choose one: '
                                       '/left/image, /right/image'):
        open_source(path)
    assert open_source(path, image_topic='left/image').has_labels
    right = open_source(path, image_topic='/right/image')
    # The stamps of the left camera's labels would fit.
    assert not right.has_labels
    assert right[0].labels is None


def test_no_camera(tmp_path, label_image):
    path = tmp_path / 'bag'
    with BagWriter(path) as writer:
        writer.write_labels('camera/labels', label_image(0), 1)
        writer.write_camera_info('camera/camera_info', 4, 3, 1., 1., 2., 2., 1)
    with pytest.raises(BagError, match='no camera topic'):
        open_source(path)
    with pytest.raises(BagError, match='holds sensor_msgs/msg/CameraInfo, no images'):
        open_source(path, image_topic='camera/camera_info')
    with pytest.raises(BagError, match='has no topic'):
        open_source(path, image_topic='camera/left')


def test_topic_may_be_named_as_image_transport_does(tmp_path, picture):
    with BagWriter(tmp_path / 'bag') as writer:
        writer.write_image('camera/image/compressed', picture(0), 1, encoding='jpeg')
    source = open_source(tmp_path / 'bag', image_topic='camera/image')
    assert source[0].key.topic == '/camera/image/compressed'


def bag_with_labels(path, picture, labels, *, classes='driving', label_stamps=None,
                    image_stamps=None, label_frame='camera'):
    with BagWriter(path) as writer:
        if classes:
            writer.write_label_info('camera/label_info', load_class_set(classes), 0)
        for n in range(len(labels)):
            writer.write_image('camera/image', picture(n), (image_stamps or range(99))[n],
                               log_ns=n * 10)
        for n, image in enumerate(labels):
            if label_stamps is None or label_stamps[n] is not None:
                writer.write_labels('camera/labels', image, (label_stamps or range(99))[n],
                                    label_frame, log_ns=1000 + n)
    return path


def test_labels_of_another_size(tmp_path, picture, label_image):
    path = bag_with_labels(tmp_path / 'bag', picture, [label_image(0), label_image(1, 12, 20)])
    source = open_source(path)
    assert source[0].labels is not None
    message = r'/camera/image\[1\] \(stamp 1 ns\): labels are 20x12, but the image is 40x24'
    with pytest.raises(LabelError, match=message):
        source[1]
    with pytest.raises(ImageError, match=message):
        list(source)


def test_ids_outside_the_class_set(tmp_path, picture, label_image):
    strange = label_image(0).copy()
    strange[3, 3], strange[4, 4] = 12, 77
    source = open_source(bag_with_labels(tmp_path / 'bag', picture, [strange]))
    with pytest.raises(LabelError, match=r"ids \[12, 77\], which class set 'driving' "
                                         r'\(12 classes\) does not know'):
        list(source)


def test_classes_of_labels(tmp_path, picture, label_image):
    named = bag_with_labels(tmp_path / 'named', picture, [label_image(0)])
    with pytest.raises(ConfigError, match="'camvid' does not have the classes"):
        open_source(named, classes='camvid')
    assert open_source(named, classes='driving').label_classes.name == 'driving'
    nameless = bag_with_labels(tmp_path / 'nameless', picture, [label_image(0)], classes='')
    assert open_source(nameless).label_classes is None
    assert open_source(nameless)[0].labels is not None
    assert open_source(nameless, classes='carla').label_classes.name == 'carla'


@pytest.mark.parametrize(('images', 'labels', 'expected'), [
    ([1, 2, 3], [1, 2, 3], [0, 1, 2]),
    ([1, 2, 3], [3, None, 1], [2, None, 0]),
    ([1, 2, 3], [2, 3, 4], [None, 0, 1]),
    ([0, 0, 0], [0, 0, 0], [0, 1, 2]),             # unset stamps: in order
    ([0, 0, 7], [0, None, 7], [None, None, 2]),    # one was lost: no telling which
])
def test_labels_pair_by_stamp(images, labels, expected, tmp_path, picture, label_image):
    path = bag_with_labels(tmp_path / 'bag', picture, [label_image(n) for n in range(3)],
                           image_stamps=images, label_stamps=labels)
    for frame, partner in zip(open_source(path), expected):
        if partner is None:
            assert frame.labels is None
        else:
            np.testing.assert_array_equal(frame.labels, label_image(partner))


def test_labels_of_another_frame_id_do_not_pair(tmp_path, picture, label_image, caplog):
    path = bag_with_labels(tmp_path / 'bag', picture, [label_image(0)], label_frame='rear')
    assert not open_source(path).has_labels
    assert 'read without labels' in caplog.text
    with pytest.raises(BagError, match='no image of /camera/image has the stamp'):
        open_source(path, label_topic='camera/labels')
    path = bag_with_labels(tmp_path / 'unset', picture, [label_image(0)], label_frame='')
    assert open_source(path).has_labels


def test_label_topics_that_cannot_be_chosen(tmp_path, picture, label_image):
    path = tmp_path / 'bag'
    with BagWriter(path) as writer:
        writer.write_image('camera/image', picture(0), 1)
        for name in ('labels', 'mask'):
            writer.write_labels(f'camera/{name}', label_image(0), 1)
    with pytest.raises(BagError, match='several label topics, choose one: '
                                       '/camera/labels, /camera/mask'):
        open_source(path)
    assert open_source(path, label_topic='camera/mask').label_topic == '/camera/mask'
    with pytest.raises(BagError, match='has no topic'):
        open_source(path, label_topic='labels')


def test_png_labels(tmp_path, picture, label_image):
    with BagWriter(tmp_path / 'bag') as writer:
        writer.write_image('camera/image', picture(0), 1)
        writer.write_image('camera/labels', label_image(0), 1, encoding='png')
    np.testing.assert_array_equal(open_source(tmp_path / 'bag')[0].labels, label_image(0))


def carla_rows(form, tags, size=(24, 40)):
    """
    Return what a bag holds of CARLA's ROS bridge, or of its native ROS 2.

    Each sensor has a frame id of its own, though they look from the same place.
    """
    root = '/carla/ego_vehicle'
    palette = load_class_set('carla').palette()
    rows = []
    for n in range(2):
        pixels = np.zeros((*tags.shape, 4), np.uint8)
        if form == 'bridge':
            pixels[..., :3] = palette[tags][..., ::-1]
        else:
            pixels[..., 2] = tags
        for name, shown in (('rgb_front', np.full((*size, 4), 40, np.uint8)),
                            ('semantic_segmentation_front', pixels)):
            rows.append((f'{root}/{name}/image', msgs.IMAGE,
                         msgs.make_image(shown, 'bgra8', n, f'ego_vehicle/{name}'), n))
    return rows


@pytest.mark.parametrize('form', ['bridge', 'native'])
def test_labels_of_carla_are_found_and_mean_its_tags(form, write_messages):
    tags = np.arange(24 * 40, dtype=np.uint64).reshape(24, 40) % 29
    rows = carla_rows(form, tags.astype(np.uint8))
    # What a model says of its own classes must not be taken for CARLA's.
    info = msgs.make_label_info(load_class_set('driving').names, 0)
    rows.append(('/segmentation/label_info', msgs.LABEL_INFO, info, 0))
    path = write_messages(rows)
    source = open_source(path)
    assert source.topic == '/carla/ego_vehicle/rgb_front/image'
    assert source.label_topic == '/carla/ego_vehicle/semantic_segmentation_front/image'
    assert source.label_classes == load_class_set('carla')
    assert np.array_equal(source[1].labels, tags)
    with pytest.raises(ConfigError, match="'driving' does not have the classes"):
        open_source(path, classes='driving')


def test_the_bridges_small_label_camera_is_refused(write_messages):
    rows = carla_rows('bridge', np.zeros((7, 40), np.uint8))
    with pytest.raises(LabelError, match='labels are 40x7, but the image is 40x24'):
        open_source(write_messages(rows))[0]


@pytest.mark.parametrize(('name', 'make', 'message'), [
    ('nothing', None, 'no such file or folder'),
    ('folder', 'mkdir', 'holds neither a rosbag nor images'),
    ('text.txt', 'write', 'is neither a rosbag'),
    ('clip.mp4', 'write', 'is no video'),
])
def test_what_is_no_recording_gets_one_line(name, make, message, tmp_path):
    path = tmp_path / name
    if make == 'mkdir':
        path.mkdir()
    elif make == 'write':
        path.write_text('some words')
    with pytest.raises(BagError, match=message) as caught:
        open_source(path)
    assert '\n' not in str(caught.value)


def test_what_a_model_answered_is_no_ground_truth_unless_told(tmp_path):
    picture = np.zeros((6, 8, 3), np.uint8)
    with BagWriter(tmp_path / 'drive') as writer:
        writer.write_image('camera/image', picture, 5)
        writer.write_labels('segmentation/mask', picture[..., 0], 5)
    assert not open_source(tmp_path / 'drive').has_labels
    told = open_source(tmp_path / 'drive', label_topic='segmentation/mask', classes='driving')
    assert told.has_labels
    assert told[0].labels is not None


def test_options_without_meaning_are_refused(labelled_bag, tmp_path):
    with pytest.raises(ConfigError, match='must be finite and not negative'):
        open_source(labelled_bag, rate_hz=float('nan'))
    with pytest.raises(ConfigError, match='must be finite and not negative'):
        open_source(labelled_bag, rate_hz=-1)
    with pytest.raises(ConfigError, match='is a rosbag'):
        open_source(labelled_bag, label_dir=tmp_path)


def test_files_are_released_when_opening_fails(labelled_bag):
    before = len(os.listdir('/proc/self/fd'))
    with pytest.raises(BagError):
        BagSource(labelled_bag, image_topic='nothing')
    assert len(os.listdir('/proc/self/fd')) == before
