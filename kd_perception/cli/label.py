"""
Let a teacher label recordings with soft labels.

The cache can take several recordings. An interrupted labelling goes on when the same command is
given again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

from kd_perception.bundle import find_bundle, ModelBundle
from kd_perception.cli.progress import progress
from kd_perception.cli.source_arguments import add_engine_arguments, add_source_arguments, opened
from kd_perception.tasks.soft_labels import SoftLabelCodec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``label``."""
    parser.add_argument('bag', nargs='+', type=Path,
                        help='recordings: bags, image folders, videos')
    parser.add_argument('--teacher', required=True, metavar='BUNDLE',
                        help='path of a bundle, or its name in the models directory')
    parser.add_argument('--out', type=Path, required=True, metavar='CACHE',
                        help='directory of the soft-label cache')
    parser.add_argument('--stride', type=int, default=4,
                        help='soft labels are kept at 1/stride of the input size (%(default)s)')
    parser.add_argument('--shard-size', type=int, default=64, metavar='N',
                        help='frames per file (%(default)s)')
    parser.add_argument('--check', type=int, nargs='?', const=16, default=0, metavar='N',
                        help='do not label: run the teacher again on N frames (16) and compare')
    add_source_arguments(parser, labels=False)
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Label, or check what is labelled."""
    teacher = find_bundle(args.teacher)
    for path in args.bag:
        if args.check:
            _check(args, teacher, path)
        else:
            _label(args, teacher, path)
    return 0


def _label(args: argparse.Namespace, teacher: ModelBundle, path: Path) -> None:
    from kd_perception.distillation.labelling import label
    source = opened(args, path)
    try:
        with progress(f'labelling {source.name}') as update:
            report = label(teacher, source, args.out, codec=SoftLabelCodec(stride=args.stride),
                           engine=args.engine, device=args.device, precision=args.precision,
                           threads=args.threads, shard_size=args.shard_size, progress=update)
    except KeyboardInterrupt:
        print(f'\nthe same command resumes the labelling in {args.out}', file=sys.stderr)
        raise
    finally:
        source.close()
    print(f'{path}: {report.labelled} frames labelled, {report.present} were already, '
          f'{report.bad} not decodable ({report.engine}, {report.precision})')


def _check(args: argparse.Namespace, teacher: ModelBundle, path: Path) -> None:
    from kd_perception.distillation.labelling import check
    source = opened(args, path)
    try:
        with progress(f'checking {source.name}') as update:
            report = check(teacher, source, args.out, samples=args.check, engine=args.engine,
                           device=args.device, precision=args.precision, threads=args.threads,
                           progress=update)
    finally:
        source.close()
    divergence = ', '.join(f'KL {v:.5f} at temperature {t:g}'
                           for t, v in report.divergence.items())
    print(f'{path}: {report.frames} frames, arg-max agreement {100 * report.agreement:.2f} %, '
          f'{divergence}')
