"""
Statistics of the training pictures, for the bundle: what the vehicle holds its pictures against.

Comes in: the frames of a run, at input size and before augmentation, or recordings on which an
imported network is known to work. Goes out: a file of the bundle. What augmentation adds is left
out on purpose: a network that was shown darkened days may bear the night or not, and the alarm
says that it was never asked.
"""

from __future__ import annotations

from collections.abc import Iterable
import logging

import numpy as np

from kd_perception.bags.drives import Drive, drives_of, groups
from kd_perception.bags.sampling import BadFrames
from kd_perception.bundle import STATISTICS
from kd_perception.distillation.frame_store import FrameStore
from kd_perception.errors import ImageError
from kd_perception.frames import evenly, FrameSource, Progress
from kd_perception.tasks.familiarity import (
    FEWEST_PICTURES,
    MOST_PICTURES,
    picture_features,
    PictureStatistics,
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


def statistics_of(sources: Iterable[FrameSource],
                  progress: Progress | None = None) -> PictureStatistics:
    """
    Return the statistics of the pictures of recordings, each of which is used up at once.

    :param sources: up to ``MOST_PICTURES`` are looked at of each, and as many count of all.
    :param progress: called with pictures looked at; their number is not known before.
    :raises ConfigError: when they are too few.
    """
    features: list[np.ndarray] = []
    drives: list[Drive] = []
    for source in sources:
        failed, of = BadFrames(log, source.name, len(source)), drives_of(source)
        for index in evenly(len(source), MOST_PICTURES):
            try:
                image = source[index].image
            except ImageError as error:
                failed.add(index, error)
                continue
            features.append(picture_features(image))
            drives.append(of[index])
            if progress is not None:
                progress(len(features), 0, source.name)
        failed.sum_up()
    places = evenly(len(features), MOST_PICTURES)
    return summarize(np.array([features[p] for p in places]), groups([drives[p] for p in places]))
