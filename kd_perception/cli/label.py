"""
Let a teacher label recordings with soft labels, or import labels that exist already.

The cache can take several recordings. Several processes (torchrun --nproc_per_node 4 -m
kd_perception.cli.main label ...) divide the work among them. An interrupted labelling goes on
when the same command is given again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
import sys

from kd_perception.bags.collection import find_recordings
from kd_perception.bundle import find_bundle, ModelBundle
from kd_perception.classes import load_class_set
from kd_perception.cli.processes import process_rank
from kd_perception.cli.progress import progress
from kd_perception.cli.source_arguments import add_engine_arguments, add_source_arguments, opened
from kd_perception.distillation.recipe_file import load_recipe
from kd_perception.distillation.views import ViewPlan
from kd_perception.errors import ConfigError
from kd_perception.frames import FrameSource
from kd_perception.tasks.soft_labels import (
    CODECS,
    PACKED_MAX_TEMPERATURE,
    SoftLabelCodec,
    TOPK_MAX_TEMPERATURE,
)


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
    parser.add_argument('--codec', choices=CODECS, default='packed',
                        help='packed: 6 bits, compressed, and the winner at full size; u8: 1 '
                             'byte per class and cell; both for temperatures from 0.5, packed up '
                             'to 4; fp16: 2 bytes; topk: the K likeliest, true at one '
                             'temperature (%(default)s)')
    parser.add_argument('--k', type=int, metavar='K', help='classes that topk keeps (3)')
    parser.add_argument('--temperature', type=float, metavar='T',
                        help='temperature that topk is true at, at most 1 (1)')
    parser.add_argument('--keep-logits', action='store_true',
                        help='2 bytes more per cell, for losses on logits such as '
                             'channel-wise distillation; not with topk')
    parser.add_argument('--shard-size', type=int, default=64, metavar='N',
                        help='frames per file (%(default)s)')
    parser.add_argument('--check', type=int, nargs='?', const=16, default=0, metavar='N',
                        help='do not label: run the teacher again on N frames (16) and compare')
    parser.add_argument('--shard-teacher', action='store_true',
                        help='put parts of a teacher that is too large for one device onto all '
                             'GPUs, then into memory, then onto the disk; runs in torch')
    group = parser.add_argument_group(
        'views', 'Label what a student will be shown instead of whole frames: exact, where '
        'whole frames are warped. Train with --distillation.view views.')
    group.add_argument('--views', type=int, default=0, metavar='K', help='views of every frame')
    group.add_argument('--recipe', default='',
                       help='recipe of the student: its input, augment and seed draw the views')
    group.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                       help='change a key of the recipe, e.g. augment.crop=[256,320]; may be '
                            'repeated')
    group.add_argument('--seed', type=int, help='seed of the views (that of the recipe)')
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
    if args.shard_teacher and (args.check or int(os.environ.get('WORLD_SIZE', '1')) > 1):
        raise ConfigError('--shard-teacher takes all devices for one process and labels; leave '
                          'torchrun and --check out')
    if args.views and args.check:
        raise ConfigError('--check knows from the cache which views it is of; leave --views out')
    teacher = find_bundle(args.teacher)
    step = _check if args.check else _label
    for name, source in opened(args, args.bag):
        step(args, teacher, name, source)
    return 0


def _label(args: argparse.Namespace, teacher: ModelBundle, name: str,
           source: FrameSource) -> None:
    views = _views(args)
    codec = _codec(args)
    from kd_perception.distillation.labelling import label
    rank, world, device = process_rank(args.device)
    try:
        with progress(f'labelling {source.name}') as update:
            report = label(teacher, source, args.out, codec=codec, views=views,
                           engine=args.engine, device=device, precision=args.precision,
                           threads=args.threads, shard_size=args.shard_size, rank=rank,
                           world=world, spread=args.shard_teacher,
                           progress=update if rank == 0 else None)
    except KeyboardInterrupt:
        print(f'\nthe same command resumes the labelling in {args.out}', file=sys.stderr)
        raise
    of = f' (process {rank + 1} of {world})' if world > 1 else ''
    print(f'{name}{of}: {report.labelled} frames labelled, {report.present} were already, '
          f'{report.bad} not decodable ({report.engine}, {report.precision})')


def _codec(args: argparse.Namespace) -> SoftLabelCodec:
    for name in ('k', 'temperature'):
        if getattr(args, name) is not None and args.codec != 'topk':
            raise ConfigError(f'--{name} is of --codec topk, the codec is {args.codec}')
    if (args.temperature or 0) > TOPK_MAX_TEMPERATURE:
        raise ConfigError(f'--temperature {args.temperature:g}: topk serves no temperature above '
                          f'{TOPK_MAX_TEMPERATURE:g}; take --codec packed (up to '
                          f'{PACKED_MAX_TEMPERATURE:g}) or u8')
    return SoftLabelCodec(args.codec, args.stride, k=3 if args.k is None else args.k,
                          temperature=1.0 if args.temperature is None else args.temperature,
                          offset=args.keep_logits)


def _views(args: argparse.Namespace) -> ViewPlan | None:
    """Return the views that are asked for; None: whole frames."""
    if not args.views:
        given = [n for n in ('recipe', 'set', 'seed') if getattr(args, n) not in ('', [], None)]
        if given:
            raise ConfigError(f'--{given[0]} says how views are drawn; say how many with '
                              '--views K')
        return None
    if not args.recipe:
        raise ConfigError('--views needs --recipe, that of the student: its input, augment and '
                          'seed draw the views')
    pairs = [text.partition('=') for text in args.set]
    for key, equals, _ in pairs:
        if not equals:
            raise ConfigError(f'--set {key}: must be KEY=VALUE, e.g. augment.flip=0')
    overrides = {key: value for key, _, value in pairs}
    if args.seed is not None:
        overrides['distillation.views_seed'] = str(args.seed)
    return ViewPlan.of(load_recipe(args.recipe, overrides), args.views)


def _import(args: argparse.Namespace) -> None:
    if args.views:
        raise ConfigError('--views asks a teacher; imported labels are of whole frames')
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
                codec=_codec(args), shard_size=args.shard_size, progress=update)
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
