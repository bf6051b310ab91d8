"""Pictures like and unlike those that a model was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from kd_perception.bundle import BundleSpec, InputSpec, ModelBundle, STATISTICS, write_bundle
from kd_perception.classes import load_class_set
from kd_perception.errors import BundleError, ConfigError
from kd_perception.tasks.familiarity import (
    FamiliarityWatch,
    FEATURES,
    load_statistics,
    picture_features,
    PictureStatistics,
    summarize,
)

PERIOD_NS = 100_000_000


def streets(count: int, *, seed: int, light: float = 1.0) -> list[np.ndarray]:
    """Return pictures of a bright sky over a darker road, each a little different."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        picture = np.full((72, 128, 3), (90, 90, 95), np.float64) + rng.normal(0, 8)
        picture[:rng.integers(24, 32)] = (150, 180, 220)
        for _ in range(6):  # what stands on it
            y, x = rng.integers(20, 60), rng.integers(0, 110)
            picture[y:y + 10, x:x + 14] = rng.uniform(20, 230, 3)
        noisy = light * picture + rng.normal(0, 3, picture.shape)
        out.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return out


def features(pictures: list[np.ndarray]) -> np.ndarray:
    return np.stack([picture_features(p) for p in pictures])


@pytest.fixture(scope='module')
def learned() -> PictureStatistics:
    return summarize(features(streets(200, seed=1)), [i // 20 for i in range(200)])


def test_features_have_names_and_are_those_of_the_picture() -> None:
    picture = np.zeros((72, 128, 3), np.uint8)
    picture[:36] = (255, 51, 0)
    told = dict(zip(FEATURES, picture_features(picture), strict=True))
    assert told['mean_red'] == pytest.approx(0.5)
    assert told['std_red'] == pytest.approx(0.5)
    assert told['mean_green'] == pytest.approx(0.1)
    assert told['mean_saturation'] == pytest.approx(0.5 * 1 / 1.02, abs=1e-3)
    assert told['grey_5'] == 0
    assert told['grey_95'] == pytest.approx(0.299 + 0.2 * 0.587, abs=1e-3)
    assert told['warmth_upper'] == pytest.approx(1.0)
    assert told['warmth_lower'] == 0
    assert told['grey_upper'] > 0 > told['grey_lower']
    assert np.isfinite(picture_features(np.zeros((1, 1, 3), np.uint8))).all()


def test_neither_size_nor_channel_order_changes_them_much() -> None:
    picture = streets(1, seed=3)[0]
    large = cv2.resize(picture, (1280, 720), interpolation=cv2.INTER_CUBIC)
    assert picture_features(large) == pytest.approx(picture_features(picture), abs=0.2)
    assert picture_features(picture[..., ::-1], 'bgr') == pytest.approx(picture_features(picture))


def test_distances_are_those_of_mahalanobis() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(0, 50, (4000, len(FEATURES))) @ np.diag(np.linspace(0.5, 2, len(FEATURES)))
    statistics = summarize(data, [0] * len(data))
    apart = 100 * np.eye(len(FEATURES))[3]
    # Features that do not hang together: shrinking changes nothing.
    expected = 100 / data[:, 3].std() / np.sqrt(len(FEATURES))
    assert statistics.distance(data.mean(0) + apart) == pytest.approx(expected, rel=0.05)
    assert statistics.limit == pytest.approx(np.percentile(statistics.distance(data), 99), rel=0.1)
    assert statistics.share(0.0) == 1.0
    assert statistics.share(1e9) == 0.0
    assert statistics.share(statistics.limit) == pytest.approx(0.01)


def test_held_out_pictures_are_familiar_and_dark_ones_are_not(learned: PictureStatistics) -> None:
    known = learned.distance(features(streets(100, seed=2))) > learned.limit
    assert known.mean() < 0.06
    for light in (0.3, 0.6, 1.8):
        assert (learned.distance(features(streets(20, seed=4, light=light)))
                > learned.limit).mean() > 0.9


def test_frames_beside_each_other_do_not_make_the_limit_tight() -> None:
    # Each picture is there ten times: left out alone it would be met again.
    repeated = np.repeat(features(streets(20, seed=1)), 10, 0)
    repeated += np.random.default_rng(0).normal(0, 1e-4, repeated.shape)
    statistics = summarize(repeated, [0] * 200)
    fresh = statistics.distance(features(streets(100, seed=2)))
    assert (fresh > statistics.limit).mean() < 0.5
    assert statistics.limit > 1.5 * np.percentile(statistics.distance(repeated), 99)


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(ConfigError, match='20 pictures are too few'):
        summarize(features(streets(20, seed=1)), [0] * 20)


def test_pictures_that_are_all_the_same_have_statistics() -> None:
    same = np.repeat(features(streets(1, seed=1)), 60, 0)
    statistics = summarize(same, [0] * 60)
    assert statistics.limit > 0
    assert np.isfinite(statistics.distance(features(streets(1, seed=2)))).all()
    assert PictureStatistics.from_dict(statistics.to_dict(), 'x').pictures == 60


def bundle(folder: Path, content: bytes | None) -> ModelBundle:
    spec = BundleSpec('m', 'segmentation', 'student', load_class_set('driving'), InputSpec(64, 96))
    return write_bundle(folder, spec, {} if content is None else {STATISTICS: content})


def test_they_travel_in_a_bundle(learned: PictureStatistics, tmp_path: Path) -> None:
    read = load_statistics(bundle(tmp_path / 'b', learned.to_bytes()))
    assert read is not None
    shown = features(streets(20, seed=2))
    assert read.distance(shown) == pytest.approx(learned.distance(shown), rel=1e-3)
    assert read.limit == pytest.approx(learned.limit, rel=1e-5)
    assert load_statistics(bundle(tmp_path / 'old', None)) is None
    assert len(learned.to_bytes()) < 20_000


def test_a_changed_byte_is_refused(learned: PictureStatistics, tmp_path: Path) -> None:
    made = bundle(tmp_path / 'b', learned.to_bytes())
    path = made.path / STATISTICS
    path.write_bytes(path.read_bytes().replace(b'1', b'2', 1))
    with pytest.raises(BundleError, match='content differs from its hash'):
        load_statistics(made)


@pytest.mark.parametrize(('change', 'reason'), [
    ({'schema_version': 2}, 'schema_version 2 is unknown'), ({'features': ['a']}, 'features'),
    ({'mean': [0.0]}, 'mean: must be numbers'), ({'mean': None}, 'mean: must be numbers'),
    ({'mean': ['x'] * len(FEATURES)}, 'mean: must be numbers'),
    ({'mean': [float('nan')] * len(FEATURES)}, 'mean: must be numbers'),
    ({'mean': [10**400] * len(FEATURES)}, 'mean: must be numbers'),
    ({'covariance': (-np.eye(len(FEATURES))).tolist()}, 'covariance'),
    ({'distances': list(range(101, 0, -1))}, 'distances'), ({'distances': [0] * 101}, 'distances'),
    ({'pictures': 'many'}, 'pictures'), ({'pictures': True}, 'pictures')])
def test_statistics_that_are_none_are_refused_in_one_line(
        change: dict[str, Any], reason: str, learned: PictureStatistics, tmp_path: Path) -> None:
    data = json.dumps({**learned.to_dict(), **change}).encode()
    with pytest.raises(BundleError, match=reason) as error:
        load_statistics(bundle(tmp_path / 'b', data))
    assert STATISTICS in str(error.value)


@pytest.mark.parametrize('content', [b'', b'[]', b'\xff', b'{"a":', b'[' * 100_000])
def test_what_is_no_json_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=STATISTICS):
        load_statistics(bundle(tmp_path / 'b', content))


def test_the_alarm_needs_a_second_and_goes_again(learned: PictureStatistics) -> None:
    watch = FamiliarityWatch(learned)
    day, night = streets(1, seed=2)[0], streets(1, seed=2, light=0.3)[0]

    def alarms(pictures: list[np.ndarray], first: int) -> list[bool]:
        return [watch.look(p, (first + i) * PERIOD_NS).seconds is not None
                for i, p in enumerate(pictures)]
    assert not any(alarms([day] * 20, 0))
    assert not any(alarms([night, *[day] * 19], 20))  # one flash of darkness
    dark = alarms([night] * 40, 40)
    assert not any(dark[:10])
    assert all(dark[30:])
    bright = alarms([day] * 60, 80)
    assert bright[0]
    assert not any(bright[40:])
    seen = watch.look(day, 140 * PERIOD_NS)
    assert 0 < seen.score < 1
    assert 0 < seen.share <= 1


def test_real_drives_are_told_from_another_camera(test_data: Path) -> None:
    def shown(part: str, step: int) -> tuple[np.ndarray, list[int]]:
        files = sorted((test_data / 'camvid' / part).iterdir())[::step]
        drives = [hash(f.name.split('_')[0]) % 1000 for f in files]
        return np.stack([picture_features(cv2.imread(str(f)), 'bgr') for f in files]), drives
    statistics = summarize(*shown('train', 2))
    assert (statistics.distance(shown('test', 3)[0]) > statistics.limit).mean() < 0.1
    video = cv2.VideoCapture(str(test_data / 'video' / 'highway_960x540_25fps.mp4'))
    frames = [picture_features(video.read()[1], 'bgr') for _ in range(20)]
    video.release()
    assert (statistics.distance(np.stack(frames)) > statistics.limit).all()
