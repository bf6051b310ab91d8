"""From foreign graphs to bundles, and what they say then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import subprocess
import sys

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import pytest

from kd_perception.bundle import DEPLOY, load_bundle, LOGITS
from kd_perception.engines.loader import load_engine
from kd_perception.errors import BundleError, ConfigError, KdPerceptionError
from kd_perception.imaging import encode_png
from kd_perception.networks.foreign.import_onnx import import_onnx
from kd_perception.networks.foreign.names import class_set, usable
from kd_perception.networks.foreign.wishes import wishes

SIZE = (32, 48)
Make = Callable[..., Path]
PLAIN = {'range': '0..1', 'mean': 'none', 'std': 'none'}


def asked(**said: object) -> object:
    return wishes({**PLAIN, **said}, 'test')


def picture() -> np.ndarray:
    """Return flat patches, so that strides and upsampling leave their middles alone."""
    patches = np.random.default_rng(1).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return patches.repeat(8, 0).repeat(8, 1)


def best_class(weights: np.ndarray, image: np.ndarray, order: str = 'rgb') -> np.ndarray:
    pixels = image.astype(np.float64) / 255
    return (pixels[..., ::-1 if order == 'bgr' else 1] @ weights.T.astype(np.float64)).argmax(-1)


@pytest.mark.parametrize('options', [
    {'opset': 11, 'batch': 1},
    {'opset': 21, 'layout': 'nhwc', 'out_layout': 'nhwc', 'ends': 'softmax'},
    {'dtype': 'uint8', 'layout': 'nhwc', 'ends': 'ids'},
    {'dtype': 'float16', 'ends': 'softmax', 'stride': 1},
    {'opset': 9, 'size': ('h', 'w'), 'stride': 4},
], ids=str)
def test_a_graph_says_in_our_form_what_it_said(make_graph: Make, weights: np.ndarray,
                                               tmp_path: Path, options: dict) -> None:
    said = {} if options.get('size', SIZE) == SIZE else {'size': '48x32'}
    if options.get('dtype') == 'uint8':
        said.update(range=None, mean=None, std=None)
    result = import_onnx(make_graph(**options), tmp_path / 'b', asked(classes='a,b,c,d', **said))
    assert [a.runtime for a in result.agreements] == ['onnxruntime', 'openvino']
    bundle = load_bundle(tmp_path / 'b')
    assert bundle.has(LOGITS) == (options.get('ends') != 'ids')
    image = picture()
    outputs = load_engine(bundle, 'onnxruntime').infer(image[None])
    middle = (slice(3, None, 8), slice(3, None, 8))
    assert np.array_equal(outputs['mask'][0][middle], best_class(weights, image)[middle])
    if options.get('ends') == 'ids':
        assert (outputs['confidence'] == 255).all()
        assert any('cannot write soft' in c for c in result.cautions)
    else:
        share = np.exp(picture() / 255 @ weights.T)
        share = (share / share.sum(-1, keepdims=True)).max(-1)
        assert np.abs(outputs['confidence'][0][middle] / 255.0 - share[middle]).max() < 0.01


def test_order_range_and_mean_are_those_asked_for(make_graph: Make, weights: np.ndarray,
                                                  tmp_path: Path) -> None:
    bundle = import_onnx(make_graph(stride=1), tmp_path / 'b', asked(
        channel_order='bgr', range='-1..1', mean=[0.1, -0.2, 0.3], std=[0.5, 2, 1])).bundle
    image = picture()  # in the order of the bundle
    x = (image / 127.5 - 1 - [0.1, -0.2, 0.3]) / [0.5, 2, 1]
    expected = x @ weights.T.astype(np.float64)
    engine = load_engine(bundle, 'onnxruntime', graph='logits')
    got = engine.infer(image[None])['logits'][0]
    np.testing.assert_allclose(got, np.moveaxis(expected, -1, 0), atol=1e-3)
    assert bundle.spec.input.channel_order == 'bgr'
    assert bundle.spec.classes.names[0] == 'class_0'


def test_one_score_per_pixel_makes_two_classes(make_graph: Make, weights: np.ndarray,
                                               tmp_path: Path) -> None:
    bundle = import_onnx(make_graph(classes=1, ends='sigmoid', stride=1), tmp_path / 'b',
                         asked(classes='rest,thing')).bundle
    image = picture()
    outputs = load_engine(bundle, 'onnxruntime').infer(image[None])
    thing = image / 255 @ weights[0] > 0
    assert np.array_equal(outputs['mask'][0].astype(bool), thing)


def test_guesses_are_shown_and_names_found(make_graph: Make) -> None:
    shown: list = []
    names = "{0: 'a', 1: 'b', 2: 'c', 3: 'd'}"
    result = import_onnx(make_graph(metadata={'names': names}, dtype='uint8'), None,
                         show=shown.extend)
    facts = {f.key: f for f in shown}
    assert result.bundle is None
    assert facts['layout'].value == 'nchw'
    assert facts['range'].why == 'the graph takes bytes'
    assert (facts['values'].value, facts['values'].how) == ('logits', 'guessed')
    assert facts['classes'].value.endswith('a, b, c, d')
    assert 'metadata' in facts['classes'].why
    facts = {f.key: f for f in import_onnx(make_graph(), None).facts}
    facts_of_std = {f.key: f for f in import_onnx(make_graph(), None, wishes(
        {'std': '58,57,57'}, '')).facts}
    assert (facts_of_std['range'].value, facts_of_std['range'].how) == ('0..255', 'guessed')
    assert facts['mean'].how == 'default'
    for key in ('range', 'channel_order', 'mean', 'std'):
        assert 'check with the training code' in facts[key].why
    facts = {f.key: f for f in import_onnx(make_graph(), None, asked(channel_order='rgb')).facts}
    assert (facts['channel_order'].how, facts['channel_order'].why) == ('asked', '')


@pytest.mark.parametrize(('names', 'expected'), [
    ("{0: 'a', 1: 'b', 2: '', 3: 'd'}", 'a, b, class_2, d'),
    ('["class_1", " ", "a", "a"]', 'class_1, class_1 (2), a, a (2)'),
    ("['a', 'a', 'a (2)', 'a']", 'a, a (2), a (2) (2), a (3)'),
    ("['', '', ' ', '']", 'class_0, class_1, class_2, class_3'),
])
def test_odd_names_in_metadata_are_no_error(make_graph: Make, names: str, expected: str) -> None:
    facts = {f.key: f for f in import_onnx(make_graph(metadata={'names': names}), None,
                                           asked()).facts}
    assert facts['classes'].value == f'4 of net: {expected}'


def test_many_equal_names_are_told_apart_at_once() -> None:
    names = usable(['a'] * 60_000)
    assert len(set(names)) == 60_000
    assert names[-1] == 'a (60000)'


def test_a_name_that_the_user_left_out_is_an_error() -> None:
    with pytest.raises(ConfigError, match='classes: holds an empty name'):
        class_set('a,,b', 'net')


@pytest.mark.parametrize(('said', 'other', 'value'), [
    ({'mean': 'imagenet'}, 'std', '0.229 0.224 0.225'),
    ({'std': 'imagenet'}, 'mean', '0.485 0.456 0.406'),
    ({'mean': 0.5}, 'std', '1 1 1'), ({'std': 0.5}, 'mean', '0 0 0')], ids=str)
def test_those_of_imagenet_are_a_pair(make_graph: Make, said: dict, other: str,
                                      value: str) -> None:
    facts = {f.key: f for f in import_onnx(make_graph(), None, wishes(said, '')).facts}
    assert (facts[other].value, facts[other].how) == (value, 'default')
    assert facts[next(iter(said))].how == 'asked'


@pytest.mark.parametrize('ends', ['float ids', 'float plane', 'float of two', 'float guess'])
def test_ids_in_floats_are_ids(make_graph: Make, weights: np.ndarray, tmp_path: Path,
                               ends: str) -> None:
    names = 'a,b' if ends == 'float of two' else 'a,b,c,d'
    path = make_graph(ends=ends, stride=1, classes=len(names.split(',')))
    with pytest.raises(BundleError, match='gives ids, so nothing tells how many classes'):
        import_onnx(path, None, asked())
    result = import_onnx(path, tmp_path / 'b', asked(classes=names))
    image = picture()
    mask = load_engine(result.bundle, 'onnxruntime').infer(image[None])['mask'][0]
    expected = best_class(weights[:len(names.split(','))], image)
    assert np.array_equal(mask, expected)
    assert expected.any()
    facts = {f.key: f for f in result.facts}
    assert facts['values'].value == 'ids'
    assert facts['values'].how == ('guessed' if ends == 'float guess' else 'graph')


def test_scores_without_an_axis_of_classes_hint_at_ids(make_graph: Make) -> None:
    with pytest.raises(BundleError, match='say --values ids'):
        import_onnx(make_graph(ends='one map'), None, asked())


def test_one_score_per_pixel_may_lack_its_axis(make_graph: Make, tmp_path: Path) -> None:
    path = make_graph(ends='sigmoid of one', classes=1, stride=1)
    result = import_onnx(path, tmp_path / 'b', asked(classes='rest,thing'))
    facts = {f.key: f for f in result.facts}
    assert (facts['values'].value, facts['values'].why) == ('probabilities',
                                                            'the graph ends in Sigmoid')
    wide = import_onnx(make_graph(ends='sigmoid', classes=1, stride=1), tmp_path / 'c',
                       asked(classes='rest,thing')).bundle
    image = picture()[None]
    a, b = (load_engine(x, 'onnxruntime').infer(image) for x in (result.bundle, wide))
    assert np.array_equal(a['mask'], b['mask'])
    assert 0 < a['mask'].mean() < 1
    assert np.array_equal(a['confidence'], b['confidence'])


def test_ids_without_a_class_are_told(make_graph: Make, tmp_path: Path) -> None:
    path, image = make_graph(ends='ids', stride=1), tmp_path / 'i.png'
    image.write_bytes(encode_png(picture()))
    fine = import_onnx(path, None, asked(classes='4'), image=image).cautions
    assert not any('without' in c for c in fine)
    told = import_onnx(path, None, asked(classes='a,b,c'), image=image).cautions[0]
    assert 'ids without a class (3) on 0.1' in told
    path = make_graph(ends='far ids', stride=1)
    with pytest.raises(BundleError, match=r'without a class \(100.*on the whole frame'):
        import_onnx(path, tmp_path / 'b', asked(classes='a,b'))
    assert not (tmp_path / 'b').exists()


@pytest.mark.parametrize('mode', ['linear', 'nearest'])
def test_old_graphs_are_resized_as_they_were(make_graph: Make, weights: np.ndarray,
                                             tmp_path: Path, mode: str) -> None:
    # Opset 9 resizes from the upper left corner, which no attribute says.
    path = make_graph(opset=9, ends=f'upsample {mode}', stride=4)
    import_onnx(path, tmp_path / 'b', asked(classes='a,b,c,d'))
    image = picture()[None]
    got = load_engine(load_bundle(tmp_path / 'b'), 'onnxruntime', graph='logits').infer(image)
    coarse = np.einsum('nhwc,kc->nkhw', image[:, ::4, ::4] / 255, weights)
    at = np.arange(SIZE[0]) / 4 if mode == 'linear' else np.arange(SIZE[0]) // 4
    low = np.minimum(at.astype(int), 7)
    high, share = np.minimum(low + 1, 7), (at - low)[:, None]
    rows = coarse[:, :, low] * (1 - share) + coarse[:, :, high] * share
    np.testing.assert_allclose(got['logits'][..., ::4], rows, atol=1e-3)


def test_several_outputs_are_chosen_by_name(make_graph: Make, tmp_path: Path) -> None:
    path = make_graph(more_outputs=True, stride=1)
    with pytest.raises(BundleError, match='choose one with --output: logits .*other'):
        import_onnx(path, None, asked())
    with pytest.raises(BundleError, match="no output 'nose'; it has"):
        import_onnx(path, None, asked(output='nose'))
    bundle = import_onnx(path, tmp_path / 'b', asked(output='other')).bundle
    first = import_onnx(path, tmp_path / 'c', asked(output='logits')).bundle
    image = picture()[None]
    a, b = (load_engine(x, 'onnxruntime', graph='logits').infer(image)['logits']
            for x in (bundle, first))
    np.testing.assert_allclose(a, -b, atol=1e-5)


@pytest.mark.parametrize(('options', 'said', 'message'), [
    ({'size': ('h', 'w')}, {}, 'takes any height; say which with --size'),
    ({}, {'size': '64x64'}, 'takes a height of 32 only, not 64'),
    ({'batch': 4}, {}, 'takes 4 pictures at once'),
    ({}, {'layout': 'nhwc'}, 'layout nhwc does not fit'),
    ({'dtype': 'uint8'}, {'mean': 'imagenet'}, 'takes bytes and so normalises them itself'),
    ({}, {'mean': [123, 117, 104]}, 'is none of the range 0..1'),
    ({}, {'range': '0..255', 'std': 'imagenet'}, r'of range 0\.\.1, not of .*--mean 123\.675'),
    ({}, {'range': '-1..1', 'mean': 'imagenet'}, r'not of -1\.\.1; give --range 0\.\.1$'),
    ({}, {'task': 'classification'}, 'is a map, not the scores of one picture'),
    ({}, {'classes': 'camvid'}, "gives 4 classes, but 'camvid' names 11"),
    ({'ends': 'ids'}, {}, 'name them with --classes'),
    ({'ends': 'sigmoid'}, {'output_layout': 'nhwc', 'values': 'probabilities', 'classes': 'a,b'},
     'gives 24 classes'),
    ({}, {'values': 'probabilities'}, r'from -\S+ to \S+, which are no probabilities; .*logits$'),
    ({'ends': 'log'}, {'values': 'logits'}, 'is not finite for a picture in this range'),
    ({'ends': 'log'}, {'values': 'probabilities'}, 'is not finite'),
])
def test_what_does_not_fit_is_one_line(make_graph: Make, tmp_path: Path, options: dict,
                                       said: dict, message: str) -> None:
    with pytest.raises(KdPerceptionError, match=message) as told:
        import_onnx(make_graph(**options), tmp_path / 'b', asked(**said))
    assert '\n' not in str(told.value)
    assert not (tmp_path / 'b').exists()


def test_branches_read_what_is_outside_of_them(weights: np.ndarray, tmp_path: Path) -> None:
    """An initializer, the picture, what a node makes; and a branch within a branch."""
    def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph(
            [*nodes, helper.make_node('Identity', [f'{name}_x'], [f'{name}_out'])], name, [],
            [helper.make_tensor_value_info(f'{name}_out', TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.float32(1), f'{name}_one')])

    def choice(name: str, *branches: onnx.GraphProto) -> onnx.NodeProto:
        return helper.make_node('If', ['yes'], [name], then_branch=branches[0],
                                else_branch=branches[1])

    inner = choice('a_x', branch('c', helper.make_node('Conv', ['images', 'w'], ['c_x'])),
                   branch('d', helper.make_node('Neg', ['plain'], ['d_x'])))
    nodes = [helper.make_node('Conv', ['images', 'w'], ['plain']),
             choice('chosen', branch('a', inner),
                    branch('b', helper.make_node('Mul', ['plain', 'b_one'], ['b_x']))),
             choice('logits', branch('e', helper.make_node('Mul', ['chosen', 'two'], ['e_x'])),
                    branch('f', helper.make_node('Add', ['plain', 'two'], ['f_x'])))]
    graph = helper.make_graph(
        nodes, 'g', [helper.make_tensor_value_info('images', TensorProto.FLOAT, [1, 3, *SIZE])],
        [helper.make_tensor_value_info('logits', TensorProto.FLOAT, [1, 4, *SIZE])],
        [numpy_helper.from_array(weights[:, :, None, None], 'w'),
         numpy_helper.from_array(np.float32(2), 'two'),
         numpy_helper.from_array(np.array(True), 'yes')])
    onnx.save(helper.make_model(graph, ir_version=8,
                                opset_imports=[helper.make_opsetid('', 17)]), tmp_path / 'i.onnx')
    result = import_onnx(tmp_path / 'i.onnx', tmp_path / 'b', asked())
    assert [a.pixels for a in result.agreements] == [1] * len(result.agreements)
    image = picture()
    mask = load_engine(result.bundle, 'onnxruntime').infer(image[None])['mask'][0]
    assert np.array_equal(mask, best_class(weights, image))


def test_an_empty_output_is_one_line(tmp_path: Path) -> None:
    nodes = [helper.make_node('Slice', ['images', 'none', 'none', 'rows'], ['logits'])]
    shape = [1, 3, *SIZE]
    graph = helper.make_graph(
        nodes, 'nothing', [helper.make_tensor_value_info('images', TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info('logits', TensorProto.FLOAT, [1, 3, 0, SIZE[1]])],
        [numpy_helper.from_array(np.array([0]), 'none'),
         numpy_helper.from_array(np.array([2]), 'rows')])
    onnx.save(helper.make_model(graph, ir_version=8,
                                opset_imports=[helper.make_opsetid('', 17)]), tmp_path / 'n.onnx')
    for said in ({}, {'values': 'logits'}, {'values': 'ids', 'classes': 'a,b'}):
        with pytest.raises(BundleError, match=r'gives an empty output \[1, 3, 0, 48\]'):
            import_onnx(tmp_path / 'n.onnx', None, asked(**said))


def test_an_existing_bundle_stays(make_graph: Make, tmp_path: Path) -> None:
    (tmp_path / 'b').mkdir()
    with pytest.raises(BundleError, match='exists'):
        import_onnx(make_graph(), tmp_path / 'b')


def test_it_drives_without_torch_and_onnx(make_graph: Make, tmp_path: Path) -> None:
    import_onnx(make_graph(), tmp_path / 'b', asked(resize='letterbox'))
    code = f'''
import sys, types, numpy as np
from kd_perception.nodes.perception.serving import ServingModel, ServingSettings
model = ServingModel.load(ServingSettings(model={str(tmp_path / 'b')!r}, engine='onnxruntime'))
image = np.zeros((30, 30, 3), np.uint8)
message = types.SimpleNamespace(height=30, width=30, encoding='rgb8', step=90, is_bigendian=0,
                                data=image.tobytes())
assert model.process(message).result.mask.shape == (30, 30)
assert model.process(message, output_size='network').result.mask.shape == (32, 32)
assert not {{'torch', 'onnx'}} & set(sys.modules), 'imported'
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr


def test_wishes_are_strict() -> None:
    for data, message in [
            ({'rnge': '0..1'}, "unknown key 'rnge'; did you mean 'range'"),
            ({'range': '0..2'}, 'choose 0..1, 0..255, -1..1'),
            ({'std': [1, 0, 1]}, 'above zero'), ({'mean': [1, 2]}, 'one or three numbers'),
            ({'mean': True}, 'one or three numbers'),
            ({'std': [1, True, 1]}, 'one or three numbers'),
            ({'size': '640'}, 'as in 640x360'),
            ({'size': '8192x8192'}, r'67 million pixels; at most 33\.6 million'),
            ({'multiple': 'x'}, 'a number of pixels')]:
        with pytest.raises(ConfigError, match=message):
            wishes(data, 'net.yaml')
    assert wishes({'range': [-1, 1]}, '').range == '-1..1'
    assert wishes({'size': [360, 640]}, '').size == wishes({'size': '640x360'}, '').size
    assert wishes({'classes': {0: 'a', 1: 'b'}}, '').classes == ('a', 'b')
    assert DEPLOY == 'deploy.onnx'
