"""Intervals in words and with units, as the sentences of a comparison have them."""

from __future__ import annotations

from kd_perception.evaluation.statistics.bootstrap import Interval


def points(interval: Interval) -> Interval:
    """Return an interval of shares (0 … 1) in points of 100."""
    return Interval(100 * interval.estimate, 100 * interval.low, 100 * interval.high,
                    interval.confidence)


def times(ratio: float) -> str:
    """Return ``8.3×``, with as many digits as a reader can use."""
    return f'{ratio:.0f}×' if ratio >= 20 else f'{ratio:.1f}×' if ratio >= 2 else f'{ratio:.2f}×'


def amount(interval: Interval, unit: str, *, negative: bool) -> str:
    """Return ``1.4 mIoU [0.9, 1.9]``; ``negative`` for how much less instead of how much more."""
    low, high = ((-interval.high, -interval.low) if negative else (interval.low, interval.high))
    digits = 2 if unit == 'ms' and abs(interval.estimate) < 10 else 1
    # Adding zero makes a plain one of the negative zero.
    texts = [f'{round(v, digits) + 0.0:.{digits}f}' for v in (abs(interval.estimate), low, high)]
    return f'{texts[0]} {unit} [{texts[1]}, {texts[2]}]'.replace('-', '−')


def milliseconds(interval: Interval) -> str:
    """Return ``1.03 ms (95 % interval 0.90 … 1.20)``."""
    return (f'{interval.estimate:.2f} ms ({level(interval)} interval {interval.low:.2f} … '
            f'{interval.high:.2f})').replace('-', '−')


def level(interval: Interval) -> str:
    """Return the confidence, ``95 %``."""
    return f'{100 * interval.confidence:.4g} %'


def slack(gain: Interval, margin: float, name: str) -> tuple[str, str]:
    """Return whether what is lost at most is within a margin, as a word and in words."""
    if gain.low > -margin:
        return 'within margin', f'within {name}'
    if gain.high < -margin:
        return 'beyond margin', f'beyond {name}'
    return 'undecided', f'whether within {name} is not shown'
