"""
The inference thread: takes the freshest frame, runs the model, hands the result on.

Models are exchanged here, between two frames, so that a frame never meets half a model. A light
model may lie beside the wanted one; a policy says which of both serves the next frame. The outlet
is called in this thread with every result; what it does is the node's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import logging
import threading
import time
from typing import Literal

from kd_perception.errors import EngineError, KdPerceptionError
from kd_perception.nodes.perception.latency_policy import LatencyPolicy
from kd_perception.nodes.perception.region import Region
from kd_perception.nodes.perception.serving import Processed, ServingModel
from kd_perception.nodes.perception.slots import Arrival, FrameSlots
from kd_perception.nodes.perception.watchdog import Watchdog

_log = logging.getLogger(__name__)
_IDLE_S = 0.5
# Who waits for a gap between frames waits no longer: a camera of 20 Hz or more is usual.
_GAP_S = 0.05

Role = Literal['wanted', 'light']


@dataclass(frozen=True)
class WorkerOptions:
    """Parameters that may change between two frames."""

    confidence_threshold: float = 0.0
    output_size: str = 'input'
    max_age_ms: float = 0.0
    latency_budget_ms: float = 0.0
    region: Region | None = None
    hang_timeout_s: float = 0.0


@dataclass(frozen=True)
class FrameResult:
    """
    What the worker hands on for one frame.

    :param taken_ns: steady clock when the worker took the frame.
    :param age_ns: age of the frame when inference could start.
    """

    arrival: Arrival
    model: ServingModel
    processed: Processed
    taken_ns: int
    age_ns: int


class InferenceWorker:
    """
    One thread between slots and outlet.

    ``on_engine_failure`` may be set: called with the model when its engine fails on a frame;
    ``look``, called with each result when it is out and counted; and ``batch_wait_s``, how long a
    frame may wait for those of other cameras, to share a call.

    :param outlet: called with each result; publishes it.
    :param on_exchange: called in the worker's thread when another model begins to serve.
    :param on_failure: called with camera and reason when a frame fails; without a camera when
        something else does.
    """

    def __init__(self, slots: FrameSlots, outlet: Callable[[FrameResult], None],
                 on_exchange: Callable[[ServingModel], None],
                 on_failure: Callable[[str | None, str], None]) -> None:
        self.options = WorkerOptions()
        self.on_engine_failure: Callable[[ServingModel, str], None] = lambda model, reason: None
        self.look: Callable[[FrameResult], None] = lambda frame: None
        self.batch_wait_s = 0.0
        self._slots = slots
        self._outlet = outlet
        self._on_exchange = on_exchange
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._models: dict[Role, ServingModel | None] = {'wanted': None, 'light': None}
        self._next: dict[Role, ServingModel | None] = {}
        self._announced: ServingModel | None = None
        self._policy = LatencyPolicy()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._answered = threading.Event()
        self._watchdog = Watchdog()

    @property
    def trouble(self) -> str:
        """Return why no frame is answered any more; empty where all is well."""
        self._watchdog.limit_s = self.options.hang_timeout_s
        if stuck := self._watchdog.stuck():
            return str(stuck)
        if self._thread is not None and not self.running:
            return 'the inference thread has ended: start the process again'
        return ''

    @property
    def running(self) -> bool:
        """Return whether the thread is alive."""
        thread = self._thread  # another thread may stop the worker meanwhile
        return thread is not None and thread.is_alive()

    @property
    def model(self) -> ServingModel | None:
        """Return the wanted model that serves, or will serve the next frame."""
        with self._lock:
            return self._next.get('wanted') or self._models['wanted']

    @property
    def serving(self) -> ServingModel | None:
        """Return the model that the next frame will meet: the wanted or the light one."""
        wanted, light = self._models['wanted'], self._models['light']
        fits = (wanted is not None and light is not None
                and light.bundle.spec.classes.names == wanted.bundle.spec.classes.names)
        return light if fits and self._policy.light else wanted

    @property
    def policy_reason(self) -> str:
        """Return why the light model serves; empty when it does not."""
        return self._policy.reason

    def exchange(self, model: ServingModel | None, role: Role = 'wanted') -> None:
        """
        Let ``model`` serve from the next frame on; the old one is closed by the worker.

        :param role: ``light`` for the one that serves where the wanted one is too slow; None
            takes it away.
        """
        with self._lock:
            skipped = self._next.pop(role, None)
            if model is not None or self._models[role] is not None:
                self._next[role] = model
        if skipped is not None:
            skipped.close()
        if self.running:
            self._slots.wake()
        else:
            self._adopt()

    def wait_for_gap(self) -> None:
        """
        Return when a frame was answered just now; soon where none comes.

        What wants the cores for a moment (the first calls of another model) is done by the next
        frame then, or shares with it what is left.
        """
        if self.running:
            self._answered.clear()
            self._answered.wait(_GAP_S)

    def start(self) -> None:
        """Serve frames from now on."""
        self._stop.clear()
        self._slots.open()
        self._thread = threading.Thread(target=self._serve, name='inference')
        self._thread.start()

    def stop(self) -> None:
        """
        Finish the frame at hand, turn away the rest, and wait for the thread.

        :raises RuntimeError: when it does not return from a runtime; nothing is released then.
        """
        self._stop.set()
        self._slots.close()
        if self._thread is not None:
            while self.running:
                self._thread.join(0.1)
                if self.running and (trouble := self.trouble):
                    raise RuntimeError(trouble)
            self._thread = None

    def close(self) -> None:
        """Stop, and release the model."""
        self.stop()
        with self._lock:
            models = [*self._models.values(), *self._next.values()]
            self._models, self._next = {'wanted': None, 'light': None}, {}
        for model in models:
            if model is not None:
                model.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            self._adopt()
            model = self.serving
            limit = model.max_batch if model is not None and self.batch_wait_s > 0 else 1
            arrivals = self._slots.take(_IDLE_S, limit, self.batch_wait_s)
            if not arrivals:
                continue
            # A model may have become ready while the thread waited: it serves these frames.
            self._adopt()
            model = self.serving
            if model is None:
                for arrival in arrivals:
                    self._slots.finish(arrival, 'inactive')
                continue
            for start in range(0, len(arrivals), model.max_batch):
                began = time.monotonic()
                self._some(arrivals[start:start + model.max_batch], model)
                self._watchdog.rest(time.monotonic() - began)
            self._answered.set()

    def _some(self, arrivals: list[Arrival], model: ServingModel) -> None:
        """Serve frames that share one call of the engine; each is finished once."""
        options, taken = self.options, time.monotonic_ns()
        fresh = []
        for arrival in arrivals:
            age = arrival.stamp_age_ns + taken - arrival.received_ns
            if options.max_age_ms and age > options.max_age_ms * 1e6:
                self._slots.finish(arrival, 'stale')
            else:
                fresh.append((arrival, age))
        if not fresh:
            return
        self._watchdog.at('inference', model.label)
        try:
            results = model.process_all(
                [arrival.message for arrival, _ in fresh], output_size=options.output_size,
                confidence_threshold=options.confidence_threshold, region=options.region)
        except Exception as error:  # a runtime may raise anything, and the node must live on
            for arrival, _ in fresh:
                self._failed(arrival, error)
            if isinstance(error, EngineError):
                self._engine_failed(model, str(error))
            return
        answered = []
        self._watchdog.at('publishing the results', model.label)
        for (arrival, age), processed in zip(fresh, results, strict=True):
            if isinstance(processed, Exception):
                self._failed(arrival, processed)
                continue
            frame = FrameResult(arrival, model, processed, taken, age)
            try:
                self._outlet(frame)
            except Exception as error:
                self._failed(arrival, error)
                continue
            self._slots.finish(arrival, 'published')
            answered.append((frame, (time.monotonic_ns() - arrival.received_ns) / 1e6))
        for frame, total_ms in answered:  # what follows delays none of them
            self._watchdog.at('looking at the pictures', model.label)
            self.look(frame)
            self._weigh(frame, total_ms)

    def _failed(self, arrival: Arrival, error: Exception) -> None:
        self._slots.finish(arrival, 'failed')
        _log.debug('a frame failed', exc_info=error)
        known = isinstance(error, KdPerceptionError)
        self._on_failure(arrival.camera,
                         str(error) if known else f'{type(error).__name__}: {error}')

    def _weigh(self, frame: FrameResult, total_ms: float) -> None:
        """Tell the policy how long a frame took; try the wanted model where it asks for that."""
        self._policy.budget_ms = self.options.latency_budget_ms
        wanted, now = self._models['wanted'], time.monotonic()
        if self._models['light'] is None:
            return
        if frame.model is wanted:
            self._policy.served(total_ms, now)
        elif wanted is not None and self._policy.try_due(now):
            other_ms = total_ms - frame.processed.stages_ns['inference'] / 1e6
            self._watchdog.at('a trial inference', wanted.label, usual=False)
            try:
                tried = wanted.process(frame.arrival.message, region=self.options.region)
                self._policy.tried(other_ms + tried.stages_ns['inference'] / 1e6, now)
            except Exception:
                _log.debug('trying the wanted model failed', exc_info=True)
                self._policy.tried(float('inf'), now)
        self._announce()

    def _engine_failed(self, model: ServingModel, reason: str) -> None:
        if model is not self._models['wanted']:
            self._policy.light_failed(time.monotonic())
            self._announce()
        self.on_engine_failure(model, reason)

    def _adopt(self) -> None:
        with self._lock:
            if not self._next:
                return
            following, self._next = self._next, {}
            retired = [old for role in following if (old := self._models[role]) is not None]
            self._models.update(following)
        self._policy.reset()
        self._announce()
        for old in retired:
            # Releasing a runtime can take long; no frame should wait for it.
            threading.Thread(target=old.close, name='close model').start()

    def _announce(self) -> None:
        model = self.serving
        if model is None or model is self._announced:
            return
        self._announced = model
        self._watchdog.forget()
        try:
            self._on_exchange(model)
        except Exception as error:
            # The model serves all the same: who cannot be told of it must not end the thread.
            _log.debug('announcing a model failed', exc_info=True)
            self._on_failure(None, f'announcing the model: {type(error).__name__}: {error}')
