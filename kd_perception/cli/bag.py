"""Look into rosbags, import videos and image folders, record, cut and split."""

from __future__ import annotations

import argparse
import importlib

# One file per action: cli/bag_<action>.py with add_arguments(parser) and run(args).
ACTIONS: dict[str, str] = {
    'info': 'what a recording holds: topics, rates, sizes, gaps, what would be taken of it',
    'import': 'video or image folder to rosbag2',
    'record': 'live topics, the simulator or a robustness suite, to rosbag2',
    'cut': 'a stretch or some topics of a recording; also recovers an unfinished one',
    'split': 'a recording into several, by length or by drive',
}

EPILOG = '''\
examples:
  kd_perception bag info drive_folder
  kd_perception bag info drive.mcap --rate 5 --motion auto
  kd_perception bag import drive.mp4 drive --rate 10
  kd_perception bag import camvid/val val --classes camvid
  kd_perception bag record fog --scenario dense_fog --seed 7 --duration 60
  kd_perception bag record suites/standard --suite
  kd_perception bag record drive --live
  kd_perception bag record drive --live /front/image_raw /front/camera_info --max-size 4GB
  kd_perception bag cut drive tunnel --start 120 --end 180
  kd_perception bag cut drive cameras --topic '/camera/*'
  kd_perception bag split day drives --gap 10
'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.epilog = EPILOG
    verbs = parser.add_subparsers(dest='action', metavar='|'.join(ACTIONS), required=True)
    for action, summary in ACTIONS.items():
        sub = verbs.add_parser(action, help=summary,
                               formatter_class=argparse.RawDescriptionHelpFormatter)
        module = importlib.import_module(f'kd_perception.cli.bag_{action}')
        sub.description = (module.__doc__ or summary).strip()
        module.add_arguments(sub)
        sub.set_defaults(run_action=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    return int(args.run_action(args))
