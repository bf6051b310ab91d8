"""Label images: which belong to which picture, what their ids mean, whether they are valid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from kd_perception.bags import messages as msgs
from kd_perception.bags.reader import BagReader
from kd_perception.bags.sampling import LabelError
from kd_perception.bags.topics import TopicIndex
from kd_perception.classes import ClassSet, load_class_set, UNLABELLED
from kd_perception.errors import BagError, ConfigError
from kd_perception.imaging.encodings import is_colour
from kd_perception.paths import share_directory

_NONE = -1


class LabelCheck:
    """
    Check of label images against their pictures and class set.

    :param classes: what the ids mean; None when nobody said.
    """

    def __init__(self, classes: ClassSet | None) -> None:
        self._classes = classes
        self._foreign = np.zeros(256, bool)
        if classes is not None:
            self._foreign[len(classes):] = True
            self._foreign[[*classes.void_ids, UNLABELLED]] = False

    def __call__(self, labels: np.ndarray, image: np.ndarray, where: str) -> None:
        """
        Check uint8 ``[H, W]`` labels of a picture ``[H, W, 3]``.

        :raises LabelError: when they do not fit.
        """
        if labels.shape != image.shape[:2]:
            raise LabelError(
                f'{where}: labels are {labels.shape[1]}x{labels.shape[0]}, but the image is '
                f'{image.shape[1]}x{image.shape[0]}; labels must have the size of their image')
        if self._classes is not None and self._foreign[labels].any():
            raise LabelError(
                f'{where}: labels hold ids {self._classes.unknown_ids(labels)}, which class set '
                f'{self._classes.name!r} ({len(self._classes)} classes) does not know; '
                'choose the right classes or list them under void_ids')


def classes_by_names(names: Iterable[str], name: str) -> ClassSet:
    """Return the shipped class set that has these names, or a new one with made-up colours."""
    names = tuple(names)
    for path in sorted((share_directory() / 'config' / 'classes').glob('*.yaml')):
        if '_to_' in path.stem:
            continue
        known = load_class_set(path.stem)
        if known.names == names:
            return known
    return ClassSet.from_names(name, names)


def recorded_classes(reader: BagReader, label_topic: str) -> ClassSet | None:
    """
    Return what the ids of a label topic mean, from the recording's LabelInfo; None without one.

    Labels in colours are CARLA's (see ``imaging/carla_labels.py``). Else the topic
    ``<label_topic>_info`` counts most, then ``label_info`` beside the labels, then the only one
    there is.

    :raises BagError: when several could be meant, or the ids are not 0 … 254.
    """
    if has_carla_labels(reader, label_topic):
        return load_class_set('carla')
    infos = [t.name for t in reader.topics if t.type == msgs.LABEL_INFO and t.count]
    if not infos:
        return None
    beside = f'{label_topic.rpartition("/")[0]}/label_info'
    chosen = next((n for n in (f'{label_topic}_info', beside) if n in infos), '')
    if not chosen and len(infos) > 1:
        raise BagError(f'{reader.path}: which of {", ".join(infos)} explains {label_topic}? '
                       'Name the class set')
    return _classes_of(reader.index(chosen or infos[0]).message(0), chosen or infos[0])


def choose_classes(recorded: ClassSet | None, name: str) -> ClassSet | None:
    """
    Return the class set that the user named, or else the recorded one.

    :raises ConfigError: when both exist and name different classes.
    """
    if not name:
        return recorded
    chosen = load_class_set(name)
    if recorded is not None and recorded.names != chosen.names:
        raise ConfigError(f'class set {name!r} does not have the classes that the recording '
                          f'names ({recorded.name!r}, {len(recorded)} classes); leave it out')
    return chosen


def pair_labels(images: TopicIndex, labels: TopicIndex, *,
                any_frame_id: bool = False) -> tuple[np.ndarray, int]:
    """
    Find the label image of every picture by header stamp.

    Stamps that repeat (some drivers leave them zero) are paired in order when both sides have
    equally many, and not at all otherwise: better no label than a wrong one. Frame ids must agree
    where both sides have one, but for ``any_frame_id``.

    :returns: int ``[n]``, for each image its label's position or -1; the number of images
        that were left without because their stamp was ambiguous.
    """
    by_stamp: dict[int, list[int]] = defaultdict(list)
    frame_ids: dict[int, str] = {}
    for position, stamp, frame_id in _headers(labels):
        by_stamp[stamp].append(position)
        frame_ids[position] = frame_id
    wanted: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for position, stamp, frame_id in _headers(images):
        wanted[stamp].append((position, frame_id))
    partner = np.full(len(images), _NONE, np.int64)
    ambiguous = 0
    for stamp, pictures in wanted.items():
        found = by_stamp.get(stamp, [])
        if found and len(found) != len(pictures):
            ambiguous += len(pictures)
            continue
        for (position, frame_id), label in zip(pictures, found):
            if any_frame_id or frame_ids[label] in ('', frame_id) or not frame_id:
                partner[position] = label
    return partner, ambiguous


def has_carla_labels(reader: BagReader, label_topic: str) -> bool:
    """Return whether labels come in colours, as CARLA's ROS interfaces publish them."""
    return any(t.name == label_topic and is_colour(t.encoding) for t in reader.topics)


def _headers(index: TopicIndex) -> Iterable[tuple[int, int, str]]:
    for position in range(len(index)):
        try:
            stamp, frame_id = index.header(position)
        except BagError:
            continue  # met again, and counted, when the frame itself is read
        yield position, stamp, frame_id


def _classes_of(info: Any, topic: str) -> ClassSet:
    entries = {int(c.class_id): str(c.class_name) for c in info.class_map}
    # Writers, our camera node among them, also list the ids that mean "no label". Id 0 is a class
    # of that name in CARLA.
    void = {i for i, n in entries.items() if i and n.lower() in ('unlabelled', 'unlabeled')}
    named = {i: n for i, n in entries.items() if i not in void and i != UNLABELLED}
    if not named or max(named) > 254:
        raise BagError(f'{topic}: names no class with an id from 0 to 254')
    names = [named.get(i, f'unnamed_{i}') for i in range(max(named) + 1)]
    found = classes_by_names(names, 'recorded')
    if found.name != 'recorded':
        return found
    return replace(found, void_ids=tuple(sorted(v for v in void if len(names) <= v < UNLABELLED)))
