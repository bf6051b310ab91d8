"""
A model that serves: bundle, engine and task in one, loaded and warmed before it is used.

Comes in: settings as the parameters have them. Goes out: masks with the time each stage took.
No ROS here, and no torch unless the engine is torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from kd_perception.nodes.perception.region import paste, Region, Window
from kd_perception.tasks.placement import fit, place, Placement
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
    :param stages_ns: decode, preprocess, inference, postprocess; inference is the whole call, also
        where several frames shared it.
    :param shown: part of the image that the mask shows; None for all.
    """

    result: SegmentationResult
    image: np.ndarray
    stages_ns: dict[str, int]
    shown: Window | None = None


@dataclass(frozen=True)
class _Prepared:
    image: np.ndarray
    window: Window | None
    placement: Placement
    row: np.ndarray
    decode_ns: int
    preprocess_ns: int


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


def check_light(wanted: ServingSettings, name: str) -> ModelBundle | None:
    """
    Find the bundle of the light model beside ``wanted``; None where ``name`` is empty.

    :raises BundleError: as ``check_settings``.
    """
    return check_settings(replace(wanted, model=name)) if name else None


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
        self.max_batch = 1
        self.bundle = bundle
        self.engine = engine
        self.codec = codec
        self._size = (bundle.spec.input.height, bundle.spec.input.width)
        self._parameters = count_parameters(bundle)

    @classmethod
    def load(cls, settings: ServingSettings, warmup_iterations: int = 3,
             bundle: ModelBundle | None = None, *, wanted: ServingSettings | None = None,
             stands_in: str = '', batch: int = 1, pause: Callable[[], None] = lambda: None,
             hashed: set[str] | None = None) -> ServingModel:
        """
        Hash what the engine reads of the bundle, then load and warm the model.

        :param batch: frames that one call may have; each number is run once, because runtimes
            compile for it. Where the engine takes one only, ``max_batch`` stays 1.
        :param pause: called before each inference that warms; returns when it may have the cores.
        :param hashed: as ``load_engine`` takes it, for several attempts of one request. Another
            request hashes again: files may change while the node runs.
        :raises BundleError: when the bundle is not usable.
        :raises EngineError: when the runtime refuses it.
        """
        bundle = bundle or check_settings(settings)
        why = 'asked for'
        if settings.engine == 'auto':
            engine, choice = load_fastest(bundle, device=settings.device,
                                          precision=settings.precision, threads=settings.threads,
                                          hashed=hashed)
            why = choice.reason
        else:
            engine = load_engine(bundle, settings.engine, device=settings.device,
                                 precision=settings.precision, threads=settings.threads,
                                 hashed=hashed)
        try:
            model = cls(settings, bundle, engine, choose_codec(), engine_choice=why,
                        wanted=wanted, stands_in=stands_in)
            blank = np.zeros((1, *model._size, 3), np.uint8)
            for _ in range(warmup_iterations):
                pause()
                model._infer(blank)
            model.max_batch = model._largest_batch(batch, pause)
        except Exception:
            engine.close()
            raise
        return model

    def process(self, message: Any, *, confidence_threshold: float = 0.0,
                output_size: str = 'input', region: Region | None = None) -> Processed:
        """
        Turn an image message into a mask.

        :param message: ``sensor_msgs/Image`` or ``CompressedImage``.
        :param region: part of the image to look at. At ``input`` size its mask lies in the whole
            image, unlabelled outside; at ``network`` size it is all of the mask.
        :raises ImageError: when it cannot be decoded.
        :raises EngineError: when the runtime fails.
        """
        done = self.process_all([message], confidence_threshold=confidence_threshold,
                                output_size=output_size, region=region)[0]
        if isinstance(done, Exception):
            raise done
        return done

    def process_all(self, messages: Sequence[Any], *, confidence_threshold: float = 0.0,
                    output_size: str = 'input',
                    region: Region | None = None) -> list[Processed | Exception]:
        """
        Turn image messages into masks in one call of the engine; see ``process``.

        :param messages: not more than ``max_batch``.
        :returns: for each message its result, or why it could not be prepared.
        :raises EngineError: when the runtime fails.
        """
        prepared = [self._prepare(message, region) for message in messages]
        rows = [p.row for p in prepared if isinstance(p, _Prepared)]
        if not rows:
            return [p for p in prepared if isinstance(p, Exception)]
        began = time.monotonic_ns()
        outputs = self._infer(rows[0] if len(rows) == 1 else np.concatenate(rows))
        inference_ns = time.monotonic_ns() - began
        results: list[Processed | Exception] = []
        row = 0
        for one in prepared:
            if isinstance(one, Exception):
                results.append(one)
                continue
            own = {name: array[row:row + 1] for name, array in outputs.items()}
            row += 1
            results.append(self._finish(one, own, inference_ns, confidence_threshold,
                                        output_size))
        return results

    def _prepare(self, message: Any, region: Region | None) -> _Prepared | Exception:
        spec = self.bundle.spec.input
        started = time.monotonic_ns()
        try:
            image = self.codec.decode(message, spec.channel_order)  # type: ignore[arg-type]
            decoded = time.monotonic_ns()
            window = region.window(image.shape[0], image.shape[1]) if region is not None else None
            seen = image if window is None else window.crop(image)
            where = place((seen.shape[0], seen.shape[1]), spec)
            row = fit(seen, spec)[np.newaxis]
        except Exception as error:  # its frame alone fails, not those beside it
            return error
        return _Prepared(image, window, where, row, decoded - started,
                         time.monotonic_ns() - decoded)

    def _finish(self, one: _Prepared, outputs: dict[str, np.ndarray], inference_ns: int,
                confidence_threshold: float, output_size: str) -> Processed:
        began = time.monotonic_ns()
        height, width = one.image.shape[:2]
        window, full = one.window, output_size == 'input'
        size = (height, width) if window is None else (window.height, window.width)
        result = decode(outputs, confidence_threshold=confidence_threshold,
                        output_size=size if full else None, placement=one.placement)
        if full and window is not None:
            result = paste(result, window, height, width)
        return Processed(result, one.image, {
            'decode': one.decode_ns, 'preprocess': one.preprocess_ns, 'inference': inference_ns,
            'postprocess': time.monotonic_ns() - began}, None if full else window)

    def _largest_batch(self, wished: int, pause: Callable[[], None]) -> int:
        for number in range(2, wished + 1):
            pause()
            try:
                outputs = self.engine.infer(np.zeros((number, *self._size, 3), np.uint8))
            except Exception:  # a graph of fixed batch, refused in the words of its runtime
                return number - 1
            if any(len(array) != number for array in outputs.values()):
                return number - 1
        return max(1, wished)

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
            'stands_in': self.stands_in, 'max_batch': self.max_batch,
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
