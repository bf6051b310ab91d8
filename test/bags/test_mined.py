import numpy as np
import pytest

from kd_perception.bags import messages as msgs
from kd_perception.bags.cut import cut_bag
from kd_perception.bags.mined import (
    MinedBag,
    MinedTopics,
    read_scores,
    redacted,
    standard_message,
)
from kd_perception.bags.reader import BagReader
from kd_perception.bags.source import open_source
from kd_perception.classes import load_class_set
from kd_perception.errors import BagError
from kd_perception.imaging import decode_message

TOPICS = MinedTopics('/front/image', msgs.IMAGE, '/front/camera_info', '/car/shadow')


def picture(number, value=None):
    pixels = np.full((24, 32, 3), number if value is None else value, np.uint8)
    return msgs.to_cdr(msgs.make_image(pixels, 'bgr8', 1000 + number, 'front'), msgs.IMAGE)


def test_a_mined_bag_is_the_next_input_and_says_why(tmp_path):
    mask = np.full((24, 32), 3, np.uint8)
    info = msgs.to_cdr(msgs.make_camera_info(32, 24, 1, 1, 1, 1, 1002, 'front'),
                       msgs.CAMERA_INFO)
    with MinedBag(tmp_path / 'mined', TOPICS, classes=load_class_set('driving'),
                  about={'teacher': 'abc'}, file_bytes=6000) as bag:
        for number in range(5):
            assert bag.write(picture(number), 500 + number, {'reason': 'novelty', 'rank': 0.5},
                             mask=mask, camera_info=info if number == 2 else None)
    source = open_source(tmp_path / 'mined')
    assert not source.has_labels               # a teacher's word is not taken for the truth
    frames = list(source)
    assert [f.stamp_ns for f in frames] == [1000, 1001, 1002, 1003, 1004]
    assert [f.frame_id for f in frames] == ['front'] * 5
    assert (frames[3].image == 3).all()
    with BagReader(tmp_path / 'mined') as reader:
        assert len(reader.files) > 1
        assert reader.metadata.custom == {'teacher': 'abc'}
        assert {t.name: t.count for t in reader.topics} == {
            '/front/image': 5, '/front/camera_info': 1, '/car/shadow/disagreement': 5,
            '/car/shadow/segmentation/mask': 5, '/car/shadow/segmentation/label_info': 1}
        assert reader.index('/front/image').raw(3)[0] == picture(3)
        told = read_scores(reader.index('/car/shadow/disagreement').raw(4)[0])
        assert told == (1004, {'reason': 'novelty', 'rank': '0.5'})
    # Who names it gets it.
    named = open_source(tmp_path / 'mined', label_topic='/car/shadow/segmentation/mask')
    assert named.label_classes.name == 'driving'
    assert (named[0].labels == 3).all()


def test_no_frame_no_recording_and_nothing_is_overwritten(tmp_path):
    with MinedBag(tmp_path / 'mined', TOPICS):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / 'mined').mkdir()
    with pytest.raises(BagError, match='exists'), MinedBag(tmp_path / 'mined', TOPICS) as bag:
        bag.write(picture(0), 1, {})
    assert [p.name for p in tmp_path.iterdir()] == ['mined']


def test_the_budget_holds(tmp_path):
    with MinedBag(tmp_path / 'mined', TOPICS, max_bytes=20_000) as bag:
        done = [bag.write(picture(n), n + 1, {}) for n in range(20)]
    assert 0 < sum(done) < 10
    assert done == sorted(done, reverse=True)
    assert sum(f.stat().st_size for f in (tmp_path / 'mined').rglob('*.mcap')) < 20_000 + 8192


def test_what_a_killed_writer_let_go_of_is_recovered(tmp_path):
    bag = MinedBag(tmp_path / 'mined', TOPICS, file_bytes=4000)
    for number in range(10):
        bag.write(picture(number), number + 1, {})
    # No end: what is on the disk now is what a kill leaves.
    cut_bag(tmp_path / 'mined.unfinished', tmp_path / 'saved')
    assert len(open_source(tmp_path / 'saved')) >= 6
    bag.close()


@pytest.mark.parametrize('kind', ['raw', 'jpeg', 'png'])
def test_a_picture_is_stored_as_it_came_unless_something_was_hidden(kind):
    pixels = np.full((24, 32, 3), 200, np.uint8)
    if kind == 'raw':
        data, of = picture(7, 200), msgs.IMAGE
    else:
        from kd_perception.imaging import encode_jpeg, encode_png
        packed = (encode_jpeg if kind == 'jpeg' else encode_png)(pixels)
        of = msgs.COMPRESSED_IMAGE
        data = msgs.to_cdr(msgs.make_compressed(packed, kind, 1007, 'front'), of)
    assert redacted(data, of, lambda image: image) is data

    def black(image):
        out = image.copy()
        out[:, :16] = 0
        return out

    hidden = redacted(data, of, black)
    image = decode_message(standard_message(hidden, of))
    assert image[:, :14].max() < 10
    assert image[:, 18:].min() > 190
    assert msgs.header_of(hidden) == (1007, 'front')
