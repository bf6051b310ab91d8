"""
A comparison in words: what was shown, what was not, and what a reader must beware of.

In: paired statistics; out: sentences. A difference is claimed only when its interval excludes
zero, and "just as accurate" only when the interval stays within the margin that was set before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math

from kd_perception.evaluation.accuracy import PairedAccuracy
from kd_perception.evaluation.bootstrap import Interval
from kd_perception.evaluation.comparison import ComparisonRun
from kd_perception.evaluation.paired import ArmStatistics, FEWEST_PAIRS, PairedLatency

FEW_FRAMES = 30
LOST_SHARE = 0.01
TURN_EFFECT = 0.05

_PLACEMENTS = {
    'concurrent': 'The arms ran at the same time and loaded each other: the latencies are those '
                  'under shared load.',
    'isolated': 'The arms ran one after the other over all frames; slow changes of the machine '
                'between the two passes count as differences between them.',
    'alternate': 'One node exchanged its model between blocks of frames: each frame was answered '
                 'by one model only, so the arms are compared by rounds of blocks, not on the '
                 'same frames. Frames near an exchange are left out and reported apart.',
}


@dataclass(frozen=True)
class Verdict:
    """
    What one arm is against the reference.

    :param headline: one short sentence.
    :param latency: ``faster``, ``slower``, ``no difference shown`` or ``not measured``.
    :param accuracy: ``better``, ``within margin``, ``worse``, ``worse, margin undecided``,
        ``undecided`` or ``not measured``.
    :param sentences: the same with numbers and intervals.
    """

    headline: str
    latency: str
    accuracy: str
    sentences: tuple[str, ...]


def arm_labels(run: ComparisonRun) -> dict[str, str]:
    """Return a name to show for every arm: as short as keeps them apart."""
    short = {a.name: a.bundle for a in run.arms}
    runtime = {a.name: f'{a.bundle} ({a.engine} {a.precision})' for a in run.arms}
    for labels in (short, runtime):
        if len(set(labels.values())) == len(labels):
            return labels
    return {a.name: f'{a.bundle} ({a.name})' for a in run.arms}


def judge(reference: str, other: str, latency: PairedLatency | None,
          accuracy: PairedAccuracy | None, margin_points: float) -> Verdict:
    """
    Put a paired result into words.

    :param reference: how to call the reference arm.
    :param other: how to call the arm that is judged.
    :param margin_points: mIoU points that may be lost without calling it worse.
    """
    speed, speed_short, speed_long = _judge_latency(reference, other, latency)
    quality, quality_short, quality_long = _judge_accuracy(other, accuracy, margin_points)
    return Verdict(headline=f'{other} {speed_short} and {quality_short}.', latency=speed,
                   accuracy=quality, sentences=(speed_long, quality_long))


def cautions(run: ComparisonRun, statistics: Mapping[str, ArmStatistics],
             latencies: Mapping[str, PairedLatency | None]) -> tuple[str, ...]:
    """Return what limits the comparison, worst first; empty when nothing does."""
    out: list[str] = []
    labels = arm_labels(run)
    if run.interrupted:
        out.append('The run was interrupted: fewer frames than asked were served.')
    out += _unlike(run)
    for arm, stats in statistics.items():
        out += _losses(labels.get(arm, arm), stats, run.counters.get(arm, {}))
        out += _uncounted(labels.get(arm, arm), run.counters.get(arm, {}))
    for arm, latency in latencies.items():
        if latency is None or latency.n < FEW_FRAMES:
            few = f'Only {latency.n}' if latency else f'Fewer than {FEWEST_PAIRS}'
            out.append(f'{few} frames could be paired for {labels.get(arm, arm)}: serve at '
                       f'least {FEW_FRAMES}, better 200, for intervals that mean something.')
        if latency and latency.ambiguous:
            out.append(f'{latency.ambiguous} stamps were borne by several frames and could not be '
                       'paired.')
    if run.spec.placement in _PLACEMENTS:
        out.append(_PLACEMENTS[run.spec.placement])
    for arm, stats in statistics.items():
        out += _turns(labels.get(arm, arm), stats)
    return (*out, *run.notes)


def _judge_latency(reference: str, other: str,
                   latency: PairedLatency | None) -> tuple[str, str, str]:
    if latency is None:
        return ('not measured', 'has too few common frames for a latency comparison',
                f'Too few frames were answered by both {reference} and {other} to compare their '
                'latency.')
    difference, ratio = latency.median_difference, latency.median_ratio
    numbers = (f'median difference {_ms(difference)}, median ratio {ratio.estimate:.2f} '
               f'({ratio.low:.2f} … {ratio.high:.2f}), '
               + (latency.basis or f'n = {latency.n} frames answered by both'))
    if not difference.excludes(0.0):
        return ('no difference shown', 'shows no difference in latency',
                f'No difference in latency between {other} and {reference} was shown: {numbers}.')
    if difference.estimate > 0:
        return ('faster', f'answers {times(ratio.estimate)} faster',
                f'{other} answers {times(ratio.estimate)} faster than {reference}: {numbers}.')
    return ('slower', f'answers {times(1 / ratio.estimate)} slower',
            f'{other} answers {times(1 / ratio.estimate)} slower than {reference}: {numbers}.')


def _judge_accuracy(other: str, accuracy: PairedAccuracy | None,
                    margin: float) -> tuple[str, str, str]:
    if accuracy is None:
        return ('not measured', 'its accuracy was not measured',
                'The source has no ground truth (or too few labelled frames), so accuracy was not '
                'measured; see the agreement between the arms instead.')
    d = points(accuracy.difference)
    numbers = (f'{d.estimate:+.1f} mIoU points (95 % interval {d.low:+.1f} … {d.high:+.1f}, '
               f'n = {accuracy.n} frames)').replace('-', '−')
    lost = f'loses {-d.estimate:.1f} mIoU points'
    within = f'the margin of {margin:.1f} points'
    if d.low > 0:
        return ('better', f'gains {d.estimate:.1f} mIoU points',
                f'{other} is more accurate: {numbers}.')
    if d.low > -margin:
        kept = f'{lost}, within {within}' if d.high < 0 else f'keeps its accuracy within {within}'
        return ('within margin', kept,
                f'{other} stays within {within}: {numbers}.')
    if d.high < -margin:
        return 'worse', lost, f'{other} is less accurate, by more than {within}: {numbers}.'
    if d.high < 0:
        return ('worse, margin undecided', lost,
                f'{other} is less accurate; whether by more than {within} is not shown: '
                f'{numbers}.')
    return ('undecided', 'shows no certain difference in accuracy',
            f'Whether {other} stays within {within} was not shown: {numbers}.')


def points(interval: Interval) -> Interval:
    """Return an interval of shares (0 … 1) in points of 100."""
    return Interval(100 * interval.estimate, 100 * interval.low, 100 * interval.high,
                    interval.confidence)


def times(ratio: float) -> str:
    """Return ``8.3×``, with as many digits as a reader can use."""
    return f'{ratio:.0f}×' if ratio >= 20 else f'{ratio:.1f}×' if ratio >= 2 else f'{ratio:.2f}×'


def _ms(interval: Interval) -> str:
    return (f'{interval.estimate:.2f} ms (95 % interval {interval.low:.2f} … '
            f'{interval.high:.2f})').replace('-', '−')


def _unlike(run: ComparisonRun) -> list[str]:
    """Say which runtime settings differ, so that nobody credits the network with them."""
    out = []
    for key, word in (('engine', 'engines'), ('device', 'devices'), ('precision', 'precisions'),
                      ('threads', 'numbers of threads')):
        values = {str(getattr(arm, key)) for arm in run.arms}
        if len(values) > 1:
            out.append(f'The arms ran on different {word} ({", ".join(sorted(values))}): the '
                       "difference is not the networks' alone.")
    return out


def _losses(label: str, stats: ArmStatistics, counters: Mapping[str, int]) -> list[str]:
    out = []
    lost, late = stats.status['lost'], stats.status['late']
    if stats.published and lost > LOST_SHARE * stats.published:
        overwritten = counters.get('overwritten', 0)
        why = (f' (its node dropped {overwritten} for fresher ones, warm-up included: it is '
               'slower than the camera)') if overwritten else ''
        out.append(f'{label} lost {lost} of {stats.published} frames{why}; what it would have '
                   'taken for them is unknown, so its latencies may look better than they are.')
    if late:
        out.append(f'{label} answered {late} frames after the monitor had given up waiting; they '
                   'are part of the statistics.')
    strays = stats.status['duplicate'] + stats.status['unknown']
    if strays:
        out.append(f'{label} sent {strays} results for frames already answered or never '
                   'published; they are counted and left out.')
    return out


def _uncounted(label: str, counters: Mapping[str, int]) -> list[str]:
    """Check the node's own books: what it received must have gone somewhere."""
    parts = ('published', 'overwritten', 'stale', 'failed', 'inactive', 'in_flight')
    if 'received' not in counters or not set(parts) <= set(counters):
        return []
    accounted = sum(counters[p] for p in parts)
    if accounted == counters['received']:
        return []
    return [f'The counters of {label} do not add up: {counters["received"]} received, '
            f'{accounted} accounted for.']


def _turns(label: str, stats: ArmStatistics) -> list[str]:
    if len(stats.by_turn) < 2 or stats.latency.n < FEW_FRAMES:
        return []
    low, high = min(stats.by_turn.values()), max(stats.by_turn.values())
    # About 2.5 standard errors of a difference of two medians, each of half the frames.
    noise = 2.5 * 1.253 * 2 * stats.latency.std / math.sqrt(stats.latency.n)
    if high - low <= max(TURN_EFFECT * stats.latency.p50, noise):
        return []
    return [f'{label} was {high - low:.2f} ms slower in one place of the serving order than in '
            'another; the random order balances this, but the machine was not quiet.']
