from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
import yaml

from kd_perception.bags.source import open_source
from kd_perception.bundle import BundleSpec, InputSpec, ModelBundle, NetworkSpec
from kd_perception.classes import ClassSet, load_class_map, load_class_set
from kd_perception.errors import BagError, ConfigError, ImageError
from kd_perception.evaluation.evaluate import evaluate
from kd_perception.networks.deploy import save_bundle
from kd_perception.networks.registry import build, register

SIZE = (24, 40)


@register('nearest_color')
class NearestColor(nn.Module):
    """Gives every pixel the class of the nearest colour: what is right is known beforehand."""

    def __init__(self, num_classes: int, colors: list[list[int]]) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, num_classes, 1)
        spec = InputSpec(1, 1)
        centres = (torch.tensor(colors) / 255 - torch.tensor(spec.mean)) / torch.tensor(spec.std)
        with torch.no_grad():
            # |x - c|^2 = |x|^2 - 2 c x + |c|^2, and |x|^2 is the same for all classes.
            self.layer.weight.copy_(40 * centres[:, :, None, None])
            self.layer.bias.copy_(-20 * centres.square().sum(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def make_bundle(path: Path, classes: ClassSet) -> ModelBundle:
    network = NetworkSpec('nearest_color', {'colors': [list(c) for c in classes.colors]})
    spec = BundleSpec(name='nearest', task='segmentation', role='student', classes=classes,
                      input=InputSpec(*SIZE), network=network)
    return save_bundle(path, build(network, len(classes)), spec)


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return make_bundle(tmp_path_factory.mktemp('bundle') / 'b', load_class_set('driving'))


def write(folder: Path, palette: np.ndarray, truths: list[np.ndarray],
          shown: list[np.ndarray]) -> Path:
    """Write pictures that show the ids ``shown`` and labels that say ``truths``."""
    labels = folder.with_name(f'{folder.name}_labels')
    folder.mkdir()
    labels.mkdir()
    for index, (truth, ids) in enumerate(zip(truths, shown, strict=True)):
        cv2.imwrite(str(folder / f'{index}.png'), palette[ids][..., ::-1])
        cv2.imwrite(str(labels / f'{index}.png'), truth)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    truths = [rng.integers(0, 12, SIZE).astype(np.uint8) for _ in range(4)]
    shown = [t.copy() for t in truths]
    shown[0][:12, :20] = 5  # a quarter of one frame is wrong
    truths[1][:4] = 255
    return write(tmp_path / 'drive', load_class_set('driving').palette(), truths, shown)


@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino', 'torch'])
def test_counts_what_is_right_and_wrong_to_the_pixel(bundle: ModelBundle, folder: Path,
                                                     engine: str) -> None:
    source = open_source(folder, classes='driving')
    seen: list[tuple[int, int, str]] = []
    result = evaluate(bundle, source, engine=engine, precision='fp32',
                      progress=lambda *a: seen.append(a))
    truth = cv2.imread(str(folder.with_name('drive_labels') / '0.png'), cv2.IMREAD_UNCHANGED)
    wrong = int((truth[:12, :20] != 5).sum())
    pixels = 4 * SIZE[0] * SIZE[1] - 4 * SIZE[1]
    assert result.matrix.pixels == pixels
    assert result.matrix.pixel_accuracy() == pytest.approx(1 - wrong / pixels)
    # Whatever was hidden was taken for class 5.
    assert int(result.matrix.counts[:, 5].sum() - result.matrix.counts[5, 5]) == wrong
    assert (result.frames, result.bad_frames, result.unlabelled_frames) == (4, 0, 0)
    assert seen[-1][:2] == (4, 4)
    assert result.engine == engine
    assert result.precision == 'fp32'


def test_the_dict_says_what_was_measured_on_what(bundle: ModelBundle, folder: Path) -> None:
    source = open_source(folder, classes='driving')
    result = evaluate(bundle, source, engine='onnxruntime', limit=2)
    data = json.loads(json.dumps(result.to_dict()))
    assert data['bundle_hash'] == bundle.hash
    assert data['data_fingerprint'] == source.fingerprint
    assert data['frames'] == 2
    assert data['class_map'] == ''
    assert data['mean_iou'] == pytest.approx(result.mean_iou)
    assert set(data['classes']['road']) == {'iou', 'precision', 'recall', 'f1', 'share'}


def test_truth_is_mapped_to_the_classes_of_the_model(bundle: ModelBundle,
                                                     tmp_path: Path) -> None:
    carla, driving = load_class_set('carla'), load_class_set('driving')
    tags = np.random.default_rng(1).integers(0, 29, SIZE).astype(np.uint8)
    ids = load_class_map(carla, driving)(tags)
    shown = np.where(ids == 255, 0, ids).astype(np.uint8)
    folder = write(tmp_path / 'carla', driving.palette(), [tags], [shown])
    result = evaluate(bundle, open_source(folder, classes='carla'), engine='onnxruntime')
    assert result.mean_iou == 1
    assert result.matrix.pixels == int((ids != 255).sum())
    assert result.class_map == 'carla->driving'


def test_predictions_are_mapped_where_only_that_map_exists(tmp_path: Path) -> None:
    carla, driving = load_class_set('carla'), load_class_set('driving')
    model = make_bundle(tmp_path / 'carla_model', carla)
    tags = np.random.default_rng(2).integers(0, 29, SIZE).astype(np.uint8)
    truth = load_class_map(carla, driving)(tags)
    folder = write(tmp_path / 'drive', carla.palette(), [truth], [tags])
    result = evaluate(model, open_source(folder, classes='driving'), engine='onnxruntime')
    assert result.classes.name == 'driving'
    assert result.mean_iou == 1
    assert result.class_map == 'carla->driving'  # predictions to the classes of the labels


def test_a_class_for_void_is_left_out_by_a_map_of_the_predictions(tmp_path: Path) -> None:
    three = ClassSet.from_names('with_void', ['a', 'b', 'void'])
    model = make_bundle(tmp_path / 'model', three)
    shown = np.random.default_rng(3).integers(0, 3, SIZE).astype(np.uint8)
    truth = np.where(shown == 2, 0, shown).astype(np.uint8)
    folder = write(tmp_path / 'drive', three.palette(), [truth], [shown])
    (tmp_path / 'two.yaml').write_text(yaml.safe_dump(
        ClassSet.from_names('two', ['a', 'b']).to_dict()))
    (tmp_path / 'map.yaml').write_text(
        'source: with_void\ntarget: two\nmap: {a: [a], b: [b]}\nignore: [void]\n')
    result = evaluate(model, open_source(folder, classes=str(tmp_path / 'two.yaml')),
                      engine='onnxruntime', class_map=str(tmp_path / 'map.yaml'))
    assert result.class_map == 'with_void->two'
    # What was called void is missed, and taken for no other class.
    assert result.matrix.counts[0].tolist() == [(shown == 0).sum(), 0, (shown == 2).sum()]
    assert result.matrix.precision().tolist() == [1, 1]


@pytest.mark.parametrize(('head', 'more', 'left', 'message'), [
    ('', {'ignore': ['void', 'a']}, 'a', r"nothing maps to \['a'\] of 'three'"),
    ('', {'drop': ['void', 'b']}, 'b', r"nothing maps to \['b'\] of 'three'"),
    ('', {}, '', r"nothing maps to \['void'\] of 'with_void'"),  # could be of either
    ('source: three\ntarget: with_void\n', {'ignore': ['void']}, 'a',
     "'void' is no class of 'three'"),
    ('source: with_void\ntarget: three\n', {'ignore': ['vood']}, '',
     "'vood' is no class of 'with_void'"),
], ids=str)
def test_the_error_of_a_map_is_that_of_its_direction(
        tmp_path: Path, head: str, more: dict, left: str, message: str) -> None:
    names = ['a', 'b', 'c']
    model = make_bundle(tmp_path / 'model', ClassSet.from_names('with_void', [*names, 'void']))
    truth = np.zeros(SIZE, np.uint8)
    three = ClassSet.from_names('three', names)
    folder = write(tmp_path / 'drive', three.palette(), [truth], [truth])
    (tmp_path / 'three.yaml').write_text(yaml.safe_dump(three.to_dict()))
    (tmp_path / 'map.yaml').write_text(head + yaml.safe_dump(
        {'map': {n: [n] for n in names if n != left}, **more}))
    with pytest.raises(ConfigError, match=message):
        evaluate(model, open_source(folder, classes=str(tmp_path / 'three.yaml')),
                 engine='onnxruntime', class_map=str(tmp_path / 'map.yaml'))


def test_other_sizes_are_measured_at_the_size_of_the_labels(bundle: ModelBundle,
                                                            tmp_path: Path) -> None:
    truth = np.repeat(np.arange(12, dtype=np.uint8), 10)[None].repeat(72, 0)
    folder = write(tmp_path / 'large', load_class_set('driving').palette(), [truth], [truth])
    result = evaluate(bundle, open_source(folder, classes='driving'), engine='onnxruntime')
    assert result.matrix.pixels == truth.size
    assert result.matrix.pixel_accuracy() > 0.75


def test_uncertain_pixels_are_missed_above_the_threshold(bundle: ModelBundle,
                                                         tmp_path: Path) -> None:
    palette = load_class_set('driving').palette()
    # Sky is shown in a colour half way to that of vehicles.
    palette[9] = (palette[9].astype(int) + palette[11]) // 2
    truth = np.zeros(SIZE, np.uint8)
    truth[:, 30:] = 9
    source = open_source(write(tmp_path / 'drive', palette, [truth], [truth]), classes='driving')
    result = evaluate(bundle, source, engine='onnxruntime', confidence_threshold=0.9)
    assert int(result.matrix.counts[9, -1]) == SIZE[0] * 10
    assert int(result.matrix.counts[0, 0]) == SIZE[0] * 30


def test_damaged_and_unlabelled_frames_are_counted(bundle: ModelBundle, folder: Path) -> None:
    (folder / '2.png').write_bytes(b'no picture')
    (folder.with_name('drive_labels') / '3.png').unlink()
    result = evaluate(bundle, open_source(folder, classes='driving'), engine='onnxruntime')
    assert (result.frames, result.bad_frames, result.unlabelled_frames) == (2, 1, 1)


def test_what_cannot_be_measured_is_refused(bundle: ModelBundle, folder: Path,
                                            tmp_path: Path) -> None:
    source = open_source(folder, classes='driving')
    with pytest.raises(ConfigError, match='no class_map|no class map|no such file|known:'):
        evaluate(bundle, source, class_map='nothing')
    with pytest.raises(ConfigError, match='confidence threshold 2'):
        evaluate(bundle, source, confidence_threshold=2)
    bare = tmp_path / 'bare'
    bare.mkdir()
    cv2.imwrite(str(bare / '0.png'), np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(BagError, match='has no labels to evaluate on'):
        evaluate(bundle, open_source(bare))
    with pytest.raises(ConfigError, match='what do their ids mean'):
        evaluate(bundle, open_source(folder))
    cv2.imwrite(str(folder.with_name('drive_labels') / '1.png'), np.zeros((5, 5), np.uint8))
    with pytest.raises(ImageError, match='5x5'):
        evaluate(bundle, source, engine='onnxruntime')
    for file in folder.iterdir():
        file.write_bytes(b'no picture')
    with pytest.raises(BagError, match='not one of 4 frames could be measured'):
        evaluate(bundle, source, engine='onnxruntime')


@pytest.fixture(scope='module')
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded street with all that the simulator knows, without loss."""
    from kd_perception.cli.recording import record_simulation, TRUTH
    return record_simulation(
        tmp_path_factory.mktemp('street') / 'drive', frames=4, rate_hz=10.0, start_s=2.0,
        width=96, height=64, encoding='png', truth=tuple(TRUTH))


def test_a_recording_knows_as_much_as_the_simulator(bundle: ModelBundle, drive: Path) -> None:
    from kd_perception.simulation.source import SimulatorSource
    street = SimulatorSource('clear', seed=0, frames=4, rate_hz=10.0, start_s=2.0, width=96,
                             height=64)
    drawn = evaluate(bundle, street, engine='onnxruntime', precision='fp32')
    read = evaluate(bundle, open_source(drive), engine='onnxruntime', precision='fp32')
    assert drawn.flicker.method == 'reprojected'
    assert drawn.flicker.n == 3
    assert drawn.objects.cell().n > 20
    assert drawn.calibration.pixels == drawn.matrix.pixels
    for name in ('boundary', 'flicker', 'calibration'):
        assert read.to_dict()[name] == drawn.to_dict()[name]
    assert read.objects.rows() == drawn.objects.rows()
    data = json.loads(json.dumps(read.to_dict(), allow_nan=False))
    assert data['objects']['cells'][0]['found']['estimate'] <= 1
    assert data['boundary']['classes'][0]['class'] == 'road'
    assert data['boundary']['n'] == 4


def test_what_nobody_asked_for_is_not_measured(bundle: ModelBundle, drive: Path) -> None:
    data = evaluate(bundle, open_source(drive), engine='onnxruntime', limit=2,
                    measures=()).to_dict()
    assert [data[n] for n in ('boundary', 'objects', 'flicker', 'calibration')] == [None] * 4


@pytest.mark.parametrize(('step_s', 'method'), [(0.1, 'optical flow'), (1.0, None)])
def test_without_depth_flicker_follows_the_pictures(bundle: ModelBundle, tmp_path: Path,
                                                    step_s: float, method: str | None) -> None:
    """Frames a second apart show nothing of the kind."""
    from kd_perception.bags.writer import BagWriter
    classes = load_class_set('driving')
    ids = np.kron(np.random.default_rng(0).integers(0, 12, (3, 5)), np.ones((8, 8))).astype('u1')
    with BagWriter(tmp_path / 'drive') as writer:
        for n in range(3):
            stamp, shown = 10 ** 9 + round(n * step_s * 1e9), np.roll(ids, n, axis=1)
            writer.write_image('camera/image', classes.palette()[shown], stamp, 'front', 'png')
            writer.write_labels('camera/labels', shown, stamp, 'front')
        writer.write_label_info('camera/label_info', classes, 10 ** 9)
    found = evaluate(bundle, open_source(tmp_path / 'drive'), engine='onnxruntime').flicker
    assert (found and found.method) == method
    assert found is None or found.share.estimate == 0  # it is right everywhere


def test_what_is_damaged_is_not_known(drive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kd_perception.bags.known import RecordedTruth
    from kd_perception.bags.reader import BagReader
    with BagReader(drive) as reader:
        truth = RecordedTruth(reader, reader.camera_topics[0].name)
        known = truth.of(0)
        assert known.instances.shape == known.depth.shape == (64, 96)
        assert known.lens[2:] == (48, 32)
        assert len(known.table.ids) == len(known.table.roles) > 5
        depth, instances = (reader.index(f'camera/{n}') for n in ('depth', 'instances'))
        whole = depth.message(0)

        def cut(position: int) -> object:
            return type(whole)(**{**vars(whole), 'data': whole.data[:9]})

        def gone(position: int) -> object:
            raise BagError('damaged')

        monkeypatch.setattr(depth, 'message', cut)
        assert truth.of(1).depth is None
        assert truth.of(1).table is not None
        monkeypatch.setattr(instances, 'message', gone)
        assert truth.of(1) is None
