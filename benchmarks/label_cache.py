"""
Bytes of the soft-label cache per pixel of the frame, and how near it is to the teacher.

    python benchmarks/label_cache.py --teacher runs/teacher/bundle --data camvid/test

A real teacher labels real frames into a cache with the defaults of ``label``; then it looks at
all of them again. The figure counts only at label quality: at least 99.5 % of the pixels with the
same most likely class at full resolution, KL divergence at most 0.01 at temperatures 1 and 4.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
import tempfile

import result

from kd_perception.bags.source import open_source
from kd_perception.bundle import load_bundle
from kd_perception.distillation.cache import SoftLabelCache
from kd_perception.distillation.labelling import check, label

AGREEMENT, DIVERGENCE = 0.995, 0.01


def main() -> None:
    parser = result.parser(__doc__ or '')
    parser.add_argument('--teacher', type=Path, required=True, help='bundle of a trained teacher')
    parser.add_argument('--data', type=Path, required=True, help='frames: a folder or a bag')
    parser.add_argument('--count', type=int, default=60, help='frames, evenly spaced')
    args = parser.parse_args()
    teacher = load_bundle(args.teacher)
    height, width = teacher.spec.input.height, teacher.spec.input.width
    with tempfile.TemporaryDirectory() as folder, \
            closing(open_source(args.data, count=args.count)) as source:
        label(teacher, source, folder, engine='onnxruntime', precision='fp32')
        report = check(teacher, source, folder, samples=len(source), engine='onnxruntime',
                       precision='fp32')
        size = sum(f.stat().st_size for f in Path(folder).iterdir())
        cache = SoftLabelCache(folder)
        codec, frames = cache.codec, len(cache)
    good = (report.agreement >= AGREEMENT
            and all(d <= DIVERGENCE for d in report.divergence.values()))
    classes = len(teacher.spec.classes)
    figures = {'agreement': round(report.agreement, 5), 'label_quality': good,
               **{f'kl_{t:g}': round(d, 5) for t, d in report.divergence.items()}}
    result.state(
        name='label_cache', value=size / (frames * height * width), unit='bytes per pixel',
        workload={'teacher': teacher.spec.name, 'bundle': teacher.hash[:12], 'classes': classes,
                  'data': args.data.name, 'width': width, 'height': height, 'n': frames,
                  'engine': 'onnxruntime', 'precision': 'fp32', 'codec': codec.to_dict(),
                  'raw_fp16_bytes_per_pixel': 2 * classes, **figures},
        spread={'kb_per_frame': round(size / frames / 1e3, 2)}, json_file=args.json)


if __name__ == '__main__':
    main()
