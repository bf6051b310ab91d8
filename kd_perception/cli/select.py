"""
Choose the frames of recordings that are worth a label.

What comes out is a file that names recordings by fingerprint and frames by place. "label" and
"bag cut" take it as --selection, recipes as data.defaults.selection. An interrupted choice goes on
when the same command is given again.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
import sys

from kd_perception.bags.collection import find_recordings
from kd_perception.bags.sequence import FrameSequence
from kd_perception.bags.source import open_one
from kd_perception.bundle import find_bundle
from kd_perception.cli.progress import progress
from kd_perception.cli.source_arguments import (
    add_engine_arguments,
    add_source_arguments,
    sampling,
)
from kd_perception.errors import ConfigError

EPILOG = '''\
ways to choose (--by):
  uniform       evenly spaced over all frames
  motion        at equal steps of what has changed in the picture; a standing car gives nothing
  uncertainty   where the teacher is least sure
  disagreement  where teacher and --student decide differently
  k-center      so that no frame is far from a chosen one, by the teacher's features

examples:
  kd_perception select drives/*.mcap --by motion --count 2000 --out frames.json
  kd_perception select drive.mcap --by uncertainty --cache labels --count 500 --apart 1 \\
                --out frames.json
  kd_perception select drive.mcap --by k-center --teacher runs/teacher/bundle --count 500 \\
                --out frames.json
  kd_perception label --teacher runs/teacher/bundle drive.mcap --selection frames.json --out cache
'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``select``."""
    parser.epilog = EPILOG
    parser.add_argument('bag', nargs='+', type=Path,
                        help='recordings: bags, image folders, videos; a folder or a pattern of '
                             'several')
    parser.add_argument('--by', required=True, metavar='WAY',
                        choices=('uniform', 'motion', 'uncertainty', 'disagreement', 'k-center'),
                        help='uniform, motion, uncertainty, disagreement or k-center, see below')
    parser.add_argument('--count', type=int, required=True, dest='frames', metavar='N',
                        help='frames to choose')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE',
                        help='selection to write, e.g. frames.json')
    parser.add_argument('--teacher', metavar='BUNDLE',
                        help='path of a bundle, or its name in the models directory; looks at all '
                             'frames')
    parser.add_argument('--cache', type=Path,
                        help='soft labels of all frames instead: nothing is decoded or run again')
    parser.add_argument('--student', metavar='BUNDLE', help='of disagreement')
    parser.add_argument('--measure', default='', metavar='M',
                        help='of uncertainty: entropy (default) or margin; of disagreement: '
                             'argmax (default: share of pixels) or kl')
    parser.add_argument('--apart', type=float, default=0.0, metavar='S',
                        help='of uncertainty and disagreement: take frames that are nearer than S '
                             'seconds only when nothing else is left (%(default)s)')
    parser.add_argument('--seed', type=int, default=0,
                        help='of k-center: draws the first frame (%(default)s)')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing --out')
    add_source_arguments(parser, labels=False, count=False)
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Choose and say how many of which recording."""
    if args.out.exists() and not args.overwrite:
        raise ConfigError(f'{args.out}: exists; choose another --out or pass --overwrite')
    if args.apart < 0 or args.seed < 0:
        raise ConfigError('--apart and --seed cannot be negative')
    teacher, student = (find_bundle(b) if b else None for b in (args.teacher, args.student))
    # torch takes seconds to import; what is missing is told before.
    from kd_perception.distillation.cache import SoftLabelCache
    from kd_perception.distillation.selection import Models, select
    cache = SoftLabelCache(args.cache) if args.cache else None
    if cache is not None and cache.views is not None:
        raise ConfigError(f'{args.cache}: holds soft labels of numbered views; frames are chosen '
                          'by those of whole frames')
    models = Models(teacher, cache, student, args.engine, args.device, args.precision,
                    args.threads)
    kept_in = args.out.with_name(f'.{args.out.name}.seen')
    chosen = sampling(args)
    with ExitStack() as stack:
        sources: list[FrameSequence] = []
        for one in find_recordings(args.bag, args.image_topic):
            source = open_one(one.path, image_topic=one.topic, sampling=chosen, labels=False)
            stack.callback(source.close)
            assert isinstance(source, FrameSequence)
            sources.append(source)
        try:
            with progress(f'selecting by {args.by}') as update:
                selection = select(sources, args.by, args.frames, models=models,
                                   measure=args.measure, apart_s=args.apart, seed=args.seed,
                                   kept_in=kept_in, progress=update)
        except KeyboardInterrupt:
            print('\nthe same command goes on where this one stopped', file=sys.stderr)
            raise
    selection.save(args.out, overwrite=args.overwrite)
    kept_in.unlink(missing_ok=True)
    for r in selection.recordings:
        print(f'{r.name}{f" {r.topic}" if r.topic else ""}: {len(r.indices)} of {r.frames} frames')
    print(args.out)
    return 0
