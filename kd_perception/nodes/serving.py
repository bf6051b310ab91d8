"""
A model that serves: bundle, engine and task in one, loaded and warmed before it is used.

Comes in: settings as the parameters have them. Goes out: masks with the time each stage took.
No ROS here, and no torch unless the engine is torch.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
import os
import time
from typing import Any

import numpy as np
from safetensors import safe_open

from kd_perception.bundle import find_bundle, ModelBundle, WEIGHTS
from kd_perception.engines.choice import load_fastest
from kd_perception.engines.engine import Engine
from kd_perception.engines.loader import load_engine
from kd_perception.errors import BundleError, EngineError, first_line
from kd_perception.imaging import ImageCodec, OWN_CODEC
from kd_perception.nodes.cv_bridge_codec import choose_codec
from kd_perception.tasks.placement import fit, place
from kd_perception.tasks.segmentation import decode, SegmentationResult

ACTIVE_MODEL_SCHEMA = 1


@dataclass(frozen=True)
class ServingSettings:
    """What decides which model serves and how; the parameters of the same names."""

    model: str = ''
    models_dir: str = ''
    engine: str = 'auto'
    device: str = 'cpu'
    precision: str = 'auto'
    threads: int = 0


@dataclass(frozen=True)
class Processed:
    """
    One frame after the network.

    :param result: mask and confidence at the asked size.
    :param image: uint8 ``[H, W, 3]`` as decoded, in the bundle's channel order.
    :param stages_ns: decode, preprocess, inference, postprocess.
    """

    result: SegmentationResult
    image: np.ndarray
    stages_ns: dict[str, int]


def check_settings(settings: ServingSettings) -> ModelBundle:
    """
    Find the bundle; check its seal and that its files are there, without reading those.

    To hash a large model takes long enough to lose frames, so that is left to ``load``.

    :raises BundleError: when it does not exist, is not whole, or is of a task unknown here.
    """
    if not settings.model:
        raise BundleError('no model is set: give the parameter "model" the name or path of a '
                          'model bundle')
    bundle = find_bundle(settings.model, settings.models_dir or None, verify=False)
    bundle.check_complete()
    if bundle.spec.task != 'segmentation':
        raise BundleError(f'{bundle.path}: task {bundle.spec.task!r} is not served by this '
                          'release; it serves segmentation')
    return bundle


class ServingModel:
    """
    A warm engine with the bundle it was made from; use it from one thread at a time.

    :param settings: what was loaded.
    :param engine_choice: why by this engine.
    :param wanted: what the parameters ask for; None where that was loaded.
    :param stands_in: why something else was loaded.
    """

    def __init__(self, settings: ServingSettings, bundle: ModelBundle, engine: Engine,
                 codec: ImageCodec = OWN_CODEC, *, engine_choice: str = '',
                 wanted: ServingSettings | None = None, stands_in: str = '') -> None:
        self.settings = settings
        self.engine_choice = engine_choice
        self.wanted = wanted or settings
        self.stands_in = stands_in
        self.bundle = bundle
        self.engine = engine
        self.codec = codec
        self._size = (bundle.spec.input.height, bundle.spec.input.width)
        self._parameters = count_parameters(bundle)

    @classmethod
    def load(cls, settings: ServingSettings, warmup_iterations: int = 3,
             bundle: ModelBundle | None = None, *, wanted: ServingSettings | None = None,
             stands_in: str = '') -> ServingModel:
        """
        Hash every file of the bundle, then load and warm the model.

        The digests are not remembered: files may change while the node runs, and hashing lets
        other threads go on.

        :raises BundleError: when the bundle is not usable.
        :raises EngineError: when the runtime refuses it.
        """
        bundle = bundle or check_settings(settings)
        bundle.verify()
        why = 'asked for'
        if settings.engine == 'auto':
            engine, choice = load_fastest(bundle, device=settings.device,
                                          precision=settings.precision, threads=settings.threads)
            why = choice.reason
        else:
            engine = load_engine(bundle, settings.engine, device=settings.device,
                                 precision=settings.precision, threads=settings.threads)
        try:
            model = cls(settings, bundle, engine, choose_codec(), engine_choice=why,
                        wanted=wanted, stands_in=stands_in)
            blank = np.zeros((1, *model._size, 3), np.uint8)
            for _ in range(warmup_iterations):
                model._infer(blank)
        except Exception:
            engine.close()
            raise
        return model

    def process(self, message: Any, *, confidence_threshold: float = 0.0,
                output_size: str = 'input') -> Processed:
        """
        Turn an image message into a mask.

        :param message: ``sensor_msgs/Image`` or ``CompressedImage``.
        :raises ImageError: when it cannot be decoded.
        :raises EngineError: when the runtime fails.
        """
        order = self.bundle.spec.input.channel_order
        started = time.monotonic_ns()
        image = self.codec.decode(message, order)  # type: ignore[arg-type]
        decoded = time.monotonic_ns()
        where = place((image.shape[0], image.shape[1]), self.bundle.spec.input)
        batch = fit(image, self.bundle.spec.input)[np.newaxis]
        prepared = time.monotonic_ns()
        outputs = self._infer(batch)
        inferred = time.monotonic_ns()
        size = image.shape[:2] if output_size == 'input' else None
        result = decode(outputs, confidence_threshold=confidence_threshold, output_size=size,
                        placement=where)
        done = time.monotonic_ns()
        return Processed(result, image, {
            'decode': decoded - started, 'preprocess': prepared - decoded,
            'inference': inferred - prepared, 'postprocess': done - inferred})

    def _infer(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        try:
            return self.engine.infer(batch)
        except EngineError:
            raise
        except Exception as error:  # whatever it is: who counts failures must know whose it is
            raise EngineError(f'{self.engine.name} failed: {type(error).__name__}: '
                              f'{first_line(error)}') from error

    @property
    def label(self) -> str:
        """Return what serves, for a line of text."""
        return f'{self.bundle.spec.name} by {self.engine.name} on {self.engine.device}'

    def describe(self) -> dict[str, Any]:
        """Return what serves, in plain types, for ``~/active_model``."""
        spec = self.bundle.spec
        return {
            'schema_version': ACTIVE_MODEL_SCHEMA, 'model': self.settings.model,
            'name': spec.name, 'path': str(self.bundle.path), 'hash': self.bundle.hash,
            'task': spec.task, 'role': spec.role, 'classes': spec.classes.to_dict(),
            'input': [spec.input.height, spec.input.width],
            'network': spec.network.builder,
            'network_arguments': spec.network.arguments,
            'parameters': self._parameters,
            'requested': {'engine': self.wanted.engine, 'device': self.wanted.device,
                          'precision': self.wanted.precision},
            'stands_in': self.stands_in,
            'engine': self.engine.name, 'device': self.engine.device,
            'precision': self.engine.precision, 'threads': self.settings.threads,
            'engine_choice': self.engine_choice,
            'image_codec': self.codec.name, 'pid': os.getpid()}

    def close(self) -> None:
        """Release the runtime."""
        self.engine.close()


def count_parameters(bundle: ModelBundle) -> int:
    """
    Return the number of weights, without running statistics; 0 for a foreign graph.

    :raises BundleError: when the weights are damaged.
    """
    if not bundle.has(WEIGHTS):
        return 0
    path = bundle.file(WEIGHTS)
    try:
        with safe_open(str(path), framework='np') as weights:
            return sum(math.prod(weights.get_slice(name).get_shape())
                       for name in weights.keys()  # noqa: SIM118 (not a mapping)
                       if not name.endswith(('running_mean', 'running_var',
                                             'num_batches_tracked')))
    except Exception as error:  # SafetensorError, OSError: the library's own, by version
        raise BundleError(f'{path}: is no safetensors file: {first_line(error)}') from None
