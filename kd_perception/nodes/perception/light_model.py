"""Keeps a light model beside the wanted one, loaded by the same engine on the same device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import threading

from kd_perception.bundle import ModelBundle
from kd_perception.errors import KdPerceptionError
from kd_perception.nodes.perception.loading import LoadRequest, ModelLoader
from kd_perception.nodes.perception.serving import ServingModel, ServingSettings
from kd_perception.nodes.perception.worker import InferenceWorker


class LightModel:
    """
    Loads the light model, and again where the wanted one goes to another engine.

    :param worker: which serves it while the wanted one is too slow.
    :param warn: writes a line into the log.
    """

    def __init__(self, worker: InferenceWorker, warn: Callable[[str], None]) -> None:
        self._worker = worker
        self._warn = warn
        self._loader = ModelLoader(self._on_ready, self._on_failure, worker.wait_for_gap)
        self._lock = threading.Lock()
        self._bundle: ModelBundle | None = None
        self._settings: ServingSettings | None = None
        self._trouble = ''

    @property
    def loading(self) -> bool:
        """Return whether it is being loaded."""
        return self._loader.busy

    @property
    def loading_s(self) -> float:
        """Return for how long it is being loaded; 0 when it is not."""
        return self._loader.busy_s

    @property
    def policy(self) -> str:
        """Return why it serves, or why it cannot; empty when all is well."""
        return self._trouble or self._worker.policy_reason

    def choose(self, bundle: ModelBundle | None) -> None:
        """Take another light model, or none."""
        with self._lock:
            self._bundle, self._settings, self._trouble = bundle, None, ''
        model = self._worker.model
        if bundle is None:
            self._worker.exchange(None, 'light')
        elif model is not None:
            self.follow(model)

    def follow(self, model: ServingModel) -> None:
        """Note that ``model`` is the wanted one from now on."""
        with self._lock:
            bundle = self._bundle
            if bundle is None:
                return
            settings = replace(model.settings, model=str(bundle.path))
            if settings == self._settings:
                return
            self._settings = settings
        self._loader.request(LoadRequest(model.wanted, bundle, 1, 'light', (settings,),
                                         'latency_budget_ms is exceeded', model.max_batch))

    def close(self) -> None:
        """End the loader's thread."""
        self._loader.close()

    def _on_ready(self, model: ServingModel, request: LoadRequest, took_ms: float) -> None:
        with self._lock:
            unwanted = self._bundle is not request.bundle
        if unwanted:
            model.close()
            return
        self._trouble = ''
        wanted = self._worker.model
        if wanted is not None and (wanted.bundle.spec.classes.names
                                   != model.bundle.spec.classes.names):
            self._complain(f'{model.label} has other classes than {wanted.label}, so it cannot '
                           'take its place')
        self._worker.exchange(model, 'light')

    def _on_failure(self, request: LoadRequest, error: KdPerceptionError,
                    took_ms: float) -> None:
        self._complain(f'light model {request.bundle.spec.name} was not taken: {error}')

    def _complain(self, reason: str) -> None:
        self._trouble = reason
        self._warn(reason)
