"""
The first screen of a comparison's page: the verdict, a handful of figures, nothing else.

In: an ``Analysis``; out: parts of the page for a reader who has half a minute.
"""

from __future__ import annotations

from pathlib import Path

from kd_perception.evaluation.analysis import Analysis, ArmComparison
from kd_perception.evaluation.reports.page import card
from kd_perception.evaluation.reports.plots import arm_color
from kd_perception.evaluation.reports.strips import Mark, strip
from kd_perception.evaluation.reports.tables import ms, number
from kd_perception.evaluation.statistics.bootstrap import Interval
from kd_perception.evaluation.words import points, times


def subtitle(analysis: Analysis) -> str:
    """Return source, length, course and time in a line."""
    spec = analysis.run.spec
    place = f'{spec.source}: {Path(spec.scenario).name}' if spec.scenario else spec.source
    frames = max(s.published for s in analysis.statistics.values())
    parts = [place, f'{frames} frames', f'{spec.pacing}, {spec.placement}']
    if analysis.run.started:
        parts.append(analysis.run.started[:16].replace('T', ' '))
    return ' · '.join(parts)


def sentences(analysis: Analysis) -> list[str]:
    """Return the verdict with its numbers and intervals."""
    return [s for c in analysis.comparisons for s in c.verdict.sentences] or [
        'One arm alone: there is nothing to compare it with.']


def cards(analysis: Analysis) -> list[str]:
    """Return the figures in large type."""
    out = []
    for comparison in analysis.comparisons:
        out += [_speed(analysis, comparison), _accuracy(analysis, comparison)]
    for arm in analysis.run.arms:
        stats = analysis.statistics[arm.name]
        accuracy = analysis.accuracies.get(arm.name)
        note = f'p99 {ms(stats.latency.p99)}'
        if accuracy is not None:
            note += f' · mIoU {number(100 * accuracy.miou.estimate, 1)}'
        out.append(card(ms(stats.latency.p50), f'{analysis.labels[arm.name]}, median latency',
                        note))
    lost = {arm: s.status['lost'] for arm, s in analysis.statistics.items()}
    served = max(s.published for s in analysis.statistics.values())
    note = f'none of {served} each' if not any(lost.values()) else ' · '.join(
        f'{analysis.labels[arm]}: {n} of {analysis.statistics[arm].published}'
        for arm, n in lost.items())
    out.append(card(str(sum(lost.values())), 'frames lost', note,
                    'bad' if any(lost.values()) else 'good'))
    return [c for c in out if c]


def _speed(analysis: Analysis, comparison: ArmComparison) -> str:
    if comparison.latency is None:
        return ''
    other, ratio = analysis.labels[comparison.other], comparison.latency.median_ratio
    state = comparison.verdict.latency
    slower = state == 'slower' or (state == 'mixed' and ratio.estimate < 1)
    value = times(1 / ratio.estimate if slower else ratio.estimate)
    word = {'faster': 'faster', 'slower': 'slower',
            'mixed': f'{"slower" if slower else "faster"} in the median only'}.get(
                state, 'as fast (not shown to differ)')
    return card(
        value, f'{other} is {word}',
        f'{_confidence(ratio)}: {ratio.low:.2f} … {ratio.high:.2f} times as fast',
        {'faster': 'good', 'slower': 'bad'}.get(state, 'plain'),
        strip(ratio, [Mark(1.0, 'equal')], arm_color(analysis, comparison.other), good_from=1.0,
              log=True))


def _confidence(interval: Interval) -> str:
    """Return ``95 %``, or more where several arms hold together."""
    return f'{100 * interval.confidence:.3g} %'


def _accuracy(analysis: Analysis, comparison: ArmComparison) -> str:
    other = analysis.labels[comparison.other]
    if comparison.accuracy is None:
        return '' if comparison.agreement is None else card(
            f'{comparison.agreement:.1%}', 'pixels on which the arms agree', 'no ground truth')
    change = points(comparison.accuracy.difference)
    state, margin = comparison.verdict.accuracy, analysis.run.spec.margin_miou
    kind = {'better': 'good', 'within margin': 'good', 'worse': 'bad'}.get(state, 'plain')
    marks = [Mark(0.0, 'equal')]
    if margin:
        marks.append(Mark(-margin, f'margin −{margin:g}'))
    return card(
        f'{change.estimate:+.1f}'.replace('-', '−'), f'mIoU points, {other}',
        f'{_confidence(change)}: {change.low:+.1f} … {change.high:+.1f}'.replace('-', '−'), kind,
        strip(change, marks, arm_color(analysis, comparison.other), good_from=-margin))
