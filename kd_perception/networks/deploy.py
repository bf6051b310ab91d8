"""
Deployable graphs and bundles from torch modules, and modules from bundles.

Bytes go in and bytes come out (design: no float logits leave the device): normalisation, layout,
upsampling, softmax and arg-max are inside the graph. How these are written was chosen by
measurement; see ``docs/engines.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import io
import logging
from pathlib import Path
from typing import Any, cast
import warnings

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from kd_perception.bundle import (
    BundleSpec,
    DEPLOY,
    InputSpec,
    LOGITS,
    MODEL_CARD,
    ModelBundle,
    WEIGHTS,
    write_bundle,
)
from kd_perception.errors import BundleError, ConfigError
from kd_perception.networks.registry import build
from kd_perception.networks.upsample import upsample
from kd_perception.networks.weights import load_weights, weights_to_bytes

log = logging.getLogger(__name__)

OPSET = 17  # read by ONNX Runtime 1.12+, OpenVINO 2022.3+ and TensorRT 8.5+
IMAGES = 'images'
OUTPUTS: dict[str, dict[str, tuple[str, ...]]] = {
    'segmentation': {DEPLOY: ('mask', 'confidence'), LOGITS: ('logits',)},
    'classification': {DEPLOY: ('probabilities',), LOGITS: ('logits',)}}


class Normalize(nn.Module):
    """uint8 ``[N, H, W, 3]`` to the float32 ``[N, 3, H, W]`` that the network was trained on."""

    factor: torch.Tensor
    offset: torch.Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        mean, std = np.asarray(spec.mean, np.float64), np.asarray(spec.std, np.float64)
        # (x * scale - mean) / std as one factor and one offset.
        self.register_buffer('factor', _channels(spec.scale / std), persistent=False)
        self.register_buffer('offset', _channels(-mean / std), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the normalised images."""
        # Bytes are moved before they become four times as large.
        return images.permute(0, 3, 1, 2).float() * self.factor + self.offset


class LogitsGraph(nn.Module):
    """uint8 ``[N, H, W, 3]`` to float32 logits ``[N, K, h, w]`` at the network's own stride."""

    def __init__(self, module: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.normalize = Normalize(spec)
        self.module = module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.module(self.normalize(images)).float()


class DeployGraph(nn.Module):
    """
    uint8 ``[N, H, W, 3]`` to mask and confidence, both uint8 ``[N, H, W]``.

    The mask is the arg-max of the bilinearly upsampled logits, the confidence is
    ``round(255 * max softmax)`` there.
    """

    def __init__(self, module: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.logits = LogitsGraph(module, spec)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mask and confidence."""
        size = (int(images.shape[1]), int(images.shape[2]))
        return segmentation_tail(self.logits(images), size)


class ProbabilityGraph(nn.Module):
    """uint8 ``[N, H, W, 3]`` to float32 probabilities ``[N, K]`` of a classification."""

    def __init__(self, module: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.logits = LogitsGraph(module, spec)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return probabilities."""
        return self.logits(images).softmax(1)


def deployed(module: nn.Module, spec: BundleSpec) -> nn.Module:
    """Return the deployable form of a module, for the task of its bundle."""
    graph = DeployGraph if spec.task == 'segmentation' else ProbabilityGraph
    return graph(module, spec.input)


def segmentation_tail(logits: torch.Tensor,
                      size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return mask and confidence, uint8 ``[N, H, W]``, from logits ``[N, K, h, w]``.

    Softmax and arg-max do not change when a number is taken from all logits of a pixel, and
    upsampling is linear: so the largest logit is subtracted where pixels are few. Then at full
    size one exponential per value and three plain reductions remain, and no softmax over a
    strided axis, which costs ONNX Runtime ten times as much as the rest together.
    """
    logits = logits - logits.amax(1, keepdim=True)
    # Flat pixels: OpenVINO then keeps whole class planes, which makes its reductions fast.
    planes = upsample(logits, size).flatten(2)
    best = planes.amax(1).exp()
    # The small number only matters where every exponential underflows: confidence 0, not NaN.
    share = best / (planes.exp().sum(1) + 1e-30)
    mask, confidence = planes.argmax(1), share * 255.0 + 0.5
    return (mask.to(torch.uint8).reshape(-1, *size),
            confidence.to(torch.uint8).reshape(-1, *size))


def export_graphs(module: nn.Module, spec: BundleSpec) -> dict[str, bytes]:
    """
    Return the ONNX files of a module by their names in a bundle.

    The batch is dynamic, height and width are those of ``spec.input``. The TorchScript exporter
    is used: it alone writes opset 17 without a version conversion and behaves alike from torch
    2.6 to 2.12.

    :raises BundleError: when the task has no graphs yet or the module cannot be exported.
    """
    if spec.task not in OUTPUTS:
        raise BundleError(f'task {spec.task!r} has no deployable graph yet; only '
                          f'{" and ".join(OUTPUTS)}')
    device = next((p.device for p in module.parameters()), torch.device('cpu'))
    training = module.training
    module = module.to('cpu').eval()
    try:
        graphs: dict[str, nn.Module] = {
            DEPLOY: deployed(module, spec), LOGITS: LogitsGraph(module, spec.input)}
        return {name: _export(graph.eval(), spec.input, OUTPUTS[spec.task][name])
                for name, graph in graphs.items()}
    finally:
        module.to(device).train(training)


def save_bundle(path: Path | str, module: nn.Module, spec: BundleSpec, *,
                extra_files: Mapping[str, bytes | Path] | None = None,
                weights_dtype: str | None = None, images: np.ndarray | None = None,
                overwrite: bool = False) -> ModelBundle:
    """
    Write weights, graphs and a model card as a bundle, whole or not at all.

    With ``weights_dtype='fp16'`` the graphs are made from the rounded weights, so that weights
    and graphs of one bundle are one model. The exported graph is run on a random picture and
    compared with torch where ONNX Runtime is installed.

    :param images: what to compare on instead, uint8 ``[N, H, W, 3]`` in the bundle's order.
    :param extra_files: further files by name (``metrics.json``, …); may replace the model card.
    :raises BundleError: when ``path`` exists and ``overwrite`` is false, the spec does not
        rebuild the module, or graph and module disagree.
    """
    weights = weights_to_bytes(module, weights_dtype)
    rebuilt = _rebuild(spec, weights, f'{path}')
    graphs = export_graphs(rebuilt, spec)
    check_graph(rebuilt, spec, graphs[DEPLOY], images=images)
    files: dict[str, bytes | Path] = {
        WEIGHTS: weights, **graphs, MODEL_CARD: model_card(spec, rebuilt).encode(),
        **(extra_files or {})}
    return write_bundle(Path(path), spec, files, overwrite=overwrite)


def load_module(bundle: ModelBundle, *, verify: bool = True) -> nn.Module:
    """
    Return the module of a bundle with its weights, in evaluation mode, float32 on the CPU.

    :param verify: hash the weights first.
    :raises BundleError: when weights are missing, damaged or do not fit the spec.
    """
    if not bundle.spec.network.builder:
        raise BundleError(f'{bundle.path}: is a foreign graph without a network spec; it can be '
                          'run by an engine, not as a torch module')
    if verify:
        bundle.verify(WEIGHTS)
    path = bundle.file(WEIGHTS)
    return _rebuild(bundle.spec, path.read_bytes(), str(path))


def check_graph(module: nn.Module, spec: BundleSpec, graph: bytes, seed: int = 0,
                images: np.ndarray | None = None) -> float:
    """
    Return the share of pixels on which the exported graph and torch give the same class.

    The picture is random blots: an untrained or undecided network has near ties on it, so the
    limit is wide; agreement on real frames is for tests with trained networks.

    :param images: pictures to compare on instead, uint8 ``[N, H, W, 3]``.

    :raises BundleError: when fewer than 99 % agree.
    """
    try:
        import onnxruntime
    except ImportError:
        log.warning('onnxruntime is not installed: the exported graph was not checked')
        return 1.0
    shown = _blots(spec.input, seed) if images is None else torch.from_numpy(images)
    with torch.inference_mode():
        outputs = deployed(module, spec).eval()(shown)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=['CPUExecutionProvider'])
    got = session.run(None, {IMAGES: shown.numpy()})
    if spec.task == 'classification':
        difference = float(np.abs(got[0] - outputs.numpy()).max())
        if not difference < 0.01:
            raise BundleError(f'the exported graph of {spec.name!r} gives probabilities that '
                              f'differ by {difference:.3g} from those of torch; the network uses '
                              'an operator that does not export faithfully')
        return 1.0
    mask, confidence = outputs
    # Where torch itself wavers between two classes either answer is right.
    sure = confidence.numpy() >= 255 // 2
    same = got[0] == mask.numpy()
    agreement = float(same[sure].mean()) if sure.any() else 1.0
    if agreement < 0.99:
        raise BundleError(f'the exported graph of {spec.name!r} agrees with torch on only '
                          f'{agreement:.1%} of clear pixels; the network uses an operator that '
                          'does not export faithfully')
    return agreement


def _blots(spec: InputSpec, seed: int) -> torch.Tensor:
    """Return a random smooth picture, uint8 ``[1, H, W, 3]``."""
    generator = np.random.default_rng(seed)
    height, width = spec.height, spec.width
    coarse = torch.from_numpy(generator.uniform(0, 255, (1, 3, height // 16 + 2, width // 16 + 2)))
    picture = functional.interpolate(coarse, size=(height, width), mode='bicubic')
    return picture.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def model_card(spec: BundleSpec, module: nn.Module) -> str:
    """Return a short Markdown card of what is known of a model."""
    parameters = sum(p.numel() for p in module.parameters())
    arguments = ', '.join(f'{k}={v}' for k, v in spec.network.arguments.items()
                          if not isinstance(v, dict))
    lines = [
        f'# {spec.name}', '',
        f'{spec.role.capitalize() or "Model"} for {spec.task} of {len(spec.classes)} classes '
        f'(`{spec.classes.name}`): {", ".join(spec.classes.names)}.', '',
        f'- network: `{spec.network.builder}` ({arguments}), {parameters / 1e6:.2f} M parameters',
        f'- input: {spec.input.width}x{spec.input.height} {spec.input.channel_order}, '
        f'{spec.input.resize}',
        f'- parents: {", ".join(p[:12] for p in spec.lineage.parents) or "none"}',
        f'- data: {", ".join(d[:12] for d in spec.lineage.data) or "not recorded"}',
        f'- recipe: {spec.lineage.recipe[:12] or "not recorded"}',
        f'- code: {spec.lineage.code_version or "not recorded"}', '',
        'Trained to describe what cameras see; not validated for use in traffic.', '']
    return '\n'.join(lines)


def _rebuild(spec: BundleSpec, weights: bytes, where: str) -> nn.Module:
    try:
        module = build(spec.network, len(spec.classes))
    except ConfigError as error:
        raise BundleError(f'{where}: {error}') from None
    load_weights(module, weights, where)
    return module.eval()


def _export(graph: nn.Module, spec: InputSpec, outputs: tuple[str, ...]) -> bytes:
    images = torch.zeros(1, spec.height, spec.width, 3, dtype=torch.uint8)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), _no_graph_on_stdout():
        # Sizes are meant to become constants, and the exporter's age is known.
        warnings.simplefilter('ignore')
        try:
            torch.onnx.export(
                graph, (images,), cast(Any, buffer), opset_version=OPSET, dynamo=False,
                input_names=[IMAGES], output_names=list(outputs),
                dynamic_axes={name: {0: 'N'} for name in (IMAGES, *outputs)})
        except Exception as error:  # of the exporter, or of a network of somebody else
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise BundleError(f'the network does not export to ONNX: {reason}') from None
    return buffer.getvalue()


@contextmanager
def _no_graph_on_stdout() -> Iterator[None]:
    """Keep the exporter from printing the whole graph when it fails, which no option does."""
    name = '_jit_onnx_log'
    before = getattr(torch._C, name, None)
    if before is None:
        yield
        return
    setattr(torch._C, name, lambda *args: None)
    try:
        yield
    finally:
        setattr(torch._C, name, before)


def _channels(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32)).view(1, 3, 1, 1)
