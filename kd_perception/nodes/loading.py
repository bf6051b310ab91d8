"""
Loading a model beside the one that serves.

One thread at most; of several requests made while it loads only the newest is taken up.
"""

from __future__ import annotations

from collections.abc import Callable
import logging
import threading

from kd_perception.bundle import ModelBundle
from kd_perception.errors import KdPerceptionError
from kd_perception.nodes.serving import ServingModel, ServingSettings

_log = logging.getLogger(__name__)


class ModelLoader:
    """
    Loads models in a thread of its own.

    :param on_ready: called in that thread with a warm model.
    :param on_failure: called in that thread with the settings that failed and the reason.
    """

    def __init__(self, on_ready: Callable[[ServingModel], None],
                 on_failure: Callable[[ServingSettings, str], None]) -> None:
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._request: tuple[ServingSettings, ModelBundle, int] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Return whether a model is being loaded or waits for it."""
        with self._lock:
            return self._thread is not None

    def request(self, settings: ServingSettings, bundle: ModelBundle, warmup: int) -> None:
        """Load ``bundle`` soon, in place of requests that are still waiting."""
        with self._lock:
            if self._closed:
                return
            self._request = (settings, bundle, warmup)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name='model loader')
                self._thread.start()

    def close(self) -> None:
        """Forget requests and wait for the thread; a model it still loads is dropped."""
        with self._lock:
            self._closed, self._request = True, None
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                request, self._request = self._request, None
                if request is None:
                    self._thread = None
                    return
            settings, bundle, warmup = request
            reason = ''
            try:
                self._load(settings, bundle, warmup)
            except KdPerceptionError as error:
                reason = str(error)
            except Exception as error:
                _log.exception('loading %s failed', settings.model)
                reason = f'{type(error).__name__}: {error}'
            if reason:
                self._tell(settings, reason)

    def _load(self, settings: ServingSettings, bundle: ModelBundle, warmup: int) -> None:
        model = ServingModel.load(settings, warmup, bundle)
        with self._lock:
            unwanted = self._closed or self._request is not None
        if unwanted:
            model.close()
        else:
            self._on_ready(model)

    def _tell(self, settings: ServingSettings, reason: str) -> None:
        try:
            self._on_failure(settings, reason)
        except Exception:
            # Without a guard the loader would count as busy for good.
            _log.exception('nobody could be told that %s was not loaded', settings.model)
