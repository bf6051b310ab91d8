"""Near-duplicates: a standing car shrinks, a driving one stays."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kd_perception.bags.motion import change, DRIVING, moving, thumbnail, thumbnail_of_jpeg
from kd_perception.bags.source import open_source
from kd_perception.bags.writer import BagWriter
from kd_perception.imaging import encode_jpeg, encode_png


def scene(width=320, height=180):
    """Return a picture with structure of many sizes."""
    generator = np.random.default_rng(5)
    small = generator.integers(20, 220, (9, 16, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def standing(image, number, noise=4.0):
    """Return what a standing camera sees of ``image``: noise, and an exposure that drifts."""
    generator = np.random.default_rng(number)
    bright = image * (1 + 0.03 * np.sin(number / 5)) + generator.normal(0, noise, image.shape)
    return np.clip(bright, 0, 255).astype(np.uint8)


def test_the_measure():
    image = scene()
    same = thumbnail(image)
    assert same.shape == (36, 64)
    assert abs(same.mean()) < 1e-5
    assert change(same, same) == 0
    assert change(same, thumbnail(cv2.resize(image, (1280, 720)))) < 1
    # Brightness and contrast are no motion.
    assert change(same, thumbnail((image * 0.7 + 20).astype(np.uint8))) < 1
    assert change(same, thumbnail(np.roll(image, 8, 1))) > 10
    assert change(same, thumbnail(image[:, :200])) == 100
    # Noise of a picture without contrast is not blown up.
    flat = np.full((180, 320, 3), 90, np.uint8)
    assert change(thumbnail(standing(flat, 1, 1.)), thumbnail(standing(flat, 2, 1.))) < DRIVING


def test_jpeg_is_decoded_small():
    image = scene(640, 360)
    data = encode_jpeg(image)
    # Scaled in another way, but by far the same picture; within a recording it is one way.
    assert change(thumbnail_of_jpeg(data), thumbnail(image)) < 5
    assert thumbnail_of_jpeg(encode_png(image)) is None
    assert thumbnail_of_jpeg(data[:50]) is None


def test_a_jpeg_that_claims_too_much_is_not_handed_to_opencv(monkeypatch):
    data = bytearray(encode_jpeg(np.zeros((8, 8, 3), np.uint8)))
    frame = data.index(b'\xff\xc0')
    data[frame + 5:frame + 9] = (16384).to_bytes(2, 'big') * 2
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: pytest.fail('memory for 16384x16384'))
    assert thumbnail_of_jpeg(bytes(data)) is None


def test_the_last_one_kept_counts_not_the_last_one_seen():
    """Slow motion adds up."""
    image = scene()
    crawl = [thumbnail(np.roll(image, n, 1)[:, 40:-40]) for n in range(40)]
    step = change(crawl[0], crawl[1])
    kept = moving(crawl, 3 * step)
    assert 5 < len(kept) < 20
    assert kept[0] == 0
    assert moving([None, crawl[0], None, crawl[0]], 1.0).tolist() == [0, 1, 2]
    assert moving([], 1.0).tolist() == []


@pytest.mark.parametrize('encoding', ['jpeg', 'rgb8'])
def test_a_stop_in_a_recording(encoding, tmp_path):
    image = scene(640, 180)
    with BagWriter(tmp_path / 'drive') as writer:
        for n in range(90):
            shift = min(n, 30) if n < 60 else n - 30  # drives, stands from 30 to 59, drives on
            view = standing(image[:, shift * 4:shift * 4 + 320], n, noise=2.0)
            writer.write_image('camera/image', view, (n + 1) * 50_000_000, encoding=encoding)
    whole = open_source(tmp_path / 'drive')
    source = open_source(tmp_path / 'drive', motion=DRIVING)
    kept = [f.key.index for f in source]
    assert len([k for k in kept if 31 < k < 60]) <= 1
    assert len([k for k in kept if k <= 30 or k > 60]) >= 59
    assert {f.key for f in source} < {f.key for f in whole}
    # Rate, motion, count and limit, in this order.
    assert len(open_source(tmp_path / 'drive', motion=DRIVING, count=7)) == 7
    assert len(open_source(tmp_path / 'drive', rate_hz=10, motion=DRIVING)) in range(28, 34)


def test_real_drives_lose_hardly_any_frame(test_data):
    video = test_data / 'video' / 'highway_960x540_25fps.mp4'
    assert len(open_source(video, motion=DRIVING)) >= 0.9 * len(open_source(video))
    clip = test_data / 'camvid' / 'val'
    assert len(open_source(clip, motion=DRIVING)) >= 0.95 * len(open_source(clip))


def test_a_real_street_seen_from_a_standing_car(test_data, tmp_path):
    first = cv2.imread(str(next(iter(sorted((test_data / 'camvid' / 'val').glob('*.jpg'))))))
    for number in range(60):
        cv2.imwrite(str(tmp_path / f'{number:03}.jpg'), standing(first, number),
                    [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert len(open_source(tmp_path)) == 60
    assert len(open_source(tmp_path, motion=DRIVING)) <= 2
