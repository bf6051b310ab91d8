"""What is counted of one frame beside its confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class FrameDetail:
    """
    Counts of one frame in one arm; what was not measured is None.

    :param boundary: int32 ``[K, 4]`` of ``boundary.count_boundaries``.
    :param objects: int32 ``[N, 6]`` of ``objects.count_objects``.
    :param flicker: int32 ``[2]``: pixels that changed, and that were compared.
    """

    boundary: np.ndarray | None = None
    objects: np.ndarray | None = None
    flicker: np.ndarray | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return {name: value.tolist() for name in ('boundary', 'objects', 'flicker')
                if (value := getattr(self, name)) is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FrameDetail:
        """
        Return the detail of ``to_dict``.

        :raises ValueError: for counts of another shape.
        """
        shapes = {'boundary': (-1, 4), 'objects': (-1, 6), 'flicker': (2,)}
        return cls(**{name: np.array(value, np.int32).reshape(shapes[name])
                      for name, value in data.items() if name in shapes})
