"""
Mutated images over real DDS to perception nodes in processes of their own.

Each message is sent when the one before is settled, so that the counters must be exact. What
cannot even be deserialized is told apart by the good frame that is sent behind it.
``KD_PERCEPTION_FUZZ_MESSAGES`` says how many; the default is a short run for every day.
"""

from __future__ import annotations

import array
import json
import os
from pathlib import Path
import runpy
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from kd_perception.imaging import encode_jpeg
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import header, image_message
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.perception.slots import COUNTERS
from kd_perception.nodes.process import run_node

MESSAGES = int(os.environ.get('KD_PERCEPTION_FUZZ_MESSAGES', '300'))
GOOD_EVERY = 50
GROWTH_BYTES = 100 * 2**20
FUZZ = Path(__file__).resolve().parents[2] / 'imaging'
FRAME_IDS = ('', 'front', '/', 'a b', 'é', 'x' * 5000, '\n', '{}%s')


class Node:
    """A perception process that tells its counters when it is asked."""

    def __init__(self, bench, models, transport, log):
        given = {'models_dir': models, 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
                 'image_transport': transport}
        self.kind, topic = Image, f'/{transport}/image'
        if transport == 'compressed':
            self.kind, topic = CompressedImage, f'{topic}/compressed'
        given[f'qos_overrides.{topic}.subscription.reliability'] = 'reliable'
        given[f'qos_overrides.{topic}.subscription.depth'] = 10
        command = [sys.executable, __file__, '--ros-args', '-r', f'__ns:=/{transport}']
        for name, value in given.items():
            command += ['-p', f'{name}:={value}']
        self.bench, self.log, self.sent, self.stamp = bench, log, 0, 0
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=log.open('w'), bufsize=0)
        self.masks = bench.collect(Image, f'/{transport}/segmentation/mask', qos.stream(10))
        self.publisher = bench.node.create_publisher(self.kind, topic, qos.stream(10))
        self.info = bench.node.create_publisher(CameraInfo, f'/{transport}/camera_info',
                                                qos.stream(10))

    def counters(self):
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        self.process.stdin.write(b'\n')
        return json.loads(self.process.stdout.readline())

    def memory_bytes(self):
        status = Path(f'/proc/{self.process.pid}/status').read_text().split()
        return int(status[status.index('VmRSS:') + 1]) * 1024

    def good(self):
        self.stamp += 1
        picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
        head = header(self.stamp, 'good')
        if self.kind is Image:
            return image_message(picture, 'rgb8', head)
        return CompressedImage(header=head, format='jpeg',
                               data=array.array('B', encode_jpeg(picture)))

    def connect(self):
        """Send until one is answered; what was lost till then never was a message."""
        self.bench.spin_until(self.publisher.get_subscription_count, 60.0)

        def met():
            self.publisher.publish(self.good())
            self.bench.spin_for(0.2)
            return self.masks

        self.bench.spin_until(met, 60.0)
        self.bench.spin_until(lambda: self.masks[-1].header.stamp.nanosec == self.stamp)
        self.sent = self.counters()['received']
        self.answer = bytes(self.masks[-1].data)

    def send(self, message):
        """Publish, and wait until it is counted and settled."""
        self.publisher.publish(message)
        self.sent += 1
        deadline = time.monotonic() + 60.0
        while True:
            counts = self.counters()
            if counts['received'] == self.sent and not counts['in_flight']:
                return counts
            assert time.monotonic() < deadline, (counts, self.sent)

    def ask(self):
        """Send a good frame; the answer must be what it always was."""
        self.masks.clear()
        self.publisher.publish(self.good())
        self.bench.spin_until(lambda: self.masks and
                              self.masks[-1].header.stamp.nanosec == self.stamp, 60.0)
        assert bytes(self.masks[-1].data) == self.answer
        self.sent += 1

    def send_bytes(self, data):
        """Publish what may be no message at all; return whether it was received as one."""
        self.publisher.publish(data)
        self.ask()
        received = self.counters()['received']
        assert received in (self.sent, self.sent + 1)
        came, self.sent = received - self.sent, received
        return bool(came)


@pytest.fixture
def nodes(bench, bundles, tmp_path):
    made = [Node(bench, bundles, t, tmp_path / f'{t}.log') for t in ('raw', 'compressed')]
    yield made
    for node in made:
        node.process.kill()
        node.process.wait()


def as_message(fields, rng):
    """Return mutated fields as a message, its header mutated too."""
    ints = [int(n) for n in rng.choice((0, 1, 999_999_999, 10**9, 2**31 - 1), 2)]
    head = header(0, str(rng.choice(FRAME_IDS)))
    head.stamp.sec, head.stamp.nanosec = ints[0] * int(rng.choice((-1, 1))), ints[1]
    data = array.array('B', fields.data)
    if hasattr(fields, 'format'):
        return CompressedImage(header=head, format=fields.format, data=data)
    encoding = fields.encoding if rng.random() < 0.9 else str(rng.choice(FRAME_IDS))
    return Image(header=head, encoding=encoding, height=fields.height, width=fields.width,
                 step=fields.step, is_bigendian=fields.is_bigendian & 255, data=data)


def camera_info(rng):
    """Return intrinsics of a camera that cannot be."""
    width, height = (int(n) for n in rng.choice((0, 1, 2**31, 2**32 - 1), 2))
    odd = (0.0, -1.0, 1e308, float('inf'), float('nan'))
    return CameraInfo(width=width, height=height, d=list(rng.choice(odd, int(rng.integers(20)))),
                      k=rng.choice(odd, 9), p=rng.choice(odd, 12),
                      distortion_model=str(rng.choice(FRAME_IDS)))


def broken_bytes(message, rng):
    """
    Return CDR with wrong lengths, cut, or none at all.

    At least a byte: of a message without any, Fast DDS lets a reliable reader wait for ever,
    and hear no more of that publisher.
    """
    data = bytearray(serialize_message(message))
    what = rng.integers(4)
    if what == 0:
        return bytes(data[:int(rng.integers(1, len(data)))])
    if what == 1:
        return rng.bytes(int(rng.integers(1, 200)))
    # The first hundred bytes hold the header, all strings and all lengths.
    for place in rng.integers(0, min(100, len(data)), int(rng.integers(1, 9))):
        data[place] = int(rng.choice((0, 1, 127, 128, 255, rng.integers(256))))
    return bytes(data)


def attack(node, rng, messages, fuzz, depth_header, rvl):
    """Send mutated messages; return how many of those that were no messages were received."""
    encodings = list(fuzz['ENCODINGS'])
    came = 0
    for number in range(messages):
        if node.kind is CompressedImage:
            fields, _ = fuzz['compressed'](rng, depth_header, rvl)
        else:
            fields = fuzz['raw'](rng, encodings[rng.integers(len(encodings))])
        fuzz['mutated'](rng, fields)
        message = as_message(fields, rng)
        if number % 4 == 3:
            came += node.send_bytes(broken_bytes(message, rng))
        else:
            node.send(message)
        if number % 10 == 0:
            node.info.publish(camera_info(rng))
        if number % GOOD_EVERY == 0:
            node.ask()
    return came


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs Linux')
@pytest.mark.timeout(180 + MESSAGES // 10)
def test_mutated_messages(nodes):
    fuzz = runpy.run_path(str(FUZZ / 'test_fuzz.py'))
    helpers = runpy.run_path(str(FUZZ / 'conftest.py'))
    for seed, node in enumerate(nodes):
        node.connect()
        rng = np.random.default_rng(seed)
        came = attack(node, rng, 10, fuzz, helpers['_depth_header'], helpers['_rvl'])
        before = node.memory_bytes()
        came += attack(node, rng, MESSAGES // 2, fuzz, helpers['_depth_header'], helpers['_rvl'])
        node.ask()
        counts = node.counters()
        assert counts['received'] == node.sent
        assert counts['received'] == sum(counts[c] for c in COUNTERS if c != 'received')
        assert counts['failed']
        # Only what the good frame behind it has overtaken was not looked at.
        assert counts['published'] + counts['failed'] >= node.sent - came
        assert node.memory_bytes() - before < GROWTH_BYTES
    for node in nodes:
        node.process.send_signal(signal.SIGINT)
        assert node.process.wait(20.0) == 0
        said = node.log.read_text()
        assert 'Traceback' not in said
        assert all(len(line) < 1000 for line in said.splitlines())


def serve():
    """Run the node; whoever writes a byte to its input gets the counters as a line."""
    def make():
        node = PerceptionNode()

        def answer():
            while os.read(0, 1):
                os.write(1, json.dumps(node.counters()).encode() + b'\n')

        threading.Thread(target=answer, daemon=True).start()
        return node

    return run_node(make)


if __name__ == '__main__':
    sys.exit(serve())
