"""
A comparison in words: what was shown, what was not, and what a reader must beware of.

In: paired statistics; out: sentences. A difference is claimed only when its interval excludes
zero, and "within your margin" only when the whole interval is, which is a test of non-inferiority
at half the error of the interval (2.5 %).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import math
from types import MappingProxyType

from kd_perception.evaluation.accuracy import PairedAccuracy
from kd_perception.evaluation.comparison import ComparisonRun
from kd_perception.evaluation.latency_verdict import judge_latency
from kd_perception.evaluation.statistics.bootstrap import Interval
from kd_perception.evaluation.statistics.paired import ArmStatistics, FEWEST_PAIRS, PairedLatency
from kd_perception.evaluation.words import amount, level, points, slack

FEW_FRAMES = 30
LOST_SHARE = 0.01
TURN_EFFECT = 0.05

_PLACEMENTS = {
    'concurrent': 'The arms ran at the same time and loaded each other: the latencies are those '
                  'under shared load.',
    'isolated': 'The arms ran one after the other over half of the frames and then, in reverse '
                'order, over the rest: a steady drift of the machine cancels, other slow changes '
                'count as differences between them, and no interval knows of that.',
    'alternate': 'One node exchanged its model between blocks of frames: each frame was answered '
                 'by one model only, so the arms are compared by rounds of blocks, not on the '
                 'same frames. Frames near an exchange are left out and reported apart.',
}


@dataclass(frozen=True)
class Verdict:
    """
    What one arm is against the reference.

    :param headline: one short sentence with intervals.
    :param latency: ``faster``, ``slower``, ``mixed`` (the median says one of them, the mean, p95
        or p99 the other), ``no difference shown`` (in the median) or ``not measured``.
    :param latency_margin: of an arm that is not faster: ``within margin``, ``beyond margin`` or
        ``undecided``; empty without a margin.
    :param accuracy: ``better``, ``within margin``, ``worse``, ``worse, margin undecided``,
        ``undecided`` or ``not measured``.
    :param sentences: the same with numbers and intervals.
    """

    headline: str
    latency: str
    accuracy: str
    sentences: tuple[str, ...]
    latency_margin: str = ''


def arm_labels(run: ComparisonRun) -> dict[str, str]:
    """Return a name to show for every arm: as short as keeps them apart."""
    short = {a.name: a.bundle for a in run.arms}
    runtime = {a.name: f'{a.bundle} ({a.engine} {a.precision})' for a in run.arms}
    for labels in (short, runtime):
        if len(set(labels.values())) == len(labels):
            return labels
    return {a.name: f'{a.bundle} ({a.name})' for a in run.arms}


def judge(reference: str, other: str, latency: PairedLatency | None,
          accuracy: PairedAccuracy | None, margin_points: float,
          margin_ms: float = 0.0, tails: Mapping[str, Interval] = MappingProxyType({})) -> Verdict:
    """
    Put a paired result into words.

    :param reference: how to call the reference arm.
    :param other: how to call the arm that is judged.
    :param margin_points: mIoU points that may be lost without calling it worse.
    :param margin_ms: milliseconds by which it may be slower; 0 for no such margin.
    :param tails: by how many milliseconds p95 and p99 are lower, see ``latency_tails``.
    """
    speed, spare, speed_short, speed_long = judge_latency(reference, other, latency, margin_ms,
                                                          tails)
    quality, quality_short, quality_long = _judge_accuracy(other, accuracy, margin_points)
    return Verdict(headline=f'{other} {speed_short}, {quality_short}.', latency=speed,
                   accuracy=quality, sentences=(speed_long, quality_long), latency_margin=spare)


def cautions(run: ComparisonRun, statistics: Mapping[str, ArmStatistics],
             latencies: Mapping[str, PairedLatency | None],
             findings: Sequence[str] = ()) -> tuple[str, ...]:
    """
    Return what limits the comparison, worst first; empty when nothing does.

    :param findings: what the figures show that the verdict does not say.
    """
    out: list[str] = []
    labels = arm_labels(run)
    if run.interrupted:
        out.append('The run was interrupted: fewer frames than asked were served.')
    if len(run.arms) > 2:
        out.append(f'{len(run.arms) - 1} arms are held against one: each interval is wider than '
                   'for a single comparison, so that those of one figure hold together with '
                   '95 %.')
    out += findings
    out += _unlike(run)
    for arm, stats in statistics.items():
        out += _losses(labels.get(arm, arm), stats, run.counters.get(arm, {}))
        out += _uncounted(labels.get(arm, arm), run.counters.get(arm, {}))
    for arm, latency in latencies.items():
        if latency is None or latency.n < FEW_FRAMES:
            if latency is None and run.spec.placement == 'alternate':
                out.append(f'Too few rounds of blocks were answered for {labels.get(arm, arm)} to '
                           'compare it: serve more frames, or smaller blocks.')
                continue
            few = f'Only {latency.n}' if latency else f'Fewer than {FEWEST_PAIRS}'
            out.append(f'{few} frames could be paired for {labels.get(arm, arm)}: serve at '
                       f'least {FEW_FRAMES}, better 200, for intervals that mean something.')
    if run.spec.placement in _PLACEMENTS:
        out.append(_PLACEMENTS[run.spec.placement])
    for arm, stats in statistics.items():
        out += _turns(labels.get(arm, arm), stats)
    return (*out, *run.notes)


def _judge_accuracy(other: str, accuracy: PairedAccuracy | None,
                    margin: float) -> tuple[str, str, str]:
    if accuracy is None:
        return ('not measured', 'accuracy not measured',
                'There is no ground truth, or too few labelled frames were answered by both, so '
                'accuracy was not measured; see the agreement between the arms instead.')
    d = points(accuracy.difference)
    numbers = (f'{d.estimate:+.1f} mIoU points ({level(d)} interval {d.low:+.1f} … '
               f'{d.high:+.1f}, n = {accuracy.n} frames)').replace('-', '−')
    gains = d.estimate > 0
    short = f'{"gains" if gains else "loses"} {amount(d, "mIoU", negative=not gains)}'
    within = f'the margin of {margin:.1f} points'
    if d.low > 0:
        return 'better', short, f'{other} is more accurate: {numbers}.'
    state, words = slack(d, margin, f'your margin of {margin:g}')
    short = f'{short}: {words}' if words else short
    if state == 'within margin':
        return 'within margin', short, f'{other} stays within {within}: {numbers}.'
    if d.high < -margin:
        return 'worse', short, f'{other} is less accurate, by more than {within}: {numbers}.'
    if d.high < 0:
        return ('worse, margin undecided', short,
                f'{other} is less accurate; whether by more than {within} is not shown: '
                f'{numbers}.')
    return ('undecided', short, f'Whether {other} stays within {within} was not shown: {numbers}.')


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
    if stats.reordered:
        out.append(f'{label} answered {stats.reordered} frames after a later one; they are joined '
                   'by stamp and part of the statistics.')
    if stats.status['ambiguous']:
        out.append(f'{label} got {stats.status["ambiguous"]} frames whose stamp others bear too: '
                   'which of them a result answers is unknown, so they are not paired.')
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
