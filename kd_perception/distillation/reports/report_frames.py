"""The frames that a report looks at: those that a run held out, or others, at their own size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_perception.bags.source import open_source
from kd_perception.classes import ClassSet
from kd_perception.distillation.frame_store import (
    labelled,
    LabelledSource,
    open_sources,
    require_known,
)
from kd_perception.distillation.recipe import Recipe
from kd_perception.errors import TrainingError
from kd_perception.evaluation.study import spread, StudyFrame


@dataclass(frozen=True)
class OtherData:
    """
    Recordings to look at instead of those of the run.

    :param classes: class set of the labels; empty: as in the run's ``data.defaults``.
    """

    paths: tuple[Path, ...] = ()
    image_topic: str = ''
    label_topic: str = ''
    label_dir: str = ''
    classes: str = ''
    class_map: str = ''


class ReportFrames:
    """
    Frames of several recordings by position, with ground truth in the classes of the run.

    :param places: recording and position in it, for each frame.
    :param about: what these frames are, in words.
    """

    def __init__(self, sources: Sequence[LabelledSource], places: Sequence[tuple[int, int]],
                 about: str) -> None:
        self.sources = sources
        self.about = about
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, position: int) -> StudyFrame:
        which, index = self._places[position]
        entry = self.sources[which]
        frame, truth = entry.source[index], None
        if frame.labels is not None and entry.class_map is not None:
            require_known(entry, frame.labels, index)
            truth = entry.class_map(frame.labels)
        return StudyFrame(f'{entry.source.name} #{index}', frame.image, truth)


@contextmanager
def open_frames(recipe: Recipe, classes: ClassSet, finished: Mapping[str, Any], other: OtherData,
                most: int) -> Iterator[ReportFrames]:
    """
    Open the recordings and close them in the end.

    :param finished: the last event of the run (``RunLog.finished``), which names its held-out
        frames.
    :param most: so many frames, evenly spread; 0: all.
    :raises KdPerceptionError: when they cannot be found.
    """
    opened: list[LabelledSource] = []
    try:
        if other.paths:
            source = open_source(
                other.paths, image_topic=other.image_topic, label_topic=other.label_topic,
                label_dir=other.label_dir,
                classes=other.classes or str(recipe.data.defaults.get('classes', '')))
            opened.append(labelled(source, classes, other.class_map))
            yield _chosen(opened, None, ', '.join(str(p) for p in other.paths), most)
            return
        held = finished.get('held_out') or {}
        if held.get('of') == 'train':
            opened += open_sources(recipe.data.train, classes)
            about = 'frames of the training recordings that were held out'
        elif recipe.data.validation:
            opened += open_sources(recipe.data.validation, classes)
            about = 'validation frames of the run'
        else:
            raise TrainingError('the run does not say which frames it held out; name recordings '
                                'to look at with --data')
        places = [(int(a), int(b)) for a, b in held.get('places', ())] or None
        if places and any(w >= len(opened) or i >= len(opened[w].source) for w, i in places):
            raise TrainingError('the recordings of the run are not what they were (frames are '
                                'missing); name others with --data')
        yield _chosen(opened, places, about, most)
    finally:
        for entry in opened:
            entry.source.close()


def _chosen(opened: Sequence[LabelledSource], places: Sequence[tuple[int, int]] | None,
            about: str, most: int) -> ReportFrames:
    everywhere = places or [(which, index) for which, entry in enumerate(opened)
                            for index in range(len(entry.source))]
    return ReportFrames(opened, [everywhere[i] for i in spread(len(everywhere), most)], about)
