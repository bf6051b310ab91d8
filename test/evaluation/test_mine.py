"""Mining of recordings: real networks, real bags."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.bags.mined import read_scores
from kd_perception.bags.reader import BagReader
from kd_perception.bags.sampling import Sampling
from kd_perception.bags.source import open_source
from kd_perception.bags.writer import BagWriter
from kd_perception.bundle import (
    BundleSpec,
    InputSpec,
    load_bundle,
    NetworkSpec,
    STATISTICS,
)
from kd_perception.classes import load_class_set
from kd_perception.cli.main import main
from kd_perception.errors import BagError, ConfigError
from kd_perception.evaluation.mine import mine, MineOptions
from kd_perception.evaluation.mining import MiningOptions
from kd_perception.tasks.familiarity import picture_features, summarize

HEIGHT, WIDTH = 48, 64
NOVEL = (13, 57, 58)


def noise(draws, low=60, high=200):
    return draws.integers(low, high, (HEIGHT, WIDTH, 3)).astype(np.uint8)


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """Return the folder of a ``teacher``, and a ``student`` that knows grey noise."""
    torch = pytest.importorskip('torch')
    from kd_perception.networks.deploy import save_bundle
    from kd_perception.networks.registry import build

    folder = tmp_path_factory.mktemp('models')
    classes, network = load_class_set('driving'), NetworkSpec('compact', {'width': 8})
    draws = np.random.default_rng(9)
    usual = summarize(np.array([picture_features(noise(draws)) for _ in range(60)]), [0] * 60)
    for seed, name in enumerate(('teacher', 'student')):
        torch.manual_seed(seed)
        spec = BundleSpec(name=name, task='segmentation', role=name, classes=classes,
                          input=InputSpec(HEIGHT, WIDTH), network=network)
        save_bundle(folder / name, build(network, len(classes)).eval(), spec,
                    extra_files={STATISTICS: usual.to_bytes()} if name == 'student' else {})
    return folder


@pytest.fixture(scope='module')
def drive(tmp_path_factory):
    """Return a recording of 80 pictures, a few of them dark, with intrinsics and labels."""
    path = tmp_path_factory.mktemp('drives') / 'drive'
    draws = np.random.default_rng(1)
    with BagWriter(path) as bag:
        for number in range(80):
            picture = noise(draws, 0, 20) if number in NOVEL else noise(draws)
            stamp = (number + 1) * 100_000_000
            bag.write_image('/front/image', picture, stamp, 'front', 'bgr8')
            bag.write_camera_info('/front/camera_info', WIDTH, HEIGHT, 1, 1, 1, 1, stamp, 'front')
            bag.write_labels('/front/labels', np.zeros((HEIGHT, WIDTH), np.uint8), stamp, 'front')
    return path


def test_the_highest_frames_go_out_byte_by_byte_with_context(models, drive, tmp_path, capsys):
    code = main(['mine', str(drive), '--student', str(models / 'student'), '--teacher',
                 str(models / 'teacher'), '--out', str(tmp_path / 'mined'), '--engine',
                 'onnxruntime', '--keep-for', 'novelty', '--context', '1', '--near', '0'])
    said = capsys.readouterr().out
    assert code == 0, said
    assert 'mined: 7 of 80 frames, 3 of them chosen (3 for novelty)' in said
    source = open_source(tmp_path / 'mined')
    assert not source.has_labels
    places = [f.stamp_ns // 100_000_000 - 1 for f in source]
    assert places == [12, 13, 14, 56, 57, 58, 59]
    with BagReader(tmp_path / 'mined') as mined, BagReader(drive) as whole:
        assert {t.name for t in mined.topics} == {
            '/front/image', '/front/camera_info', '/mined/disagreement',
            '/mined/segmentation/mask', '/mined/segmentation/label_info'}
        for here, there in enumerate(places):
            for topic in ('/front/image', '/front/camera_info'):
                assert mined.index(topic).read(here) == whole.index(topic).read(there)
        told = [read_scores(mined.index('/mined/disagreement').read(i))[1] for i in range(7)]
    assert [t['reason'] for t in told] == ['context', 'novelty', 'context', 'context', 'novelty',
                                           'novelty', 'context']
    assert all(float(t['novelty']) > 1 for t in told if t['reason'] == 'novelty')


def test_pictures_of_a_folder_become_jpeg(models, drive, tmp_path):
    import cv2
    (tmp_path / 'frames').mkdir()
    for number, frame in enumerate(open_source(drive, labels=False)):
        cv2.imwrite(str(tmp_path / 'frames' / f'{number:03d}.png'), frame.image[:, :, ::-1])
    report = mine([tmp_path / 'frames'], load_bundle(models / 'student'),
                  load_bundle(models / 'teacher'), tmp_path / 'mined',
                  MineOptions(MiningOptions(context=0, criteria=('novelty',), near_percent=0.0),
                              masks=False), engine='onnxruntime')
    assert (report.frames, report.bad, report.left_out) == (80, 0, 0)
    assert report.written == report.chosen <= 8
    source = open_source(tmp_path / 'mined')
    assert source.topic == '/camera/image/compressed'
    assert len(source) == report.written
    dark = [f for f in source if f.image.mean() < 40]
    assert len(dark) == 3


def test_what_does_not_fit_is_one_line_and_leaves_nothing(models, drive, tmp_path, capsys):
    student, teacher = (load_bundle(models / n) for n in ('student', 'teacher'))
    with BagWriter(tmp_path / 'rear') as bag:
        for number in range(3):
            bag.write_image('/rear/image', np.zeros((24, 32, 3), np.uint8), number + 1)
    with pytest.raises(ConfigError, match='of one camera.*/front/image.*/rear/image'):
        mine([drive, tmp_path / 'rear'], student, teacher, tmp_path / 'out')
    (tmp_path / 'out').mkdir()
    with pytest.raises(ConfigError, match='out: exists'):
        mine([drive], student, teacher, tmp_path / 'out')
    (tmp_path / 'out').rmdir()
    assert main(['mine', str(tmp_path / 'rear'), '--student', str(models / 'student'),
                 '--teacher', str(models / 'teacher'), '--out', str(tmp_path / 'out'),
                 '--engine', 'onnxruntime']) == 2
    assert '0.1 of 3 frames is 0.3, less than one frame' in capsys.readouterr().err
    with pytest.raises(ConfigError, match='teacher: student and teacher are the same'):
        mine([drive], teacher, teacher, tmp_path / 'out')
    for wrong in (7.0, float('nan')):
        with pytest.raises(ConfigError, match='low_confidence .*from 0 to 1'):
            mine([drive], student, teacher, tmp_path / 'out', MineOptions(low_confidence=wrong))
    with pytest.raises(BagError, match='too small for one frame with its context'):
        mine([drive], student, teacher, tmp_path / 'out', MineOptions(max_bytes=100),
             engine='onnxruntime')
    # The scores stay, for a call with another budget.
    assert sorted(p.name for p in tmp_path.iterdir()) == ['out.scores.jsonl', 'rear']


def test_intrinsics_of_another_type_are_left_out(models, tmp_path):
    from kd_perception.evaluation.mine import _camera_infos
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write_image('/a/camera_info', np.zeros((4, 4, 3), np.uint8), 1)
    with BagReader(tmp_path / 'bag') as reader:
        assert _camera_infos(reader, '/a/image') == ('', {})


def contents(path):
    """Return all messages of a recording."""
    with BagReader(path) as bag:
        return [(topic, data) for topic, _, data in messages(bag)]


def messages(bag):
    for topic in bag.topics:
        index = bag.index(topic.name)
        for position in range(len(index)):
            yield topic.name, position, index.raw(position)[0]


def test_an_interrupted_call_goes_on_where_it_was(models, drive, tmp_path):
    student, teacher = (load_bundle(models / n) for n in ('student', 'teacher'))
    options = MineOptions(MiningOptions(share=0.2, context=1))
    whole, out = tmp_path / 'whole', tmp_path / 'out'
    mine([drive], student, teacher, whole, options, engine='onnxruntime')

    def stop(done, total, what):
        if done == 30:
            raise KeyboardInterrupt

    journal = tmp_path / 'out.scores.jsonl'
    with pytest.raises(KeyboardInterrupt):
        mine([drive], student, teacher, out, options, engine='onnxruntime', progress=stop)
    assert not out.exists()
    with journal.open('a') as file:
        file.write('[30, {"disag')  # killed while it wrote
    with pytest.raises(ConfigError, match='other models, recordings or settings'):
        mine([drive], student, teacher, out, MineOptions(low_confidence=0.4),
             engine='onnxruntime')
    seen = []
    report = mine([drive], student, teacher, out, options, engine='onnxruntime',
                  progress=lambda done, total, what: seen.append((what, done)))
    assert seen[0] == ('comparing', 31)
    assert report.frames == 80
    assert not journal.exists()
    assert contents(out) == contents(whole)
    for foreign in ('what is this\n', 'precious'):
        (tmp_path / 'next.scores.jsonl').write_text(foreign)
        with pytest.raises(ConfigError, match='next.scores.jsonl: holds no scores'):
            mine([drive], student, teacher, tmp_path / 'next', options, engine='onnxruntime')
        assert (tmp_path / 'next.scores.jsonl').read_text() == foreign


def test_scores_of_other_frames_or_of_a_call_that_runs_are_not_taken(models, drive, tmp_path):
    student, teacher = (load_bundle(models / n) for n in ('student', 'teacher'))
    options = MineOptions(MiningOptions(share=0.5, context=0))

    def go(sampling, stop=0):
        def tell(done, total, what):
            if done == stop:
                with pytest.raises(ConfigError, match='is being written by another call'):
                    go(sampling)
                raise KeyboardInterrupt
        return mine([drive], student, teacher, tmp_path / 'out', options, engine='onnxruntime',
                    sampling=sampling, progress=tell)

    with pytest.raises(KeyboardInterrupt):
        go(Sampling(limit=20), stop=15)
    with pytest.raises(ConfigError, match='other models, recordings or settings'):
        go(Sampling(limit=20, rate_hz=2.5))
    assert go(Sampling(limit=20)).frames == 20


def test_ctrl_c_while_writing_leaves_the_scores_alone(models, drive, tmp_path):
    student, teacher = (load_bundle(models / n) for n in ('student', 'teacher'))
    options = MineOptions(MiningOptions(share=0.2, context=0))

    def stop(done, total, what):
        if what == 'writing' and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine([drive], student, teacher, tmp_path / 'out', options, engine='onnxruntime',
             progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ['out.scores.jsonl']
    mine([drive], student, teacher, tmp_path / 'out', options, engine='onnxruntime')
    assert [p.name for p in tmp_path.iterdir()] == ['out']


def test_a_budget_counts_what_pictures_take_up_when_they_are_blurred(models, tmp_path):
    student, teacher = (load_bundle(models / n) for n in ('student', 'teacher'))
    draws = np.random.default_rng(4)
    with BagWriter(tmp_path / 'grey') as bag:
        for number in range(60):
            picture = draws.integers(0, 255, (480, 640)).astype(np.uint8)
            bag.write_image('/rear/image', picture, (number + 1) * 10 ** 8, 'rear', 'mono8')
    grey, colour = 480 * 640, 3 * 480 * 640
    options = MineOptions(MiningOptions(share=0.2, context=0), blur='people_and_vehicles',
                          masks=False, max_bytes=3 * colour + 3 * 10_000 + grey)
    report = mine([tmp_path / 'grey'], student, teacher, tmp_path / 'out', options,
                  engine='onnxruntime')
    assert report.chosen == report.written == len(open_source(tmp_path / 'out')) == 3
    assert report.left_out > 0


def test_a_budget_keeps_the_highest_scores(models, drive, tmp_path, capsys):
    student, teacher = (load_bundle(models / n) for n in ('student', 'teacher'))
    mining = MiningOptions(share=0.2, context=0)
    whole = mine([drive], student, teacher, tmp_path / 'whole', MineOptions(mining),
                 engine='onnxruntime')
    ranks = {}
    with BagReader(tmp_path / 'whole') as bag:
        for topic, _, data in messages(bag):
            if topic == '/mined/disagreement':
                told = read_scores(data)[1]
                ranks[told['frame']] = float(told['rank'])
    frame = HEIGHT * WIDTH * 4 + 10_000
    assert main(['mine', str(drive), '--student', str(models / 'student'), '--teacher',
                 str(models / 'teacher'), '--out', str(tmp_path / 'small'), '--share', '0.2',
                 '--context', '0', '--engine', 'onnxruntime', '--budget',
                 str(4 * frame + frame // 2)]) == 0
    assert f'{whole.chosen - 4} more would have been chosen' in capsys.readouterr().out
    with BagReader(tmp_path / 'small') as bag:
        kept = [read_scores(data)[1]['frame'] for topic, _, data in messages(bag)
                if topic == '/mined/disagreement']
    assert len(kept) == 4
    assert min(ranks[k] for k in kept) >= max(r for k, r in ranks.items() if k not in kept)
    size = sum(f.stat().st_size for f in (tmp_path / 'small').rglob('*') if f.is_file())
    assert size <= 4 * frame + frame // 2
