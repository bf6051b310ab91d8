"""Model bundles: what is written is what is read, and any change is noticed."""

from __future__ import annotations

from copy import deepcopy
import hashlib
import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import yaml

from kd_perception.bundle import (
    BundleSpec,
    find_bundle,
    InputSpec,
    Lineage,
    load_bundle,
    MANIFEST,
    NetworkSpec,
    write_bundle,
)
from kd_perception.classes import load_class_set
from kd_perception.errors import BundleError

FILES = {'weights.safetensors': bytes(range(256)) * 3, 'deploy.onnx': b'graph', 'empty.txt': b''}


def make_spec(**changes):
    arguments = {
        'name': 'student', 'task': 'segmentation', 'role': 'student',
        'classes': load_class_set('camvid'),
        'input': InputSpec(height=360, width=640, channel_order='bgr', mean=(0.1, 0.2, 0.3)),
        'network': NetworkSpec('compact', {'width': 32, 'channels': (8, 16), 'name': 'täst'}),
        'lineage': Lineage(parents=('ab',), data=('cd', 'ef'), recipe='01', code_version='0.1.0'),
        'statistics': {'frames': 3, 'share': [0.5, 0.5]}}
    return BundleSpec(**{**arguments, **changes})


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / 'student', make_spec(), FILES)


def reseal(folder: Path, change) -> None:
    """Change the manifest as somebody would who knows how to seal it."""
    manifest = folder / MANIFEST
    body = manifest.read_bytes().rpartition(b'hash: ')[0]
    data = yaml.safe_load(body)
    text = change(data)
    text = (yaml.safe_dump(data) if text is None else text).encode()
    manifest.write_bytes(text + f'hash: {hashlib.sha256(text).hexdigest()}\n'.encode())


def test_round_trip(bundle):
    again = load_bundle(bundle.path)
    assert again == bundle
    spec = again.spec
    assert spec.classes == load_class_set('camvid')
    assert spec.input == make_spec().input
    assert spec.network.builder == 'compact'
    assert spec.network.arguments == {'width': 32, 'channels': [8, 16], 'name': 'täst'}
    assert spec.lineage == make_spec().lineage
    assert spec.statistics == make_spec().statistics
    assert again.has('deploy.onnx')
    assert again.file('deploy.onnx').read_bytes() == b'graph'
    with pytest.raises(BundleError, match='has no logits.onnx; it has deploy.onnx, empty.txt'):
        again.file('logits.onnx')


def test_same_content_same_hash(bundle, tmp_path):
    assert write_bundle(tmp_path / 'other', make_spec(), FILES).hash == bundle.hash
    for other in (make_spec(name='x'), make_spec(statistics={})):
        assert write_bundle(tmp_path / 'other', other, FILES, overwrite=True).hash != bundle.hash
    files = {**FILES, 'deploy.onnx': b'grapH'}
    assert write_bundle(tmp_path / 'other', make_spec(), files, overwrite=True).hash != bundle.hash


def test_files_may_be_copied_from_elsewhere(bundle, tmp_path):
    copy = write_bundle(tmp_path / 'copy', bundle.spec, {n: bundle.path / n for n in FILES})
    assert copy.hash == bundle.hash


@pytest.fixture(scope='module')
def spoilable(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp('bundle') / 'student', make_spec(), FILES)


@settings(max_examples=250)
@given(st.sampled_from([MANIFEST, 'weights.safetensors', 'deploy.onnx']),
       st.integers(0, 10**6), st.integers(1, 255))
def test_a_flipped_byte_anywhere_is_refused(spoilable, name, place, flip):
    path = spoilable.path / name
    whole = path.read_bytes()
    spoilt = bytearray(whole)
    spoilt[place % len(spoilt)] ^= flip
    try:
        path.write_bytes(spoilt)
        with pytest.raises(BundleError) as caught:
            load_bundle(spoilable.path)
        assert '\n' not in str(caught.value)
        assert name in str(caught.value)
    finally:
        path.write_bytes(whole)


def test_the_manifest_is_sealed_to_its_last_byte(spoilable):
    path = spoilable.path / MANIFEST
    whole = path.read_bytes()
    try:
        for place in [*range(0, len(whole) - 80, 9), *range(len(whole) - 80, len(whole))]:
            spoilt = bytearray(whole)
            spoilt[place] ^= 1
            path.write_bytes(spoilt)
            with pytest.raises(BundleError):
                load_bundle(spoilable.path, verify=False)
        for size in range(0, len(whole), 31):
            path.write_bytes(whole[:size])
            with pytest.raises(BundleError):
                load_bundle(spoilable.path, verify=False)
        path.write_bytes(whole + b'\n')
        with pytest.raises(BundleError):
            load_bundle(spoilable.path, verify=False)
    finally:
        path.write_bytes(whole)
    load_bundle(spoilable.path)


def test_lost_and_shortened_files(bundle):
    (bundle.path / 'deploy.onnx').write_bytes(b'grap')
    with pytest.raises(BundleError, match='deploy.onnx: has 4 of 5 bytes'):
        load_bundle(bundle.path)
    found = load_bundle(bundle.path, verify=False)
    with pytest.raises(BundleError, match='deploy.onnx: has 4 of 5 bytes'):
        found.check_complete()
    found.check_complete('weights.safetensors')
    found.verify('weights.safetensors')
    # To see that a byte differs the file must be read.
    (bundle.path / 'deploy.onnx').write_bytes(b'grapH')
    found.check_complete()
    with pytest.raises(BundleError, match='deploy.onnx: content differs'):
        found.verify()
    (bundle.path / 'deploy.onnx').unlink()
    with pytest.raises(BundleError, match='deploy.onnx: is missing'):
        load_bundle(bundle.path)


def test_bundles_that_do_not_say_their_sizes(bundle):
    def forget(data):
        for entry in data['files'].values():
            del entry['bytes']

    reseal(bundle.path, forget)
    (bundle.path / 'deploy.onnx').write_bytes(b'grap')
    found = load_bundle(bundle.path, verify=False)
    found.check_complete()
    with pytest.raises(BundleError, match='deploy.onnx: content differs'):
        found.verify()


@pytest.mark.parametrize('name', ['x' * 300, '~nosuchuser/x', 'a\0b', '/proc/self/mem'])
def test_names_that_cannot_be_paths(name, tmp_path):
    for load in (lambda: find_bundle(name, tmp_path), lambda: find_bundle('x', name),
                 lambda: load_bundle(name)):
        with pytest.raises(BundleError) as caught:
            load()
        assert '\n' not in str(caught.value)


def test_files_that_cannot_be_read(bundle):
    found = load_bundle(bundle.path, verify=False)
    (bundle.path / 'deploy.onnx').unlink()
    # Reading fails for everybody, root included; only the size is known.
    (bundle.path / 'deploy.onnx').symlink_to('/proc/self/mem')
    found.sizes.clear()
    with pytest.raises(BundleError, match='deploy.onnx: not readable'):
        found.verify()


@pytest.mark.parametrize(('change', 'message'), [
    (lambda d: d.update(schema_version=2), 'schema_version 2 is unknown.*reads 1; update'),
    (lambda d: d.update(schema_version='1'), 'schema_version'),
    (lambda d: d.update(colour='red'), "unknown keys \\['colour'\\]"),
    (lambda d: d.update({1: 'red'}), "unknown keys \\['1'\\]"),
    (lambda d: d.pop('task') and None, "key 'task' is missing"),
    (lambda d: d.update(task='driving'), "task 'driving': one of"),
    (lambda d: d.update(task=['a']), 'task'),
    (lambda d: d['input'].update(width=0), 'input size 0x360 is not possible'),
    (lambda d: d['input'].update(width='wide'), 'input'),
    (lambda d: d['input'].update(channel_order='yuv'), 'rgb or bgr'),
    (lambda d: d['input'].update(std=[1, 0, 1]), 'std above zero'),
    (lambda d: d['input'].update(std=[1, 'a', 1]), 'input'),
    (lambda d: d['input'].update(std=[1, float('nan'), 1]), 'three numbers'),
    (lambda d: d['input'].update(height=360.5), 'input size 640x360.5 is not possible'),
    (lambda d: d['input'].update(scale=0.0), 'scale 0.0 is no number above zero'),
    (lambda d: d['input'].update(scale=float('inf')), 'scale inf is no number above zero'),
    (lambda d: d['network'].update(builder=3), 'network builder: 3 is no name'),
    (lambda d: d['network'].update(arguments=[3]), r'arguments: \(3,\) are not values by name'),
    (lambda d: d['network'].update(arguments={3: 4}), 'are not values by name'),
    (lambda d: d['lineage'].update(parents=5), 'lineage parents: 5 is no list of hashes'),
    (lambda d: d['lineage'].update(recipe=None), 'lineage recipe: None is no string'),
    (lambda d: d.update(name=None), 'name None is no string'),
    (lambda d: d.update(role='x' * 10**6 + '\n', task=0), 'task 0'),
    (lambda d: d.update(task='x' * 10**6), 'xxx…$'),
    (lambda d: d['files'].update({'x': {'sha256': '', 'bytes': -1}}), 'bytes -1 is no number'),
    (lambda d: f'schema_version: 0x{"f" * 9000}\n', 'a number of 36000 bits'),
    (lambda d: f'statistics: {"[" * 9000}{"]" * 9000}\n', 'nested deeper than 32'),
    (lambda d: d['input'].update(resize='crop'), "resize 'crop'"),
    (lambda d: d['input'].update(depth=3), "input: unknown keys \\['depth'\\]"),
    (lambda d: d['input'].pop('height') and None, 'height'),
    (lambda d: d.update(input=[1]), 'input: is no mapping'),
    (lambda d: d.update(classes={'name': 'x'}), 'classes: needs'),
    (lambda d: d['classes']['classes'].append(deepcopy(d['classes']['classes'][0])),
     'must differ'),
    (lambda d: d.update(statistics='many'), 'bundle.yaml'),
    (lambda d: d.update(files=None), 'key "files" is missing'),
    (lambda d: d['files'].update({'../x': {'sha256': ''}}), 'no plain file name'),
    (lambda d: d['files'].update({3: {'sha256': ''}}), 'no plain file name'),
    (lambda d: d['files'].update({'x': 'ab'}), 'no plain file name'),
    (lambda d: d['files'].update({'x': {'sha256': '', 'bytes': 'many'}}), "bytes 'many'"),
    (lambda d: '- a\n- b\n', 'bundle.yaml: '),
    (lambda d: 'a: [\n', 'not readable'),
    (lambda d: 'a: 2001-99-99\n', 'not readable'),
])
def test_wrong_manifests_are_refused_in_one_line(change, message, bundle):
    reseal(bundle.path, change)
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(bundle.path)
    assert '\n' not in str(caught.value)
    assert str(bundle.path) in str(caught.value)


def test_what_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match='no such model bundle'):
        load_bundle(tmp_path / 'nothing')
    with pytest.raises(BundleError, match='bundle.yaml is missing'):
        load_bundle(tmp_path)


def test_existing_bundle_is_kept(bundle, tmp_path):
    with pytest.raises(BundleError, match='exists; choose another name or pass --overwrite'):
        write_bundle(bundle.path, make_spec(name='new'), FILES)
    assert load_bundle(bundle.path).spec.name == 'student'
    write_bundle(bundle.path, make_spec(name='new'), FILES, overwrite=True)
    assert load_bundle(bundle.path).spec.name == 'new'
    assert os.listdir(tmp_path) == ['student']


def test_what_is_no_bundle_is_not_overwritten(tmp_path):
    (tmp_path / 'home').mkdir()
    (tmp_path / 'home' / 'letter.txt').write_text('dear')
    (tmp_path / 'empty').mkdir()
    for path in (tmp_path / 'home', tmp_path / 'home' / 'letter.txt'):
        with pytest.raises(BundleError, match='is no model bundle, so it is not overwritten'):
            write_bundle(path, make_spec(), FILES, overwrite=True)
    assert (tmp_path / 'home' / 'letter.txt').read_text() == 'dear'
    assert write_bundle(tmp_path / 'empty', make_spec(), FILES, overwrite=True).spec.name


def test_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_bundle(tmp_path / 'new', make_spec(), {'a': b'1', 'b': tmp_path / 'nowhere'})
    assert os.listdir(tmp_path) == []


def test_names_and_paths(bundle, tmp_path, monkeypatch):
    assert find_bundle('student', tmp_path).hash == bundle.hash
    assert find_bundle(str(bundle.path)).hash == bundle.hash
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path / 'data'))
    with pytest.raises(BundleError, match=r"no model named 'student'.*\(there: none\)"):
        find_bundle('student')
    with pytest.raises(BundleError, match=r"no model named 'teacher'.*\(there: student\)"):
        find_bundle('teacher', tmp_path)
    # A name in the models directory goes before a folder that happens to stand here.
    (tmp_path / 'here' / 'student').mkdir(parents=True)
    monkeypatch.chdir(tmp_path / 'here')
    assert find_bundle('student', tmp_path).path == tmp_path / 'student'
    with pytest.raises(BundleError, match='bundle.yaml is missing'):
        find_bundle('./student', tmp_path)
