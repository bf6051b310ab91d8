"""
Read mutated recordings in every way: each must give frames or one line.

    python tools/fuzz_bags.py --cases 500 [--seed 1] [RECORDING ...]

Bit flips, truncations, splices and absurd lengths are put into the given recordings (files or
folders) and into small ones of every storage that are written for it. Memory is limited by the
kernel. Exit code 1, and the case with its traceback, when anything but a ``KdPerceptionError`` of
one line came out, when a case took too long, or when memory grew.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
import json
import logging
from pathlib import Path
import resource
import shutil
import signal
import struct
import sys
import tempfile
import traceback

from mcap.writer import CompressionType, Writer
import numpy as np
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Ros2Writer
from rosbags.typesys import get_typestore, Stores

from kd_perception.bags import messages as msgs
from kd_perception.bags.cut import cut_bag
from kd_perception.bags.facts import bag_facts
from kd_perception.bags.reader import BagReader
from kd_perception.bags.source import open_source
from kd_perception.errors import KdPerceptionError
from kd_perception.imaging import encode_jpeg

LIMIT_BYTES = 3 << 30
GROWTH_BYTES = 400 << 20
CASE_S = 60
READ_MESSAGES, READ_FRAMES = 40, 12


def main() -> int:
    """Run the cases and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('recordings', nargs='*', type=Path)
    parser.add_argument('--cases', type=int, default=500)
    parser.add_argument('--seed', type=int, default=1)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    outcomes: Counter[str] = Counter()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        bases = [*args.recordings, *written(Path(folder))]
        for base in bases:
            exercise(base, Path(folder))
        before = _peak()
        for case in range(args.cases):
            generator = np.random.default_rng([args.seed, case])
            base = bases[int(generator.integers(len(bases)))]
            path, how = mutated(base, Path(folder) / 'case', generator)
            signal.alarm(CASE_S)
            try:
                outcomes[f'{exercise(path, Path(folder))}'] += 1
            except Exception:
                failures += 1
                print(f'case {case} of seed {args.seed}: {base.name}, {how}\n'
                      f'{traceback.format_exc()}', file=sys.stderr)
            finally:
                signal.alarm(0)
        growth = _peak() - before
    if growth > GROWTH_BYTES:
        failures += 1
        print(f'memory grew by {growth / 1e6:.0f} MB', file=sys.stderr)
    print(json.dumps({'cases': args.cases, 'recordings': len(bases), 'failures': failures,
                      'outcomes': dict(outcomes), 'growth_mb': round(growth / 1e6)}))
    return 1 if failures else 0


def exercise(path: Path, folder: Path) -> str:
    """Read a recording in every way; return ``read``, ``read with complaints`` or ``refused``."""
    complaints = 0

    def told(error: KdPerceptionError) -> int:
        if '\n' in str(error) or len(str(error)) > 2000:
            raise AssertionError(f'not one line: {str(error)[:300]!r}')
        return 1

    try:
        with BagReader(path) as reader:
            bag_facts(reader)
            complaints += len(reader.warnings)
            cameras = [t.name for t in reader.camera_topics]
            for topic in reader.topics:
                index = reader.index(topic.name)
                for position in range(min(len(index), READ_MESSAGES)):
                    try:
                        index.message(position)
                    except KdPerceptionError as error:
                        complaints += told(error)
    except KdPerceptionError as error:
        told(error)
        return 'refused'
    for name in cameras:
        try:
            source = open_source(path, image_topic=name, order='header', motion=0.1,
                                 limit=READ_FRAMES)
            complaints += len(source) - len(list(source))
            source.close()
        except KdPerceptionError as error:
            complaints += told(error)
    out = folder / ('cut.bag' if path.suffix == '.bag' else 'cut')
    try:
        cut_bag(path, out)
    except KdPerceptionError as error:
        complaints += told(error)
    if out.is_dir():
        shutil.rmtree(out)
    out.unlink(missing_ok=True)
    left = list(folder.glob('cut*'))
    if left:
        raise AssertionError(f'a writer left {left}')
    return 'read with complaints' if complaints else 'read'


def mutated(base: Path, target: Path, generator: np.random.Generator) -> tuple[Path, str]:
    """Copy a recording with one of its files changed; return the copy and what was done."""
    if target.is_dir():
        shutil.rmtree(target)
    target.mkdir()
    path = target / base.name
    if base.is_dir():
        # Not copytree: the source may be read-only, and the copy must be deleted.
        path.mkdir()
        for file in base.iterdir():
            (path / file.name).write_bytes(file.read_bytes())
        files = sorted(f for f in path.iterdir() if f.stat().st_size)
        file = files[int(generator.integers(len(files)))]
        data = file.read_bytes()
    else:
        file, data = path, base.read_bytes()
    how, changed = _changed(data, generator)
    file.write_bytes(changed)
    return path, f'{file.name}: {how}'


def _changed(data: bytes, generator: np.random.Generator) -> tuple[str, bytes]:
    out = bytearray(data)
    size = len(out)
    if not size:
        return 'empty', bytes(generator.integers(0, 256, 64, dtype=np.uint8))

    def place() -> int:
        # The structure sits at both ends; pixels in the middle.
        reach = size if generator.random() < 0.4 else min(size, 4000)
        at = int(generator.integers(reach))
        return at if generator.random() < 0.5 else size - 1 - at

    kind = str(generator.choice(['flip', 'flip', 'truncate', 'splice', 'cut out', 'length']))
    if kind == 'flip':
        for _ in range(int(generator.choice([1, 3, 20, 200]))):
            out[place()] ^= 1 << int(generator.integers(8))
    elif kind == 'truncate':
        del out[int(generator.integers(size)):]
    elif kind == 'splice':
        at, start = place(), place()
        out[at:at] = out[start:start + int(generator.integers(1, 5000))]
    elif kind == 'cut out':
        at = place()
        del out[at:at + int(generator.integers(1, 5000))]
    else:
        for _ in range(int(generator.choice([1, 4]))):
            at = place()
            value = int(generator.choice(np.array([2 ** 60, 2 ** 40, 2 ** 33, 2 ** 32 - 1, 0])))
            form = '<Q' if value >= 2 ** 32 or generator.random() < 0.3 else '<I'
            out[at:at + struct.calcsize(form)] = struct.pack(form, value)
    return kind, bytes(out)


def written(folder: Path) -> Iterator[Path]:
    """Write one small recording of every storage and compression."""
    pictures = [np.random.default_rng(n).integers(0, 256, (48, 64, 3), dtype=np.uint8)
                for n in range(6)]
    rows = [('/cam/label_info', msgs.LABEL_INFO, msgs.make_label_info(('road', 'sky'), 1), 1)]
    for n, picture in enumerate(pictures):
        time = (n + 1) * 100_000_000
        rows += [
            ('/cam/image', msgs.IMAGE, msgs.make_image(picture, 'rgb8', time, 'c'), time),
            ('/cam/labels', msgs.IMAGE,
             msgs.make_image(picture[:, :, 0] % 2, 'mono8', time, 'c'), time),
            ('/rear/image/compressed', msgs.COMPRESSED_IMAGE,
             msgs.make_compressed(encode_jpeg(picture), 'jpeg', time, 'r'), time)]
    for plugin in (StoragePlugin.MCAP, StoragePlugin.SQLITE3):
        for mode in (CompressionMode.NONE, CompressionMode.FILE, CompressionMode.MESSAGE):
            path = folder / f'{plugin.name}_{mode.name}'.lower()
            writer = Ros2Writer(path, version=9, storage_plugin=plugin)
            writer.set_compression(mode, CompressionFormat.ZSTD)
            with writer:
                connections = {}
                for topic, kind, message, time in rows:
                    if topic not in connections:
                        connections[topic] = writer.add_connection(
                            topic, kind, typestore=msgs.standard_types())
                    writer.write(connections[topic], time, msgs.to_cdr(message, kind))
            yield path
    for compression in (CompressionType.ZSTD, CompressionType.LZ4, CompressionType.NONE):
        path = folder / f'chunks_{compression.name.lower()}.mcap'
        with path.open('wb') as stream:
            output = Writer(stream, chunk_size=9000, compression=compression,
                            use_chunking=compression is not CompressionType.NONE)
            output.start(profile='', library='')
            channels: dict[str, int] = {}
            for topic, kind, message, time in rows:
                if topic not in channels:
                    text, _ = msgs.standard_types().generate_msgdef(kind, ros_version=2)
                    schema = output.register_schema(kind, 'ros2msg', text.encode())
                    channels[topic] = output.register_channel(topic, 'cdr', schema)
                output.add_message(channels[topic], time, msgs.to_cdr(message, kind), time)
            output.finish()
        yield path
    store = get_typestore(Stores.ROS1_NOETIC)
    for packed in Ros1Writer.CompressionFormat:
        path = folder / f'ros1_{packed.name.lower()}.bag'
        bag = Ros1Writer(path)
        bag.set_compression(packed)
        bag.chunk_threshold = 20_000
        with bag:
            connection = bag.add_connection('/cam/image', msgs.IMAGE, typestore=store)
            for n, picture in enumerate(pictures):
                header = store.types['std_msgs/msg/Header'](
                    seq=n, stamp=store.types['builtin_interfaces/msg/Time'](sec=n + 1, nanosec=0),
                    frame_id='c')
                image = store.types[msgs.IMAGE](
                    header=header, height=48, width=64, encoding='bgr8', is_bigendian=0,
                    step=192, data=picture.reshape(-1))
                bag.write(connection, n + 1, store.serialize_ros1(image, msgs.IMAGE))
        yield path


def _peak() -> int:
    """Return the largest memory this process had, in bytes."""
    status = Path('/proc/self/status')
    if status.is_file():  # what comes below begins at the peak of the parent
        said = status.read_text().split()
        return int(said[said.index('VmHWM:') + 1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError(f'took longer than {CASE_S} s')


if __name__ == '__main__':
    sys.exit(main())
