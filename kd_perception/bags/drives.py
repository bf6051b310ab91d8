"""
Drives: which frames belong to one stretch of driving, whatever holds them.

Frames of one drive look alike, so whoever learns from some of it must not be measured on the rest.
A drive is

- of a rosbag: a stretch without a pause of more than ten seconds in all of its messages, as
  ``bag split --gap 10`` cuts it. Stretches of several bags are one drive where the recorder's
  clock says that they follow or overlap each other: a drive that was split stays one;
- of an image folder: what file names have before the number of the frame (``0016E5_00390.png``:
  ``0016E5``). A name that says nothing (``frame_0001``) stands for the folder alone;
- of a video: the file;
- or what somebody says that it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import re
from typing import Any

import numpy as np

from kd_perception.frames import FrameSource

GAP_S = 10.0

# Recorders without a clock, simulators and imports count from zero: such times compare nothing.
_REAL_CLOCK_NS = 946_684_800_000_000_000  # the year 2000
_WORD = re.compile(r'[^_\-\s]+')
_FRAME = re.compile(r'[A-Za-z]?\d+(\.\d+)?')
_STAMP = re.compile(r'\d{9,}')
_SAYS_NOTHING = re.compile(
    r'(cam|camera|frame|image|img|im|pic|picture|photo|left|right|front|back|rear|rgb|color|'
    r'colour|raw|rect|drive|video|clip|shot)\d{0,3}|\d{1,3}', re.IGNORECASE)


@dataclass(frozen=True)
class Drive:
    """
    One drive.

    :param name: for people.
    :param identity: equal wherever this drive is met.
    :param span_ns: first and last log time by a real clock, or None.
    """

    name: str
    identity: str
    span_ns: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for YAML."""
        span = {} if self.span_ns is None else {'span_ns': list(self.span_ns)}
        return {'name': self.name, 'identity': self.identity, **span}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Drive:
        """Build a drive from ``to_dict``'s form."""
        span = data.get('span_ns')
        return cls(str(data['name']), str(data['identity']),
                   (int(span[0]), int(span[1])) if span else None)


def named_drive(name: str) -> Drive:
    """Return the drive of a name that stands for itself, in whatever recording."""
    return Drive(name, f'name:{name}')


def recorded_drive(name: str, fingerprint: str, part: object = '',
                   span_ns: tuple[int, int] | None = None) -> Drive:
    """Return the drive of a recording, or of a part of it."""
    return Drive(name, f'recording:{fingerprint}:{part}', span_ns)


def drives_of(source: FrameSource, by_hand: str = '') -> list[Drive]:
    """
    Return the drive of each frame of a source.

    :param by_hand: the name of the drive that all of it belongs to, where somebody said so.
    """
    if by_hand:
        return [named_drive(by_hand)] * len(source)
    found = getattr(source, 'drives', None)
    if found is None:
        return [recorded_drive(source.name, source.fingerprint)] * len(source)
    return list(found())


def stretches(log_ns: np.ndarray, gap_s: float = GAP_S) -> list[int]:
    """
    Return the places where drives begin, and the end.

    :param log_ns: int64 ``[n]``, ascending.
    """
    begins = np.flatnonzero(np.diff(log_ns) > gap_s * 1e9) + 1
    return [0, *(int(b) for b in begins), len(log_ns)]


def bag_drives(name: str, fingerprint: str, all_ns: np.ndarray,
               frames_ns: np.ndarray) -> list[Drive]:
    """
    Return the drives of frames of a bag.

    :param all_ns: int64 ``[n]``, log times of all messages, ascending.
    :param frames_ns: int64 ``[m]``, log times of the frames.
    """
    borders = stretches(all_ns)
    made = []
    for number, (begin, end) in enumerate(zip(borders, borders[1:])):
        first, last = int(all_ns[begin]), int(all_ns[end - 1])
        made.append(recorded_drive(f'{name} part {number}' if len(borders) > 2 else name,
                                   fingerprint, number,
                                   (first, last) if first > _REAL_CLOCK_NS else None))
    which = np.searchsorted(all_ns[borders[1:-1]], frames_ns, side='right')
    return [made[w] for w in which]


def file_drive(stem: str, folder: str, fingerprint: str) -> Drive:
    """
    Return the drive of an image file.

    :param stem: its name without suffix.
    :param folder: name of the folder, and
    :param fingerprint: of its content: what a name stands for that says nothing by itself.
    """
    prefix = _before_the_number(stem)
    told = ''.join(w for w in _WORD.findall(prefix) if not _SAYS_NOTHING.fullmatch(w))
    if len(told) >= 4 and any(c.isdigit() for c in prefix):
        return named_drive(prefix)
    return recorded_drive(f'{folder}/{prefix}' if prefix else folder, fingerprint, prefix)


def shared(learned: Sequence[Drive], held: Sequence[Drive]) -> list[bool]:
    """Return for each of ``held`` whether its drive is among the learned ones."""
    numbers = groups([*learned, *held])
    seen = set(numbers[:len(learned)])
    return [n in seen for n in numbers[len(learned):]]


def groups(drives: Sequence[Drive]) -> list[int]:
    """
    Return a number for each entry, equal where two are one drive.

    Numbers count from 0 in the order in which drives are first met.
    """
    unique = list(dict.fromkeys(drives))
    leader: dict[str, str] = {d.identity: d.identity for d in unique}

    def find(identity: str) -> str:
        while leader[identity] != identity:
            identity = leader[identity]
        return identity

    timed = sorted((d.span_ns, d.identity) for d in unique if d.span_ns is not None)
    latest, last = 0, ''
    for (begin, end), identity in timed:
        if last and begin - latest <= GAP_S * 1e9:
            leader[find(identity)] = find(last)
        if not last or end > latest:
            latest = end
        last = identity
    numbers: dict[str, int] = {}
    of = {d: numbers.setdefault(find(d.identity), len(numbers)) for d in unique}
    return [of[d] for d in drives]


def _before_the_number(stem: str) -> str:
    """Return what a file name has before the number of the frame."""
    words = list(_WORD.finditer(stem))
    numbered = [w for w in words if _FRAME.fullmatch(w.group())]
    if numbered:
        prefix = stem[:numbered[-1].start()]
    else:
        prefix = re.sub(r'\d+\D*$', '', stem)
    kept = _WORD.findall(prefix)
    while kept and _STAMP.fullmatch(kept[-1]):
        prefix = prefix[:prefix.rindex(kept.pop())]
    prefix = prefix.strip('_- .')
    # Numbers alone are dates, times or counters.
    return prefix if any(c.isalpha() for c in prefix) else ''
