"""
What a difference of latency comes to in words.

In: the paired median and mean, and the percentiles of both arms; out: words and sentences. The
median leads, because it is known best. Where mean, p95 or p99 are shown to say something else
(an arm that is quick mostly and slow now and then), none of them is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kd_perception.evaluation.statistics.arm_intervals import ArmIntervals
from kd_perception.evaluation.statistics.bootstrap import family_factor, Interval
from kd_perception.evaluation.statistics.paired import PairedLatency
from kd_perception.evaluation.statistics.unpaired import difference
from kd_perception.evaluation.words import amount, milliseconds, slack, times


def latency_tails(reference: ArmIntervals, other: ArmIntervals,
                  comparisons: int = 1) -> dict[str, Interval]:
    """
    Return by how many milliseconds p95 and p99 of the other arm are lower.

    Percentiles of two arms are not paired: both intervals are put together as if they were
    independent, which is too wide where the same frames are slow in both.

    :param comparisons: of several arms the intervals of one figure hold together.
    """
    widen = family_factor(comparisons)
    tails = {'p95': difference(other.p95, reference.p95, widen),
             'p99': difference(other.p99, reference.p99, widen)}
    return {name: replace(tail, confidence=1 - (1 - tail.confidence) / max(1, comparisons))
            for name, tail in tails.items()}


def against_median(latency: PairedLatency,
                   tails: Mapping[str, Interval]) -> dict[str, Interval]:
    """
    Return which of ``the mean``, ``p95`` and ``p99`` show what the median does not.

    :param tails: reference minus other, in milliseconds.
    """
    shown = _side(latency.median_difference)
    return {name: value for name, value in {'the mean': latency.mean_difference, **tails}.items()
            if _side(value) not in (0, shown)}


def tail_caution(label: str, latency: PairedLatency, tails: Mapping[str, Interval]) -> list[str]:
    """Return a sentence for an arm whose median is not the whole story, or nothing."""
    against = against_median(latency, tails)
    if not against:
        return []
    median = {1: 'is faster', -1: 'is slower', 0: 'is not shown to differ'}[
        _side(latency.median_difference)]
    other = _listed([f'{_word(value)} in {name}' for name, value in against.items()])
    return [f'{label} {median} in the median latency but {other}: a few slow frames decide over '
            'mean and percentiles and not over a median. Judge by the figure that matters where '
            'the model will run.']


def judge_latency(reference: str, other: str, latency: PairedLatency | None, margin: float,
                  tails: Mapping[str, Interval]) -> tuple[str, str, str, str]:
    """
    Return the word, the word for the margin, the part of the headline, and the sentence.

    :param reference: how to call the reference arm; ``other``: how to call the other one.
    :param margin: milliseconds by which the other may be slower; 0 for no such margin.
    :param tails: as for ``against_median``.
    """
    if latency is None:
        return ('not measured', '', 'has too few common frames for a latency comparison',
                f'Too few frames were answered by both {reference} and {other} to compare their '
                'latency.')
    median, ratio = latency.median_difference, latency.median_ratio
    against = against_median(latency, tails)
    numbers = (f'median difference {milliseconds(median)}, median ratio {ratio.estimate:.2f} '
               f'({ratio.low:.2f} … {ratio.high:.2f}), '
               + ''.join(f'{name.removeprefix("the ")} difference {milliseconds(value)}, '
                         for name, value in against.items())
               + (latency.basis or f'n = {latency.n} frames answered by both'))
    faster = median.estimate >= 0
    short = (f'is {"faster" if faster else "slower"} by '
             f'{amount(median, "ms", negative=not faster)}')
    if median.low > 0 and not against:
        return ('faster', '', f'{short}, {times(ratio.estimate)}',
                f'{other} answers {times(ratio.estimate)} faster than {reference}: {numbers}.')
    word, words = _slack(median, slower_figures(latency, tails), margin)
    elsewhere = _listed([f'{amount(v, "ms", negative=v.high < 0)} {_word(v)} in {name}'
                         for name, v in against.items()])
    if not median.excludes(0.0):
        words = f', {words}' if words else ''
        shown = f'({short.removeprefix("is ")})'
        if against:
            return ('no difference shown', word,
                    f'shows no difference in the median latency {shown} but is {elsewhere}{words}',
                    f'No difference in the median latency of {other} and {reference} was shown, '
                    f'but {other} is {elsewhere}{words}: {numbers}.')
        return ('no difference shown', word, f'shows no difference in latency {shown}{words}',
                f'No difference in latency between {other} and {reference} was shown{words}: '
                f'{numbers}.')
    words = f': {words}' if words else ''
    if against:
        return ('mixed', word, f'{short} in the median but {elsewhere}{words}',
                f'{other} answers {"faster" if faster else "slower"} than {reference} in the '
                f'median, but is {elsewhere}{words}: {numbers}.')
    return ('slower', word, f'{short}{words}',
            f'{other} answers {times(1 / ratio.estimate)} slower than {reference}{words}: '
            f'{numbers}.')


def slower_figures(latency: PairedLatency, tails: Mapping[str, Interval]) -> dict[str, Interval]:
    """Return which of ``the mean``, ``p95`` and ``p99`` are shown to be slower."""
    return {name: value for name, value in {'the mean': latency.mean_difference, **tails}.items()
            if _side(value) < 0}


def _slack(median: Interval, slower: Mapping[str, Interval], margin: float) -> tuple[str, str]:
    """Return what the margin says, as a word and in words: all that is shown must be within."""
    if not margin:
        return '', ''
    name = f'your margin of {margin:g} ms'
    worst = replace(median, low=min(v.low for v in (median, *slower.values())),
                    high=min(v.high for v in (median, *slower.values())))
    word, words = slack(worst, margin, name)
    if word != slack(median, margin, name)[0]:
        figure = min(slower, key=lambda key: slower[key].low)
        words += f' for {figure}, {amount(slower[figure], "ms", negative=True)} slower'
    return word, words


def _side(interval: Interval) -> int:
    """Return 1 where the other arm is shown to be faster, -1 where slower, else 0."""
    return 1 if interval.low > 0 else -1 if interval.high < 0 else 0


def _word(interval: Interval) -> str:
    return 'faster' if interval.estimate > 0 else 'slower'


def _listed(parts: list[str]) -> str:
    """Return ``a, b and c``."""
    return ' and '.join([', '.join(parts[:-1]), parts[-1]]) if len(parts) > 1 else ''.join(parts)
