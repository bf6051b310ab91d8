"""
Loading a model beside the one that serves.

One thread at most; of several requests made while it loads only the newest is taken up. What an
engine must build first, or measure, is done in a process beside: in this one it would hold the
interpreter, and with it the frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
import logging
import threading
import time
from typing import Any, Literal

from kd_perception.bundle import ModelBundle
from kd_perception.engines.build import is_prepared, SideBuild
from kd_perception.engines.loader import is_built
from kd_perception.errors import BuildError, first_line, KdPerceptionError
from kd_perception.nodes.perception.serving import ServingModel, ServingSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadRequest:
    """
    What to load, and why.

    :param wanted: settings as the parameters have them.
    :param bundle: what they name.
    :param warmup: inferences before it serves.
    :param kind: ``asked`` by the parameters, a ``fallback`` for an engine that fails, a ``retry``
        of that engine, or a ``light`` model.
    :param candidates: what to try in this order; empty for what is wanted.
    :param reason: why something else than what is wanted is loaded.
    :param batch: frames that one call of the engine may have.
    """

    wanted: ServingSettings
    bundle: ModelBundle
    warmup: int
    kind: Literal['asked', 'fallback', 'retry', 'light'] = 'asked'
    candidates: tuple[ServingSettings, ...] = ()
    reason: str = ''
    batch: int = 1

    @property
    def first(self) -> ServingSettings:
        """Return what is tried first."""
        return self.candidates[0] if self.candidates else self.wanted


class ModelLoader:
    """
    Loads models in a thread of its own.

    :param on_ready: called in that thread with a warm model, the request and the milliseconds it
        took.
    :param on_failure: called in that thread with the request, the error and the milliseconds.
    :param pause: called in that thread before each inference that warms a model.
    """

    def __init__(self, on_ready: Callable[[ServingModel, LoadRequest, float], None],
                 on_failure: Callable[[LoadRequest, KdPerceptionError, float], None],
                 pause: Callable[[], None] = lambda: None) -> None:
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._pause = pause
        self._lock = threading.Lock()
        self._request: LoadRequest | None = None
        self._thread: threading.Thread | None = None
        self._side: SideBuild | None = None
        self._closed = False
        self._began = 0.0

    @property
    def busy_s(self) -> float:
        """Return for how long the present model is being loaded; 0 when none is."""
        with self._lock:
            return time.monotonic() - self._began if self._thread is not None else 0.0

    @property
    def busy(self) -> bool:
        """Return whether a model is being loaded or waits for it."""
        with self._lock:
            return self._thread is not None

    def request(self, request: LoadRequest) -> None:
        """Load soon, in place of requests that are still waiting."""
        with self._lock:
            if self._closed:
                return
            self._request = request
            if self._side is not None:
                self._side.stop()
            if self._thread is None:
                self._began = time.monotonic()
                thread = threading.Thread(target=self._work, name='model loader')
                thread.start()  # one that cannot be started must not count as busy
                self._thread = thread

    def close(self) -> None:
        """Forget requests and wait for the thread; a model it still loads is dropped."""
        with self._lock:
            self._closed, self._request = True, None
            if self._side is not None:
                self._side.stop()
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
                self._began = began = time.monotonic()
            failure: KdPerceptionError | None = None
            try:
                self._load(request, began)
            except KdPerceptionError as error:
                failure = error
            except Exception as error:
                _log.exception('loading %s failed', request.wanted.model)
                failure = KdPerceptionError(f'{type(error).__name__}: {error}')
            if failure is not None:
                self._tell(request, failure, _since_ms(began))

    def _load(self, request: LoadRequest, began: float) -> None:
        if request.kind == 'fallback':
            request = _without_building(request)
        if not self._prepare(request):
            return
        model = load_first(request, self._pause)
        with self._lock:
            unwanted = self._unwanted
        if unwanted:
            model.close()
        else:
            self._on_ready(model, request, _since_ms(began))

    @property
    def _unwanted(self) -> bool:
        return self._closed or self._request is not None

    def _prepare(self, request: LoadRequest) -> bool:
        """
        Build beside what the engine needs; return whether it is wanted still.

        :raises BuildError: when it cannot be built.
        """
        wish, bundle = request.first, request.bundle
        options: dict[str, Any] = {'device': wish.device, 'precision': wish.precision,
                                   'threads': wish.threads, 'batch': request.batch}
        # Where nothing serves any more there is nothing to be careful of.
        if request.kind == 'fallback' or is_prepared(bundle, wish.engine, **options):
            return True
        try:
            side = SideBuild(bundle, wish.engine, **options)
        except OSError as error:
            _log.warning('no process to build for %s in (%s): it is built here', wish.engine,
                         error.strerror)
            return True
        with self._lock:
            self._side = side
            if self._unwanted:
                side.stop()
        try:
            side.wait()
        except BuildError:
            if not self._unwanted:
                raise
        finally:
            with self._lock:
                self._side = None
        return not self._unwanted

    def _tell(self, request: LoadRequest, error: KdPerceptionError, took_ms: float) -> None:
        try:
            self._on_failure(request, error, took_ms)
        except Exception:
            # Without a guard the loader would count as busy for good.
            _log.exception('nobody could be told that %s was not loaded', request.wanted.model)


def load_first(request: LoadRequest, pause: Callable[[], None] = lambda: None) -> ServingModel:
    """
    Return the first candidate that can be loaded; what they read is hashed once.

    :param pause: as ``ServingModel.load`` takes it.
    :raises KdPerceptionError: when none can; the message says why of each.
    """
    if not request.candidates:
        return ServingModel.load(request.wanted, request.warmup, request.bundle,
                                 batch=request.batch, pause=pause)
    reasons = []
    hashed: set[str] = set()
    for settings in request.candidates:
        try:
            return ServingModel.load(settings, request.warmup, request.bundle,
                                     wanted=request.wanted, stands_in=request.reason,
                                     batch=request.batch, pause=pause, hashed=hashed)
        except Exception as error:  # a runtime may raise anything, and the next may do
            reasons.append(f'{settings.engine} on {settings.device}: {first_line(error)}')
    raise KdPerceptionError('; '.join(dict.fromkeys(reasons)))


def takes_minutes(settings: ServingSettings, bundle: ModelBundle) -> bool:
    """
    Return whether TensorRT has to build before these can be loaded.

    It may import TensorRT and open the GPU: not for the ROS thread.
    """
    slow = settings.engine == 'tensorrt' or settings.device.startswith('tensorrt')
    return slow and not is_built(bundle, settings.engine, device=settings.device,
                                 precision=settings.precision)


def _without_building(request: LoadRequest) -> LoadRequest:
    """
    Return a request without candidates that must be built first: frames fail meanwhile.

    :raises KdPerceptionError: when no others are left.
    """
    quick = tuple(s for s in request.candidates if not takes_minutes(s, request.bundle))
    if not quick:
        raise KdPerceptionError('every other engine would have to be built first')
    return replace(request, candidates=quick)


def _since_ms(began: float) -> float:
    return (time.monotonic() - began) * 1e3
