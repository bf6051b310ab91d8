"""Which class set the names of a ``LabelInfo`` are."""

from __future__ import annotations

from collections.abc import Sequence

from kd_perception.classes import ClassSet, load_class_set
from kd_perception.errors import ConfigError
from kd_perception.paths import share_directory


def identify_class_set(names: Sequence[str]) -> ClassSet:
    """
    Return the set in ``config/classes`` that has exactly these names in this order.

    A message carries names but not the name of the set, by which class maps are found.

    :returns: a made-up set named ``source`` when none fits.
    """
    for path in sorted((share_directory() / 'config' / 'classes').glob('*.yaml')):
        if '_to_' in path.stem:
            continue
        try:
            known = load_class_set(str(path))
        except ConfigError:
            continue
        if known.names == tuple(names):
            return known
    return ClassSet.from_names('source', names)
