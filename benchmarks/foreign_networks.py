"""
A published score against that of the imported network, and against its own graph run bare.

Nothing is downloaded: the network is an ONNX file, exported where its authors' code runs;
``docs/foreign_networks.md`` tells how. The bare run feeds that file to ONNX Runtime by a few lines
of numpy written here: what import, placement and engine add would show as a difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
import sys
import tempfile
from typing import Any

import numpy as np
import onnxruntime
import result
import yaml

from kd_perception.bags.source import open_source
from kd_perception.bundle import ModelBundle
from kd_perception.classes import ClassSet, load_class_set
from kd_perception.errors import KdPerceptionError
from kd_perception.evaluation.classification import evaluate_classification
from kd_perception.evaluation.evaluate import evaluate
from kd_perception.imaging import decode_compressed
from kd_perception.networks.foreign.import_onnx import import_onnx
from kd_perception.networks.foreign.wishes import Wishes, wishes
from kd_perception.tasks.metrics import ConfusionMatrix

VOID = 'void'
SUFFIXES = ('.png', '.jpg', '.jpeg')


@dataclass(frozen=True)
class Published:
    """
    What its authors say of a network.

    :param score: in percent, of the metric ``key`` of our results.
    :param where: the weights.
    :param said: what the network is fed, as for ``import-onnx``.
    :param classes: of a classification.
    """

    score: float
    key: str
    where: str
    said: dict[str, Any]
    classes: tuple[str, ...] = field(default=())


CIFAR10 = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship',
           'truck')
IMAGENET = {'range': '0..1', 'mean': 'imagenet', 'std': 'imagenet'}
NETWORKS = {
    # Mean of the training frames and mean of their deviations; the authors' code then divides by
    # 255 once more.
    'espnet': Published(
        55.64, 'mean_iou_with_void',
        'github.com/sacmehta/ESPNet, pretrained/decoder/espnet_p_2_q_8_camvid.pth',
        {'channel_order': 'bgr', 'range': '0..255', 'mean': [110.33103, 108.40886, 105.03319],
         'std': [72.12571 * 255, 72.69075 * 255, 69.90435 * 255]}),
    'resnet20': Published(
        91.73, 'top1',
        'github.com/akamaster/pytorch_resnet_cifar10, pretrained_models/resnet20-12fca82f.th',
        IMAGENET, CIFAR10),
    'resnet56': Published(
        93.39, 'top1',
        'github.com/akamaster/pytorch_resnet_cifar10, pretrained_models/resnet56-4bfd9763.th',
        IMAGENET, CIFAR10),
}


def main() -> int:
    only = result.parser(__doc__ or '')
    only.add_argument('network', choices=NETWORKS)
    only.add_argument('model', type=Path, help='its ONNX file')
    only.add_argument('data', type=Path, help="CamVid's test frames at 480x360; for a "
                      'classification a folder with one folder of pictures per class')
    only.add_argument('--labels', type=Path, help='of the frames (default: <data>_labels)')
    only.add_argument('--limit', type=int, default=0, help='measure the first so many')
    args = only.parse_args()
    published = NETWORKS[args.network]
    if not args.model.is_file():
        print(f'{args.model}: no such file; the weights are at {published.where}, and '
              'docs/foreign_networks.md tells how to make an ONNX file of them', file=sys.stderr)
        return 2
    try:
        ours, bare, bundle = measure(args, published)
    except KdPerceptionError as error:
        print(error, file=sys.stderr)
        return 2
    value, plain = 100 * ours[published.key], 100 * bare[published.key]
    more = {'mean_iou': round(100 * ours['mean_iou'], 2)} if 'mean_iou' in ours else {}
    result.state(
        name=f'foreign_{args.network}', value=value, unit=f'% {published.key}',
        workload={'published': published.score, 'bare_graph': round(plain, 4), **more,
                  'pictures': next(p.suffix for p in sorted(args.data.rglob('*'))
                                   if p.suffix.lower() in SUFFIXES),
                  'n': ours['frames'], 'engine': ours['engine'], 'precision': ours['precision'],
                  'bundle': bundle.hash[:12]},
        spread={'from_published': round(value - published.score, 2),
                'from_bare_graph': round(value - plain, 4)},
        details={'ours': ours, 'bare': bare}, json_file=args.json)
    return 0


def measure(args: argparse.Namespace,
            published: Published) -> tuple[dict[str, Any], dict[str, Any], ModelBundle]:
    """Return our figures, those of the bare graph, and the bundle, which is gone by then."""
    asked = wishes(published.said, args.network)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if published.classes:
            bundle = imported(args.model, folder, {**published.said, 'classes': published.classes})
            session = bare_session(args.model)
            ours = evaluate_classification(bundle, args.data, engine='onnxruntime',
                                           limit=args.limit).to_dict()
            right = [int(scores(session, image, asked).argmax()) == truth
                     for image, truth in pictures(args.data, published.classes, args.limit)]
            return ours, {'top1': float(np.mean(right))}, bundle
        camvid = load_class_set('camvid')
        whole = ClassSet('camvid_void', (*camvid.names, VOID), (*camvid.colors, (0, 0, 0)))
        (folder / 'classes.yaml').write_text(yaml.safe_dump(whole.to_dict()))
        (folder / 'map.yaml').write_text(yaml.safe_dump(
            {'map': {n: [n] for n in camvid.names}, 'ignore': [VOID]}))
        source = open_source(args.data, label_dir=args.labels or '', classes='camvid',
                             limit=args.limit)
        bundle = imported(args.model, folder, {
            **published.said, 'classes': str(folder / 'classes.yaml')})
        session = bare_session(args.model)
        ours = evaluate(bundle, source, engine='onnxruntime',
                        class_map=str(folder / 'map.yaml')).to_dict()
        matrix = ConfusionMatrix(len(camvid))
        for frame in source:
            if frame.labels is not None:
                best = scores(session, frame.image, asked).argmax(0).astype(np.uint8)
                matrix.update(camvid.lookup()[frame.labels], camvid.lookup()[best])
        return ours, matrix.to_dict(camvid.names), bundle


def imported(model: Path, folder: Path, said: dict[str, Any]) -> ModelBundle:
    bundle = import_onnx(model, folder / 'bundle', wishes(said, model.name)).bundle
    assert bundle is not None
    return bundle


def bare_session(model: Path) -> onnxruntime.InferenceSession:
    """Return the bare graph; after its import, which tells in one line what is no graph."""
    return onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])


def scores(session: onnxruntime.InferenceSession, image: np.ndarray, asked: Wishes) -> np.ndarray:
    """Return what the bare graph gives for an RGB picture of its own size."""
    x: np.ndarray = image[..., ::-1 if asked.channel_order == 'bgr' else 1].astype(np.float32)
    x = x / (255 if asked.range == '0..1' else 1) - np.array(asked.mean)
    x = (x / np.array(asked.std)).transpose(2, 0, 1)[None].astype(np.float32)
    return session.run(None, {session.get_inputs()[0].name: x})[0][0]


def pictures(folder: Path, classes: tuple[str, ...],
             limit: int) -> Iterator[tuple[np.ndarray, int]]:
    for number, name in enumerate(classes):
        files = sorted(p for p in (folder / name).glob('*') if p.suffix.lower() in SUFFIXES)
        for file in files[:limit] if limit else files:
            yield decode_compressed(file.read_bytes()), number


if __name__ == '__main__':
    sys.exit(main())
