"""
A segmentation node written the way most published Python nodes are, to compare ours with.

It copies each image out of its message, runs the network inside the callback, and takes ROS'
default quality of service with a queue of ten. Engine, bundle and output (the mask at the size of
the image; ours makes no confidence either while nobody subscribes to it) are those of our node;
nothing here is slow on purpose.
"""

from __future__ import annotations

import argparse
import array
from functools import partial
from pathlib import Path
import sys

import cv2
import numpy as np
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from kd_perception.bundle import load_bundle
from kd_perception.engines.loader import load_engine

QUEUE = 10


class PlainNode(Node):
    """Subscribes to ``<camera>/image``; publishes masks on ``<camera>/segmentation/mask``."""

    def __init__(self, bundle: Path, engine: str, threads: int, cameras: list[str],
                 compressed: bool) -> None:
        super().__init__('plain')
        loaded = load_bundle(bundle)
        self.size = (loaded.spec.input.width, loaded.spec.input.height)
        self.engine = load_engine(loaded, engine, precision='fp32', threads=threads)
        self.engine.infer(np.zeros((1, self.size[1], self.size[0], 3), np.uint8))
        self.outputs = {}
        for camera in cameras:
            self.outputs[camera] = self.create_publisher(
                Image, f'{camera}/segmentation/mask', QUEUE)
            kind, topic = (CompressedImage, 'image/compressed') if compressed else (Image, 'image')
            self.create_subscription(
                kind, f'{camera}/{topic}', partial(self.on_image, camera), QUEUE)

    def on_image(self, camera: str, message: Image | CompressedImage) -> None:
        """Answer one image."""
        if isinstance(message, CompressedImage):
            bgr = np.asarray(cv2.imdecode(np.frombuffer(message.data, np.uint8),
                                          cv2.IMREAD_COLOR))
        else:
            bgr = np.frombuffer(message.data, np.uint8).reshape(
                message.height, message.width, 3).copy()
        rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        small = cv2.resize(rgb, self.size)
        answer = self.engine.infer(small[np.newaxis])
        mask = cv2.resize(answer['mask'][0], (bgr.shape[1], bgr.shape[0]),
                          interpolation=cv2.INTER_NEAREST)
        out = Image(header=message.header, height=mask.shape[0], width=mask.shape[1],
                    encoding='mono8', step=mask.shape[1])
        out.data = array.array('B', mask.tobytes())
        self.outputs[camera].publish(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bundle', type=Path)
    parser.add_argument('--engine', default='onnxruntime')
    parser.add_argument('--threads', type=int, default=0)
    parser.add_argument('--cameras', nargs='+', default=['front'])
    parser.add_argument('--compressed', action='store_true')
    args, rest = parser.parse_known_args()
    rclpy.init(args=[sys.argv[0], *rest])
    node = PlainNode(args.bundle, args.engine, args.threads, args.cameras, args.compressed)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == '__main__':
    main()
