"""
Recordings in, the frames worth a label out: what the shadow node does on a vehicle, at a desk.

The student is run over the recordings, the teacher beside it, and the frames of the highest scores
of all go with their context into a new recording (``bags/mined.py``). Unlike on a vehicle all
scores are known before one is chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, ExitStack
from dataclasses import dataclass, field
import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.bags import messages as msgs
from kd_perception.bags.collection import find_recordings
from kd_perception.bags.mined import jpeg_message, MinedBag, MinedTopics
from kd_perception.bags.mined import redacted as redact
from kd_perception.bags.motion import thumbnail
from kd_perception.bags.reader import BagReader
from kd_perception.bags.sampling import BadFrames, Sampling
from kd_perception.bags.sequence import FrameSequence
from kd_perception.bags.source import BagSource, open_one
from kd_perception.bundle import ModelBundle
from kd_perception.engines.engine import Engine
from kd_perception.engines.loader import load_engine
from kd_perception.errors import BagError, ConfigError, ImageError
from kd_perception.evaluation.metrics.disagreement import FrameComparison, FrameScores
from kd_perception.evaluation.mining import (
    Choice,
    choose,
    MiningOptions,
    require_room,
    Room,
    surroundings,
)
from kd_perception.evaluation.read_ahead import read_ahead
from kd_perception.evaluation.redaction import Redaction
from kd_perception.evaluation.score_journal import ScoreJournal
from kd_perception.frames import Frame, Progress
from kd_perception.tasks.familiarity import load_statistics
from kd_perception.tasks.placement import network_input, place
from kd_perception.tasks.segmentation import decode, SegmentationResult

_log = logging.getLogger(__name__)
_PICTURES = '/camera/image/compressed'
# Bytes of scores, headers and the recording's own index beside a picture and its mask, at most.
_BESIDE = 8192


@dataclass(frozen=True)
class MineOptions:
    """
    What is kept and how it is written.

    :param blur: of ``imaging.blur.BLURS``.
    :param masks: write the teacher's masks beside the frames.
    :param max_bytes: of the recording; the highest scores that fit are kept. 0: no limit.
    :param file_bytes: of one of its files; 0: one file.
    :param class_map: between the classes of teacher and student.
    :param low_confidence: confidence below which a pixel counts as unsure.
    """

    mining: MiningOptions = field(default_factory=MiningOptions)
    blur: str = 'none'
    masks: bool = True
    max_bytes: int = 0
    file_bytes: int = 0
    class_map: str = ''
    low_confidence: float = 0.5


@dataclass(frozen=True)
class MineReport:
    """
    What was kept.

    :param frames: of the recordings; ``bad`` of them could not be decoded.
    :param chosen: frames of the highest scores; ``written`` holds their context, too.
    :param reasons: chosen frames by what they were chosen for first.
    :param disagreement: mean share of pixels on which both differ.
    :param left_out: frames that would have been chosen if the limit of bytes were higher.
    """

    path: Path
    frames: int
    bad: int
    chosen: int
    written: int
    reasons: Mapping[str, int]
    disagreement: float
    left_out: int


def mine(paths: Sequence[Path | str], student: ModelBundle, teacher: ModelBundle,
         out: Path | str, options: MineOptions | None = None, *,
         image_topic: Sequence[str] = (), sampling: Sampling | None = None,
         engine: str = 'auto', device: str = 'cpu', precision: str = 'auto', threads: int = 0,
         progress: Progress | None = None) -> MineReport:
    """
    Keep the frames of recordings on which a student is worth correcting.

    :param paths: recordings as ``open_source`` takes them; their labels are not looked at. Raw and
        compressed pictures of ROS 2 bags are copied as they are, all others become JPEG.
    :param out: the recording to make; it must not exist. Until it is there, the scores lie
        beside it (``ScoreJournal``), so that an interrupted call goes on when it is made again.
    :raises KdPerceptionError: when something does not fit together, or no frame stands out.
    """
    options = options or MineOptions()
    if student.hash == teacher.hash:
        raise ConfigError(f'{student.path}: student and teacher are the same model; they never '
                          'differ')
    out = Path(out).expanduser()
    if out.exists():
        raise ConfigError(f'{out}: exists; choose another --out')
    comparison = FrameComparison(
        teacher.spec.classes, student.spec.classes, class_map=options.class_map,
        low_confidence=options.low_confidence, statistics=load_statistics(student))
    redaction = Redaction(options.blur, teacher.spec.classes)
    with ExitStack() as stack:
        drives = _Recordings(stack, paths, image_topic, sampling)
        require_room(options.mining, drives.ends)
        journal = stack.enter_context(ScoreJournal(out.with_name(f'{out.name}.scores.jsonl'), {
            'student': student.hash, 'teacher': teacher.hash, 'class_map': options.class_map,
            'low_confidence': options.low_confidence,
            'computed': [engine, device, precision], 'recordings': drives.about()}))
        asked = {bundle.hash: stack.enter_context(_loaded(bundle, engine, device, precision,
                                                          threads))
                 for bundle in (student, teacher)}
        pupil, master = asked[student.hash], asked[teacher.hash]
        scores = _scored(drives, pupil, master, comparison, journal, progress)
        known = [s for s in scores if s is not None]
        if not known:
            raise BagError(f'none of {len(scores)} frames could be compared')
        room = Room(options.max_bytes, lambda place: drives.size(
            place, masks=options.masks, redacted=options.blur != 'none'))
        chosen = choose(scores, options.mining, drives.thumbnail, drives.ends, room)
        if not chosen and room.refused:
            raise BagError(f'{out}: the budget of {options.max_bytes} bytes is too small for one '
                           'frame with its context')
        if not chosen:
            raise BagError(
                f'no frame stands out among {len(scores)}: all are alike, or too few of a kind '
                f'for a share of {options.mining.share:g} with a context of '
                f'{options.mining.context}; raise --share or lower --context')
        about = {'made_by': 'kd_perception mine', 'student': student.hash,
                 'teacher': teacher.hash, 'share': f'{options.mining.share:g}',
                 'blur': options.blur, 'blurred': redaction.hides}
        with MinedBag(out, drives.topics, classes=teacher.spec.classes, about=about,
                      max_bytes=options.max_bytes, file_bytes=options.file_bytes,
                      keep=False) as bag:
            _write(bag, drives, chosen, scores, comparison, redaction, master, options, progress)
        journal.remove()
    return MineReport(
        out, len(scores), len(scores) - len(known), len(chosen), bag.frames,
        dict(Counter(c.reasons[0] for c in chosen.values())),
        float(np.nanmean([s.disagreement for s in known])), room.refused)


class _Recordings:
    """All frames of some recordings in order, one camera."""

    def __init__(self, stack: ExitStack, paths: Sequence[Path | str],
                 image_topic: Sequence[str], sampling: Sampling | None) -> None:
        self.sources: list[FrameSequence] = []
        self._readers: list[BagReader | None] = []
        self._infos: list[dict[int, bytes]] = []
        kinds: set[tuple[str, str, str]] = set()
        for one in find_recordings(list(paths), list(image_topic)):
            source = open_one(one.path, image_topic=one.topic, sampling=sampling, labels=False)
            stack.callback(source.close)
            assert isinstance(source, FrameSequence)
            reader = stack.enter_context(BagReader(one.path)) if isinstance(source, BagSource) \
                else None
            topic, kind = _topic_of(source, reader)
            info, by_stamp = _camera_infos(reader, topic)
            kinds.add((topic, kind, info))
            self.sources.append(source)
            self._readers.append(reader if reader is not None and _copied(reader, source.topic)
                                 else None)
            self._infos.append(by_stamp)
        if len({(topic, kind) for topic, kind, _ in kinds}) > 1:
            told = ', '.join(f'{t} ({k})' for t, k, _ in sorted(kinds))
            raise ConfigError(f'a mined recording is of one camera, these are of several: {told}; '
                              'mine them one by one')
        topic, kind, info = max(kinds)
        self.topics = MinedTopics(topic, kind, info, '/mined')
        self.ends = tuple(int(e) for e in np.cumsum([len(s) for s in self.sources]))

    def __len__(self) -> int:
        return self.ends[-1]

    def frame(self, place: int) -> Frame:
        """
        Return a frame by its place among all.

        :raises ImageError: when it cannot be decoded.
        """
        which, index = self._of(place)
        return self.sources[which][index]

    def thumbnail(self, place: int) -> np.ndarray | None:
        """Return what of a frame is compared with kept ones; None where it is damaged."""
        try:
            return thumbnail(self.frame(place).image)
        except ImageError:
            return None

    def message(self, place: int, frame: Frame) -> tuple[bytes, bytes | None]:
        """Return the serialised picture, as it was where that can be, and its intrinsics."""
        which, index = self._of(place)
        source, reader = self.sources[which], self._readers[which]
        if reader is None:
            return jpeg_message(frame.image, frame.stamp_ns, frame.frame_id), None
        data = reader.index(source.topic).raw(source.position(index))[0]
        return data, self._infos[which].get(frame.stamp_ns)

    def size(self, place: int, *, masks: bool, redacted: bool) -> int:
        """Return about how many bytes a frame takes up with all that is written of it."""
        try:
            frame = self.frame(place)
        except ImageError:
            return 0
        data, info = self.message(place, frame)
        if redacted:  # a picture in which something was hidden is encoded anew
            anew = redact(data, self.topics.image_type, np.copy)
            data = max(data, anew, key=len)
        return len(data) + len(info or b'') + frame.image[..., 0].size * masks + _BESIDE

    def about(self) -> list[list[Any]]:
        """Return what tells these frames from others."""
        return [[s.fingerprint, s.topic, hashlib.sha256(s.times_ns.tobytes()).hexdigest(), len(s)]
                for s in self.sources]

    def _of(self, place: int) -> tuple[int, int]:
        which = int(np.searchsorted(self.ends, place, 'right'))
        return which, place - (self.ends[which - 1] if which else 0)


@contextmanager
def _loaded(bundle: ModelBundle, engine: str, device: str, precision: str,
            threads: int) -> Iterator[_Asked]:
    with closing(load_engine(bundle, engine, device=device, precision=precision,
                             threads=threads)) as model:
        yield _Asked(bundle, model)


@dataclass(frozen=True)
class _Asked:
    """A model that answers pictures."""

    bundle: ModelBundle
    engine: Engine

    def __call__(self, image: np.ndarray) -> SegmentationResult:
        size, spec = (image.shape[0], image.shape[1]), self.bundle.spec.input
        return decode(self.engine.infer(network_input(image, spec)[None]),
                      placement=place(size, spec), output_size=size)


def _scored(drives: _Recordings, student: _Asked, teacher: _Asked, comparison: FrameComparison,
            journal: ScoreJournal, progress: Progress | None) -> list[FrameScores | None]:
    """Return the scores of every frame; None for one that cannot be decoded."""
    places = [p for p in range(len(drives)) if p not in journal.scores]
    bad = BadFrames(_log, ', '.join(s.name for s in drives.sources[:3]), len(drives))

    def read(place: int) -> Frame | ImageError:
        try:
            return drives.frame(place)
        except ImageError as error:
            return error

    with closing(read_ahead(read, places)) as stream:
        for place, frame in zip(places, stream, strict=True):
            found = None
            if isinstance(frame, ImageError):
                bad.add(place, frame)
            else:
                said = student(frame.image)
                found = comparison.scores(frame.image, teacher(frame.image).mask, said.mask,
                                          said.confidence)
            journal.add(place, found)
            if progress is not None:
                progress(len(journal.scores), len(drives), 'comparing')
    bad.sum_up()
    return [journal.scores[p] for p in range(len(drives))]


def _write(bag: MinedBag, drives: _Recordings, chosen: Mapping[int, Choice],
           scores: Sequence[FrameScores | None], comparison: FrameComparison,
           redaction: Redaction, teacher: _Asked, options: MineOptions,
           progress: Progress | None) -> None:
    """Write chosen frames and their context in order."""
    owner: dict[int, int] = {}
    for centre in chosen:
        for near in surroundings(centre, options.mining.context, len(drives), drives.ends):
            owner.setdefault(near, centre)
    for done, at in enumerate(sorted(owner)):
        try:
            frame = drives.frame(at)
        except ImageError:
            continue  # it was told of before
        told: dict[str, Any] = {'frame': at}
        own = scores[at]
        if own is not None:
            told.update(own.values(comparison.classes))
        told.update(chosen[at].values() if at in chosen
                    else {'reason': 'context', 'of_frame': owner[at]})
        mask = teacher(frame.image).mask if options.masks or redaction.by_mask else None
        data, info = drives.message(at, frame)
        if not bag.write(data, frame.log_ns, told, redact=redaction.of(mask),
                         mask=mask if options.masks else None, camera_info=info):
            raise BagError(f'{bag.path}: the frames take up more than the budget of '
                           f'{options.max_bytes} bytes when they are blurred; raise --budget')
        if progress is not None:
            progress(done + 1, len(owner), 'writing')


def _copied(reader: BagReader, topic: str) -> bool:
    """Return whether the pictures of a topic go into another ROS 2 recording byte by byte."""
    channels = [channel for _, channel in reader.index(topic).channels]
    return (len({c.type for c in channels}) == 1 and channels[0].type in msgs.IMAGE_TYPES
            and all(c.serialization == 'cdr' for c in channels))


def _topic_of(source: FrameSequence, reader: BagReader | None) -> tuple[str, str]:
    """Return the topic and type under which pictures are written."""
    if reader is None:
        return _PICTURES, msgs.COMPRESSED_IMAGE
    if _copied(reader, source.topic):
        return source.topic, reader.index(source.topic).channels[0][1].type
    return (f'{source.topic.removesuffix("/compressed")}/compressed', msgs.COMPRESSED_IMAGE)


def _camera_infos(reader: BagReader | None, topic: str) -> tuple[str, dict[int, bytes]]:
    """Return the topic of the intrinsics beside a camera, and these by stamp."""
    name = f'{topic.removesuffix("/compressed").rpartition("/")[0]}/camera_info'
    found = [t for t in reader.topics if t.name == name and t.type == msgs.CAMERA_INFO] \
        if reader is not None else []
    if not found or reader is None:
        return '', {}
    index, out = reader.index(name), {}
    for position in range(len(index)):
        if index.channel(position).serialization == 'cdr':
            out[index.header(position)[0]] = index.read(position)
    return name, out
