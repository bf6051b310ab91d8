"""
Milliseconds that labelling adds per frame to a bare loop of the teacher over decoded frames.

Both sides have the frames decoded in memory and run the same engine on the same graph. The bare
loop throws the logits away; labelling makes soft labels of them and writes shards, and its time
counts from the call to the return, loading of the engine taken off.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import statistics
import tempfile
import time

import cv2
import numpy as np
import result

from kd_perception.bundle import BundleSpec, InputSpec, ModelBundle, NetworkSpec
from kd_perception.classes import ClassSet, load_class_set
from kd_perception.distillation.labelling import label
from kd_perception.engines.loader import load_engine
from kd_perception.frames import Frame, FrameKey
from kd_perception.networks.deploy import save_bundle
from kd_perception.networks.registry import build

HEIGHT, WIDTH = 360, 480
FRAMES, REPEATS = 256, 7


class Decoded:
    """Frames that are in memory already; a ``FrameSource``."""

    name, fingerprint, has_labels, bad_frames = 'decoded', '0' * 16, False, 0
    topic = chosen = ''
    label_classes: ClassSet | None = None

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (8, 12, 16, 3), np.uint8)
        self._images = [cv2.resize(c, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
                        for c in coarse]
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Frame:
        return Frame(self._images[index % 8], index, index,
                     FrameKey(self.fingerprint, 'camera', index))

    def __iter__(self) -> Iterator[Frame]:
        return (self[i] for i in range(len(self)))

    def close(self) -> None:
        """Release nothing."""


def main() -> None:
    args = result.parser(__doc__ or '').parse_args()
    source = Decoded(FRAMES)
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder))
        added, bare = [], []
        for repeat in range(REPEATS + 1):
            loaded = time.perf_counter()
            engine = load_engine(bundle, 'onnxruntime', precision='fp32', graph='logits')
            loading = time.perf_counter() - loaded
            plain = time_bare(engine, source)
            engine.close()
            start = time.perf_counter()
            label(bundle, source, Path(folder) / f'cache{repeat}', engine='onnxruntime',
                  precision='fp32')
            ours = time.perf_counter() - start - loading
            if repeat:  # the first warms up
                added.append(1e3 * (ours - plain) / FRAMES)
                bare.append(1e3 * plain / FRAMES)
        result.state(
            name='labelling', value=statistics.median(added), unit='ms added per frame',
            workload={'width': WIDTH, 'height': HEIGHT, 'network': 'compact, 12 classes',
                      'bundle': bundle.hash[:12], 'engine': 'onnxruntime', 'precision': 'fp32',
                      'n': FRAMES, 'repeats': REPEATS,
                      'bare_ms_per_frame': round(statistics.median(bare), 2)},
            spread={'min': round(min(added), 3), 'max': round(max(added), 3)},
            json_file=args.json)


def time_bare(engine: object, source: Decoded) -> float:
    """Return the seconds of the teacher alone over all frames."""
    start = time.perf_counter()
    for frame in source:
        engine.infer(frame.image[None])  # type: ignore[attr-defined]
    return time.perf_counter() - start


def make_bundle(folder: Path) -> ModelBundle:
    """Return a bundle of an untrained network: its time does not depend on its weights."""
    classes = load_class_set('driving')
    spec = BundleSpec(name='teacher', task='segmentation', role='teacher', classes=classes,
                      input=InputSpec(HEIGHT, WIDTH), network=NetworkSpec('compact', {}))
    return save_bundle(folder / 'teacher', build(spec.network, len(classes)), spec)


if __name__ == '__main__':
    main()
