"""
The ``kd_perception`` command: finds the verb's module, runs it, and turns errors into one line.

Exit codes: 0 done, 2 bad input, 3 a regression against a baseline, 130 interrupted. A verb's
module is imported only when it is called, so that ``bag info`` does not wait for torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import importlib
import logging
import os
import sys

from kd_perception import __version__
from kd_perception.cli.parser import Parser
from kd_perception.errors import KdPerceptionError
from kd_perception.interrupts import interruptible

VERBS: dict[str, str] = {
    'demo': 'the whole path in one go: record, label, distil, compare (start here)',
    'doctor': 'what is installed, what is missing, and how to mend it',
    'bag': 'look into, import and record rosbags',
    'train': 'train a network from labelled recordings',
    'select': 'choose the frames of recordings that are worth a label',
    'mine': 'keep the frames of recordings on which a student is worth correcting',
    'label': 'let a teacher label recordings with soft labels',
    'distill': 'distil a student from soft labels',
    'report': 'look again at a finished training, distillation or comparison',
    'evaluate': 'measure a model on labelled recordings',
    'compare': 'run model A against model B as ROS 2 nodes on the same frames',
    'bundle': 'look into and check model bundles',
    'export': 'make the graphs of a bundle anew from its weights',
    'classes': 'show class sets and check the maps between them',
}

EPILOG = '''\
examples:
  kd_perception demo
  kd_perception bag info drive.mcap
  kd_perception compare teacher student --source sim --scenario dense_fog
  kd_perception <command> --help

exit codes: 0 done, 2 bad input (one line says what to do), 3 a regression against --baseline
(compare, report), 130 interrupted
'''


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    chosen = next((a for a in arguments if not a.startswith('-')), '')
    name, debug = f'kd_perception {chosen}'.rstrip(), '--debug' in arguments
    try:
        # SIGTERM unwinds like Ctrl-C: temporary files go away and children are stopped.
        with interruptible():
            # The verb's module is imported here, which may take a second that a Ctrl-C falls into.
            parser = _parser(chosen)
            args = parser.parse_args(arguments)
            if not args.verb:
                parser.print_help()
                return 0
            logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING,
                                format='%(levelname)s %(name)s: %(message)s')
            return int(args.run(args))
    except KdPerceptionError as error:
        if debug:
            raise
        print(f'{name}: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # A verb that can resume says how before it lets the interrupt through.
        print(f'\n{name}: interrupted', file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe (head, less) went away: not an error, but stdout is dead.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if debug:
            raise
        where = f'{error.filename}: ' if error.filename else ''
        print(f'{name}: {where}{error.strerror or error}', file=sys.stderr)
        return 2


def _parser(chosen: str) -> argparse.ArgumentParser:
    parser = Parser(prog='kd_perception', epilog=EPILOG,
                     description='Distil, compress, run and compare camera networks on ROS 2.',
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    parser.add_argument('--debug', action='store_true',
                        help='log everything and show tracebacks')
    verbs = parser.add_subparsers(dest='verb', metavar='<command>', parser_class=Parser)
    for verb, summary in VERBS.items():
        sub = verbs.add_parser(verb, help=summary,
                               formatter_class=argparse.RawDescriptionHelpFormatter)
        if verb != chosen:
            continue
        module = importlib.import_module(f'kd_perception.cli.{verb}')
        sub.description = (module.__doc__ or summary).strip()
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


if __name__ == '__main__':
    sys.exit(main())
