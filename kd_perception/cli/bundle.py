"""Look into model bundles, check them, and make them of networks of other makers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kd_perception.bundle import find_bundle, load_bundle, METRICS, ModelBundle, WEIGHTS
from kd_perception.cli.bundle_import import (
    add_import_onnx,
    add_import_torch,
    run_import_onnx,
    run_import_torch,
)
from kd_perception.cli.bundle_statistics import add_statistics, run_statistics
from kd_perception.errors import BundleError
from kd_perception.tasks.familiarity import load_statistics

EPILOG = '''\
examples:
  kd_perception bundle show teacher
  kd_perception bundle show runs/student/bundle --json
  kd_perception bundle verify teacher student
  kd_perception bundle import-onnx net.onnx --out teacher --dry-run
  kd_perception bundle import-torch --help
'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.epilog = EPILOG
    verbs = parser.add_subparsers(dest='action', required=True,
                                  metavar='show|verify|import-onnx|import-torch|statistics')
    show = verbs.add_parser('show', help='what a model is, where it comes from, what it reached')
    show.add_argument('bundle', help='path of a bundle, or its name in the models directory')
    show.add_argument('--json', action='store_true', help='print JSON')
    verify = verbs.add_parser('verify', help='check every byte, and graphs against weights')
    verify.add_argument('bundle', nargs='+', help='paths or names')
    for sub in (show, verify):
        sub.add_argument('--models-dir', type=Path, metavar='DIR',
                         help='where names are looked up')
    add_import_onnx(verbs)
    add_import_torch(verbs)
    add_statistics(verbs)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    return {'show': _show, 'verify': _verify, 'import-onnx': run_import_onnx,
            'import-torch': run_import_torch, 'statistics': run_statistics}[args.action](args)


def bundle_facts(bundle: ModelBundle) -> dict[str, Any]:
    """Return what is known of a bundle as plain types."""
    metrics: Any = None
    if bundle.has(METRICS):
        try:
            metrics = json.loads(bundle.file(METRICS).read_text())
        except ValueError as error:
            raise BundleError(f'{bundle.file(METRICS)}: is no JSON: {error}') from None
    return {
        **bundle.spec.to_dict(), 'path': str(bundle.path), 'hash': bundle.hash,
        'files': {name: {'sha256': digest, 'bytes': bundle.file(name).stat().st_size}
                  for name, digest in bundle.files.items()},
        'metrics': metrics}


def _show(args: argparse.Namespace) -> int:
    facts = bundle_facts(find_bundle(args.bundle, args.models_dir))
    if args.json:
        print(json.dumps(facts, indent=1))
        return 0
    console = Console()
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(style='bold', no_wrap=True)
    table.add_column(overflow='fold')
    for name, text in _lines(facts):
        table.add_row(Text(name), Text(text))
    console.print(table)
    return 0


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    view, network, lineage = facts['input'], facts['network'], facts['lineage']
    arguments = ', '.join(f'{k}={v}' for k, v in network['arguments'].items()
                          if not isinstance(v, dict))
    names = [c['name'] for c in facts['classes']['classes']]
    lines = [
        ('name', f'{facts["name"]} ({facts["role"]}, {facts["task"]})'),
        ('path', facts['path']), ('hash', facts['hash']),
        ('network', f'{network["builder"]} ({arguments})' if network['builder']
         else f'foreign graph ({arguments})'),
        ('input', f'{view["width"]}x{view["height"]} {view["channel_order"]}, {view["resize"]}'),
        ('classes', f'{len(names)} of {facts["classes"]["name"]}: {", ".join(names)}'),
        ('parents', ', '.join(p[:12] for p in lineage['parents']) or 'none'),
        ('data', ', '.join(d[:12] for d in lineage['data']) or 'not recorded'),
        ('recipe', lineage['recipe'][:12] or 'not recorded'),
        ('code', lineage['code_version'] or 'not recorded')]
    lines += [('files' if i == 0 else '', f'{name}  {entry["bytes"] / 1e6:.2f} MB')
              for i, (name, entry) in enumerate(facts['files'].items())]
    metrics = facts['metrics']
    if isinstance(metrics, dict):
        validation = metrics.get('validation')
        reached = validation if isinstance(validation, dict) else {}
        figures = [f'{key} {value:.4g}' for key, value in {**metrics, **reached}.items()
                   if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if figures:
            against = metrics.get('validation_against')
            told = f' (validation against the {against})' if isinstance(against, str) else ''
            lines.append(('metrics', ', '.join(figures) + told))
    return lines


def _verify(args: argparse.Namespace) -> int:
    for name in args.bundle:
        bundle = find_bundle(name, args.models_dir, verify=False)
        bundle = load_bundle(bundle.path, verify=True)
        load_statistics(bundle)
        print(f'{bundle.path}: {len(bundle.files)} files as they were written')
        if bundle.spec.network.builder and bundle.has(WEIGHTS):
            print(f'{bundle.path}: {_graph_state(bundle)}')
    return 0


def _graph_state(bundle: ModelBundle) -> str:
    """Return one line on graph against weights; hashes say nothing about that."""
    from kd_perception.bundle import DEPLOY
    if not bundle.has(DEPLOY):
        return f'has no {DEPLOY} yet; make it with: kd_perception export {bundle.path}'
    try:
        from kd_perception.networks.deploy import check_graph, load_module
    except ImportError:
        return 'graph not compared with the weights: torch is not installed'
    agreement = check_graph(load_module(bundle), bundle.spec, bundle.file(DEPLOY).read_bytes())
    return f'{DEPLOY} agrees with the weights on {agreement:.2%} of clear pixels'
