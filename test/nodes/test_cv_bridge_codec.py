"""The choice between cv_bridge and our own codec; stand-ins for its builds, good and broken."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from kd_perception.errors import ImageError
from kd_perception.imaging import decode_image, OWN_CODEC
from kd_perception.nodes import cv_bridge_codec as codecs

# What a working build does, for as much as the self-test asks at the least.
WORKING = '''
import numpy as np
class CvBridge:
    def imgmsg_to_cv2(self, msg, wanted):
        if msg.encoding not in ('rgb8', 'bgr8', 'mono8'):
            raise TypeError('Unrecognized image encoding')
        data = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.step)
        if msg.encoding == 'mono8':
            return np.repeat(data[:, :msg.width, None], 3, axis=2)
        return data[:, :3 * msg.width].reshape(msg.height, msg.width, 3)[:, :, ::-1].copy()
'''
BROKEN = {
    'import': "raise ImportError('numpy.core.multiarray failed to import')",
    'signal': 'import os, signal; os.kill(os.getpid(), signal.SIGSEGV)',
    'exit': 'raise SystemExit(3)',
    'pixels': WORKING.replace('[:, :, ::-1]', ''),
    'shape': WORKING.replace('np.repeat(data[:, :msg.width, None], 3, axis=2)', 'data'),
    'error': WORKING.replace('data = np', 'raise AttributeError("newbyteorder"); data = np'),
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that puts a module cv_bridge on the path, here and for child processes."""
    monkeypatch.delenv(codecs.VARIABLE, raising=False)

    def put(source):
        (tmp_path / 'cv_bridge.py').write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv('PYTHONPATH', ':'.join([str(tmp_path), *filter(None, sys.path)]))
        monkeypatch.delitem(sys.modules, 'cv_bridge', raising=False)

    codecs.probe_cv_bridge.cache_clear()
    yield put
    sys.modules.pop('cv_bridge', None)
    codecs.probe_cv_bridge.cache_clear()


def message(encoding='rgb8', step=24, **fields):
    data = np.random.default_rng(0).integers(0, 256, 6 * step, np.uint8).tobytes()
    return SimpleNamespace(**{'encoding': encoding, 'height': 6, 'width': 8, 'step': step,
                              'is_bigendian': 0, 'data': data, **fields})


def test_a_working_build_is_used_for_what_it_can(install):
    install(WORKING)
    encodings, reason = codecs.probe_cv_bridge()
    assert encodings == {'rgb8', 'bgr8', 'mono8'}
    assert 'passes its self-test for 3 of' in reason
    codec = codecs.choose_codec()
    assert codec.name == 'cv_bridge'
    for name, step in (('rgb8', 24), ('bgr8', 30), ('mono8', 9), ('rgb8', 25), ('bgra8', 32),
                       ('mono16', 16), ('yuyv', 16)):
        given = message(name, step)
        for order in ('rgb', 'bgr'):
            np.testing.assert_array_equal(codec.decode(given, order), decode_image(given, order))


@pytest.mark.parametrize(('kind', 'reason'), [
    ('import', 'numpy.core.multiarray'), ('signal', 'crashed by signal 11'),
    ('exit', 'no answer'), ('pixels', 'gives other pixels'), ('shape', 'gives uint8'),
    ('error', 'newbyteorder')])
def test_a_broken_build_is_left_alone(install, kind, reason):
    install(BROKEN[kind])
    encodings, why = codecs.probe_cv_bridge()
    assert not encodings
    assert 'fails its self-test' in why
    assert reason in why
    assert codecs.choose_codec() is OWN_CODEC


def test_it_can_be_kept_out(install, monkeypatch):
    install(WORKING)
    monkeypatch.setenv(codecs.VARIABLE, 'own')
    assert codecs.choose_codec() is OWN_CODEC
    assert codecs.VARIABLE in codecs.probe_cv_bridge()[1]


def test_without_it_nothing_is_started(monkeypatch):
    codecs.probe_cv_bridge.cache_clear()
    monkeypatch.delenv(codecs.VARIABLE, raising=False)
    monkeypatch.setattr(codecs.importlib.util, 'find_spec', lambda _: None)
    monkeypatch.setattr(codecs.subprocess, 'run', None)
    assert codecs.choose_codec() is OWN_CODEC
    codecs.probe_cv_bridge.cache_clear()


def test_messages_that_do_not_fit_never_reach_it(install):
    install(WORKING.replace('if msg.encoding not in', 'assert msg.encoding != "bgr8"\n'
                            '        if msg.encoding not in'))
    codec = codecs.CvBridgeCodec(frozenset({'bgr8'}))
    with pytest.raises(ImageError, match='but carries'):
        codec.decode(message('bgr8', data=b'123'))
    with pytest.raises(ImageError, match='^cv_bridge cannot decode bgr8: '):
        codec.decode(message('bgr8'))
    # Padding that is no whole pixel, missing padding, foreign endianness: done here.
    for given in (message('bgr8', 25), message('bgr8', is_bigendian=1),
                  message('bgr8', 27, data=bytes(27 * 5 + 24))):
        np.testing.assert_array_equal(codec.decode(given), decode_image(given))
