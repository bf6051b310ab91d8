"""A fresh process up to its first mask: torch, which takes seconds, is no part of it."""

import os
from pathlib import Path
import signal
import subprocess
import sys

import pytest

NODE = '''
import sys
from kd_perception.nodes.perception.node import main
code = main(sys.argv[1:])
print(*sorted({'torch', 'onnxruntime', 'openvino'} & set(sys.modules)))
sys.exit(code)
'''


@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino'])
def test_the_first_mask_comes_without_torch(bench, camera, bundles, engine):
    pytest.importorskip(engine)
    command = [sys.executable, '-c', NODE, '--ros-args', '--log-level', 'warn']
    for name, value in {'models_dir': bundles, 'model': 'one', 'engine': engine,
                        'threads': 1}.items():
        command += ['-p', f'{name}:={value}']
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        bench.spin_until(lambda: bench.node.count_subscribers('/image'), 60.0)
        front = camera()

        def answered():
            front.send()
            bench.spin_for(0.1)
            return front.masks

        bench.spin_until(answered, 60.0)
        mapped = Path(f'/proc/{process.pid}/maps').read_text()
        assert 'libtorch' not in mapped
        assert engine in mapped
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert (process.returncode, said.split()) == (0, [engine])
    finally:
        process.kill()
        process.wait()
