import numpy as np
import pytest

from kd_perception.bags import messages as msgs
from kd_perception.bags.mined import MinedTopics, read_scores
from kd_perception.bags.reader import BagReader
from kd_perception.bags.ring import RawMessage
from kd_perception.bags.source import open_source
from kd_perception.classes import load_class_set
from kd_perception.errors import ConfigError, ImageError
from kd_perception.evaluation.disagreement import FrameScores
from kd_perception.evaluation.mining import MiningOptions
from kd_perception.evaluation.redaction import Redaction
from kd_perception.nodes.shadow_keeper import KeeperOptions, ShadowKeeper

CLASSES = load_class_set('driving')
PERSON = CLASSES.names.index('person')
MASK = np.zeros((48, 64), np.uint8)
MASK[10:40, 20:40] = PERSON
MB = 1 << 20


class Street:
    """Offers pictures of noise to a keeper, the worst at every tenth."""

    def __init__(self, tmp_path, blur='none', max_bytes=10 * MB, ask=None, **mining):
        self.asked, self.told, self.choices = [], [], []
        self.draws = np.random.default_rng(0)
        self.pictures = {}
        self.keeper = ShadowKeeper(
            KeeperOptions(str(tmp_path / 'kept'), MB, max_bytes, 0, True),
            MiningOptions(**{'share': 0.3, 'context': 1, **mining}), Redaction(blur, CLASSES),
            topics=lambda: MinedTopics('/image', msgs.IMAGE, '/camera_info', '/shadow'),
            ask=ask or self.ask, classes=CLASSES, about={}, tell=self.told.append)

    def ask(self, data):
        self.asked.append(msgs.header_of(data)[0])
        return MASK

    def drive(self, count):
        for number in range(count):
            picture = self.draws.integers(0, 256, (48, 64, 3)).astype(np.uint8)
            self.pictures[number] = picture
            data = msgs.to_cdr(msgs.make_image(picture, 'rgb8', number, 'front'), msgs.IMAGE)
            message = RawMessage(number, data, 1000 + number, number, 'front')
            self.keeper.arrived(message)
            score = 0.9 + number * 1e-3 if number % 10 == 5 else 0.1 - number * 1e-4
            self.choices.append(self.keeper.offer(message, FrameScores(score, score), picture,
                                                  MASK, {'v': 1}))
            self.keeper.flush()
        return self

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


def test_a_folder_that_cannot_be_used_is_told_before_anything_starts(tmp_path):
    (tmp_path / 'kept').write_text('a file')
    with pytest.raises(ConfigError, match='out_dir .*kept: cannot be written'):
        Street(tmp_path)
