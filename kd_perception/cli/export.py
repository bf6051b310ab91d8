"""
Make the graphs of a bundle anew from its weights.

For bundles that travel with weights alone, for another input size, and after an update that
writes better graphs. Hashes change, so the result is a new model; its parent is the old one.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from kd_perception.bundle import (
    BundleSpec,
    DEPLOY,
    DEPLOY_INT8,
    find_bundle,
    LOGITS,
    MODEL_CARD,
    ModelBundle,
    WEIGHTS,
)
from kd_perception.cli.progress import progress
from kd_perception.errors import ConfigError

EPILOG = '''\
examples:
  kd_perception export models/street_teacher --out teacher
  kd_perception export student --size 480x270 --out student_small
  kd_perception export student --overwrite
'''

_REMADE = (WEIGHTS, DEPLOY, LOGITS, MODEL_CARD)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.epilog = EPILOG
    parser.add_argument('bundle', help='path of a bundle, or its name in the models directory')
    parser.add_argument('--out', type=Path, metavar='DIR',
                        help='bundle to write (default: the same one; --overwrite where it has '
                             'graphs already)')
    parser.add_argument('--size', default='', metavar='WxH',
                        help='input size of the graphs (default: as it is)')
    parser.add_argument('--weights', choices=('fp32', 'fp16'), default=None,
                        help='type of the stored weights (default: as they are)')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing bundle')
    parser.add_argument('--models-dir', type=Path, metavar='DIR',
                        help='where names are looked up')


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    bundle = find_bundle(args.bundle, args.models_dir)
    out = args.out or bundle.path
    # To add graphs to a bundle that has none takes nothing away.
    adds = out == bundle.path and not bundle.has(DEPLOY)
    if out.exists() and not args.overwrite and not adds:
        raise ConfigError(f'{out}: exists; pass --overwrite to replace it, or --out DIR')
    spec = resized(bundle, args.size)
    with progress(f'exporting {bundle.spec.name}') as update:
        update(0, 1, '')
        made = export(bundle, out, spec=spec, weights_dtype=args.weights,
                      overwrite=args.overwrite or adds)
        update(1, 1, '')
    print(f'{made.path}: {", ".join(made.files)}')
    return 0


def export(bundle: ModelBundle, out: Path, *, spec: BundleSpec | None = None,
           weights_dtype: str | None = None, overwrite: bool = False) -> ModelBundle:
    """
    Write a bundle with fresh graphs; papers of the old one go along.

    :param spec: default: the bundle's own. An int8 graph is of the old weights and input size and
        stays behind when either changes.
    """
    spec = spec or bundle.spec
    # torch takes seconds to import; wrong arguments were told before.
    from kd_perception.networks.deploy import load_module, save_bundle
    same = spec.input == bundle.spec.input and weights_dtype is None
    extra = {name: bundle.file(name).read_bytes() for name in bundle.files
             if name not in _REMADE and (same or name != DEPLOY_INT8)}
    return save_bundle(out, load_module(bundle), spec, extra_files=extra,
                       weights_dtype=weights_dtype or _stored_type(bundle), overwrite=overwrite)


def resized(bundle: ModelBundle, size: str) -> BundleSpec:
    """
    Return the spec for graphs of another input size.

    :param size: ``WxH``; empty keeps it.
    :raises ConfigError: when it is no size.
    """
    if not size:
        return bundle.spec
    width, _, height = size.lower().partition('x')
    if not (width.isdecimal() and height.isdecimal()):
        raise ConfigError(f'--size {size!r}: give width and height as in 640x360')
    old = bundle.spec
    return replace(old, input=replace(old.input, height=int(height), width=int(width)),
                   lineage=replace(old.lineage, parents=(bundle.hash,)))


def _stored_type(bundle: ModelBundle) -> str | None:
    """Return ``fp16`` where the weights are stored so, so that a small file stays small."""
    from safetensors import safe_open
    with safe_open(bundle.file(WEIGHTS), framework='numpy') as file:
        types = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return 'fp16' if 'F16' in types else None
