"""
Statistics of the training pictures, for the bundle: what the vehicle holds its pictures against.

Comes in: the frames of a run, at input size and before augmentation. Goes out: a file of the
bundle. What augmentation adds is left out on purpose: a network that was shown darkened days may
bear the night or not, and the alarm says that it was never asked.
"""

from __future__ import annotations

import logging

import numpy as np

from kd_perception.bags.drives import groups
from kd_perception.bundle import STATISTICS
from kd_perception.distillation.frame_store import FrameStore
from kd_perception.frames import evenly
from kd_perception.tasks.familiarity import (
    FEWEST_PICTURES,
    MOST_PICTURES,
    picture_features,
    summarize,
)

log = logging.getLogger(__name__)


def statistics_file(frames: FrameStore) -> dict[str, bytes]:
    """
    Return ``statistics.json`` by its name; nothing where frames are too few to tell.

    :param frames: of which up to ``MOST_PICTURES`` are looked at, evenly spread.
    """
    if len(frames) < FEWEST_PICTURES:
        log.info('%d training frames are too few for statistics of pictures (at least %d): the '
                 'bundle will not flag unfamiliar ones', len(frames), FEWEST_PICTURES)
        return {}
    places = evenly(len(frames), MOST_PICTURES)
    drives = groups([frames.drives[p] for p in places])
    features = np.stack([picture_features(frames[p].image) for p in places])
    return {STATISTICS: summarize(features, drives).to_bytes()}
