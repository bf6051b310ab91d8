"""
Numbered views of a frame that can be drawn again to the bit, when labelling and when training.

What view ``k`` of a frame shows depends on the seed of the recipe, the key of the frame and ``k``
alone, so that a teacher can say beforehand what the student will be shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import hashlib
import logging
from typing import Any

import numpy as np

from kd_perception.distillation.augmentation import draw_view, jitter, View, view_image
from kd_perception.distillation.recipe import AugmentRecipe, Recipe
from kd_perception.distillation.strict import build, first_difference, to_plain
from kd_perception.errors import ConfigError
from kd_perception.frames import FrameKey

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ViewPlan:
    """
    Which views of a frame there are.

    :param augment: geometry and light of the views; ``focus`` does not count, since views are
        drawn before anything is known of the frame.
    :param crop: height and width of a view.
    :param size: height and width that frames are brought to before.
    :param seed: of the recipe.
    :param count: views per frame.
    :raises ConfigError: when there is not one view.
    """

    augment: AugmentRecipe
    crop: tuple[int, int]
    size: tuple[int, int]
    seed: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= 65535:
            raise ConfigError(f'{self.count} views of a frame: at least one, at most 65535')

    @classmethod
    def of(cls, recipe: Recipe, count: int) -> ViewPlan:
        """Return the views that a recipe's augmentation draws."""
        if recipe.augment.focus:
            log.warning('augment.focus does not count with numbered views, which are drawn '
                        'before anything is known of the frame')
        seed = recipe.distillation.views_seed
        return cls(recipe.augment, recipe.crop, (recipe.input.height, recipe.input.width),
                   recipe.seed if seed < 0 else seed, count)

    @classmethod
    def from_dict(cls, made: Mapping[str, Any]) -> ViewPlan:
        """
        Return the plan of a manifest.

        :raises ConfigError: when it is not one.
        """
        try:
            size = made['input']
            return cls(build(AugmentRecipe, made['augment'], 'views.augment'),
                       tuple(made['augment']['crop']), (size['height'], size['width']),
                       int(made['seed']), int(made['count']))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f'the manifest does not say which views were drawn: {error}') \
                from None

    def draw(self, image: np.ndarray, key: FrameKey, number: int) -> tuple[View, np.ndarray,
                                                                           np.ndarray]:
        """
        Return a view of a frame, its picture, and its picture before the light was changed.

        :param image: uint8 ``[*size, 3]``, RGB.
        :param number: which view, from 0.
        :returns: the pictures as uint8 ``[*crop, 3]``.
        """
        words = np.frombuffer(hashlib.sha256(str(key).encode()).digest(), '<u4')
        rng = np.random.default_rng((self.seed, 2, *map(int, words), number))
        view = draw_view(rng, self.augment, self.size, self.crop)
        calm = view_image(image, view, self.crop)
        return view, jitter(rng, self.augment, calm), calm

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for a manifest: all that decides what a view shows."""
        augment = to_plain(self.augment)
        return {'seed': self.seed, 'input': {'height': self.size[0], 'width': self.size[1]},
                'augment': {**{k: v for k, v in augment.items() if k != 'focus'},
                            'crop': list(self.crop)}}

    def difference(self, made: Mapping[str, Any]) -> str:
        """Return ``key: theirs -> ours`` for the first difference to a manifest's plan."""
        theirs = {k: v for k, v in made.items() if k != 'count'}
        return first_difference(theirs, self.to_dict())
