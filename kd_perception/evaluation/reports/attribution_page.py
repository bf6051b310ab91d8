"""The section of a page that shows whether two networks look at the same things."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from kd_perception.evaluation.metrics.attribution import AttributionPair, summary
from kd_perception.evaluation.reports.page import panels, paragraphs, section, small, table
from kd_perception.evaluation.reports.pictures import greyed, Panel
from kd_perception.evaluation.reports.tables import number, Table
from kd_perception.imaging import encode_jpeg

_METHOD = (
    'Per frame and class: the gradient, with respect to the picture, of what the network says for '
    "the class on the teacher's pixels of it (Simonyan et al. 2014; Vinogradova et al. 2020), "
    'absolute values summed over the channels, averaged over cells of a coarse grid. Student and '
    "teacher are compared by Spearman's rank correlation over the cells of that segment. The same "
    'student with weights drawn anew (Adebayo et al. 2018), mean of three draws, says what a '
    'network that learned nothing would have. Gradients are a rough picture of what a network '
    'uses; low agreement is a question, no proof.')


def attribution_section(pairs: Sequence[AttributionPair], names: Sequence[str],
                        absent: str = '') -> str:
    """
    Return the section.

    :param names: class names by id.
    :param absent: why there are no maps, where somebody would expect them.
    """
    if not pairs:
        return section('What they look at', [paragraphs([absent])]) if absent else ''
    found = summary(pairs, names)
    rows = [('all', *_cells(found)), *((n, *_cells(v)) for n, v in found['classes'].items())]
    ordered = sorted((p for p in pairs if np.isfinite(p.correlation)),
                     key=lambda p: p.correlation)
    shown = {id(p): p for p in (ordered[-1], ordered[len(ordered) // 2], ordered[0])} \
        if ordered else {}
    return section('What they look at', [
        table(Table('Rank correlation of the maps of student and teacher',
                    ('class', 'student', 'random weights', 'maps'), tuple(rows), strong=(0,)), {}),
        *(panels(f'{names[p.class_id]}, {p.frame}: {number(p.correlation, 2)} (random weights '
                 f'{number(p.reference, 2)})',
                 [Panel('camera', 'image/jpeg', encode_jpeg(p.image, 80)),
                  _heat('student', p.student, p.image), _heat('teacher', p.teacher, p.image)], 3)
          for p in shown.values()),
        small('The maps that agree most, median and least. ' + _METHOD)])


def _cells(values: dict) -> tuple[str, str, str]:
    return (number(values['correlation'], 2), number(values['random_weights'], 2),
            str(values['maps']))


def _heat(caption: str, strength: np.ndarray, image: np.ndarray) -> Panel:
    """Return a map over the pale picture."""
    height, width = image.shape[:2]
    top = max(float(np.percentile(strength, 99)), 1e-30)
    level = cv2.resize(np.clip(strength / top, 0, 1).astype(np.float32), (width, height),
                       interpolation=cv2.INTER_LINEAR)[..., None]
    colors = cv2.applyColorMap(np.rint(255 * level[..., 0]).astype(np.uint8),
                               cv2.COLORMAP_INFERNO)[..., ::-1]
    mixed = (1 - level) * (greyed(image) // 2 + 110) + level * colors
    return Panel(caption, 'image/jpeg', encode_jpeg(np.ascontiguousarray(mixed.astype(np.uint8)),
                                                    80))
