"""
A comparison against an older one: what got worse, and whether that is beyond what may be.

In: two reports as ``report.json`` has them, and the recordings of both where they are at hand;
out: a ``BaselineComparison``. Arms of two runs were not measured side by side, so latency cannot
be paired: its change comes from the intervals of both reports. Accuracy on the very same frames
can, and is where both recordings are there.

A change is a ``regression`` when it is shown (its interval excludes "no worse") and its estimate
is beyond the limit. Intervals hold within each run; that two runs of one machine differ a little
more than that is what limits are for. What the older report has and the new one has not is a
change too: one that nobody can judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
import math
from pathlib import Path
from typing import Any

from kd_perception.evaluation.accuracy import paired_accuracy
from kd_perception.evaluation.comparison import ComparisonRun, FrameRow
from kd_perception.evaluation.statistics.bootstrap import family_factor, Interval
from kd_perception.evaluation.statistics.class_difference import class_differences
from kd_perception.evaluation.statistics.unpaired import difference, mirrored, relative_change

STATES = ('regression', 'undecided', 'within limit', 'improved', 'not gated')
_MACHINE = ('cpu', 'cores', 'gpu')
_PICTURES = ('source', 'scenario', 'seed', 'width', 'height', 'class_map')
_COURSE = ('source', 'width', 'height', 'pacing', 'placement', 'rate_hz', 'swap_every')
_RUNTIME = ('engine', 'device', 'precision', 'threads')


@dataclass(frozen=True)
class Limits:
    """
    By how much an arm may get worse; shares of 1.

    :param latency: relative, of p50, p95, p99 and the rate.
    :param loss: of the share of lost frames.
    :param miou: of the mIoU; ``class_iou``: of the IoU of one class.
    :param memory: relative, of RSS and GPU memory.
    :param other_machine: judge times and memory although the machine is another.
    :param strict: what is undecided or not gated counts as a regression.
    """

    latency: float = 0.05
    loss: float = 0.005
    miou: float = 0.005
    class_iou: float = 0.02
    memory: float = 0.10
    other_machine: bool = False
    strict: bool = False


@dataclass(frozen=True)
class Change:
    """
    One figure of one arm, then and now.

    :param arm: its name in the new report; of one that is not in it, ``no_arm`` of its label.
    :param metric: ``p50``, ``p95``, ``p99``, ``fps``, ``lost``, ``miou``, ``memory``,
        ``gpu_memory``, the name of a class (its IoU), or ``arm`` for all of them.
    :param kind: ``latency``, ``rate``, ``loss``, ``accuracy``, ``class``, ``memory`` or ``arm``.
    :param old, new: milliseconds, per second, shares of 1, or MiB; new is NaN for what is missing.
    :param worsening: positive is worse; relative for times, rate and memory, else a difference of
        shares. Without ends (equal to the estimate) for memory, of which one number is known.
    :param paired: taken frame by frame.
    :param state: one of ``STATES``.
    """

    arm: str
    metric: str
    kind: str
    old: float
    new: float
    worsening: Interval
    limit: float
    paired: bool
    state: str

    @property
    def missing(self) -> bool:
        """Return whether only the older report has this figure."""
        return not math.isfinite(self.new)


@dataclass(frozen=True)
class BaselineComparison:
    """
    All changes against an older report.

    :param source: where the older report lies; ``started`` is its time.
    :param notes: what limits the comparison.
    :param failed: a regression was shown (or, when strict, something was left open).
    """

    source: str
    started: str
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    failed: bool

    def of_state(self, *states: str) -> list[Change]:
        """Return the changes in one of ``states``."""
        return [c for c in self.changes if c.state in states]


def compare_reports(old: Mapping[str, Any], new: Mapping[str, Any], limits: Limits, *,
                    source: str = '', old_run: ComparisonRun | None = None,
                    new_run: ComparisonRun | None = None) -> BaselineComparison:
    """
    Hold a report against an older one.

    :param old, new: contents of ``report.json``.
    :param source: where the older one lies, for the reader.
    :param old_run, new_run: the recordings, to compare accuracy frame by frame.
    """
    notes = [f'The {which} run was interrupted: it has fewer frames than were asked for.'
             for which, report in (('older', old), ('new', new)) if report.get('interrupted')]
    times = _comparable_times(old, new, limits, notes)
    frames = _comparable_frames(old, new, notes)
    pairs = _matched(old, new, notes)
    changes: list[Change] = []
    for before, after in pairs:
        _say_what_differs(old['arms'][before], new['arms'][after], notes)
        changes += _times(old['arms'][before], new['arms'][after], after, limits, times,
                          lockstep=new['spec']['pacing'] == 'lockstep')
        changes += _accuracy(old, new, before, after, limits, frames, old_run, new_run)
    if any(c.kind == 'accuracy' and c.state != 'not gated' and not c.paired for c in changes):
        notes.append('Accuracy is compared from the intervals of both reports, which shows large '
                     'changes only; with both recordings and the same frames it is compared frame '
                     'by frame.')
    changes += [_missing(no_arm(old['arms'][name]['label']), 'arm', 'arm', math.nan, math.nan)
                for name in old['arms'] if name not in dict(pairs)]
    notes += _what_is_missing(new, changes)
    notes += _steady_arms(old, new, pairs, changes)
    open_states = ('regression', 'undecided', 'not gated') if limits.strict else ('regression',)
    if not any(c.state != 'not gated' for c in changes):
        notes.append('Nothing could be judged: this is no evidence that nothing got worse.')
    return BaselineComparison(
        source=source, started=str(old.get('started', '')), changes=tuple(changes),
        notes=tuple(notes),
        failed=any(c.state in open_states for c in changes) or (limits.strict and not changes))


def no_arm(label: str) -> str:
    """Return what stands for the name of an arm that only the older report has."""
    return f'{label} (not measured now)'


def judge_change(worsening: Interval, limit: float, gated: bool) -> str:
    """Return the state of a change; see the module."""
    if not gated:
        return 'not gated'
    if worsening.low > 0 and worsening.estimate > limit:
        return 'regression'
    if worsening.high < 0:
        return 'improved'
    return 'within limit' if worsening.high <= limit else 'undecided'


def _comparable_times(old: Mapping[str, Any], new: Mapping[str, Any], limits: Limits,
                      notes: list[str]) -> bool:
    """Return whether times mean the same in both runs, and say why not."""
    machine = _unlike(old['host'], new['host'], _MACHINE)
    # Older reports do not name the blocks of a placement that they did not know.
    specs = [{'swap_every': 0, **r['spec']} for r in (old, new)]
    course = _unlike(specs[0], specs[1], _COURSE)
    if new['spec']['placement'] == 'concurrent' and len(old['arms']) != len(new['arms']):
        course.append(f'{len(old["arms"])} → {len(new["arms"])} arms at once')
    if machine:
        judged = ('they are judged all the same' if limits.other_machine else
                  'they are shown and not judged (--allow-other-machine judges them)')
        notes.append(f'Another machine ({"; ".join(machine)}): times, losses and memory do not '
                     f'compare; {judged}.')
    if course:
        notes.append(f'Another course ({"; ".join(course)}): times, losses and memory do not '
                     'compare and are not judged.')
    return not course and (not machine or limits.other_machine)


def _comparable_frames(old: Mapping[str, Any], new: Mapping[str, Any],
                       notes: list[str]) -> bool:
    """Return whether accuracy means the same in both runs, and say why not."""
    unlike = _unlike(old['spec'], new['spec'], _PICTURES)
    unlike = _by_content(old['spec'], new['spec'], unlike, notes)
    if old['classes'] != new['classes']:
        unlike.append('other classes')
    if unlike:
        notes.append(f'Other frames ({"; ".join(unlike)}): accuracy does not compare and is not '
                     'judged.')
    return not unlike


def _by_content(old: Mapping[str, Any], new: Mapping[str, Any], unlike: Sequence[str],
                notes: list[str]) -> list[str]:
    """
    Return ``unlike`` corrected by what sources hold: a name is none of it, a fingerprint is.

    Older reports have no fingerprint; a scenario's file is asked where a source has none.
    """
    def known(key: str) -> bool:
        return bool(old.get(key) and new.get(key))

    out = list(unlike)
    key = next((k for k in ('fingerprint', 'scenario_sha256') if known(k)), '')
    if key and old[key] != new[key]:
        out.append(f'{key} {old[key][:12]} → {new[key][:12]}: another content, whatever its name')
    elif key == 'fingerprint':  # renamed
        out = [told for told in out if not told.startswith('scenario ')]
    elif old.get('fingerprint') or new.get('fingerprint'):
        which = 'new' if old.get('fingerprint') else 'older'
        notes.append(f'The {which} report has no fingerprint of its source: its frames count as '
                     'the same by their name alone.')
    if known('image_topic') and old['image_topic'] != new['image_topic']:
        out.append(f'image_topic {old["image_topic"]} → {new["image_topic"]}')
    return out


def _unlike(old: Mapping[str, Any], new: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    def shown(values: Mapping[str, Any], key: str) -> str:
        text = str(values.get(key, 'unknown'))
        # A recording may lie elsewhere on another machine.
        return Path(text).name if key == 'scenario' else text

    return [f'{key} {shown(old, key)} → {shown(new, key)}' for key in keys
            if shown(old, key) != shown(new, key)]


def _matched(old: Mapping[str, Any], new: Mapping[str, Any],
             notes: list[str]) -> list[tuple[str, str]]:
    """Return (old arm, new arm): by bundle and engine, else by bundle, by role, by name."""
    keys: tuple[Callable[[Mapping[str, Any]], tuple[Any, ...]], ...] = (
        lambda i: (i['bundle'], i['engine'], i['precision']), lambda i: (i['bundle'],),
        lambda i: (i['role'],) if i['role'] else (), lambda i: (i['name'],))
    before = {n: a['info'] for n, a in old['arms'].items()}
    after = {n: a['info'] for n, a in new['arms'].items()}
    found: dict[str, str] = {}
    for key in keys:
        left = {n: key(i) for n, i in before.items() if n not in found.values()}
        mine = {n: key(i) for n, i in after.items() if n not in found}
        for name, value in mine.items():
            same = [n for n, v in left.items() if v == value]
            # Only where it names one arm on either side.
            if value and len(same) == 1 and list(mine.values()).count(value) == 1:
                found[name] = same[0]
    for name in after:
        if name not in found:
            notes.append(f'{new["arms"][name]["label"]} has no counterpart in the older report.')
    for name in before:
        if name not in found.values():
            notes.append(f'{old["arms"][name]["label"]} of the older report was not measured now.')
    return [(found[name], name) for name in after if name in found]


def _say_what_differs(old: Mapping[str, Any], new: Mapping[str, Any], notes: list[str]) -> None:
    unlike = _unlike(old['info'], new['info'], _RUNTIME)
    if unlike:
        notes.append(f'{new["label"]} ran otherwise than then: {"; ".join(unlike)}.')


def _times(old: Mapping[str, Any], new: Mapping[str, Any], arm: str, limits: Limits,
           gated: bool, *, lockstep: bool) -> Iterator[Change]:
    """Yield latency, rate, losses and memory."""
    before, after = old['intervals'], new['intervals']

    def change(metric: str, kind: str, a: Interval, b: Interval, worsening: Interval,
               limit: float, judged: bool) -> Change:
        return Change(arm, metric, kind, a.estimate, b.estimate, worsening, limit, False,
                      judge_change(worsening, limit, judged))

    for metric in ('p50', 'p95', 'p99'):
        a, b = _interval(before[metric]), _interval(after[metric])
        if a.estimate > 0 and b.estimate > 0:
            yield change(metric, 'latency', a, b, relative_change(a, b), limits.latency, gated)
        elif a.estimate > 0:
            yield _missing(arm, metric, 'latency', a.estimate, limits.latency)
    a, b = _interval(before['fps']), _interval(after['fps'])
    # In lockstep the rate is that of the whole loop, other arms included.
    if a.estimate > 0 and b.estimate > 0 and not lockstep:
        yield change('fps', 'rate', a, b, mirrored(relative_change(a, b)), limits.latency, gated)
    a, b = _interval(before['lost']), _interval(after['lost'])
    if math.isfinite(a.estimate) and math.isfinite(b.estimate):
        lost = change('lost', 'loss', a, b, difference(a, b), limits.loss, gated)
        # None lost now is no worse than anything, however few frames it was.
        none = lost.state == 'undecided' and b.estimate == 0.0
        yield replace(lost, state='within limit') if none else lost
    elif math.isfinite(a.estimate):
        yield _missing(arm, 'lost', 'loss', a.estimate, limits.loss)
    for key, metric in (('rss_mb', 'memory'), ('gpu_mb', 'gpu_memory')):
        was, now = ((side['resources'] or {}).get(key) for side in (old, new))
        if was and now:
            share = now / was - 1.0
            state = judge_change(Interval(share, share, share), limits.memory, gated)
            # One number each: as much as may be worse may be better by chance.
            if state == 'improved' and share >= -limits.memory:
                state = 'within limit'
            yield Change(arm, metric, 'memory', was, now, Interval(share, share, share),
                         limits.memory, False, state)
        elif was:
            yield _missing(arm, metric, 'memory', was, limits.memory)


def _accuracy(old: Mapping[str, Any], new: Mapping[str, Any], before: str, after: str,
              limits: Limits, gated: bool, old_run: ComparisonRun | None,
              new_run: ComparisonRun | None) -> Iterator[Change]:
    """Yield mIoU and the IoU of every class, also where only the older report has them."""
    was, now = old['arms'][before]['accuracy'], new['arms'][after]['accuracy']
    if was is None:
        return
    if now is None:
        yield _missing(after, 'miou', 'accuracy', _number(was['miou']['estimate']), limits.miou)
        return
    both = _same_frames(old_run, before, new_run, after) if gated else ()
    paired = paired_accuracy(both, 'old', 'new') if both else None
    change = (paired.difference if paired else
              difference(_interval(was['miou']), _interval(now['miou'])))
    worse = mirrored(change)
    if math.isfinite(worse.estimate):
        yield Change(after, 'miou', 'accuracy', was['miou']['estimate'], now['miou']['estimate'],
                     worse, limits.miou, paired is not None,
                     judge_change(worse, limits.miou, gated))
    elif math.isfinite(_number(was['miou']['estimate'])):
        yield _missing(after, 'miou', 'accuracy', was['miou']['estimate'], limits.miou)
    judged = ([] if old['classes'] != new['classes'] else
              list(_classes(old, new, before, after, limits, gated, both)))
    yield from judged
    # Classes of one name in other sets are not the same, and the sets are told to differ.
    known = {c.metric for c in judged} if old['classes'] == new['classes'] else new['classes']
    for name, iou, share in zip(old['classes'], was['iou'], was['share'], strict=True):
        if (share or 0.0) >= old['min_share'] and iou is not None and name not in known:
            yield _missing(after, name, 'class', iou, limits.class_iou)


def _classes(old: Mapping[str, Any], new: Mapping[str, Any], before: str, after: str,
             limits: Limits, gated: bool, both: Sequence[FrameRow]) -> Iterator[Change]:
    """
    Yield the IoU of every class of which there are pixels enough.

    :param both: rows of the same frames, then and now; empty where they are not at hand.
    """
    was, now = old['arms'][before]['accuracy'], new['arms'][after]['accuracy']
    classes = class_differences(both, 'old', 'new') if both else ()
    olds = old['arms'][before]['intervals']['iou']
    news = new['arms'][after]['intervals']['iou']
    widen = family_factor(len([s for s in now['share'] if (s or 0.0) >= new['min_share']]))
    for i, name in enumerate(new['classes']):
        # Classes below the share of the headline are too few pixels to judge by.
        if (now['share'][i] or 0.0) < new['min_share']:
            continue
        if not classes and not (i < len(olds) and i < len(news)):
            continue
        change = (_widened(classes[i], widen) if classes else
                  difference(_interval(olds[i]), _interval(news[i]), widen))
        if math.isfinite(change.estimate):
            worse = mirrored(change)
            yield Change(after, name, 'class', was['iou'][i], now['iou'][i], worse,
                         limits.class_iou, bool(classes),
                         judge_change(worse, limits.class_iou, gated))


def _missing(arm: str, metric: str, kind: str, old: float, limit: float) -> Change:
    """Return the change of a figure that the older report has and that nothing compares with."""
    unknown = Interval(math.nan, -math.inf, math.inf)
    return Change(arm, metric, kind, old, math.nan, unknown, limit, False, 'not gated')


def _what_is_missing(new: Mapping[str, Any], changes: Sequence[Change]) -> list[str]:
    """Return a note for each arm of which the older report has more figures."""
    found: dict[str, list[str]] = {}
    for change in changes:
        if change.missing and change.kind != 'arm':  # a missing arm has a note of its own
            name = change.metric.replace('_', ' ')
            found.setdefault(change.arm, []).append(
                f'IoU of {name}' if change.kind == 'class' else name)
    return [f'{new["arms"][arm]["label"]}: the older report has what this one has not, or too '
            f'little of: {", ".join(names)}. It was not judged.' for arm, names in found.items()]


def _widened(interval: Interval, factor: float) -> Interval:
    e = interval.estimate
    return Interval(e, e - factor * (e - interval.low), e + factor * (interval.high - e),
                    interval.confidence)


def _same_frames(old_run: ComparisonRun | None, before: str, new_run: ComparisonRun | None,
                 after: str) -> tuple[FrameRow, ...]:
    """Return the rows of both arms as ``old`` and ``new``; empty without recordings."""
    if old_run is None or new_run is None:
        return ()
    return (*(replace(r, arm='old') for r in old_run.arm_rows(before)),
            *(replace(r, arm='new') for r in new_run.arm_rows(after)))


def _steady_arms(old: Mapping[str, Any], new: Mapping[str, Any],
                 pairs: Sequence[tuple[str, str]], changes: Sequence[Change]) -> list[str]:
    """Say it when a model that is the same as then got slower: then it is not the model."""
    out = []
    for before, after in pairs:
        a, b = old['arms'][before]['info'], new['arms'][after]['info']
        same = all(a[k] == b[k] for k in ('bundle_hash', *_RUNTIME))
        slower = next((c for c in changes if c.arm == after and c.metric == 'p50'
                       and c.worsening.low > 0 and c.worsening.estimate > 0.02), None)
        if same and slower:
            out.append(f'{new["arms"][after]["label"]} is the same bundle on the same runtime as '
                       f'then and takes {slower.worsening.estimate:+.0%}: the machine, its load '
                       'or the software changed, not the model.')
    return out


def _number(value: float | None) -> float:
    """Return a number from JSON, where null is "not known"."""
    return math.nan if value is None else float(value)


def _interval(data: Mapping[str, Any]) -> Interval:
    """Return an interval from JSON, where null is "not known"."""
    estimate = _number(data['estimate'])
    low = -math.inf if data['low'] is None else float(data['low'])
    high = math.inf if data['high'] is None else float(data['high'])
    return Interval(estimate, low, high, float(data['confidence']))
