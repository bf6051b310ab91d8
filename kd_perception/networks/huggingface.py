"""
Segmentation networks and classifiers of Hugging Face ``transformers``, built from their config.

Nothing is downloaded, and no code that comes with a model is run: the config is plain data.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd_perception.errors import BundleError, ConfigError
from kd_perception.networks.registry import register

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
    os.environ['HF_HUB_OFFLINE'] = os.environ['TRANSFORMERS_OFFLINE'] = '1'
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(f'network builder hf needs transformers ({error}); '
                          "pip install 'kd_perception[hf]'") from None
    task = task_of(config)
    plain = {k: v for k, v in config.items() if k not in ('model_type', 'architectures')}
    _keep_offline(plain)
    try:
        made = transformers.AutoConfig.for_model(config['model_type'], **plain)
        made.num_labels = num_classes
        made.use_auxiliary_head = False
        auto = (transformers.AutoModelForSemanticSegmentation if task == 'segmentation'
                else transformers.AutoModelForImageClassification)
        net = auto.from_config(made, attn_implementation='eager')
    except Exception as error:  # the library refuses configs in many ways
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f'network builder hf: transformers refuses this config: '
                          f'{reason[:200]}') from None
    return Logits(net)


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
    :raises BundleError: when the folder is not one of transformers.
    """
    config = _json(folder / CONFIG)
    names = config.get('id2label') or {}
    try:
        by_id = {int(k): str(v) for k, v in names.items()}
        ordered = tuple(by_id[i] for i in range(len(by_id)))
    except (AttributeError, TypeError, ValueError, KeyError):
        raise BundleError(f'{folder / CONFIG}: id2label must name ids 0 to K-1') from None
    preprocessing = _json(folder / PREPROCESSOR) if (folder / PREPROCESSOR).is_file() else {}
    return ({k: v for k, v in config.items() if k not in _DROPPED}, ordered,
            preprocessing)


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
