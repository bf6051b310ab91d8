"""
Several comparisons of the same arms under different conditions, in one table.

In: an ``Analysis`` by scenario, of one seed; out: a ``Robustness``. The simulator's weather and
light change no label, so the frames of two scenarios pair: what an arm loses to fog is a paired
difference with its own interval, not a difference of two means. Whether the truth is the same is
looked at, not believed: scenarios with another scene have no such loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from kd_perception.errors import ConfigError
from kd_perception.evaluation.accuracy import paired_accuracy
from kd_perception.evaluation.analysis import Analysis
from kd_perception.evaluation.comparison import FrameRow
from kd_perception.evaluation.plain import plain
from kd_perception.evaluation.statistics.bootstrap import Interval

SCHEMA_VERSION = 1
BASELINE = 'clear'
# Of the truth by class and frame; frames of one scene are equal but for the renderer's last bits.
_SAME_SHARE = 0.002


@dataclass(frozen=True)
class ConditionRow:
    """
    One arm under one condition; None for what was not measured.

    :param n: frames with truth and an answer.
    :param change: mIoU minus that of the same arm in the baseline, frame by frame; negative: the
        condition costs so much. None for the baseline and for another scene.
    :param difference: mIoU minus that of the first arm; None for the first arm.
    :param latency_ms: median; ``latency_p95_ms``: 95th percentile.
    :param boundary: boundary F-score; ``found``: share of objects found; ``flicker``: share of
        pixels that flicker.
    """

    scenario: str
    arm: str
    n: int
    miou: Interval | None
    change: Interval | None
    difference: Interval | None
    latency_ms: float
    latency_p95_ms: float
    lost: int
    boundary: Interval | None
    found: Interval | None
    flicker: Interval | None
    ece: float | None


@dataclass(frozen=True)
class Robustness:
    """
    The table.

    :param labels: what arms are called, the reference first.
    :param missing: scenarios that were asked for and have not been run.
    :param interrupted: scenarios whose run was ended before its frames were served.
    """

    baseline: str
    labels: Mapping[str, str]
    margin_miou: float
    rows: tuple[ConditionRow, ...]
    missing: tuple[str, ...] = ()
    interrupted: tuple[str, ...] = ()

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Return the scenarios that were run, in order."""
        return tuple(dict.fromkeys(r.scenario for r in self.rows))

    @property
    def headline(self) -> str:
        """Say for every arm but the first in how many scenarios it stays within the margin."""
        parts = []
        for arm in list(self.labels)[1:]:
            own = [r for r in self.rows if r.arm == arm and r.difference is not None]
            if not own:
                continue
            within = sum(_low(r) > -self.margin_miou / 100 for r in own)
            worst = min(own, key=lambda r: r.difference.estimate if r.difference else 0.0)
            assert worst.difference is not None  # chosen so
            parts.append(
                f'{self.labels[arm]} stays within {self.margin_miou:.1f} mIoU points of '
                f'{self.labels[next(iter(self.labels))]} in {within} of {len(own)} scenarios; '
                f'its worst is {worst.scenario} with {100 * worst.difference.estimate:+.1f}.')
        if not parts and (losses := [(r.change.estimate, r) for r in self.rows if r.change]):
            change, worst = min(losses, key=lambda pair: pair[0])
            parts = [f'{self.labels[worst.arm]} has {100 * change:+.1f} mIoU points in '
                     f'{worst.scenario}, its worst of {len(self.scenarios)} scenarios, against '
                     f'{self.baseline}.']
        return ' '.join(parts).replace('-', '−') or f'{len(self.scenarios)} scenarios.'

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``robustness.json``: plain types, NaN as null."""
        out: dict[str, Any] = plain({
            'schema_version': SCHEMA_VERSION, 'kind': 'robustness', 'headline': self.headline,
            'complete': not self.missing and not self.interrupted, **asdict(self)})
        return out


def robustness(analyses: Mapping[str, Analysis], *, wanted: tuple[str, ...] = (),
               baseline: str = BASELINE, seed: int = 0) -> Robustness:
    """
    Return the table of some comparisons.

    :param analyses: by scenario, in order.
    :param wanted: all scenarios that were asked for; those without an analysis are missing.
    :param baseline: the scenario that others are held against, where it is there.
    :raises ConfigError: for none, and when their arms differ.
    """
    if not analyses:
        raise ConfigError('no scenario was run to its end: there is nothing to compare')
    first = next(iter(analyses.values()))
    arms = [(a.name, a.bundle_hash, a.engine, a.precision) for a in first.run.arms]
    rows: list[ConditionRow] = []
    for scenario, analysis in analyses.items():
        own = [(a.name, a.bundle_hash, a.engine, a.precision) for a in analysis.run.arms]
        if own != arms:
            raise ConfigError(f'scenario {scenario}: was run with other models or engines than '
                              f'{next(iter(analyses))}; run all of them anew (--overwrite)')
        calm = analyses.get(baseline) if scenario != baseline else None
        rows += [_row(scenario, arm[0], analysis, calm, seed) for arm in arms]
    return Robustness(
        baseline if baseline in analyses else '', dict(first.labels), first.run.spec.margin_miou,
        tuple(rows), tuple(s for s in wanted if s not in analyses),
        tuple(s for s, a in analyses.items() if a.run.interrupted))


def change_of(calm: tuple[FrameRow, ...], rows: tuple[FrameRow, ...], *,
              seed: int = 0) -> Interval | None:
    """
    Return by how much mIoU changed on the same frames under another condition.

    :param calm: rows of one arm in the baseline; ``rows``: of the same arm.
    :returns: None without truth, with too few frames in common, or of another scene.
    """
    # One frame has one index in both; stamps may be those of a clock.
    keyed = [[replace(r, arm=name, stamp_ns=r.index, frame_id='') for r in some
              if r.counts and r.index >= 0 and r.status in ('ok', 'late')]
             for name, some in (('calm', calm), ('now', rows))]
    before = {r.index: r for r in keyed[0]}
    common = [(before[r.index], r) for r in keyed[1] if r.index in before]
    if not all(_same_scene(a, b) for a, b in common):
        return None
    found = paired_accuracy([*keyed[0], *keyed[1]], 'calm', 'now', seed=seed)
    return None if found is None else found.difference


def _same_scene(a: FrameRow, b: FrameRow) -> bool:
    first, second = ([t for _, t, _ in r.counts or ()] for r in (a, b))
    apart = sum(abs(x - y) for x, y in zip(first, second))
    return len(first) == len(second) and apart <= _SAME_SHARE * sum(first)


def _row(scenario: str, arm: str, analysis: Analysis, calm: Analysis | None,
         seed: int) -> ConditionRow:
    statistics, accuracy = analysis.statistics[arm], analysis.accuracies.get(arm)
    pair = next((c.accuracy for c in analysis.comparisons if c.other == arm), None)
    objects = (analysis.objects or {}).get(arm)
    every = objects.cell() if objects is not None else None
    boundary, flicker = (analysis.boundary or {}).get(arm), (analysis.flicker or {}).get(arm)
    calibration = (analysis.calibration or {}).get(arm)
    return ConditionRow(
        scenario=scenario, arm=arm, n=accuracy.n if accuracy else statistics.latency.n,
        miou=accuracy.miou if accuracy else None,
        change=None if calm is None else change_of(
            calm.run.arm_rows(arm), analysis.run.arm_rows(arm), seed=seed),
        difference=pair.difference if pair else None, latency_ms=statistics.latency.p50,
        latency_p95_ms=statistics.latency.p95, lost=statistics.status['lost'],
        boundary=boundary.score if boundary else None, found=every.found if every else None,
        flicker=flicker.share if flicker else None,
        ece=calibration.ece if calibration else None)


def _low(row: ConditionRow) -> float:
    return row.difference.low if row.difference is not None else 0.0
