"""Cameras that are black, saturated, covered or frozen, and those that are none of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

from kd_perception.imaging.faults import appearance, CameraWatch, Persistence
from kd_perception.simulation.source import SimulatorSource

SIZE = (90, 160)
PERIOD_NS = 50_000_000
RNG = np.random.default_rng(0)


def noisy(picture: np.ndarray, sigma: float = 4.0) -> np.ndarray:
    """Return a picture as a sensor sees it once."""
    seen = picture + RNG.normal(0, sigma, picture.shape)
    return np.clip(seen, 0, 255).astype(np.uint8)


@pytest.fixture(scope='module')
def street() -> np.ndarray:
    """Return a picture with detail everywhere."""
    coarse = np.random.default_rng(1).integers(20, 220, (18, 32, 3), np.uint8)
    return cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_NEAREST)


def watched(pictures: Iterable[np.ndarray], watch: CameraWatch | None = None, *,
            stamps: Iterable[int] | None = None, first_ns: int = 0) -> list[str]:
    """Return, for each picture, the names of what lasts, with a plus between them."""
    watch, numbers = watch or CameraWatch(), iter(stamps or range(1, 10_000))
    return ['+'.join(f.name for f in watch.look(p, next(numbers), first_ns + i * PERIOD_NS))
            for i, p in enumerate(pictures)]


def covered(brightness: float) -> np.ndarray:
    """Return the inside of a hand before the lens: light falls off to the corners."""
    y, x = np.mgrid[-1:1:SIZE[0] * 1j, -1:1:SIZE[1] * 1j]
    return (brightness * (1 - 0.25 * (x * x + y * y)))[..., None] * (1.0, 0.7, 0.6)


@pytest.mark.parametrize(('picture', 'name'), [
    (np.full((*SIZE, 3), 2.0), 'black'), (np.full((*SIZE, 3), 16.0), 'black'),
    (np.full((*SIZE, 3), 255.0), 'saturated'), (covered(60), 'covered'), (covered(220), 'covered'),
    (np.full((*SIZE, 3), 128.0), 'covered')])
def test_faults_are_named_when_they_last(picture: np.ndarray, name: str,
                                         street: np.ndarray) -> None:
    watch = CameraWatch()
    said = watched((noisy(picture) for _ in range(90)), watch)
    assert said[0] == said[10] == ''
    assert said[-1] == name
    assert set(said) == {'', name}
    # It is over half a second after the picture is back.
    again = watched((noisy(street) for _ in range(15)), watch, first_ns=90 * PERIOD_NS)
    assert again[0] == name
    assert again[-1] == ''


def test_a_lens_that_is_smeared_all_over_is_covered(street: np.ndarray) -> None:
    smeared = cv2.GaussianBlur(street, (0, 0), SIZE[1] / 12)
    assert appearance(noisy(smeared)) == 'covered'
    assert appearance(noisy(cv2.GaussianBlur(street, (0, 0), SIZE[1] / 100))) == ''


def test_half_of_the_picture_is_not_enough(street: np.ndarray) -> None:
    for value in (0, 128, 255):
        half = street.copy()
        half[:, :SIZE[1] // 2] = value
        assert appearance(half) == ''


def test_one_dark_picture_is_no_alarm(street: np.ndarray) -> None:
    dark = np.zeros((*SIZE, 3))
    drive = [noisy(dark if i % 10 == 0 else street) for i in range(60)]
    assert set(watched(drive)) == {''}


def test_a_frozen_camera_is_told_from_a_standing_car(street: np.ndarray) -> None:
    still = noisy(street)
    said = watched([still] * 40)
    assert said[19] == ''
    assert said[-1] == 'frozen'
    assert set(watched(noisy(street, 1.0) for _ in range(60))) == {''}
    watch = CameraWatch()
    told = [watch.look(still, i + 1, i * PERIOD_NS) for i in range(41)][-1]
    assert [str(f) for f in told] == ['frozen for 1.9 s']
    assert watch.look(noisy(street), 99, 41 * PERIOD_NS) == ()


def test_a_clock_drawn_into_a_frozen_picture_does_not_hide_it(street: np.ndarray) -> None:
    def frame(i: int) -> np.ndarray:
        shown = street.copy()
        shown[4:6, 4:10] = RNG.integers(0, 255, (2, 6, 3))
        return shown
    assert watched(frame(i) for i in range(40))[-1] == 'frozen'


def test_a_picture_that_is_sent_again_under_its_stamp_is_not_frozen(street: np.ndarray) -> None:
    assert set(watched([street] * 60, stamps=[7] * 60)) == {''}
    assert watched([street] * 60, stamps=[0] * 60)[-1] == 'frozen'  # has no stamps at all


def test_a_dead_camera_is_black_and_frozen() -> None:
    assert watched([np.zeros((*SIZE, 3), np.uint8)] * 40)[-1] == 'black+frozen'


@pytest.mark.parametrize('shape', [(1, 1), (7, 3), (33, 1000)])
def test_pictures_of_any_size(shape: tuple[int, int]) -> None:
    assert watched([np.zeros((*shape, 3), np.uint8)[:, ::-1]] * 40)[-1] == 'black+frozen'


def test_a_condition_needs_looks_as_well_as_time() -> None:
    slow = Persistence(1.0, looks=3)
    assert [slow.look(True, i * 2_000_000_000) for i in range(3)] == [None, None, 4.0]
    assert slow.look(False, 4_100_000_000) == pytest.approx(4.1)
    assert slow.look(False, 4_600_000_000) is None
    assert slow.look(True, 4_700_000_000) is None


@pytest.mark.parametrize('scenario', ['night', 'dense_fog'])
def test_streets_in_bad_light_are_no_fault(scenario: str) -> None:
    source = SimulatorSource(scenario, seed=5, frames=2, rate_hz=0.5, width=320, height=180)
    pictures = [f.image for f in source]
    source.close()
    assert [appearance(p) for p in pictures] == [''] * 2


@pytest.mark.parametrize('part', ['train', 'val', 'test'])
def test_real_streets_are_no_fault(part: str, test_data: Path) -> None:
    files = sorted((test_data / 'camvid' / part).iterdir())[::12]
    assert len(files) > 5
    assert {appearance(cv2.imread(str(f))) for f in files} == {''}


def test_a_real_drive_is_no_fault(test_data: Path) -> None:
    video = cv2.VideoCapture(str(test_data / 'video' / 'highway_960x540_25fps.mp4'))
    pictures = [video.read()[1] for _ in range(60)]
    video.release()
    assert set(watched(pictures)) == {''}
    assert watched([*pictures, *[pictures[-1]] * 40])[-1] == 'frozen'
