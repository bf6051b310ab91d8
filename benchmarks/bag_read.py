"""
Time from a recording to decoded frames over rosbags' raw read and bare decode; the worst format.

The bare side reads serialised messages with rosbags and decodes them with OpenCV or a numpy view,
nothing else. Ours opens the recording as everybody does, pairs nothing, and gives frames with
keys, stamps and checks. Both sides open the file within the time; passes alternate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
import statistics
import struct
import tempfile
import time

import cv2
import numpy as np
import result
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from kd_perception.bags import messages as msgs
from kd_perception.bags.source import open_source
from kd_perception.imaging import encode_jpeg

HEIGHT, WIDTH = 360, 640
FRAMES, REPEATS = 300, 9
TOPIC = '/camera/image'
FORMATS = (('mcap', 'jpeg'), ('mcap', 'rgb8'), ('sqlite3', 'rgb8'), ('sqlite3', 'jpeg'))

Pass = Callable[[Path], int]


def main() -> None:
    args = result.parser(__doc__ or '').parse_args()
    ratios: dict[str, list[float]] = {}
    bare_ms: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for storage, encoding in FORMATS:
            name = f'{storage}_{encoding}'
            path = write(Path(folder) / name, storage, encoding)
            bare = bare_jpeg if encoding == 'jpeg' else bare_raw
            assert ours(path) == bare(path), 'both sides must see the same pixels'
            ratios[name], bare_ms[name] = compare(path, bare)
    worst = max(ratios, key=lambda n: statistics.median(ratios[n]))
    result.state(
        name='bag_read', value=statistics.median(ratios[worst]),
        unit='times the raw read and bare decode',
        workload={'format': worst, 'width': WIDTH, 'height': HEIGHT, 'n': FRAMES,
                  'repeats': REPEATS,
                  'all_formats': {n: round(statistics.median(r), 4) for n, r in ratios.items()},
                  'bare_ms_per_frame': {n: round(t, 3) for n, t in bare_ms.items()}},
        spread={'min': round(min(ratios[worst]), 4), 'max': round(max(ratios[worst]), 4)},
        details={'ratios': ratios}, json_file=args.json)


def compare(path: Path, bare: Pass) -> tuple[list[float], float]:
    """Return the ratio of each repeat, and the bare time per frame in ms."""
    ratios, times = [], []
    for repeat in range(REPEATS + 1):
        taken = {}
        # Whoever comes second finds warmer caches: take turns in that, too.
        for side in ((bare, ours) if repeat % 2 else (ours, bare)):
            start = time.perf_counter()
            side(path)
            taken[side] = time.perf_counter() - start
        if repeat:  # the first warms up
            ratios.append(taken[ours] / taken[bare])
            times.append(taken[bare])
    return ratios, statistics.median(times) / FRAMES * 1e3


def ours(path: Path) -> int:
    """Read all frames as the package does; return a checksum of some pixels."""
    source = open_source(path)
    total = sum(touch(frame.image) for frame in source)
    source.close()
    return total


def bare_raw(path: Path) -> int:
    """Read all frames as views of the serialised messages."""
    total = 0
    for data in raw(path):
        # stamp 8, frame id, height, width, encoding, is_bigendian, step, length, pixels
        size = HEIGHT * WIDTH * 3
        total += touch(np.frombuffer(data, np.uint8, size, len(data) - size)
                       .reshape(HEIGHT, WIDTH, 3))
    return total


def bare_jpeg(path: Path) -> int:
    """Read and decode all frames, RGB as the package gives them."""
    total = 0
    for data in raw(path):
        (frame_id,) = struct.unpack_from('<I', data, 12)
        at = 16 + (frame_id + 3) // 4 * 4
        (kind,) = struct.unpack_from('<I', data, at)
        at += 4 + (kind + 3) // 4 * 4
        (size,) = struct.unpack_from('<I', data, at)
        image = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8, size, at + 4),
                                        cv2.IMREAD_COLOR))
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
        total += touch(image)
    return total


def raw(path: Path) -> Iterator[bytes]:
    with Reader(path) as reader:
        wanted = [c for c in reader.connections if c.topic.startswith(TOPIC)]
        for _, _, data in reader.messages(connections=wanted):
            yield data


def touch(image: np.ndarray) -> int:
    """Look at some pixels, so that a view is paid for as well."""
    return int(image[::60, ::80].sum())


def write(path: Path, storage: str, encoding: str) -> Path:
    """Write frames of a texture that moves, as a camera recording with a second topic."""
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (HEIGHT // 8, WIDTH // 2, 3), dtype=np.uint8)
    texture = cv2.resize(small, (WIDTH + 4 * FRAMES, HEIGHT), interpolation=cv2.INTER_CUBIC)
    plugin = StoragePlugin.MCAP if storage == 'mcap' else StoragePlugin.SQLITE3
    compressed = encoding == 'jpeg'
    kind = msgs.COMPRESSED_IMAGE if compressed else msgs.IMAGE
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        images = writer.add_connection(f'{TOPIC}/compressed' if compressed else TOPIC, kind,
                                       typestore=msgs.standard_types())
        infos = writer.add_connection('/camera/camera_info', msgs.CAMERA_INFO,
                                      typestore=msgs.standard_types())
        for n in range(FRAMES):
            stamp = (n + 1) * 33_333_333
            picture = np.ascontiguousarray(texture[:, n * 4:n * 4 + WIDTH])
            message = msgs.make_compressed(encode_jpeg(picture, 90), 'jpeg', stamp, 'camera') \
                if compressed else msgs.make_image(picture, 'rgb8', stamp, 'camera')
            writer.write(images, stamp, msgs.to_cdr(message, kind))
            info = msgs.make_camera_info(WIDTH, HEIGHT, 500., 500., 320., 180., stamp, 'camera')
            writer.write(infos, stamp, msgs.to_cdr(info, msgs.CAMERA_INFO))
    return path


if __name__ == '__main__':
    main()
