"""
Make the report of a finished run of train, distill or compare: report.html and report.json.

These verbs make one when they end; this one makes it again, against a baseline, on other frames,
or with a teacher that lies elsewhere now. Without --data it looks at the frames that the run held
out. Of a comparison only --baseline and the limits of the gate count.

Examples:
  kd_perception report runs/student --baseline runs/student_without_teacher
  kd_perception report new_comparison --baseline old_comparison    (exit code 3: regression)
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_perception.bundle import find_bundle
from kd_perception.cli.comparison_report import is_comparison, report_again
from kd_perception.cli.gate import add_gate_arguments
from kd_perception.cli.progress import progress
from kd_perception.engines.engine import PRECISIONS
from kd_perception.engines.loader import ENGINES
from kd_perception.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``report``."""
    parser.add_argument('run_directory', type=Path, metavar='RUN',
                        help='the --out of a finished train, distill or compare')
    parser.add_argument('--teacher', metavar='BUNDLE',
                        help='whom to compare with (default: the teacher of the run, where it '
                             'lay then)')
    parser.add_argument('--baseline', type=Path, metavar='RUN',
                        help='another run, or a bundle: what was had without the method; of '
                             'a comparison: an older report.json, or its directory')
    parser.add_argument('--frames', type=int, default=200, metavar='N',
                        help='look at N frames, evenly spread; 0: all (%(default)s)')
    parser.add_argument('--no-attribution', action='store_true',
                        help='do not compare what student and teacher look at')
    group = parser.add_argument_group('frames, instead of those that the run held out')
    group.add_argument('--data', nargs='+', type=Path, default=(), metavar='PATH',
                       help='recordings: bags, image folders, videos')
    group.add_argument('--image-topic', default='', metavar='TOPIC',
                       help='camera of a bag that has several')
    group.add_argument('--label-topic', default='', help='label images of a bag')
    group.add_argument('--label-dir', default='', metavar='FOLDER',
                       help='label PNGs of an image folder (default: <folder>_labels)')
    group.add_argument('--classes', default='',
                       help='class set of the labels (default: as in the run)')
    group.add_argument('--class-map', default='',
                       help='map from the classes of the labels to those of the run')
    group = parser.add_argument_group('engine')
    group.add_argument('--engine', choices=('auto', *ENGINES), default='auto')
    group.add_argument('--device', default='auto',
                       help='cpu or cuda (auto: a GPU where the run had one and one is here)')
    group.add_argument('--precision', choices=PRECISIONS, default='fp32', help='(%(default)s)')
    group.add_argument('--threads', type=int, default=0, metavar='N',
                       help='0: the runtime chooses (%(default)s)')
    add_gate_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Make the report and say where it is."""
    if is_comparison(args.run_directory):
        return report_again(args)
    if args.frames < 0:
        raise ConfigError(f'--frames {args.frames}: 0 (all) or more')
    teacher = find_bundle(args.teacher) if args.teacher else None
    # torch takes seconds to import; what is wrong in the command is told before.
    from kd_perception.distillation.reports.report_frames import OtherData
    from kd_perception.distillation.reports.run_report import ReportRequest, write_run_report
    request = ReportRequest(
        teacher=teacher, baseline=args.baseline, frames=args.frames, engine=args.engine,
        device=args.device, precision=args.precision, threads=args.threads,
        attribution=not args.no_attribution,
        data=OtherData(tuple(args.data), args.image_topic, args.label_topic, args.label_dir,
                       args.classes, args.class_map))
    with progress(f'report on {args.run_directory.name}') as update:
        page = write_run_report(args.run_directory, request, progress=update)
    print(page)
    return 0
