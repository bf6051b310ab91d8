"""
How unlike the training pictures a picture is: a cheap alarm, and no guarantee.

Comes in: pictures. Goes out: a handful of numbers for each (brightness, colour, contrast, where in
the picture these lie), statistics of these over the training pictures, which travel in a bundle as
``statistics.json``, and how far a new picture lies from them: the distance of P. C. Mahalanobis
("On the generalised distance in statistics", 1936).

It sees what changes a picture as a whole, such as night, fog or another camera. It does not see a
thing that was never learned, and a network may fail on pictures that look like any others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
import json
from typing import Any

import cv2
import numpy as np

from kd_perception.bundle import ModelBundle, STATISTICS
from kd_perception.errors import BundleError, ConfigError, first_line
from kd_perception.imaging.faults import Persistence

SCHEMA_VERSION = 1
# Fewer pictures do not tell what is usual.
FEWEST_PICTURES = 50
# More do not tell more.
MOST_PICTURES = 400

# The picture as means of 5x5 taken pixels: the same cost and nearly the same numbers for every
# size that the same camera is brought to.
_TAKEN, _CELLS = (320, 180), (64, 36)
_BANDS = ('upper', 'middle', 'lower')
FEATURES = (
    'mean_red', 'mean_green', 'mean_blue', 'std_red', 'std_green', 'std_blue',
    'mean_saturation', 'std_saturation', 'grey_5', 'grey_50', 'grey_95',
    'log_gradient_fine', 'log_gradient_coarse', *(f'grey_{b}' for b in _BANDS),
    *(f'log_gradient_{b}' for b in _BANDS), *(f'warmth_{b}' for b in _BANDS))
_DARKEST = 1e-3  # keeps logarithms of nothing finite

_FOLDS = 10
# The share of the covariance that is taken for that of independent features: a few hundred
# pictures of a few drives do not tell all of it.
_SHRINKAGE = 0.1
_LIMIT_PERCENTILE = 99
_RATIO_MOST = 3.0
_LARGEST = 1e6


def picture_features(image: np.ndarray, channel_order: str = 'rgb') -> np.ndarray:
    """
    Return float64 ``[len(FEATURES)]``, each of the order of one.

    :param image: uint8 ``[H, W, 3]`` of any size, without bars.
    """
    taken = cv2.resize(image, _TAKEN, interpolation=cv2.INTER_NEAREST)
    cells = cv2.resize(taken, _CELLS, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    red, green, blue = cv2.split(cells)[::-1 if channel_order == 'bgr' else 1]
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    high, low = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    channels = [_mean_std(plane) for plane in (red, green, blue)]
    across = np.abs(np.diff(grey, axis=1))
    coarse = cv2.resize(grey, (16, 9), interpolation=cv2.INTER_AREA)
    edges = [plane.mean() + np.abs(np.diff(of, axis=0)).mean() for plane, of in
             ((across, grey), (np.abs(np.diff(coarse, axis=1)), coarse))]
    ordered = np.sort(grey, axis=None)
    return np.array([
        *(mean for mean, _ in channels), *(std for _, std in channels),
        *_mean_std((high - low) / (high + 0.02)),
        *(ordered[ordered.size * percent // 100] for percent in (5, 50, 95)),
        *np.log(np.add(edges, _DARKEST)), *(_by_band(grey) - grey.mean()),
        *np.log(_by_band(across) + _DARKEST), *_by_band(red - blue)], np.float64)


def _mean_std(plane: np.ndarray) -> tuple[float, float]:
    mean, std = cv2.meanStdDev(plane)
    return float(mean[0, 0]), float(std[0, 0])


def _by_band(plane: np.ndarray) -> np.ndarray:
    """Return the means of the upper, middle and lower third of ``[36, W]``."""
    return plane.reshape(3, 12, -1).mean((1, 2))


@dataclass(frozen=True)
class PictureStatistics:
    """
    What the training pictures looked like.

    :param mean: float64 ``[F]`` of the features.
    :param covariance: float64 ``[F, F]``.
    :param distances: float64 ``[101]``, percentiles of the distances of training pictures from
        the statistics of the others.
    :param pictures: how many were looked at.
    """

    mean: np.ndarray
    covariance: np.ndarray
    distances: np.ndarray
    pictures: int

    @cached_property
    def limit(self) -> float:
        """Return the distance that one training picture in a hundred exceeds."""
        return float(self.distances[_LIMIT_PERCENTILE])

    @cached_property
    def _whitening(self) -> tuple[np.ndarray, np.ndarray]:
        return _whitening(self.covariance)

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Return the distance of features ``[..., F]``; about 1 for a usual picture."""
        return _distance(features - self.mean, self._whitening)

    def share(self, distance: float) -> float:
        """Return the share of training pictures that are at least as unusual."""
        below = np.interp(distance, self.distances, np.linspace(0, 1, self.distances.size))
        return float(1 - below)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON, to six digits."""
        def told(values: np.ndarray) -> list[Any]:
            return [told(v) if np.ndim(v) else float(f'{v:.6g}') for v in values]
        return {'schema_version': SCHEMA_VERSION, 'features': list(FEATURES),
                'pictures': self.pictures, 'mean': told(self.mean),
                'covariance': told(self.covariance), 'distances': told(self.distances)}

    def to_bytes(self) -> bytes:
        """Return the content of ``statistics.json``."""
        return (json.dumps(self.to_dict()) + '\n').encode()

    @classmethod
    def from_dict(cls, data: Any, where: str) -> PictureStatistics:
        """
        Return what ``to_dict`` gave.

        :raises BundleError: in one line, for anything else.
        """
        if not isinstance(data, dict):
            raise BundleError(f'{where}: is no mapping')
        if data.get('schema_version') != SCHEMA_VERSION:
            raise BundleError(f'{where}: schema_version {data.get("schema_version")!r} is unknown '
                              f'to this release, which reads {SCHEMA_VERSION}; update '
                              'kd_perception')
        if data.get('features') != list(FEATURES):
            raise BundleError(f'{where}: features are not those of this release; make the '
                              'statistics anew (kd_perception bundle statistics)')
        size = len(FEATURES)
        mean, covariance, distances = (
            _numbers(data, name, shape, where) for name, shape in
            (('mean', (size,)), ('covariance', (size, size)), ('distances', (101,))))
        pictures = data.get('pictures')
        if type(pictures) is not int or pictures < 1:
            raise BundleError(f'{where}: pictures: {pictures!r} is no count')
        # Six digits round what is zero to a little below it.
        spectrum = np.linalg.eigvalsh(covariance)
        if not np.allclose(covariance, covariance.T) or spectrum[0] < -1e-4 * spectrum[-1]:
            raise BundleError(f'{where}: covariance: is none')
        if distances[0] < 0 or np.diff(distances).min() < 0 or distances[_LIMIT_PERCENTILE] <= 0:
            raise BundleError(f'{where}: distances: are no percentiles')
        return cls(mean, covariance, distances, pictures)


def summarize(features: np.ndarray, drives: Sequence[int]) -> PictureStatistics:
    """
    Return the statistics of training pictures.

    A tenth of each drive at a time is held against the rest, to learn which distances are usual:
    frames beside each other look alike, and whole drives would be too much to leave out, since
    the only one at night is what makes night familiar.

    :param features: float64 ``[N, F]``, in the order in which the pictures were taken.
    :param drives: for each picture, a number of its drive.
    :raises ConfigError: when they are too few.
    """
    if len(features) < FEWEST_PICTURES:
        raise ConfigError(f'{len(features)} pictures are too few to tell what is usual: at least '
                          f'{FEWEST_PICTURES}')
    folds = np.zeros(len(features), np.int64)
    numbers = np.asarray(drives)
    for number in np.unique(numbers):
        own = np.flatnonzero(numbers == number)
        folds[own] = np.arange(len(own)) * _FOLDS // len(own)
    distances = np.zeros(len(features))
    for fold in np.unique(folds):
        rest, out = features[folds != fold], folds == fold
        if len(rest):
            distances[out] = _distance(features[out] - rest.mean(0),
                                       _whitening(np.cov(rest, rowvar=False)))
    return PictureStatistics(features.mean(0), np.cov(features, rowvar=False),
                             np.percentile(distances, np.arange(101)), len(features))


def load_statistics(bundle: ModelBundle) -> PictureStatistics | None:
    """
    Return what a bundle says of its training pictures; None where it says nothing.

    :raises BundleError: when its file is damaged or of another release.
    """
    if not bundle.has(STATISTICS):
        return None
    bundle.verify(STATISTICS)
    path = bundle.file(STATISTICS)
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f'{path}: is no JSON: {first_line(error)}') from None
    return PictureStatistics.from_dict(data, str(path))


@dataclass(frozen=True)
class Familiarity:
    """
    How a camera's pictures compare with the training pictures.

    :param score: distance over the limit, smoothed over a second; above 1 is unusual.
    :param share: share of training pictures that are at least as unusual as the last picture.
    :param seconds: for how long the score has been above 1; None where that is no alarm.
    """

    score: float
    share: float
    seconds: float | None


class FamiliarityWatch:
    """Scores the pictures of one camera in order; use it from one thread at a time."""

    def __init__(self, statistics: PictureStatistics, channel_order: str = 'rgb') -> None:
        self._statistics = statistics
        self._order = channel_order
        self._lasting = Persistence(1.0, clear_s=1.0)
        self._score: float | None = None
        self._before_ns = 0

    def look(self, image: np.ndarray, now_ns: int) -> Familiarity:
        """
        Return how unusual a picture and those before it are.

        :param image: uint8 ``[H, W, 3]`` in the channel order of the watch.
        :param now_ns: steady clock when it came.
        """
        distance = float(self._statistics.distance(picture_features(image, self._order)))
        ratio = min(distance / self._statistics.limit, _RATIO_MOST)  # one flash counts for little
        kept = 0.0
        if self._score is not None:
            kept = float(np.exp(-max(0, now_ns - self._before_ns) / 1e9))
        self._score = kept * (self._score or 0.0) + (1 - kept) * ratio
        self._before_ns = now_ns
        return Familiarity(self._score, self._statistics.share(distance),
                           self._lasting.look(self._score > 1, now_ns))


def _whitening(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return standard deviations ``[F]`` and the inverse of the shrunk correlation ``[F, F]``."""
    # A feature that never varied still may a little: by one of 255.
    deviation = np.sqrt(covariance.diagonal()) + 1 / 255
    correlation = covariance / np.outer(deviation, deviation)
    shrunk = (1 - _SHRINKAGE) * correlation + _SHRINKAGE * np.eye(len(deviation))
    return deviation, np.linalg.inv(shrunk)


def _distance(apart: np.ndarray, whitening: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    scaled = apart / whitening[0]
    squared = np.einsum('...i,ij,...j->...', scaled, whitening[1], scaled)
    return np.sqrt(np.maximum(squared, 0) / apart.shape[-1])


def _numbers(data: Mapping[str, Any], name: str, shape: tuple[int, ...],
             where: str) -> np.ndarray:
    try:
        values = np.asarray(data.get(name), np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.zeros(0)
    if values.shape != shape or not (np.abs(values) < _LARGEST).all():  # nor is NaN below it
        raise BundleError(f'{where}: {name}: must be numbers of shape {list(shape)}')
    return values
