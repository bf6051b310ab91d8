"""The sections of a page that show a study; the tables in them are text cells."""

from __future__ import annotations

from collections.abc import Sequence
import math

import numpy as np

from kd_perception.classes import UNLABELLED
from kd_perception.evaluation.accuracy import MIN_SHARE
from kd_perception.evaluation.metrics.agreement import OUTCOMES
from kd_perception.evaluation.metrics.calibration import BINS
from kd_perception.evaluation.reports import study_plots as plots
from kd_perception.evaluation.reports.page import (
    heading,
    legend,
    panels,
    paragraphs,
    plot,
    section,
    small,
    table,
)
from kd_perception.evaluation.reports.pictures import greyed, marked, Panel
from kd_perception.evaluation.reports.tables import interval, NONE, number, percent, Table
from kd_perception.evaluation.study import STUDENT, Study, TEACHER, WorstFrame
from kd_perception.evaluation.words import points
from kd_perception.imaging import colorize, encode_jpeg, encode_png


def accuracy_section(study: Study) -> str:
    """Return accuracy, whole and by class, with the confusion matrix; '' without truth."""
    if not study.accuracies:
        return ''
    return section('Accuracy', [
        _table(study, accuracy_table(study)),
        plot(plots.class_iou(study), 'IoU by class, most frequent class first.'),
        _table(study, class_table(study)),
        heading(f'What the {study.name(STUDENT)} takes for what'),
        plot(plots.confusion(study), 'In % of the pixels that are truly of the class; rows add '
             'up to 100. Cells below 0.5 % bear no number.')])


def calibration_section(study: Study) -> str:
    """Return whether confidences can be believed; '' without truth."""
    picture = plots.reliability(study)
    if picture is None:
        return ''
    rows = tuple((study.name(role), percent(c.ece()), percent(c.confidence), percent(c.accuracy))
                 for role in study.roles for c in (study.calibrations[role],))
    return section('Calibration', [
        _table(study, Table('Points of 100', ('', 'ECE', 'mean confidence',
                                              'pixels that are right'), rows)),
        plot(picture, 'Above the dashed line a network is more often right than it says, below '
             'it is too sure.'),
        small(f'Expected calibration error of Guo et al. (2017): {BINS} bins of equal width, the '
              'distance of accuracy and mean confidence in each, weighed by pixels. Every pixel '
              'with ground truth counts once; confidence is the largest probability, to 1/255, '
              'as the graph gives it.')])


def agreement_section(study: Study) -> str:
    """Return where teacher and student say different things; '' without a teacher."""
    if study.agreement is None:
        return ''
    found = study.agreement
    return section('Agreement with the teacher', [
        paragraphs([f'They say the same on {found.share:.1%} of the pixels of {found.frames} '
                    f'frames (mean IoU between their masks {percent(found.matrix.mean_iou())}).']),
        _outcomes(study, found.outcomes),
        heading('By class'),
        plot(plots.disagreement_by_class(study), 'Mean over the frames in which the teacher sees '
             'the class.'),
        heading('Where in the frame'),
        plot(plots.where_they_differ(study), 'Share of the frames in which a place is called '
             'differently.')])


def worst_section(study: Study) -> str:
    """Return the frames on which the student errs most, as pictures."""
    if not study.worst:
        return ''
    return section('The worst frames', [
        legend(study.classes),
        *(panels(f'{w.name}: {_score(w)}', _panels(study, w),
                 3 if w.truth is not None and TEACHER in w.masks else 4) for w in study.worst)])


def accuracy_table(study: Study) -> Table:
    """Return mIoU and pixel accuracy by member, with the difference to the student."""
    roles = [r for r in study.roles if r in study.accuracies]
    found = [study.accuracies[r] for r in roles]
    rows: list[tuple[str, ...]] = [
        (f'mIoU, classes ≥ {MIN_SHARE:.1%} of pixels',
         *(interval(points(a.miou), '', 1) for a in found)),
        ('mIoU, all classes', *(percent(a.miou_all) for a in found)),
        ('pixel accuracy', *(percent(a.pixel_accuracy) for a in found)),
        ('labelled frames', *(str(a.n) for a in found))]
    if study.differences:
        rows.insert(1, (f'{study.name(STUDENT)} minus it', *(
            interval(points(study.differences[r].difference), '', 1, sign=True)
            if r in study.differences else NONE for r in roles)))
    return Table('Against ground truth, in points of 100', ('', *map(study.name, roles)),
                 tuple(rows), strong=(0,))


def class_table(study: Study) -> Table:
    """Return IoU by class and member, with the student's gain on each of the others."""
    roles = [r for r in study.roles if r in study.accuracies]
    iou = {r: np.array(study.accuracies[r].iou) for r in roles}
    first = study.accuracies[roles[0]]
    header = ['class', 'share', *(f'IoU {study.name(r)}' for r in roles),
              *(f'against {r}' for r in roles if r != STUDENT), 'precision', 'recall']
    rows = []
    for i, name in enumerate(study.classes.names):
        if not any(math.isfinite(iou[r][i]) for r in roles):
            continue  # neither there nor seen by anyone
        rows.append((name, f'{first.share[i]:.2%}', *(percent(iou[r][i]) for r in roles),
                     *(_signed(iou[STUDENT][i] - iou[r][i]) for r in roles if r != STUDENT),
                     percent(first.precision[i]), percent(first.recall[i])))
    return Table('By class, in points of 100; precision and recall are of the '
                 f'{study.name(STUDENT)}',
                 tuple(header), tuple(rows))


def _outcomes(study: Study, counts: np.ndarray) -> str:
    total = int(counts.sum())
    if not total:
        return ''
    rows = tuple((name, f'{count / total:.2%}') for name, count in zip(OUTCOMES, counts,
                                                                       strict=True))
    return _table(study, Table('Who is right', ('', 'pixels with ground truth'), rows))


def _panels(study: Study, worst: WorstFrame) -> Sequence[Panel]:
    palette = study.classes.palette()
    roles = [r for r in (STUDENT, TEACHER) if r in worst.masks]
    out = [Panel('camera', 'image/jpeg', encode_jpeg(worst.image, 80))]
    if worst.truth is not None:
        out.append(_mask('ground truth', worst.truth, palette))
    out += [_mask(study.name(role), worst.masks[role], palette) for role in roles]
    grey = greyed(worst.image)
    if worst.truth is not None:
        known = worst.truth != UNLABELLED
        out += [marked(f'wrong in the {study.name(role)}: {worst.wrong[role]:.1%}', grey,
                       (worst.masks[role] != worst.truth) & known) for role in roles]
    elif TEACHER in worst.masks:
        out.append(marked('they differ', grey, worst.masks[STUDENT] != worst.masks[TEACHER]))
    return out


def _mask(caption: str, ids: np.ndarray, palette: np.ndarray) -> Panel:
    return Panel(caption, 'image/png', encode_png(colorize(ids, palette)))


def _score(worst: WorstFrame) -> str:
    what = 'of the pixels differ from the teacher' if worst.truth is None \
        else 'of the pixels are wrong'
    return f'{worst.score:.1%} {what}'


def _signed(difference: float) -> str:
    text = number(100 * difference, 1)
    return f'+{text}' if difference > 0 else text


def _table(study: Study, content: Table) -> str:
    colors = {study.name(r): c for r, c in plots.ROLE_COLORS.items()}
    return table(content, {**colors, **{f'IoU {n}': c for n, c in colors.items()}})
