"""
Making people and vehicles unrecognisable before pictures are stored.

Two ways to find them, neither of which finds all: detectors of faces and number plates that come
with OpenCV (boosted cascades of Haar features: Viola and Jones, "Rapid Object Detection using a
Boosted Cascade of Simple Features", CVPR 2001; no weights to load from anywhere), and the pixels
that a segmentation mask gives to such classes. What is found becomes a mosaic of at most four
cells across, which cannot be undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
import re

import cv2
import numpy as np

from kd_perception.classes import ClassSet
from kd_perception.errors import ConfigError

BLURS = ('none', 'faces_and_plates', 'people_and_vehicles')

_FACES = ('haarcascade_frontalface_default.xml', 'haarcascade_profileface.xml')
_PLATES = ('haarcascade_russian_plate_number.xml',)
# Where distributions put the files of their OpenCV, whose Python package has none.
_FOLDERS = ('/usr/share/opencv4/haarcascades', '/usr/share/opencv/haarcascades')
_SMALLEST_FACE = (20, 20)
_SMALLEST_PLATE = (30, 10)
# A found box is enlarged by this share of its sides: cascades cut off chin and forehead.
_MARGIN = 0.15
_CELLS = 4
_SMALLEST_CELL = 8
_PEOPLE = ('person', 'people', 'human', 'pedestrian', 'rider', 'cyclist', 'bicyclist',
           'motorcyclist', 'child', 'children', 'man', 'woman', 'worker', 'driver')
_VEHICLES = ('vehicle', 'car', 'automobile', 'truck', 'lorry', 'pickup', 'suv', 'van', 'bus',
             'buses', 'minibus', 'train', 'tram', 'motorcycle', 'motorbike', 'minibike',
             'scooter', 'moped', 'bicycle', 'bike', 'trailer', 'caravan', 'taxi', 'ambulance')
# The parts of a name, also of SUVPickupTruck.
_PART = re.compile(r'[A-Z]+(?![a-z])|[A-Z]?[a-z]+')


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels: columns ``x`` … ``x + width``, rows alike."""

    x: int
    y: int
    width: int
    height: int


class FacesAndPlates:
    """
    Finds faces, from the front and from the side, and number plates; for one thread.

    :raises ConfigError: when OpenCV's cascade files are not installed.
    """

    def __init__(self) -> None:
        self._faces = [_cascade(name) for name in _FACES]
        self._plates = [_cascade(name) for name in _PLATES]

    def __call__(self, image_rgb: np.ndarray) -> list[Box]:
        """Return what is found in uint8 ``[H, W, 3]``, enlarged by a margin."""
        grey = cv2.equalizeHist(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY))
        found = [*self._look(self._faces, grey, _SMALLEST_FACE),
                 *self._look(self._plates, grey, _SMALLEST_PLATE)]
        # The cascade of profiles knows one side only.
        for box in self._look(self._faces[1:], np.ascontiguousarray(grey[:, ::-1]),
                              _SMALLEST_FACE):
            found.append(Box(grey.shape[1] - box.x - box.width, box.y, box.width, box.height))
        return [_enlarged(box, grey.shape) for box in found]

    def _look(self, cascades: Sequence[cv2.CascadeClassifier], grey: np.ndarray,
              smallest: tuple[int, int]) -> list[Box]:
        # Rather too many than too few: a street sign under a mosaic harms nobody.
        return [Box(*(int(v) for v in row)) for cascade in cascades for row in
                cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=3, minSize=smallest)]


def classes_to_blur(classes: ClassSet) -> tuple[int, ...]:
    """
    Return the ids of people and vehicles, by the words in their names.

    :raises ConfigError: when there are none of people, or none of vehicles, so that nobody relies
        on what does not happen.
    """
    parts = [{w.lower() for w in _PART.findall(name)} for name in classes.names]
    parts = [{*words, *(w.removesuffix('s') for w in words)} for words in parts]
    found: list[int] = []
    for what, words in (('people', _PEOPLE), ('vehicles', _VEHICLES)):
        ids = [i for i, own in enumerate(parts) if not own.isdisjoint(words)]
        if not ids:
            raise ConfigError(f'class set {classes.name!r} has no class of {what} '
                              f'({", ".join(classes.names)}); choose blur: faces_and_plates')
        found += ids
    return tuple(sorted(set(found)))


def blur_boxes(image: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """Return a copy of uint8 ``[H, W, 3]`` with a mosaic over each box."""
    out = image.copy()
    for box in boxes:
        part = out[box.y:box.y + box.height, box.x:box.x + box.width]
        if part.size:
            part[:] = _mosaic(part)
    return out


def blur_pixels(image: np.ndarray, where: np.ndarray, margin: int = 4) -> np.ndarray:
    """
    Return a copy of ``image`` with a mosaic over each connected part of ``where``.

    :param image: uint8 ``[H, W, 3]``.
    :param where: bool ``[H, W]``.
    :param margin: pixels around it that are taken in: masks are not exact along edges.
    """
    size = 2 * margin + 1
    grown = cv2.dilate(where.astype(np.uint8), np.ones((size, size), np.uint8))
    count, parts, stats, _ = cv2.connectedComponentsWithStats(grown)
    out = image.copy()
    for number in range(1, count):
        x, y, width, height = (int(v) for v in stats[number, :4])
        inside = parts[y:y + height, x:x + width] == number
        crop = out[y:y + height, x:x + width]
        crop[inside] = _mosaic(crop)[inside]
    return out


def _mosaic(part: np.ndarray) -> np.ndarray:
    """Return ``part`` with four cells along its shorter side, fewer where they would be tiny."""
    height, width = part.shape[:2]
    cell = max(_SMALLEST_CELL, min(height, width) / _CELLS)
    small = cv2.resize(part, (max(1, round(width / cell)), max(1, round(height / cell))),
                       interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def _enlarged(box: Box, shape: tuple[int, ...]) -> Box:
    """Return a box with its margin, as far as it lies in the picture."""
    more_x, more_y = round(box.width * _MARGIN), round(box.height * _MARGIN)
    left, top = max(0, box.x - more_x), max(0, box.y - more_y)
    return Box(left, top, min(shape[1], box.x + box.width + more_x) - left,
               min(shape[0], box.y + box.height + more_y) - top)


def _cascade(name: str) -> cv2.CascadeClassifier:
    own = getattr(getattr(cv2, 'data', None), 'haarcascades', '')
    for folder in filter(None, (own, *_FOLDERS)):
        path = Path(folder) / name
        if path.is_file():
            return cv2.CascadeClassifier(str(path))
    raise ConfigError(f'blur: {name} of OpenCV is missing; install it (apt install opencv-data) '
                      'or choose blur: people_and_vehicles')
