"""
Which model serves, and how that came: what is asked for, what takes its place, what it was before.

Loading happens in a thread of its own beside the serving model; the worker exchanges models
between two frames. Decisions are made in the ROS thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import time
from typing import Any

from kd_perception.bundle import ModelBundle
from kd_perception.engines.gpu_loss import ADVICE, gpu_of, is_for_good
from kd_perception.engines.loader import available_engines
from kd_perception.errors import BuildError, KdPerceptionError
from kd_perception.nodes.perception.fallback import alternatives, EngineFallback, FallbackOptions
from kd_perception.nodes.perception.light_model import LightModel
from kd_perception.nodes.perception.loading import (
    load_first,
    LoadRequest,
    ModelLoader,
    takes_minutes,
)
from kd_perception.nodes.perception.serving import check_settings, ServingModel, ServingSettings
from kd_perception.nodes.perception.swap_history import Swap, SwapHistory
from kd_perception.nodes.perception.worker import InferenceWorker

OPTIONS = FallbackOptions()


class ModelSwitch:
    """
    Loads what is asked for, and something else while the engine of that fails; ``light`` is the
    model for when that is too slow.

    :param worker: which serves.
    :param post: lets a function run in the ROS thread.
    :param warn: writes a line into the log.
    :param on_refused: called in the loader's thread with settings that were asked for and cannot
        be, and the reason.
    :param batch: frames that one call of an engine may have.
    """

    def __init__(self, worker: InferenceWorker, *, post: Callable[[Callable[[], None]], None],
                 warn: Callable[[str], None],
                 on_refused: Callable[[ServingSettings, str], None], batch: int = 1) -> None:
        self._worker = worker
        self._post = post
        self._warn = warn
        self._on_refused = on_refused
        self._batch = batch
        self._loader = ModelLoader(self._on_ready, self._on_failure, worker.wait_for_gap)
        self.light = LightModel(worker, warn)
        self._fallback = EngineFallback(OPTIONS)
        self._history = SwapHistory()
        # Engine and device of those that failed since the wanted one was last tried.
        self._failed: set[tuple[str, str]] = set()
        self._lost: set[str] = set()  # GPUs that only another process can use again
        self._trouble = ''

    @property
    def loading(self) -> bool:
        """Return whether a model is being loaded."""
        return self._loader.busy or self.light.loading

    @property
    def loading_s(self) -> float:
        """Return for how long a model is being loaded: what grows without end hangs."""
        return max(self._loader.busy_s, self.light.loading_s)

    @property
    def trouble(self) -> str:
        """Return why not what is wanted serves, or nothing at all; empty when all is well."""
        retry = self._fallback.retry_in_s(time.monotonic())
        when = '' if retry is None else f'; tried again in {retry:.0f} s'
        return f'{self._trouble}{when}' if self._trouble else ''

    def values(self) -> dict[str, Any]:
        """Return what diagnostics tell of changes."""
        return {'fallback': self._trouble, 'policy': self.light.policy, **self._history.values()}

    def request(self, settings: ServingSettings, bundle: ModelBundle, warmup: int) -> None:
        """Load and serve what the parameters ask for."""
        self._loader.request(LoadRequest(settings, bundle, warmup, batch=self._batch))

    def replace_stand_in(self, model: ServingModel, warmup: int) -> None:
        """Build and load what is wanted, where ``model``, the first to serve, is not that."""
        if model.stands_in:
            self._trouble = _in_its_place(model)
            self.request(model.wanted, model.bundle, warmup)

    def answered(self) -> None:
        """Note that the engine answered; called in the inference thread."""
        self._fallback.answered()

    def engine_failed(self, model: ServingModel, reason: str) -> None:
        """Note that the engine failed on a frame; called in the inference thread."""
        if self._fallback.failed():
            self._post(lambda: self._leave(model, reason))

    def tick(self) -> None:
        """Try the wanted engine again when it is time; called in the ROS thread."""
        model = self._worker.model
        if model is None or self._loader.busy or not self._fallback.due(time.monotonic()):
            return
        self._failed.clear()
        if gpu_of(model.wanted.device) in self._lost:
            self._fallback.left(time.monotonic())  # others may be tried again
            return
        self._loader.request(LoadRequest(model.wanted, model.bundle, 1, 'retry',
                                         batch=self._batch))

    def close(self) -> None:
        """End the loaders' threads."""
        self._loader.close()
        self.light.close()

    def _leave(self, model: ServingModel, reason: str) -> None:
        # The count begins anew: where nothing better is found, or something else comes already.
        self._fallback.answered()
        engine = model.engine
        known = (engine.name, engine.device) in self._failed
        if known or self._loader.busy or model is not self._worker.model:
            return
        self._failed.add((engine.name, engine.device))
        reason = self._noted(engine.device, reason)
        self._warn(f'{engine.name} on {engine.device} fails and is left: {reason}')
        candidates = tuple(
            s for s in alternatives(model.wanted, engine=engine.name, device=engine.device,
                                    precision=engine.precision, available=installed(),
                                    lost=self._lost)
            if (s.engine, s.device) not in self._failed)
        why = f'{engine.name} on {engine.device} failed: {reason}'
        request = LoadRequest(model.wanted, model.bundle, 1, 'fallback', candidates, why,
                              self._batch)
        if candidates:
            self._loader.request(request)
        else:
            self._on_failure(request, KdPerceptionError(
                'no other engine is installed that could serve it'), 0.0)

    def _on_ready(self, model: ServingModel, request: LoadRequest, took_ms: float) -> None:
        now = time.monotonic()
        if request.kind == 'asked':
            self._fallback.reset()
            self._failed.clear()
            self._lost.discard(gpu_of(model.engine.device))
        elif request.kind == 'retry':
            self._fallback.restored(now)
        else:
            self._fallback.left(now, for_good=gpu_of(request.wanted.device) in self._lost)
        self._trouble = _in_its_place(model) if model.stands_in else ''
        self._record(model.label, took_ms, 'serves' if not model.stands_in
                     else f'serves, as {model.stands_in}')
        self._worker.exchange(model)
        self.light.follow(model)

    def _on_failure(self, request: LoadRequest, error: KdPerceptionError,
                    took_ms: float) -> None:
        reason = str(error)
        after = f'{request.bundle.spec.name} by {request.wanted.engine}'
        gpu = gpu_of(request.wanted.device)
        if request.kind == 'fallback':
            after = f'{request.bundle.spec.name} by another engine'
        elif not isinstance(error, BuildError):  # the GPU of another process is not ours
            reason = self._noted(request.wanted.device, reason)
        self._record(after, took_ms, f'not taken: {reason}')
        if request.kind == 'asked':
            self._fallback.answered()
            model = self._worker.model
            if model is not None and model.stands_in:
                self._trouble = f'{reason}; {model.label} serves in its place'
                now = time.monotonic()
                if self._fallback.retry_in_s(now) is None:
                    self._fallback.left(now)
            self._on_refused(request.wanted, reason)
            return
        if request.kind == 'fallback':
            self._trouble = f'{request.reason}; no other engine serves: {reason}'
        elif gpu in self._lost and ADVICE not in self._trouble:
            self._trouble = f'{self._trouble}; {ADVICE}'
        self._warn(f'{after} was not taken: {reason}')
        self._fallback.left(time.monotonic(), for_good=request.kind == 'retry'
                            and gpu in self._lost)

    def _noted(self, device: str, reason: str) -> str:
        """Return why an engine fails, and what helps; note the GPU where waiting does not."""
        if not gpu_of(device) or not is_for_good(reason):
            return reason
        self._lost.add(gpu_of(device))
        return f'{reason}; {ADVICE}'

    def _record(self, after: str, took_ms: float, outcome: str) -> None:
        model = self._worker.model
        self._history.add(Swap(time.time() - took_ms / 1e3, model.label if model else 'nothing',
                               after, took_ms, outcome))


def load_soon(settings: ServingSettings, warmup: int, batch: int) -> ServingModel:
    """
    Return the first model of a node: where building takes minutes, by another engine for a while.

    :returns: a model whose ``stands_in`` says what must be built, or the wanted one.
    :raises KdPerceptionError: when nothing can be loaded.
    """
    request = LoadRequest(settings, check_settings(settings), warmup, batch=batch)
    if takes_minutes(settings, request.bundle):
        others = alternatives(settings, engine=settings.engine, device=settings.device,
                              precision=settings.precision, available=installed())
        quick = tuple(s for s in others if not takes_minutes(s, request.bundle))
        try:
            return load_first(replace(
                request, candidates=quick,
                reason=f'{settings.engine} is being built for {settings.device}'))
        except KdPerceptionError:
            pass  # then it must be waited for
    return load_first(request)


def installed() -> list[str]:
    """Return the engines that are installed, fastest first."""
    return [n for n, v in available_engines().items() if not v.startswith('missing')]


def _in_its_place(model: ServingModel) -> str:
    return (f'{model.stands_in}; {model.engine.name} on {model.engine.device} in '
            f'{model.engine.precision} serves in its place')
