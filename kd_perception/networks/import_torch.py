"""
``bundle import-torch``: weights of other makers and a builder in, a full bundle out.

The bundle holds safetensors and both graphs; the graphs are compared with torch before it is
written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kd_perception import __version__
from kd_perception.bundle import (
    BundleSpec,
    InputSpec,
    Lineage,
    LOGITS,
    ModelBundle,
    NetworkSpec,
)
from kd_perception.classes import ClassSet, named_like
from kd_perception.errors import BundleError, ConfigError, some
from kd_perception.networks import huggingface
from kd_perception.networks.deploy import IMAGES, LogitsGraph, save_bundle
from kd_perception.networks.foreign.facts import (
    ASKED,
    DEFAULT,
    Fact,
    GRAPH,
    input_spec,
    normalisation,
    order_fact,
    resize_fact,
    rounded,
)
from kd_perception.networks.foreign.import_onnx import sample_frame
from kd_perception.networks.foreign.names import class_set, usable
from kd_perception.networks.foreign.wishes import merged, Wishes, wishes
from kd_perception.networks.registry import build
from kd_perception.networks.state_dict import fit, read_tensors
from kd_perception.paths import file_hash

# What a preprocessor may do to values beside range, mean, std and order of channels.
_OTHER_PIXELS = ('rescale_offset', 'include_top', 'do_grayscale', 'do_convert_grayscale',
                 'do_color_quantize')


@dataclass(frozen=True)
class ImportedTorch:
    """
    What an import found and made.

    :param notes: what was done to the weights, a sentence each.
    :param bundle: None after a dry run.
    :param agreement: how near the graph is to torch, in words.
    """

    facts: tuple[Fact, ...]
    notes: tuple[str, ...]
    bundle: ModelBundle | None
    agreement: str = ''


def import_torch(path: Path | str, out: Path | str | None, builder: str,
                 arguments: Mapping[str, Any] | None = None, asked: Wishes | None = None, *,
                 key: str = '', image: Path | None = None, weights_dtype: str | None = None,
                 overwrite: bool = False,
                 show: Callable[[Sequence[Fact]], None] = lambda facts: None) -> ImportedTorch:
    """
    Make a bundle of a network's weights.

    :param path: a file of weights; for ``hf`` the folder of the model.
    :param out: the bundle's directory; None tries everything but the export and writes nothing.
    :param builder: a registered builder or one of an installed package.
    :param arguments: for the builder.
    :param asked: what the user says of input and classes.
    :param key: where in a checkpoint the weights are; empty finds out.
    :param image: a picture to compare graph and torch on; default a made-up one.
    :param show: called with all facts before anything is written.
    :raises KdPerceptionError: one line, where weights, builder and facts do not fit.
    """
    path, asked, arguments = Path(path), asked or Wishes(), dict(arguments or {})
    if out is not None and Path(out).exists() and not overwrite:
        raise BundleError(f'{out}: exists; choose another name or pass --overwrite')
    for wish in ('layout', 'output', 'output_layout', 'values'):
        if getattr(asked, wish) is not None:
            raise ConfigError(f'{wish} has no meaning for torch weights: a builder gives logits '
                              '[N, K, h, w] of pictures [N, 3, H, W]')
    name = asked.name or (path.name if path.is_dir() else path.stem)
    told: tuple[str, ...] = ()
    said = asked
    if builder == 'hf':
        arguments, told, asked = _folder(path, arguments, asked)
    classes, class_fact = _classes(asked, told, name)
    # Weights first: a file that cannot be read is told before seconds of building.
    tensors, found_key = read_tensors(path, key)
    network = NetworkSpec(builder, arguments)
    module = build(network, len(classes)).eval()
    if builder == 'hf':
        fitted = huggingface.fitted(arguments['config'], tensors, len(classes), str(path))
    else:
        fitted = fit(module, tensors, str(path), len(classes))
    module.load_state_dict(fitted.tensors)
    view, facts = _input(module, asked, path)
    # What the folder says was not asked by the user.
    facts = [replace(f, how=GRAPH, why=huggingface.PREPROCESSOR) if f.how == ASKED
             and getattr(said, f.key, None) is None else f for f in facts]
    task, grid = _task(module, view, len(classes), builder)
    if asked.task not in (None, task):
        raise ConfigError(f'{path}: task {asked.task} was asked, but the network gives {grid}: '
                          f'that is {task}')
    parameters = sum(p.numel() for p in module.parameters())
    shown = ', '.join(f'{k}={v}' for k, v in arguments.items() if not isinstance(v, dict))
    facts = [
        Fact('weights', f'{path.name}{f" [{found_key}]" if found_key else ""}, '
                        f'{len(tensors)} tensors', ASKED if key else GRAPH),
        Fact('network', f'{builder} {shown}'.strip() + f', {parameters / 1e6:.2f} M parameters',
             ASKED), *facts, Fact('task', task, GRAPH), Fact('output', grid, GRAPH), class_fact]
    show(facts)
    notes = list(fitted.notes)
    if task == 'classification':
        notes.append('is a classification: it can be shown, verified and evaluated; the '
                     'perception node does not serve it yet')
    if out is None:
        return ImportedTorch(tuple(facts), tuple(notes), None)
    files = sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
    spec = BundleSpec(
        name=name, task=task, role=asked.role or 'teacher', classes=classes, input=view,
        network=network, lineage=Lineage(data=(), recipe='', code_version=__version__),
        statistics={'imported_from': {'file': path.name, 'sha256': file_hash(*files)}})
    frame = sample_frame(view, image)[np.newaxis]
    bundle = save_bundle(out, module, spec, weights_dtype=weights_dtype, images=frame,
                         overwrite=overwrite)
    return ImportedTorch(tuple(facts), tuple(notes), bundle,
                         _agreement(bundle, module, frame))


def _folder(path: Path, arguments: dict[str, Any],
            asked: Wishes) -> tuple[dict[str, Any], tuple[str, ...], Wishes]:
    """Return arguments, class names and wishes of a Hugging Face folder; wishes beat it."""
    if not path.is_dir():
        raise BundleError(f'{path}: builder hf takes the folder that save_pretrained() wrote')
    config, names, preprocessing = huggingface.read_folder(path)
    data: dict[str, Any] = {}
    if preprocessing.get('do_normalize', True) and 'image_mean' in preprocessing:
        data.update(mean=preprocessing['image_mean'], std=preprocessing.get('image_std'))
    elif preprocessing:
        data.update(mean='none', std='none')
    if preprocessing:
        strange = [k for k in _OTHER_PIXELS if preprocessing.get(k)]
        rescaled = preprocessing.get('do_rescale', True)
        factor = preprocessing.get('rescale_factor', 1 / 255)
        if rescaled and (not isinstance(factor, (int, float)) or abs(factor * 255 - 1) > 1e-3):
            strange.append('rescale_factor')
        if strange and not (asked.range and asked.mean and asked.std):
            raise BundleError(f'{path / huggingface.PREPROCESSOR}: {strange[0]} '
                              f'{preprocessing[strange[0]]!r} changes pixels in a way that a '
                              'bundle does not know; give all of range, mean and std')
        data['range'] = '0..1' if rescaled else '0..255'
    if preprocessing.get('do_flip_channel_order'):
        data['channel_order'] = 'bgr'
    size = preprocessing.get('size')
    if isinstance(size, dict) and {'height', 'width'} <= set(size):
        data['size'] = [size['height'], size['width']]
    told = wishes(data, str(path / huggingface.PREPROCESSOR)) if data else Wishes()
    return {**arguments, 'config': config}, names, merged(told, asked)


def _classes(asked: Wishes, told: tuple[str, ...], name: str) -> tuple[ClassSet, Fact]:
    if asked.classes is not None:
        classes, how = class_set(asked.classes, name), ASKED
    elif told:
        classes, how = named_like(usable(told), name), GRAPH
    else:
        raise ConfigError('weights do not name their classes: give --classes (a class set, a file '
                          'of names, names separated by commas, or their number)')
    return classes, Fact('classes', f'{len(classes)} of {classes.name}: {some(classes.names)}',
                         how, '' if how == ASKED else 'id2label')


def _input(module: nn.Module, asked: Wishes, path: Path) -> tuple[InputSpec, list[Fact]]:
    # timm's models say what they were trained on.
    own = getattr(module, 'pretrained_cfg', None) or {}
    size, how = asked.size, ASKED
    if size is None:
        if not own.get('input_size'):
            raise ConfigError(f'{path}: weights do not tell a size: say which with --size WxH, '
                              "best the camera's or the training's")
        size, how = (int(own['input_size'][1]), int(own['input_size'][2])), DEFAULT
    usual = None
    if own.get('mean') and own.get('std'):
        usual = wishes({'mean': own['mean'], 'std': own['std']}, 'pretrained_cfg')
    padded = rounded(size, asked.multiple) != size
    size = rounded(size, asked.multiple)
    span, mean, std, more = normalisation(asked, str(path), usual=usual)
    order = order_fact(asked)
    resize = resize_fact(asked, padded)
    return input_spec(size, span, mean, std, order.value, resize.value), [
        Fact('size', f'{size[1]}x{size[0]}', how,
             f'rounded up to multiples of {asked.multiple}' if padded else ''),
        resize, order, *more]


def _task(module: nn.Module, view: InputSpec, count: int, builder: str) -> tuple[str, str]:
    """Return the task and the output's shape, by running an empty picture."""
    try:
        with torch.inference_mode():
            value = module(torch.zeros(1, 3, view.height, view.width))
    except Exception as error:  # a network of somebody else
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BundleError(f'network {builder!r} does not run on a picture of {view.width}x'
                          f'{view.height}: {reason[:160]}' + (
                              '; try --multiple 32' if isinstance(error, RuntimeError) else '')
                          ) from None
    if not isinstance(value, torch.Tensor):
        raise BundleError(f'network {builder!r} returns {type(value).__name__}, not logits: let '
                          'its builder return a module that gives the tensor alone')
    shape = list(value.shape)
    if len(shape) not in (2, 4) or shape[:2] != [1, count]:
        raise BundleError(f'network {builder!r} returns {shape}, not logits [1, {count}, h, w] or '
                          f'[1, {count}]')
    return ('segmentation' if len(shape) == 4 else 'classification'), f'logits {shape}'


def _agreement(bundle: ModelBundle, module: nn.Module, frame: np.ndarray) -> str:
    """Return how near the exported logits are to those of torch, on one picture."""
    try:
        import onnxruntime
    except ImportError:
        return 'graph not compared with torch: onnxruntime is not installed'
    session = onnxruntime.InferenceSession(bundle.file(LOGITS),
                                           providers=['CPUExecutionProvider'])
    got = session.run(None, {IMAGES: frame})[0]
    with torch.inference_mode():
        logits = LogitsGraph(module, bundle.spec.input).eval()(torch.from_numpy(frame)).numpy()
    same = float((got.argmax(1) == logits.argmax(1)).mean())
    far = float(np.abs(got - logits).max()) / max(float(np.ptp(logits)), 1e-6)
    return (f'graph against torch: same class on {same:.3%} of cells, logits within {far:.1e} of '
            'their spread')
