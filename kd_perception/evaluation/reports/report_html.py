"""
The report as one HTML file that needs nothing else: styles, figures and pictures are inside.

In: an ``Analysis``; out: the text of the page: the verdict first, then what an engineer asks.
Every word that comes from outside (bundle names, host, notes) is escaped.
"""

from __future__ import annotations

from dataclasses import asdict

from kd_perception.evaluation.analysis import Analysis
from kd_perception.evaluation.baseline import BaselineComparison
from kd_perception.evaluation.comparison import SamplePicture
from kd_perception.evaluation.metrics.frame_accuracy import frame_miou
from kd_perception.evaluation.reports import accuracy_plots, detail_tables, plots, tables
from kd_perception.evaluation.reports.baseline_tables import baseline_headline, baseline_tables
from kd_perception.evaluation.reports.page import (
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
from kd_perception.evaluation.reports.pictures import picture_panels
from kd_perception.evaluation.reports.report_summary import cards, sentences, subtitle
from kd_perception.evaluation.reports.tables import percent, Table


def render(analysis: Analysis, baseline: BaselineComparison | None = None) -> str:
    """
    Return the page.

    :param baseline: what came of it against an older report, if that was asked.
    """
    several = len(analysis.comparisons) > 1
    return page(
        title=' against '.join(reversed([analysis.labels[a.name] for a in analysis.run.arms])),
        kicker=f'A/B comparison on ROS 2 nodes · {subtitle(analysis)}',
        headline=[c.verdict.headline for c in analysis.comparisons] or analysis.headline,
        lead=[] if several else sentences(analysis), cards=cards(analysis),
        contents=True,
        parts=[cautions(analysis.cautions),
               section('Verdict', [paragraphs(sentences(analysis))]) if several else '',
               _baseline(analysis, baseline), _latency(analysis),
               _accuracy(analysis), _details(analysis), _worst(analysis), _ordinary(analysis),
               _method(analysis)])


def _baseline(analysis: Analysis, baseline: BaselineComparison | None) -> str:
    if baseline is None:
        return ''
    return section('Against the baseline', [
        paragraphs([baseline_headline(baseline), *baseline.notes]),
        *(_table(analysis, t) for t in baseline_tables(baseline, analysis.labels)),
        small(f'Baseline: {baseline.source}, {baseline.started}. A regression is a change that is '
              'shown (its interval lies above zero) and whose estimate is beyond the limit. Times '
              'are relative, accuracy and losses are points of 100. Intervals of the classes hold '
              'together. They speak of the frames of each run; runs of one machine differ a '
              'little more.')])


def _latency(analysis: Analysis) -> str:
    parts = [
        _table(analysis, tables.latency_table(analysis)),
        plot(plots.latency_distribution(analysis),
             'Share of frames answered within a time; dots are medians.'),
        plot(plots.timeline(analysis),
             'Every frame of the run, in order; losses and late answers on the upper edge.')]
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
        parts.append(plot(plots.stage_distribution(analysis),
                          'How each stage varies: line from p1 to p99, box from p25 to p75, tick '
                          'at the median.'))
        parts.append(_table(analysis, stages))
    return section('Latency', parts)


def _accuracy(analysis: Analysis) -> str:
    content = tables.accuracy_table(analysis)
    if content is None:
        told = [f'The source has no ground truth. {analysis.labels[c.other]} and '
                f'{analysis.labels[c.reference]} agree on {c.agreement:.1%} of the pixels '
                f'(mean IoU between their masks {100 * (c.agreement_miou or 0):.1f}); which of '
                'them is right where they differ, nobody knows.'
                for c in analysis.comparisons if c.agreement is not None]
        return section('Agreement', [paragraphs(told)]) if told else ''
    colors = {a.name: plots.arm_color(analysis, a.name) for a in analysis.run.arms}
    classes = tables.class_table(analysis, colors)
    return section('Accuracy', [
        _table(analysis, content),
        plot(accuracy_plots.trade_off(analysis),
             'Accuracy over latency; crosses are 95 % intervals. Up and to the left is better.'),
        _table(analysis, classes) if classes else ''])


def _details(analysis: Analysis) -> str:
    content = detail_tables.detail_table(analysis)
    if content is None:
        return ''
    method = next(iter((analysis.flicker or {}).values()), None)
    tables_found = [detail_tables.object_table(analysis, 'distance'),
                    detail_tables.object_table(analysis, 'visible'),
                    detail_tables.boundary_table(analysis)]
    return section('Where accuracy matters', [
        _table(analysis, content),
        small('An object is found when at least half of its visible pixels have its class. A '
              'pixel flickers when its predicted class changes although what it shows has not'
              + (f' ({method.method}).' if method else '.')),
        plot(accuracy_plots.recall_by_distance(analysis),
             'Objects found over distance, all kinds together; bars are 95 % intervals.'),
        *(_table(analysis, t) for t in tables_found if t),
        plot(accuracy_plots.reliability(analysis),
             'How sure an arm is, and how right: above the line it is too modest, below it too '
             'sure.')])


def _worst(analysis: Analysis) -> str:
    found = [p for p in analysis.run.pictures if p.worst]
    if not found:
        return ''
    judged = ' or '.join(analysis.labels[a.name] for a in analysis.run.arms[1:]) or 'the arm'
    what = (f'where the mIoU of {judged} is lowest' if analysis.accuracies
            else f'where {judged} differs most from {analysis.labels[analysis.run.arms[0].name]}')
    many = 'The frame' if len(found) == 1 else f'The {len(found)} frames'
    return section('Worst frames', [
        paragraphs([f'{many} {what}, worst first; of neighbours only the worst is shown. '
                    'They are chosen for being bad and say nothing of the ordinary frame.']),
        legend(analysis.run.classes), *(_frame(analysis, p) for p in found)])


def _ordinary(analysis: Analysis) -> str:
    found = [p for p in analysis.run.pictures if not p.worst]
    if not found:
        return ''
    return section('Ordinary frames', [
        paragraphs(['Evenly spread over the run, not chosen by what is in them.']),
        legend(analysis.run.classes), *(_frame(analysis, p) for p in found)])


def _frame(analysis: Analysis, picture: SamplePicture) -> str:
    """Return the pictures of a frame, with its own mIoU in the title."""
    scores = []
    for arm in analysis.run.arms:
        row = next((r for r in analysis.run.rows if r.arm == arm.name and r.counts
                    and r.index == picture.index), None)
        miou = frame_miou(row.counts) if row is not None and row.counts else None
        if miou is not None:
            scores.append(f'{analysis.labels[arm.name]} {percent(miou)}')
    title = f'Frame {picture.index}' + (f' · mIoU {", ".join(scores)}' if scores else '')
    return panels(title, picture_panels(analysis, picture), 1 + len(analysis.run.arms))


def _method(analysis: Analysis) -> str:
    run, spec = analysis.run, analysis.run.spec
    size = f'{spec.width}×{spec.height}' if spec.width else 'as the source has it'
    asked = {
        'source': f'{spec.source}: {spec.scenario}' if spec.scenario else spec.source,
        'frames': f'{spec.frames or "all"} after {spec.warmup} to warm up',
        'pacing': _PACING.get(spec.pacing, spec.pacing),
        'placement': _PLACEMENT.get(spec.placement, spec.placement),
        'size of the masks': size, 'accuracy margin': f'{spec.margin_miou:.1f} mIoU points',
    }
    counters = [(f'counters of {analysis.labels[arm]}',
                 ', '.join(f'{k} {v}' for k, v in values.items()))
                for arm, values in run.counters.items() if arm in analysis.labels]
    resolved = {k: str(v) for k, v in asdict(spec).items() if k != 'arms'}
    for arm in spec.arms:
        resolved[f'arm {arm.name}'] = ', '.join(
            f'{k}: {v}' for k, v in asdict(arm).items() if k != 'name')
    return section('How it was measured', [
        _table(analysis, tables.arms_table(analysis)),
        '<h3>Set-up</h3>', words(asked), words(dict(counters)) if counters else '',
        '<h3>Machine</h3>', words(run.host), '<h3>Versions</h3>', words(run.versions),
        '<h3>Configuration, resolved</h3>', words(resolved),
        small('Latency is taken on the steady clock of one host, from the publish call '
              'in the camera to the result in the monitor. Frames are joined by stamp and frame '
              'id; lost, late and duplicate ones are counted and never paired with another frame. '
              'Intervals are circular block bootstraps over frames; a question mark is an end '
              'that so few frames do not bound. The headline mIoU covers classes with at least '
              '0.1 % of the labelled pixels. Everything behind this page is in report.json and '
              'frames.csv beside it.')])


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
    colors = {analysis.labels[a.name]: plots.arm_color(analysis, a.name)
              for a in analysis.run.arms}
    return table(content, {**colors, **{f'IoU {label}': c for label, c in colors.items()}})
