"""
The report as one HTML file that needs nothing else: styles, figures and pictures are inside.

In: an ``Analysis``; out: the text of the page. Every word that comes from outside (bundle names,
host, notes) is escaped.
"""

from __future__ import annotations

from pathlib import Path

from kd_perception.evaluation import plots, tables
from kd_perception.evaluation.analysis import Analysis, ArmComparison
from kd_perception.evaluation.page import (
    card,
    cautions,
    legend,
    page,
    panels,
    paragraphs,
    plot,
    section,
    small,
    table,
    words,
)
from kd_perception.evaluation.pictures import picture_panels
from kd_perception.evaluation.tables import ms, Table
from kd_perception.evaluation.verdict import points, times


def render(analysis: Analysis) -> str:
    """Return the page."""
    verdict = [s for c in analysis.comparisons for s in c.verdict.sentences]
    return page(
        title=' against '.join(reversed([analysis.labels[a.name] for a in analysis.run.arms])),
        kicker=f'A/B comparison on ROS 2 nodes · {_subtitle(analysis)}',
        headline=analysis.headline, cards=_cards(analysis),
        parts=[section('Verdict', [paragraphs(
            verdict or ['One arm alone: there is nothing to compare it with.'])]),
            cautions(analysis.cautions), _latency(analysis), _accuracy(analysis),
            _pictures(analysis), _method(analysis)])


def _subtitle(analysis: Analysis) -> str:
    spec = analysis.run.spec
    place = f'{spec.source}: {Path(spec.scenario).name}' if spec.scenario else spec.source
    frames = max(s.published for s in analysis.statistics.values())
    parts = [place, f'{frames} frames', f'{spec.pacing}, {spec.placement}']
    if analysis.run.started:
        parts.append(analysis.run.started[:16].replace('T', ' '))
    return ' · '.join(parts)


def _cards(analysis: Analysis) -> list[str]:
    cards = []
    for comparison in analysis.comparisons:
        cards += _comparison_cards(analysis, comparison)
    for arm in analysis.run.arms:
        stats = analysis.statistics[arm.name]
        accuracy = analysis.accuracies.get(arm.name)
        note = f'p95 {ms(stats.latency.p95)}'
        if accuracy is not None:
            note += f' · mIoU {100 * accuracy.miou.estimate:.1f}'
        cards.append(card(ms(stats.latency.p50), f'{analysis.labels[arm.name]}, median latency',
                           note, 'plain'))
    lost = sum(s.status['lost'] for s in analysis.statistics.values())
    published = sum(s.published for s in analysis.statistics.values())
    cards.append(card(str(lost), 'frames lost', f'of {published} served',
                       'bad' if lost else 'good'))
    return cards


def _comparison_cards(analysis: Analysis, comparison: ArmComparison) -> list[str]:
    out = []
    other = analysis.labels[comparison.other]
    if comparison.latency is not None:
        ratio = comparison.latency.median_ratio
        state = comparison.verdict.latency
        value = times(ratio.estimate if state != 'slower' else 1 / ratio.estimate)
        word = {'faster': 'faster', 'slower': 'slower'}.get(state, 'as fast (not shown to differ)')
        out.append(card(value, f'{other} is {word}',
                         f'95 %: {ratio.low:.2f} … {ratio.high:.2f}',
                         {'faster': 'good', 'slower': 'bad'}.get(state, 'plain')))
    if comparison.accuracy is not None:
        change = points(comparison.accuracy.difference)
        state = comparison.verdict.accuracy
        kind = {'better': 'good', 'within margin': 'good', 'worse': 'bad'}.get(state, 'plain')
        out.append(card(f'{change.estimate:+.1f}'.replace('-', '−'), f'mIoU points, {other}',
                         f'95 %: {change.low:+.1f} … {change.high:+.1f}'.replace('-', '−'), kind))
    elif comparison.agreement is not None:
        out.append(card(f'{comparison.agreement:.1%}', 'pixels on which the arms agree',
                         'no ground truth', 'plain'))
    return out


def _latency(analysis: Analysis) -> str:
    parts = [_table(analysis, tables.latency_table(analysis)),
             plot(plots.latency_distribution(analysis),
                   'Share of frames answered within a time; dots are medians.'),
             plot(plots.timeline(analysis), 'Every frame of the run, in order.')]
    differences = tables.difference_table(analysis)
    if differences is not None:
        parts.append(_table(analysis, differences))
        parts.append(plot(plots.difference_distribution(analysis),
                           'The same frame in both arms: what was saved.'))
    stages = tables.stage_table(analysis)
    if stages is not None:
        parts.append(plot(plots.stage_breakdown(analysis),
                           'Where the time goes. "elsewhere" is transport to the node and back '
                           'to the monitor: what the node cannot see of itself.'))
        parts.append(_table(analysis, stages))
    return section('Latency', parts)


def _accuracy(analysis: Analysis) -> str:
    table = tables.accuracy_table(analysis)
    if table is None:
        words = [f'The source has no ground truth. {analysis.labels[c.other]} and '
                 f'{analysis.labels[c.reference]} agree on {c.agreement:.1%} of the pixels '
                 f'(mean IoU between their masks {100 * (c.agreement_miou or 0):.1f}); which of '
                 'them is right where they differ, nobody knows.'
                 for c in analysis.comparisons if c.agreement is not None]
        return section('Agreement', [paragraphs(words)]) if words else ''
    classes = tables.class_table(analysis)
    return section('Accuracy', [
        _table(analysis, table),
        plot(plots.class_iou(analysis), 'IoU by class, most frequent class first.'),
        _table(analysis, classes) if classes else ''])


def _pictures(analysis: Analysis) -> str:
    if not analysis.run.pictures:
        return ''
    columns = 1 + len(analysis.run.arms)
    return section('What they saw', [
        legend(analysis.run.classes),
        *(panels(f'Frame {p.index}', picture_panels(analysis, p), columns)
          for p in analysis.run.pictures)])


def _method(analysis: Analysis) -> str:
    run, spec = analysis.run, analysis.run.spec
    height, width = (run.pictures[0].image.shape[:2] if run.pictures
                     else (spec.height, spec.width))
    size = f'{width}×{height}' if width else 'as the source has it'
    asked = {
        'source': f'{spec.source}: {spec.scenario}' if spec.scenario else spec.source,
        'seed': str(spec.seed), 'camera image': size,
        'frames': f'{spec.frames or "all"} after {spec.warmup} to warm up',
        'pacing': _PACING[spec.pacing], 'placement': _PLACEMENT[spec.placement],
        'accuracy margin': f'{spec.margin_miou:.1f} mIoU points',
    }
    if spec.pacing == 'realtime':
        asked['rate'] = f'{spec.rate_hz:g} Hz'
    counters = [(f'counters of {analysis.labels[arm]}',
                 ', '.join(f'{k} {v}' for k, v in values.items()))
                for arm, values in run.counters.items() if arm in analysis.labels]
    return section('How it was measured', [
        _table(analysis, tables.arms_table(analysis)),
        '<h3>Set-up</h3>', words(asked), words(dict(counters)) if counters else '',
        '<h3>Machine</h3>', words(run.host), '<h3>Versions</h3>', words(run.versions),
        small('Latency is taken on the steady clock of one host, from the publish call '
        'in the camera to the result in the monitor. Frames are joined by stamp and frame id; '
        'lost, late and duplicate ones are counted and never paired with another frame. Intervals '
        'are circular block bootstraps over frames. The headline mIoU covers classes with at '
        'least 0.1 % of the labelled pixels. Everything behind this page is in '
              'report.json and frames.csv beside it.')])


_PACING = {
    'lockstep': 'lockstep: the next frame is published when the last one was answered',
    'realtime': "realtime: frames come at the camera's rate, answered or not",
    'max': 'max: frames come as fast as the source makes them'}
_PLACEMENT = {
    'turns': 'turns: each frame is served to one arm after the other, in random order',
    'concurrent': 'concurrent: all arms at once, under shared load',
    'isolated': 'isolated: one arm at a time over all frames',
    'alternate': 'alternate: one node, its model exchanged every few frames'}


def _table(analysis: Analysis, content: Table) -> str:
    return table(content, {analysis.labels[a.name]: plots.arm_color(analysis, a.name)
                           for a in analysis.run.arms})
