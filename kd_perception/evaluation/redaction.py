"""What is hidden in pictures before they are stored, chosen by name; see ``imaging/blur.py``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kd_perception.classes import ClassSet
from kd_perception.errors import ConfigError
from kd_perception.imaging import resize_labels
from kd_perception.imaging.blur import (
    blur_boxes,
    blur_pixels,
    BLURS,
    classes_to_blur,
    FacesAndPlates,
)


class Redaction:
    """
    Hides people, vehicles, faces or plates; for one thread.

    :param blur: of ``BLURS``. ``people_and_vehicles`` goes by the teacher's mask, so it hides
        what the teacher sees, and nothing else.
    :param classes: of the teacher.
    :raises ConfigError: when it cannot be done, so that nothing is stored unblurred unnoticed.
    """

    def __init__(self, blur: str, classes: ClassSet) -> None:
        if blur not in BLURS:
            raise ConfigError(f'blur {blur!r}: choose {", ".join(BLURS)}')
        self.by_mask = blur == 'people_and_vehicles'
        self._ids = classes_to_blur(classes) if self.by_mask else ()
        self._find = FacesAndPlates() if blur == 'faces_and_plates' else None
        #: What is hidden, for people to check: ``faces_and_plates``, or names of classes.
        self.hides = ', '.join(classes.names[i] for i in self._ids) or blur

    def of(self, mask: np.ndarray | None) -> Callable[[np.ndarray], np.ndarray] | None:
        """
        Return what hides in one picture, uint8 ``[H, W, 3]`` RGB; None where nothing is to be.

        :param mask: uint8, the teacher's ids of the picture.
        """
        if self._find is not None:
            return self._boxes
        if not self.by_mask:
            return None
        assert mask is not None

        def hide(image: np.ndarray) -> np.ndarray:
            where = np.isin(resize_labels(mask, image.shape[0], image.shape[1]), self._ids)
            return blur_pixels(image, where) if where.any() else image
        return hide

    def _boxes(self, image: np.ndarray) -> np.ndarray:
        assert self._find is not None
        boxes = self._find(image)
        return blur_boxes(image, boxes) if boxes else image
