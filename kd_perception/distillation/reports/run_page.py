"""The page of a run: what it learned, how that compares, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TYPE_CHECKING

from kd_perception.distillation.reports.run_plots import curves
from kd_perception.evaluation.metrics.attribution import summary
from kd_perception.evaluation.reports.attribution_page import attribution_section
from kd_perception.evaluation.reports.page import (
    card,
    cautions,
    heading,
    page,
    plot,
    section,
    small,
    table,
    words,
)
from kd_perception.evaluation.reports.study_page import (
    accuracy_section,
    agreement_section,
    calibration_section,
    worst_section,
)
from kd_perception.evaluation.reports.study_plots import ROLE_COLORS
from kd_perception.evaluation.reports.tables import NONE, number, percent, Table
from kd_perception.evaluation.study import STUDENT, TEACHER
from kd_perception.evaluation.words import points

if TYPE_CHECKING:
    from kd_perception.distillation.reports.run_report import RunReport


def render(report: RunReport, weights: Mapping[str, int | None]) -> str:
    """
    Return the page.

    :param weights: number of parameters by role, None where it is not known.
    """
    names = report.bundle.spec.classes.names
    what = 'Distillation' if report.kind == 'distill' else 'Training'
    return page(
        title=f'{report.recipe.name}: {what.lower()}', headline=headline(report),
        kicker=f'{what} of {report.recipe.name} · {len(report.study.frames)} frames · '
               f'{report.made}',
        cards=_cards(report),
        parts=[cautions(report.cautions), _curves(report), accuracy_section(report.study),
               calibration_section(report.study), agreement_section(report.study),
               attribution_section(report.pairs, names, report.no_attribution),
               worst_section(report.study), _cost(report), _method(report, weights)])


def headline(report: RunReport) -> str:
    """Return the result in a line."""
    found, name = report.study, report.bundle.spec.name
    own = found.accuracies.get(STUDENT)
    if own is None:
        if found.agreement is None:
            return f'{name}, looked at on frames without ground truth'
        return f'{name} says what its teacher says on {found.agreement.share:.1%} of the pixels'
    parts = [f'{name} reaches {100 * own.miou.estimate:.1f} mIoU']
    for role in found.roles[1:]:
        pair = found.differences.get(role)
        if pair is None:
            continue
        change = points(pair.difference)
        if not change.excludes(0):
            parts.append(f'not shown to differ from the {role}')
        else:
            word = 'above' if change.estimate > 0 else 'below'
            parts.append(f'{abs(change.estimate):.1f} {word} the {role}')
    return ', '.join(parts)


def _cards(report: RunReport) -> list[str]:
    found, out = report.study, []
    own = found.accuracies.get(STUDENT)
    if own is not None:
        span = points(own.miou)
        out.append(card(f'{span.estimate:.1f}', 'mIoU', f'95 %: {span.low:.1f} … {span.high:.1f}'))
    for role, pair in found.differences.items():
        change = points(pair.difference)
        kind = 'plain' if not change.excludes(0) else 'good' if change.estimate > 0 else 'bad'
        # Below its teacher is where a student is expected to be.
        kind = 'plain' if role == TEACHER and kind == 'bad' else kind
        out.append(card(number(change.estimate, 1) if change.estimate < 0
                        else f'+{change.estimate:.1f}', f'mIoU points against the {role}',
                        f'95 %: {number(change.low, 1)} … {number(change.high, 1)}', kind))
    if found.agreement is not None:
        out.append(card(f'{found.agreement.share:.1%}', 'pixels as the teacher has them',
                        f'{found.agreement.frames} frames'))
    if own is not None:
        taught = found.calibrations.get(TEACHER)
        out.append(card(f'{percent(found.calibrations[STUDENT].ece())} %',
                        'calibration error (ECE)', 'lower is better' if taught is None
                        else f'teacher {percent(taught.ece())} %'))
    if report.pairs:
        total = summary(report.pairs, report.bundle.spec.classes.names)
        out.append(card(number(total['correlation'], 2), 'agreement on where to look',
                        f'random weights {number(total["random_weights"], 2)}'))
    out.append(card(_duration(60 * report.cost['training_minutes']), 'of training',
                    f'{report.cost["steps"]} steps'))
    return out


def _curves(report: RunReport) -> str:
    best = report.metrics.get('best_step')
    picture = curves(report.log, best)
    if picture is None:
        return ''
    against = report.metrics.get('validation_against', 'ground truth')
    resumed = f' The run was resumed {report.log.resumed} times.' if report.log.resumed else ''
    return section('Curves', [plot(picture, 'Loss with its terms (weights included; pale: as '
                                   'logged, strong: running mean), learning rate, and '
                                   f'validation against the {against}.{resumed}')])


def _cost(report: RunReport) -> str:
    costs = report.cost
    step, waited = costs['step_s'], costs['waited_share']
    rows = {
        'teacher': _taught(costs),
        'training': f'{_duration(60 * costs["training_minutes"])} for {costs["steps"]} steps of '
                    f'{costs["batch_size"]} views, {costs["views"]} views',
        'a step': NONE if step is None else f'{1000 * step:.0f} ms'
                  + ('' if waited is None else f', {waited:.1%} of the time waited for data'),
        'frames learned from': f'{costs["training_frames"] or NONE}, '
                               f'{costs["labelled_training_frames"] or 0} with ground truth',
        'precision': f'{costs["precision"]}'
                     + (f' on {costs["device"]}' if costs['device'] else ''),
        'processes': str(costs['processes']), 'resumed': f'{costs["resumed"]} times'}
    if report.kind == 'train':
        del rows['teacher']
    if costs['assistants']:
        rows['with its assistants'] = _chain(costs)
    return section('What it took', [words(rows)])


def _taught(costs: Mapping[str, Any]) -> str:
    """Return what the teachers of a run took, in words."""
    labelling, in_loop = costs['labelling'], costs['teacher_in_loop_s']
    parts = []
    if labelling is not None:
        parts.append(f'{_duration(labelling["teacher_s"])} for {labelling["frames"]} frames, '
                     f'{_duration(labelling["seconds"])} with reading and writing '
                     f'({", ".join(labelling["ran_on"])})')
        if labelling['used_frames'] is not None and \
                labelling['used_seconds'] < labelling['seconds']:
            parts.append(f'of which the part of the {labelling["used_frames"]} frames that the '
                         f'run used is {_duration(labelling["used_teacher_s"])} and '
                         f'{_duration(labelling["used_seconds"])}')
    if in_loop is not None:
        parts.append(f'{_duration(in_loop)} in the loop')
    return ', '.join(parts) or 'not known'


def _chain(costs: Mapping[str, Any]) -> str:
    """Return what a run took together with the assistants before it, in words."""
    total = costs['altogether']
    if total is None:
        return 'not known: the run of one is not there any more'
    seconds = total['teacher_s']
    return (f'{len(costs["assistants"])} of them, {_duration(60 * total["training_minutes"])} of '
            f'training and {"an unknown time" if seconds is None else _duration(seconds)} of '
            'teachers, all together')


def _method(report: RunReport, weights: Mapping[str, int | None]) -> str:
    members = report.study.members
    count = [weights.get(m.role) for m in members]
    rows = (
        ('name', *(m.label for m in members)),
        ('network', *(m.bundle.spec.network.builder or NONE for m in members)),
        ('parameters', *(f'{c / 1e6:.2f} M' if c else NONE for c in count)),
        ('input', *(f'{m.bundle.spec.input.width}×{m.bundle.spec.input.height}'
                    for m in members)),
        ('engine', *(f'{m.engine.name} {m.engine.device} {m.engine.precision}'
                     for m in members)),
        ('bundle hash', *(m.bundle.hash[:16] for m in members)))
    lineage = report.bundle.spec.lineage
    return section('How it was looked at', [
        table(Table('Who was looked at', ('', *(report.study.name(m.role) for m in members)),
                    rows), {report.study.name(r): c for r, c in ROLE_COLORS.items()}),
        heading('Run'),
        words({'directory': str(report.path), 'frames': f'{len(report.study.frames)}, '
               f'{report.frames}; {report.study.labelled} with ground truth',
               'recipe hash': lineage.recipe or NONE, 'data': ', '.join(lineage.data) or NONE,
               'learned from': ', '.join(lineage.parents) or NONE,
               'code': lineage.code_version or NONE}),
        heading('Machine'), words(report.host), heading('Versions'), words(report.versions),
        small('Every network runs its deployable graph with the preprocessing and decoding of the '
              'perception node; masks are brought to the size of the ground truth by nearest '
              'neighbour. Intervals are circular block bootstraps over frames: they say how much '
              'the frames matter, not how much another seed would. The headline mIoU covers '
              'classes with at least 0.1 % of the labelled pixels. Everything behind this page '
              'is in report.json beside it.')])


def _duration(seconds: float) -> str:
    """Return ``42 s``, ``15.3 min`` or ``2.5 h``."""
    if seconds < 120:
        return f'{seconds:.3g} s'
    if seconds < 7200:
        return f'{seconds / 60:.1f} min'
    return f'{seconds / 3600:.1f} h'
