"""The verbs ``bundle import-onnx`` and ``bundle import-torch``: networks of other makers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import logging
from pathlib import Path
import re
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
import yaml

from kd_perception.errors import ConfigError
from kd_perception.networks.foreign.wishes import merged, read_wishes, Wishes, wishes

ONNX_EPILOG = '''\
examples:
  kd_perception bundle import-onnx net.onnx --out teacher --size 640x384 --classes names.txt
  kd_perception bundle import-onnx net.onnx --dry-run --range 0..255 --mean none
  kd_perception bundle import-onnx net.onnx --out teacher --spec net.yaml

net.yaml holds the same keys:
  range: 0..1
  mean: [0.485, 0.456, 0.406]
  std: [0.229, 0.224, 0.225]
  channel_order: bgr
  classes: [road, car, person]

What is not given is read from the graph where it says so, guessed where a wrong guess would show,
and listed before use. Normalisation is in no graph: check those lines.
'''
TORCH_EPILOG = '''\
examples:
  kd_perception bundle import-torch deeplab.pth --builder torchvision \\
      --arguments '{architecture: deeplabv3_resnet50}' --classes voc.txt --size 520x520 --out voc
  kd_perception bundle import-torch unet.pth --builder smp --classes driving --size 640x360 \\
      --arguments '{architecture: Unet, encoder: resnet34}' --out unet
  kd_perception bundle import-torch segformer/ --builder hf --size 640x384 --out segformer
  kd_perception bundle import-torch ours.pth --builder our_net --classes camvid --size 480x360 \\
      --out ours         # our_net: an entry point of the group kd_perception.networks

Only tensors are read; a pickle with code in it is refused.
'''
_KEYS = ('task', 'size', 'multiple', 'resize', 'range', 'mean', 'std', 'channel_order', 'classes',
         'name', 'role')
_ONNX_KEYS = ('layout', 'output', 'values', 'output_layout')


def add_import_onnx(verbs: Any) -> None:
    """Declare ``bundle import-onnx``."""
    parser = verbs.add_parser('import-onnx', help='make a bundle of a foreign ONNX graph',
                              epilog=ONNX_EPILOG,
                              formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', type=Path, help='ONNX file of a segmentation or classification')
    _common(parser)
    group = parser.add_argument_group('the graph')
    group.add_argument('--layout', metavar='nchw|nhwc', help='of the input')
    group.add_argument('--output', metavar='NAME', help='which of several outputs')
    group.add_argument('--values', metavar='logits|probabilities|ids', help='what the output is')
    group.add_argument('--output-layout', metavar='nchw|nhwc', help='of the output')


def add_import_torch(verbs: Any) -> None:
    """Declare ``bundle import-torch``."""
    parser = verbs.add_parser('import-torch', help='make a bundle of weights of a torch network',
                              epilog=TORCH_EPILOG,
                              formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('weights', type=Path,
                        help='.pth, .bin or .safetensors; for hf the folder of the model')
    parser.add_argument('--builder', required=True, metavar='NAME',
                        help='torchvision, timm, smp, hf, compact, or an entry point of yours')
    parser.add_argument('--arguments', default='', metavar='YAML',
                        help="for the builder, e.g. '{architecture: resnet18}'")
    parser.add_argument('--key', default='', help='where in a checkpoint the weights are')
    parser.add_argument('--weights-type', choices=('fp32', 'fp16'), default=None,
                        help='type of the stored weights (default: as they are)')
    _common(parser)


def run_import_onnx(args: argparse.Namespace) -> int:
    """Import a graph and say what was found."""
    asked = _asked(args, _ONNX_KEYS)
    from kd_perception.networks.foreign.import_onnx import import_onnx
    result = import_onnx(args.model, None if args.dry_run else args.out, asked,
                         image=args.image, overwrite=args.overwrite, show=_show)
    for agreement in result.agreements:
        print(agreement)
    for caution in result.cautions:
        print(f'beware: {args.model}: {caution}')
    _done(args, result.bundle)
    return 0


def run_import_torch(args: argparse.Namespace) -> int:
    """Import weights and say what was found."""
    asked, arguments = _asked(args, ()), _arguments(args.arguments)
    # torch takes seconds to import; wrong arguments were told before.
    from kd_perception.networks.import_torch import import_torch
    if not args.debug:
        logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    result = import_torch(args.weights, None if args.dry_run else args.out, args.builder,
                          arguments, asked, key=args.key, image=args.image,
                          weights_dtype=args.weights_type, overwrite=args.overwrite, show=_show)
    for note in result.notes:
        print(f'note: {args.weights}: {note}')
    if result.agreement:
        print(result.agreement)
    _done(args, result.bundle)
    return 0


def _common(parser: argparse.ArgumentParser) -> None:
    # Or "--range -1..1" is taken for an option.
    parser._negative_number_matcher = re.compile(r'-\.?\d')
    parser.add_argument('--out', type=Path, metavar='DIR', help='bundle to write')
    parser.add_argument('--dry-run', action='store_true', help='show what is found, write nothing')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing bundle')
    parser.add_argument('--spec', type=Path, metavar='YAML',
                        help='the options below as a file; options beat it')
    parser.add_argument('--image', type=Path, metavar='FILE',
                        help='picture to check on (default: a made-up one)')
    group = parser.add_argument_group('what is known of the network')
    group.add_argument('--task', metavar='segmentation|classification')
    group.add_argument('--size', metavar='WxH', help='input size, where the network takes any')
    group.add_argument('--multiple', metavar='N',
                       help='round the size up to multiples of N (its stride) and pad frames')
    group.add_argument('--resize', metavar='stretch|letterbox|pad',
                       help='how frames of another size are brought to it (stretch)')
    group.add_argument('--range', metavar='0..1|0..255|-1..1',
                       help='what bytes are scaled to before mean and std (0..1)')
    group.add_argument('--mean', metavar='M', help='one or three numbers, imagenet, or none')
    group.add_argument('--std', metavar='S', help='one or three numbers, imagenet, or none')
    group.add_argument('--channel-order', metavar='rgb|bgr')
    group.add_argument('--classes', metavar='NAMES',
                       help='a class set, a YAML, text or JSON file, names with commas between, '
                            'or only their number')
    group.add_argument('--name', help='name of the model (default: that of the file)')
    group.add_argument('--role', help='teacher (default), student, …')


def _asked(args: argparse.Namespace, more: Sequence[str]) -> Wishes:
    if args.out is None and not args.dry_run:
        raise ConfigError('where to? Give --out DIR, or --dry-run to look only')
    said = wishes({k: getattr(args, k) for k in (*_KEYS, *more)}, 'command line')
    return said if args.spec is None else merged(read_wishes(args.spec), said)


def _arguments(text: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text) if text else {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [''])[0]
        raise ConfigError(f'--arguments {text!r}: not readable as YAML: {reason}') from None
    if not isinstance(data, dict) or not all(isinstance(k, str) for k in data):
        raise ConfigError(f"--arguments {text!r}: must be a mapping as in "
                          "'{architecture: resnet18}'")
    return data


def _show(facts: Sequence[Any]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ('', 'is', 'known by', ''):
        table.add_column(column, overflow='fold')
    for fact in facts:
        # A default that no graph tells is what goes wrong silently.
        style = 'yellow' if 'check' in fact.why or 'nobody' in fact.why else ''
        table.add_row(Text(fact.key, style='bold'), Text(fact.value), Text(fact.how),
                      Text(fact.why), style=style)
    Console().print(table)


def _done(args: argparse.Namespace, bundle: Any) -> None:
    if bundle is None:
        print('nothing was written (--dry-run)')
    else:
        print(f'{bundle.path}: {", ".join(bundle.files)}')
