"""
Keep the frames of recordings on which a student is worth correcting, in a new recording.

The student runs over the recordings and the teacher beside it. Frames on which they disagree most,
on which the student is least sure, or that are most unlike its training pictures, go with their
context into OUT, which "distill" and "label" take as any other recording, without labels. An
interrupted call goes on where it was when it is given again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_perception.bags.motion import DRIVING
from kd_perception.bundle import find_bundle
from kd_perception.cli.parser import byte_count
from kd_perception.cli.progress import progress
from kd_perception.cli.source_arguments import (
    add_engine_arguments,
    add_source_arguments,
    sampling,
)
from kd_perception.evaluation.mining import CRITERIA, MiningOptions
from kd_perception.imaging.blur import BLURS

EPILOG = '''\
examples:
  kd_perception mine drive.mcap --student student --teacher teacher --out mined
  kd_perception mine drives/*.mcap --student student --teacher teacher --out mined --share 0.02 \\
                --context 0 --keep-for disagreement --blur people_and_vehicles
  kd_perception distill student_sim --teacher teacher --cache cache --data day mined \\
                --out runs/next
'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mine``."""
    parser.epilog = EPILOG
    parser.add_argument('bag', nargs='+', type=Path,
                        help='recordings of one camera: bags, image folders, videos; a folder or '
                             'a pattern of several')
    parser.add_argument('--student', required=True, metavar='BUNDLE',
                        help='path of a bundle, or its name in the models directory')
    parser.add_argument('--teacher', required=True, metavar='BUNDLE', help='likewise')
    parser.add_argument('--out', type=Path, required=True, metavar='BAG',
                        help='recording to make')
    parser.add_argument('--share', type=float, default=MiningOptions.share,
                        help='of the frames that may be chosen, and written with context '
                             '(%(default)s)')
    parser.add_argument('--context', type=int, default=MiningOptions.context, metavar='N',
                        help='frames before and after a chosen one (%(default)s)')
    parser.add_argument('--keep-for', nargs='+', choices=tuple(CRITERIA), metavar='WHAT',
                        default=tuple(CRITERIA), help=f'of {", ".join(CRITERIA)} (all)')
    parser.add_argument('--near', type=float, default=DRIVING, metavar='PERCENT',
                        help='do not choose a frame that differs by less from a chosen one '
                             '(%(default)s)')
    parser.add_argument('--low-confidence', type=float, default=0.5, metavar='C',
                        help='pixels below it count as unsure (%(default)s)')
    parser.add_argument('--blur', choices=BLURS, default='none',
                        help='hide people before frames are written; neither way finds all, see '
                             'docs/data_loop.md (%(default)s)')
    parser.add_argument('--no-masks', action='store_true',
                        help='leave out what the teacher said of the frames')
    parser.add_argument('--class-map', default='', metavar='MAP',
                        help='between the classes of teacher and student')
    parser.add_argument('--budget', type=byte_count, default=0, metavar='SIZE',
                        help='bytes that OUT may hold, e.g. 20GB; the highest scores that fit are '
                             'kept')
    parser.add_argument('--max-size', type=byte_count, default=0, metavar='SIZE',
                        help='bytes of one file of OUT, e.g. 1GB')
    add_source_arguments(parser, labels=False)
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Mine and say what was kept."""
    from kd_perception.evaluation.mine import mine, MineOptions
    options = MineOptions(
        MiningOptions(args.share, args.context, tuple(args.keep_for), args.near), args.blur,
        not args.no_masks, args.budget, args.max_size, args.class_map, args.low_confidence)
    student, teacher = find_bundle(args.student), find_bundle(args.teacher)
    with progress('mining') as update:
        report = mine(args.bag, student, teacher, args.out, options,
                      image_topic=args.image_topic, sampling=sampling(args), engine=args.engine,
                      device=args.device, precision=args.precision, threads=args.threads,
                      progress=update)
    told = ', '.join(f'{n} for {reason}' for reason, n in report.reasons.items())
    print(f'{report.path}: {report.written} of {report.frames} frames, {report.chosen} of them '
          f'chosen ({told}), the rest is their context')
    print(f'the teacher differs on {100 * report.disagreement:.1f} % of the pixels')
    if report.bad:
        print(f'{report.bad} frames could not be decoded')
    if report.left_out:
        print(f'{report.left_out} more would have been chosen; the budget had no room for them')
    return 0
