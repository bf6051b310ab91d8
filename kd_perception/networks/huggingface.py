"""
Segmentation networks and classifiers of Hugging Face ``transformers``, built from their config.

Nothing is downloaded, and no code that comes with a model is run: the config is plain data.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import os
from pathlib import Path
import tempfile
from typing import Any

from safetensors.torch import save_file
import torch
from torch import nn

from kd_perception.errors import BundleError, ConfigError, first_line
from kd_perception.networks.registry import register
from kd_perception.networks.state_dict import Fitted, unused

CONFIG = 'config.json'
PREPROCESSOR = 'preprocessor_config.json'
_TASKS = {'ForSemanticSegmentation': 'segmentation', 'ForImageClassification': 'classification'}
# Of no meaning for the network itself.
_DROPPED = ('id2label', 'label2id', '_name_or_path', 'transformers_version', 'torch_dtype',
            'dtype', 'num_labels', 'use_cache')


class Logits(nn.Module):
    """A model of transformers that returns its logits alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of float32 ``[N, 3, H, W]``, normalised."""
        return self.net(pixel_values=x).logits


@register('hf')
def huggingface(num_classes: int, config: Mapping[str, Any]) -> Logits:
    """
    Build a network of transformers.

    :param config: content of the model's ``config.json``.
    :raises ConfigError: when transformers is missing or the model has no plain logits.
    """
    auto, made = _classes(config, num_classes)
    try:
        return Logits(auto.from_config(made, attn_implementation='eager'))
    except Exception as error:  # the library refuses configs in many ways
        raise ConfigError(f'network builder hf: transformers refuses this config: '
                          f'{first_line(error)}') from None


def fitted(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], num_classes: int,
           where: str) -> Fitted:
    """
    Return weights under the names that the builder's module has.

    Names of published weights differ from those of the modules; the library knows how. It reads
    a copy of what came through our own door, so that no pickle reaches it.

    :param tensors: content of the model's weights files.
    :raises BundleError: when tensors are missing, unknown or of another shape.
    """
    auto, made = _classes(config, num_classes)
    with tempfile.TemporaryDirectory(prefix='kd_perception_hf_') as folder:
        save_file({n: t.contiguous().clone() for n, t in tensors.items()},
                  Path(folder) / 'model.safetensors', metadata={'format': 'pt'})
        try:
            net, told = auto.from_pretrained(
                folder, config=made, local_files_only=True, use_safetensors=True,
                attn_implementation='eager', output_loading_info=True,
                ignore_mismatched_sizes=True, dtype=torch.float32)
        except Exception as error:
            raise BundleError(f'{where}: transformers cannot load these weights: '
                              f'{first_line(error)}') from None
    surplus = sorted(map(str, told['unexpected_keys']))
    dropped = [n for n in surplus if unused(n)]
    problems = {'missing': sorted(map(str, told['missing_keys'])),
                'unknown': [n for n in surplus if not unused(n)],
                'of another shape': [' '.join(map(str, m)) if isinstance(m, (tuple, list))
                                     else str(m) for m in told['mismatched_keys']]}
    if any(problems.values()):
        raise BundleError(f'{where}: does not fit its config: ' + ', '.join(
            f'{len(names)} tensors {what} ({names[0]})' for what, names in problems.items()
            if names) + '; another number of classes, or weights of another model')
    notes = (f'{len(dropped)} tensors of auxiliary heads were left out',) if dropped else ()
    return Fitted({f'net.{n}': t for n, t in net.state_dict().items()}, notes)


def task_of(config: Mapping[str, Any]) -> str:
    """
    Return the task of a model by its config.

    :raises ConfigError: when it is neither of ours, or brings its own code.
    """
    if 'auto_map' in config:
        raise ConfigError('network builder hf: this model brings code of its own (auto_map), '
                          'which is not run; import it as a module of yours (entry point)')
    names = config.get('architectures') or ['']
    name = str(names[0]) if isinstance(names, (list, tuple)) and names else ''
    for ending, task in _TASKS.items():
        if name.endswith(ending):
            return task
    raise ConfigError(f'network builder hf: {name or "a model without architectures"} gives no '
                      'plain logits; supported are models For'
                      'SemanticSegmentation (SegFormer, UperNet, DPT, BEiT, …) and '
                      'ForImageClassification')


def read_folder(folder: Path) -> tuple[dict[str, Any], tuple[str, ...], dict[str, Any]]:
    """
    Return config, class names and preprocessing of a local model folder.

    :returns: the config as the builder takes it; names by id, () where there are none; the
        content of ``preprocessor_config.json``, {} where it is missing.
    :raises KdPerceptionError: when the folder is not one of transformers, or of no model that
        can be used.
    """
    config = _json(folder / CONFIG)
    task_of(config)
    names = config.get('id2label') or {}
    try:
        by_id = {int(k): str(v) for k, v in names.items()}
        ordered = tuple(by_id[i] for i in range(len(by_id)))
    except (AttributeError, TypeError, ValueError, KeyError):
        raise BundleError(f'{folder / CONFIG}: id2label must name ids 0 to K-1') from None
    preprocessing = _json(folder / PREPROCESSOR) if (folder / PREPROCESSOR).is_file() else {}
    return ({k: v for k, v in config.items() if k not in _DROPPED}, ordered,
            preprocessing)


def _classes(config: Mapping[str, Any], num_classes: int) -> tuple[Any, Any]:
    """Return the library's class for the task and its config object."""
    os.environ['HF_HUB_OFFLINE'] = os.environ['TRANSFORMERS_OFFLINE'] = '1'
    task = task_of(config)
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(f'network builder hf needs transformers ({error}); '
                          "pip install 'kd_perception[hf]'") from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    plain = {k: v for k, v in config.items() if k not in ('model_type', 'architectures')}
    _keep_offline(plain)
    try:
        made = transformers.AutoConfig.for_model(config['model_type'], **plain)
        made.num_labels = num_classes
        made.use_auxiliary_head = False
    except Exception as error:
        raise ConfigError(f'network builder hf: transformers refuses this config: '
                          f'{first_line(error)}') from None
    return (transformers.AutoModelForSemanticSegmentation if task == 'segmentation'
            else transformers.AutoModelForImageClassification), made


def _keep_offline(config: dict[str, Any]) -> None:
    """Let no part of a config ask for weights of a backbone."""
    for key in ('use_pretrained_backbone', 'backbone_pretrained'):
        if key in config:
            config[key] = False
    for value in config.values():
        if isinstance(value, dict):
            _keep_offline(value)


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise BundleError(f'{path}: not readable: {error.strerror}; expected a folder that '
                          'save_pretrained() wrote') from None
    except (ValueError, RecursionError):
        raise BundleError(f'{path}: is no JSON') from None
    if not isinstance(data, dict):
        raise BundleError(f'{path}: is no mapping')
    return data
