"""
Let a teacher label recordings with soft labels, or import labels that exist already.

The cache can take several recordings. Several processes (torchrun --nproc_per_node 4 -m
kd_perception.cli.main label ...) divide the work among them. An interrupted labelling goes on
when the same command is given again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

from kd_perception.bags.collection import find_recordings
from kd_perception.bundle import find_bundle, ModelBundle
from kd_perception.classes import load_class_set
from kd_perception.cli.processes import process_rank
from kd_perception.cli.progress import progress
from kd_perception.cli.source_arguments import add_engine_arguments, add_source_arguments, opened
from kd_perception.errors import ConfigError
from kd_perception.frames import FrameSource
from kd_perception.tasks.soft_labels import SoftLabelCodec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``label``."""
    parser.add_argument('bag', nargs='+', type=Path,
                        help='recordings: bags, image folders, videos; a folder or a pattern '
                             "('drives/*.mcap') of several")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument('--teacher', metavar='BUNDLE',
                     help='path of a bundle, or its name in the models directory')
    who.add_argument('--import', type=Path, dest='labels', metavar='LABELS',
                     help='labels of one recording that exist: a folder of .npz, .npy or .png '
                          'files named by stamp, index or picture, or one .npz')
    parser.add_argument('--out', type=Path, required=True, metavar='CACHE',
                        help='directory of the soft-label cache')
    parser.add_argument('--stride', type=int, default=4,
                        help='soft labels are kept at 1/stride of the input size (%(default)s)')
    parser.add_argument('--shard-size', type=int, default=64, metavar='N',
                        help='frames per file (%(default)s)')
    parser.add_argument('--check', type=int, nargs='?', const=16, default=0, metavar='N',
                        help='do not label: run the teacher again on N frames (16) and compare')
    group = parser.add_argument_group('import')
    # Not ``classes``, which is the class set of labels in a recording.
    group.add_argument('--classes', dest='label_classes', default='', metavar='SET',
                       help='class set of the imported labels')
    group.add_argument('--kind', choices=('auto', 'probabilities', 'logits', 'ids'),
                       default='auto', help='what they are (auto: look at the first)')
    group.add_argument('--match', choices=('auto', 'stamp', 'index', 'name'), default='auto',
                       help='what their names say of the frame (auto: look at the names)')
    group.add_argument('--smoothing', type=float, default=0.1, metavar='S',
                       help='of ids: share of the probability spread over all classes; 0 makes '
                            'hard labels (%(default)s)')
    group.add_argument('--partial', action='store_true', help='frames may lack a label')
    group.add_argument('--tolerance-ms', type=float, default=0.0, metavar='MS',
                       help='how far stamps may differ (%(default)s)')
    add_source_arguments(parser, labels=False)
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Label, or check what is labelled."""
    if args.labels is not None:
        _import(args)
        return 0
    if args.label_classes:
        raise ConfigError('--classes says what imported labels mean; a teacher knows its classes')
    teacher = find_bundle(args.teacher)
    step = _check if args.check else _label
    for name, source in opened(args, args.bag):
        step(args, teacher, name, source)
    return 0


def _label(args: argparse.Namespace, teacher: ModelBundle, name: str,
           source: FrameSource) -> None:
    from kd_perception.distillation.labelling import label
    rank, world, device = process_rank(args.device)
    try:
        with progress(f'labelling {source.name}') as update:
            report = label(teacher, source, args.out, codec=SoftLabelCodec(stride=args.stride),
                           engine=args.engine, device=device, precision=args.precision,
                           threads=args.threads, shard_size=args.shard_size, rank=rank,
                           world=world, progress=update if rank == 0 else None)
    except KeyboardInterrupt:
        print(f'\nthe same command resumes the labelling in {args.out}', file=sys.stderr)
        raise
    of = f' (process {rank + 1} of {world})' if world > 1 else ''
    print(f'{name}{of}: {report.labelled} frames labelled, {report.present} were already, '
          f'{report.bad} not decodable ({report.engine}, {report.precision})')


def _import(args: argparse.Namespace) -> None:
    if not args.label_classes:
        raise ConfigError('--import needs --classes: what do the ids or channels mean?')
    if args.check:
        raise ConfigError('--check runs a teacher; imported labels have none')
    classes = load_class_set(args.label_classes)
    if len(find_recordings(args.bag, args.image_topic)) != 1:
        raise ConfigError('--import takes the labels of one recording; give one, and call again '
                          'for the next into the same --out')
    from kd_perception.distillation.label_import import import_labels
    for name, source in opened(args, args.bag):
        with progress(f'importing labels of {source.name}') as update:
            report = import_labels(
                args.labels, source, args.out, classes, kind=args.kind, match=args.match,
                smoothing=args.smoothing, partial=args.partial, tolerance_ms=args.tolerance_ms,
                codec=SoftLabelCodec(stride=args.stride), shard_size=args.shard_size,
                progress=update)
        print(f'{name}: {report.imported} frames with {report.kind} by {report.match}, '
              f'{report.missing} without a label, {report.unused} labels without a frame, '
              f'{report.bad} not decodable')


def _check(args: argparse.Namespace, teacher: ModelBundle, name: str,
           source: FrameSource) -> None:
    from kd_perception.distillation.labelling import check
    with progress(f'checking {source.name}') as update:
        report = check(teacher, source, args.out, samples=args.check, engine=args.engine,
                       device=args.device, precision=args.precision, threads=args.threads,
                       progress=update)
    divergence = ', '.join(f'KL {v:.5f} at temperature {t:g}'
                           for t, v in report.divergence.items())
    print(f'{name}: {report.frames} frames, arg-max agreement {100 * report.agreement:.2f} %, '
          f'{divergence}')
