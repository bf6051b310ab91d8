"""Import of videos and folders."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.bags.importer import import_recording
from kd_perception.bags.reader import BagReader
from kd_perception.bags.source import open_source
from kd_perception.errors import BagError, ConfigError
from kd_perception.imaging import encode_jpeg, encode_png


@pytest.fixture
def folder(tmp_path, picture):
    """Return a folder of four JPEGs with CamVid labels, void among them."""
    path, labels = tmp_path / 'in' / 'val', tmp_path / 'in' / 'val_labels'
    path.mkdir(parents=True)
    labels.mkdir()
    for n in range(4):
        (path / f'{n}.jpg').write_bytes(encode_jpeg(picture(n)))
        ids = np.random.default_rng(n).integers(0, 12, (24, 40), dtype=np.uint8)
        (labels / f'{n}.png').write_bytes(encode_png(ids))
    return path


def test_labelled_folder(folder, tmp_path):
    done = []
    path = import_recording(folder, tmp_path / 'bag', classes='camvid', rate_hz=30.0,
                            progress=lambda *a: done.append(a))
    assert done == [(n, 4, '') for n in (1, 2, 3, 4)]
    with BagReader(path) as reader:
        assert {t.name: t.count for t in reader.topics} == {
            '/camera/image/compressed': 4, '/camera/camera_info': 4, '/camera/labels': 4,
            '/camera/label_info': 1}
        assert reader.topics[1].rate_hz == pytest.approx(30.0)
        assert reader.index('camera/image').message(2).data.tobytes() == \
            (folder / '2.jpg').read_bytes()
        info = reader.index('camera/camera_info').message(0)
        # 80 degrees: half the width is the tangent of 40.
        assert info.k[0] == pytest.approx(20.0 / np.tan(np.radians(40.0)))
        assert (info.k[2], info.k[5]) == (20.0, 12.0)
    source = open_source(path)
    assert source.label_classes.name == 'camvid'
    files = open_source(folder, classes='camvid')
    for recorded, original in zip(source, files, strict=True):
        np.testing.assert_array_equal(recorded.image, original.image)
        assert (original.labels == 11).any()
        np.testing.assert_array_equal(
            recorded.labels, np.where(original.labels == 11, 255, original.labels))


@pytest.mark.parametrize(('encoding', 'topic'), [('rgb8', '/front/raw'),
                                                 ('png', '/front/raw/compressed')])
def test_other_encodings_and_names(encoding, topic, folder, tmp_path):
    path = import_recording(folder, tmp_path / 'bag', classes='camvid', encoding=encoding,
                            topic='front/raw', limit=2)
    source = open_source(path)
    assert (source.topic, source.label_topic, len(source)) == (topic, '/front/labels', 2)
    np.testing.assert_array_equal(source[1].image, open_source(folder)[1].image)


def test_labels_need_a_meaning(folder, tmp_path):
    with pytest.raises(ConfigError, match='what do their ids mean'):
        import_recording(folder, tmp_path / 'bag')
    assert not (tmp_path / 'bag').exists()


def test_bad_images_are_left_out(folder, tmp_path):
    (folder / '1.jpg').write_bytes(b'spoilt')
    path = import_recording(folder, tmp_path / 'bag', classes='camvid')
    assert len(open_source(path)) == 3
    for n in (0, 2, 3):
        (folder / f'{n}.jpg').write_bytes(b'spoilt')
    with pytest.raises(BagError, match='none of its 4 images can be decoded'):
        import_recording(folder, tmp_path / 'other', classes='camvid')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['bag', 'in']


def test_interrupted_import_leaves_nothing(folder, tmp_path):
    def interrupt(done, total, note):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_recording(folder, tmp_path / 'bag', classes='camvid', progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ['in']


def test_wrong_input(folder, tmp_path, labelled_bag):
    with pytest.raises(BagError, match='is a rosbag already'):
        import_recording(labelled_bag, tmp_path / 'bag')
    with pytest.raises(BagError, match='no such file'):
        import_recording(tmp_path / 'nothing', tmp_path / 'bag')
    with pytest.raises(BagError, match='exists'):
        import_recording(folder, tmp_path / 'in', classes='camvid')
    with pytest.raises(ConfigError, match='field of view'):
        import_recording(folder, tmp_path / 'bag', classes='camvid', fov_deg=180.0)
    for rate in (-3.0, float('nan'), float('inf'), 1e-12):
        with pytest.raises(ConfigError, match='is not possible: 0.001 to'):
            import_recording(folder, tmp_path / 'bag', classes='camvid', rate_hz=rate)
    for topic in ('', '/', 'labels', '/front/camera_info/'):
        with pytest.raises(ConfigError, match='recorded beside the images'):
            import_recording(folder, tmp_path / 'bag', classes='camvid', topic=topic)
    assert not (tmp_path / 'bag').exists()
