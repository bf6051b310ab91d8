"""kill -9 in the middle of a swap: the next node serves the same model, from a whole cache."""

from __future__ import annotations

from contextlib import contextmanager
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import String

from kd_perception.nodes import qos
from kd_perception.nodes.conversion import header, image_message


@contextmanager
def running(models, model, cache, log):
    """Run a node with OpenVINO, whose artefacts go to a cache of its own."""
    pytest.importorskip('openvino')
    given = {'models_dir': models, 'model': model, 'engine': 'openvino', 'precision': 'fp32',
             'threads': 1}
    command = [sys.executable, '-m', 'kd_perception.nodes.perception.node', '--ros-args']
    for name, value in given.items():
        command += ['-p', f'{name}:={value}']
    with log.open('w') as stream:
        process = subprocess.Popen(command, env={**os.environ, 'XDG_CACHE_HOME': str(cache)},
                                   stderr=stream)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='needs SIGKILL')
def test_killed_while_a_model_is_loaded(bench, bundles, tmp_path):
    active = bench.collect(String, 'perception/active_model', qos.latched())
    cache = tmp_path / 'cache'
    engines = cache / 'kd_perception' / 'engines'
    with running(bundles, 'one', cache, tmp_path / 'first.log') as process:
        bench.spin_until(lambda: active, 60.0)
        assert len(list(engines.iterdir())) == 1
        # The answer says that loading has begun; its artefact is not there yet.
        assert bench.set_parameters('/perception', model='two')[0].successful
        process.send_signal(signal.SIGKILL)
        process.wait()
    active.clear()
    masks = bench.collect(Image, 'segmentation/mask', qos.stream(5))
    publisher = bench.node.create_publisher(Image, 'image', qos.stream(5))
    picture = image_message(np.zeros((48, 64, 3), np.uint8), 'rgb8', header(1, 'c'))
    with running(bundles, 'two', cache, tmp_path / 'second.log') as process:
        bench.spin_until(lambda: active, 60.0)
        assert json.loads(active[-1].data)['model'] == 'two'

        def answered():
            publisher.publish(picture)
            bench.spin_for(0.1)
            return masks

        bench.spin_until(answered)
        process.send_signal(signal.SIGINT)
        assert process.wait(30.0) == 0
    assert len([p for p in engines.iterdir() if not p.name.startswith('.')]) == 2
    said = (tmp_path / 'second.log').read_text()
    assert 'damaged' not in said
    assert 'Traceback' not in said
