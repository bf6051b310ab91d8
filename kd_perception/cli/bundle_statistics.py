"""The verb ``bundle statistics``: give a model of another maker what its pictures look like."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kd_perception.bundle import find_bundle, STATISTICS, write_bundle
from kd_perception.cli.progress import progress
from kd_perception.cli.source_arguments import add_source_arguments, opened
from kd_perception.errors import ConfigError

EPILOG = '''\
examples:
  kd_perception bundle statistics teacher drives/*.mcap --out teacher_watched
  kd_perception bundle statistics teacher pictures/ --rate 1 --out teacher --overwrite

The perception node then flags pictures unlike these (docs/nodes.md). Bundles of train and distill
have statistics already. The hash of the bundle changes, so caches of its soft labels are not taken
for those of the new one.
'''


def add_statistics(verbs: Any) -> None:
    """Declare ``bundle statistics``."""
    parser = verbs.add_parser('statistics', help='store what familiar pictures look like',
                              epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bundle', help='path of a bundle, or its name in the models directory')
    parser.add_argument('source', nargs='+', type=Path,
                        help='recordings like those that the model was trained on')
    parser.add_argument('--out', type=Path, metavar='DIR', required=True, help='bundle to write')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing bundle')
    parser.add_argument('--models-dir', type=Path, metavar='DIR',
                        help='where names are looked up')
    add_source_arguments(parser, labels=False)


def run_statistics(args: argparse.Namespace) -> int:
    """
    Write the bundle with statistics.

    :raises ConfigError: when the bundle is there already, or pictures are too few.
    """
    if args.out.exists() and not args.overwrite:
        raise ConfigError(f'{args.out}: exists; choose another --out or pass --overwrite')
    bundle = find_bundle(args.bundle, args.models_dir)
    from kd_perception.distillation.picture_statistics import statistics_of
    with progress(f'looking at pictures for {bundle.spec.name}') as update:
        found = statistics_of((source for _, source in opened(args, args.source)), update)
    files: dict[str, bytes | Path] = {name: bundle.file(name) for name in bundle.files}
    made = write_bundle(args.out, bundle.spec, {**files, STATISTICS: found.to_bytes()},
                        overwrite=args.overwrite)
    print(f'{made.path}: {STATISTICS} of {found.pictures} pictures')
    return 0
