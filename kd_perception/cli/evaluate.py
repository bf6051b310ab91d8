"""
Measure a model on labelled recordings.

The bundle runs in the engine that would drive; one table per recording, with what really ran.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from kd_perception.bundle import find_bundle, ModelBundle
from kd_perception.cli.metrics_table import print_details, print_metrics
from kd_perception.cli.progress import progress
from kd_perception.cli.source_arguments import add_engine_arguments, add_source_arguments, opened
from kd_perception.errors import ConfigError
from kd_perception.evaluation.classification import evaluate_classification
from kd_perception.evaluation.evaluate import evaluate
from kd_perception.evaluation.metrics.detail_counter import MEASURES
from kd_perception.paths import atomic_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``evaluate``."""
    parser.add_argument('bundle', help='path of a bundle, or its name in the models directory')
    parser.add_argument('source', nargs='+', type=Path,
                        help='labelled recordings: bags or image folders; a folder or a pattern '
                             'of several; for a classification a folder with one folder of '
                             'pictures per class')
    parser.add_argument('--class-map', default='',
                        help='name or path of a map from the classes of the labels to those of '
                             "the model, or from the model's to those of the labels")
    parser.add_argument('--confidence-threshold', type=float, default=0.0, metavar='P',
                        help='less certain pixels count as missed (%(default)s)')
    parser.add_argument('--measures', default='all', metavar='NAMES',
                        help='what is measured beside the matrix, as far as the recording knows '
                             f'its truth: {",".join(MEASURES)}, all or none (%(default)s)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all figures')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing --json')
    add_source_arguments(parser, labels=True)
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print one table per recording."""
    if args.json is not None:
        if args.json.is_dir() or (args.json.exists() and not args.overwrite):
            raise ConfigError(f'{args.json}: exists; choose another --json or pass --overwrite')
        # Told before the work, not after it.
        args.json.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(args.json.parent, os.W_OK):
            raise ConfigError(f'{args.json}: its directory cannot be written')
    measures = _measures(args.measures)
    bundle = find_bundle(args.bundle)
    classifies = bundle.spec.task == 'classification'
    results = [_classification(args, bundle, p) for p in args.source] if classifies else []
    for name, source in () if classifies else opened(args, args.source):
        with progress(f'evaluating {bundle.spec.name} on {source.name}') as update:
            result = evaluate(bundle, source, engine=args.engine, device=args.device,
                              precision=args.precision, threads=args.threads,
                              class_map=args.class_map, progress=update,
                              measures=measures,
                              confidence_threshold=args.confidence_threshold)
        results.append(result.to_dict())
        print_metrics(results[-1], f'{bundle.spec.name} on {name}: {result.frames} frames, '
                                   f'{result.engine} {result.device} {result.precision}')
        print_details(results[-1])
        if result.bad_frames or result.unlabelled_frames:
            print(f'left out: {result.bad_frames} frames not decodable, '
                  f'{result.unlabelled_frames} without labels')
    if args.json is not None:
        with atomic_file(args.json) as temporary:
            temporary.write_text(json.dumps(results if len(results) > 1 else results[0],
                                            indent=2) + '\n')
        print(args.json)
    return 0


def _measures(names: str) -> tuple[str, ...]:
    chosen = tuple(n.strip() for n in names.split(','))
    if chosen in (('all',), ('none',)):
        return MEASURES if chosen == ('all',) else ()
    if unknown := sorted(set(chosen) - set(MEASURES)):
        raise ConfigError(f'--measures: {unknown[0]!r} is none of {", ".join(MEASURES)}, all and '
                          'none')
    return chosen


def _classification(args: argparse.Namespace, bundle: ModelBundle, path: Path) -> dict[str, Any]:
    """Evaluate a classification, print one line, and return all figures."""
    with progress(f'evaluating {bundle.spec.name} on {path.name}') as update:
        result = evaluate_classification(
            bundle, path, engine=args.engine, device=args.device, precision=args.precision,
            threads=args.threads, limit=args.limit, progress=update)
    print(f'{bundle.spec.name} on {path}: top-1 {100 * result.accuracy:.1f} % of '
          f'{int(result.counts.sum())} pictures, {result.bad_frames} not decodable '
          f'({result.engine} {result.device} {result.precision})')
    return result.to_dict()
