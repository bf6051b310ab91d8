import numpy as np
import pytest

from kd_perception.bags import messages as msgs
from kd_perception.bags.mined import MinedTopics, read_scores
from kd_perception.bags.reader import BagReader
from kd_perception.bags.ring import RawMessage
from kd_perception.bags.source import open_source
from kd_perception.classes import load_class_set
from kd_perception.errors import ConfigError, ImageError
from kd_perception.evaluation.metrics.disagreement import FrameScores
from kd_perception.evaluation.mining import MiningOptions
from kd_perception.evaluation.redaction import Redaction
from kd_perception.nodes.shadow.keeper import KeeperOptions, ShadowKeeper

CLASSES = load_class_set('driving')
PERSON = CLASSES.names.index('person')
MASK = np.zeros((48, 64), np.uint8)
MASK[10:40, 20:40] = PERSON
MB = 1 << 20


class Street:
    """Offers pictures of noise to a keeper, the worst at every tenth."""

    def __init__(self, tmp_path, blur='none', max_bytes=10 * MB, ask=None, folder=None, **mining):
        self.asked, self.told, self.choices = [], [], []
        self.messages, self.damaged = {}, None
        self.draws = np.random.default_rng(0)
        self.pictures = {}
        self.keeper = ShadowKeeper(
            KeeperOptions(str(tmp_path / 'kept') if folder is None else folder, MB, max_bytes,
                          0, True),
            MiningOptions(**{'share': 0.3, 'context': 1, **mining}), Redaction(blur, CLASSES),
            topics=lambda: MinedTopics('/image', msgs.IMAGE, '/camera_info', '/shadow'),
            ask=ask or self.ask, classes=CLASSES, about={}, tell=self.told.append)

    def ask(self, data):
        self.asked.append(msgs.header_of(data)[0])
        return MASK

    def drive(self, count):
        for number in range(count):
            self.drive_one(number, 0.9 + number * 1e-3 if number % 10 == 5
                           else 0.1 - number * 1e-4)
        return self

    def drive_one(self, number, score):
        picture = self.draws.integers(0, 256, (48, 64, 3)).astype(np.uint8)
        self.pictures[number] = picture
        data = msgs.to_cdr(msgs.make_image(picture, 'rgb8', number, 'front'), msgs.IMAGE)
        if number == self.damaged:
            data = data[:200]
        message = self.messages[number] = RawMessage(number, data, 1000 + number, number, 'front')
        self.keeper.arrived(message)
        self.choices.append(self.keeper.offer(message, FrameScores(score, score), picture,
                                              MASK, {'v': 1}))
        self.keeper.flush()

    def close(self, tmp_path):
        self.keeper.close()
        path, = (tmp_path / 'kept').iterdir()
        return path


def test_context_comes_with_the_chosen_and_says_whose_it_is(tmp_path):
    street = Street(tmp_path).drive(60)
    path = street.close(tmp_path)
    stamps = [f.stamp_ns for f in open_source(path)]
    assert stamps == [24, 25, 26, 34, 35, 36, 44, 45, 46, 54, 55, 56]
    with BagReader(path) as reader:
        index = reader.index('/shadow/disagreement')
        told = dict(read_scores(index.raw(i)[0]) for i in range(len(index)))
    assert told[25]['reason'] == 'disagreement'
    assert told[24] == {'frame': '24', 'reason': 'context', 'of_frame': '25'}
    assert float(told[25]['rank']) > float(told[25]['threshold'])
    assert street.asked == [24, 26, 34, 36, 44, 46, 54, 56]


def test_people_are_hidden_in_the_context_too(tmp_path):
    street = Street(tmp_path, 'people_and_vehicles').drive(60)
    for frame in open_source(street.close(tmp_path)):
        raw = street.pictures[frame.stamp_ns]
        assert (frame.image[:5] == raw[:5]).all()
        inside = frame.image[12:38, 22:38]
        assert (inside != raw[12:38, 22:38]).any(2).mean() > 0.9
        assert len(np.unique(inside.reshape(-1, 3), axis=0)) <= 24


def test_what_cannot_be_looked_at_is_not_stored(tmp_path):
    def blind(data):
        raise ImageError('no picture')

    street = Street(tmp_path, 'people_and_vehicles', ask=blind).drive(60)
    assert [f.stamp_ns for f in open_source(street.close(tmp_path))] == [25, 35, 45, 55]
    assert street.keeper.failed == 8


def test_the_budget_ends_the_keeping_and_is_told_once(tmp_path):
    street = Street(tmp_path, max_bytes=50_000).drive(60)
    assert street.told == ['keeping frames stopped: the disk budget is reached']
    assert not street.choices[55].kept
    assert street.choices[55].refused == 'keeping is stopped: the disk budget is reached'
    path = street.close(tmp_path)
    assert 0 < len(open_source(path)) < 5
    assert sum(f.stat().st_size for f in path.iterdir()) < 60_000
    assert street.keeper.values()['ring_bytes'] == 0


def test_the_recording_is_whole_when_the_budget_ends_the_keeping(tmp_path):
    Street(tmp_path, max_bytes=50_000).drive(60)      # and is not closed: power was cut
    path, = (tmp_path / 'kept').iterdir()
    assert len(open_source(path)) > 0


def test_the_budget_is_of_all_starts_together(tmp_path):
    folder = tmp_path / 'kept'
    for _ in range(5):
        street = Street(tmp_path, max_bytes=80_000).drive(60)
        street.keeper.close()
        used = sum(f.stat().st_size for f in folder.rglob('*') if f.is_file())
        assert used < 100_000
    assert 'earlier recordings in' in street.told[0]
    assert not any(c.kept for c in street.choices)
    assert street.keeper.values()['keeping'].startswith('stopped')


def test_a_frame_that_is_written_as_context_is_not_chosen_again(tmp_path):
    street = Street(tmp_path, share=1.0, context=8)
    street.drive(40)
    for number in range(40, 60):                      # 45 and 48 are high
        street.drive_one(number, 0.99 + number * 1e-4 if number in (45, 48) else 0.01)
    assert street.choices[45].kept
    assert street.choices[48].kept                    # wanted as context, and not written yet
    picture, data = street.pictures[46], street.messages[46]
    late = street.keeper.offer(data, FrameScores(1.0, 1.0), picture, MASK, {})
    assert late.refused == 'in the context of a kept frame'
    assert not street.keeper._told


def test_a_frame_that_was_chosen_last_is_written_without_asking_the_teacher(tmp_path):
    street = Street(tmp_path, context=2)
    flush, street.keeper.flush = street.keeper.flush, lambda: None
    street.drive(60)
    assert street.choices[25].kept
    street.keeper.flush = flush
    street.keeper.close()
    path, = (tmp_path / 'kept').iterdir()
    assert [f.stamp_ns for f in open_source(path)] == [
        i for i, c in enumerate(street.choices) if c.kept]
    assert street.asked == []


def test_the_end_does_not_wait_for_all_context(tmp_path):
    street = Street(tmp_path, share=1.0, context=20)
    flush, street.keeper.flush = street.keeper.flush, lambda **_: None
    street.drive(60)
    street.keeper.ending = True
    flush()
    assert len(street.asked) == 1
    street.keeper.flush = flush
    street.keeper.close()
    assert len(street.asked) == 1


def test_intrinsics_outlast_a_slow_teacher(tmp_path):
    street = Street(tmp_path)
    for number in range(300):
        street.keeper.camera_info(number, b'info')
    assert street.keeper._info_of(0) == b'info'


def test_nothing_is_remembered_where_nothing_is_kept(tmp_path):
    street = Street(tmp_path, folder='').drive(30)
    assert street.keeper.values()['ring_bytes'] == 0
    assert street.keeper.received == 30


def test_two_shadows_in_one_folder_write_recordings_of_their_own(tmp_path):
    streets = [Street(tmp_path).drive(60) for _ in range(3)]
    for street in streets:
        street.keeper.close()
        assert street.told == []
    assert len([open_source(p) for p in (tmp_path / 'kept').iterdir()]) == 3


def test_a_damaged_picture_does_not_end_the_keeping(tmp_path):
    street = Street(tmp_path, 'faces_and_plates', context=0)
    street.damaged = 25
    street.drive(60)
    street.keeper.close()
    assert (street.keeper.stopped, street.keeper.failed) == ('', 1)


def test_a_folder_that_cannot_be_used_is_told_before_anything_starts(tmp_path):
    (tmp_path / 'kept').write_text('a file')
    with pytest.raises(ConfigError, match='out_dir .*kept: cannot be written'):
        Street(tmp_path)
