"""
The training loop: batches go in, a network with its best weights comes out.

It knows no task: the target gives named loss terms, the validation a confusion matrix. Any stop
(Ctrl-C, SIGTERM, a kill, a full disk) leaves a checkpoint from which the next call goes on as if
nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
import logging
import math
import signal
import threading
import time
from typing import Any, Protocol

from accelerate import Accelerator, DistributedDataParallelKwargs
import torch
from torch import nn

from kd_perception.distillation.checkpoint import load_checkpoint, save_checkpoint
from kd_perception.distillation.dataset import Batch, Batches
from kd_perception.distillation.ema import WeightAverage
from kd_perception.distillation.failed_batch import save_failed_batch
from kd_perception.distillation.learner import Learner, Target
from kd_perception.distillation.memory import memory_advice
from kd_perception.distillation.optimizer import make_optimizer
from kd_perception.distillation.precision import autocast, choose_precision
from kd_perception.distillation.processes import Processes, Stopped
from kd_perception.distillation.recipe import OptimizationRecipe
from kd_perception.distillation.run_directory import RunDirectory
from kd_perception.distillation.schedule import progress_fraction, rate_factor
from kd_perception.errors import TrainingError
from kd_perception.frames import Progress

log = logging.getLogger(__name__)
# Steps that fp16 may leave out one after the other: from its largest scale to a smaller one than
# any gradient needs.
_MOST_SKIPPED = 50


class Score(Protocol):
    """What a validation returns; the mean IoU chooses the best checkpoint."""

    def mean_iou(self) -> float:
        """Return the figure that is to be high."""
        ...

    def pixel_accuracy(self) -> float:
        """Return a second figure for the log."""
        ...


@dataclass
class State:
    """
    How far a run has come; all of it is in every checkpoint.

    :param skipped: steps just before that fp16 left out, one after the other.
    :param teacher_s: seconds that a teacher in the loop has taken of the first process.
    """

    step: int = 0
    elapsed_s: float = 0.0
    validations: int = 0
    best_score: float = -1.0
    best_step: int = 0
    skipped: int = 0
    teacher_s: float = 0.0
    scaler: dict[str, Any] = field(default_factory=dict)


class Loop:
    """
    One run of optimisation.

    :param validate: called with the averaged network and a function that says whether to stop;
        None: the last weights are the best.
    :param score: what the validation's mean IoU is called in notes and in the log.
    :param teacher_s: seconds that a teacher in the loop has taken so far.
    :raises TrainingError: when memory runs out.
    """

    def __init__(self, network: nn.Module, target: Target, batches: Batches,
                 recipe: OptimizationRecipe, run: RunDirectory, accelerator: Accelerator, *,
                 validate: Callable[[nn.Module, Callable[[], bool]], Score] | None = None,
                 score: str = 'mIoU', teacher_s: Callable[[], float] | None = None,
                 progress: Progress | None = None) -> None:
        self._recipe = recipe
        self._run = run
        self._accelerator = accelerator
        self._target = target
        self._batches = batches
        self._validate = validate
        self._score = score
        self._teacher_s = teacher_s
        self._progress = progress
        self._device = accelerator.device
        self._processes = Processes(accelerator.process_index, accelerator.num_processes,
                                    self._device)
        self.precision = choose_precision(recipe.precision, self._device)
        with memory_advice(self._device, 'while the network was loaded',
                           'choose a smaller network, or set optimization.ema_decay to 0'):
            self._load(network, target)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=self.precision == 'fp16')
        self._state = State()
        self._total_steps = recipe.steps or math.ceil(recipe.epochs * batches.steps_per_epoch)

    def _load(self, network: nn.Module, target: Target) -> None:
        """Bring the network, its average and all that is trained onto the device."""
        recipe, accelerator = self._recipe, self._accelerator
        if recipe.channels_last:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        network = network.to(self._device)
        if accelerator.num_processes > 1 and self._device.type == 'cuda':
            # Statistics over the whole step, as one process would have them; GPUs only.
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self._plain = network
        self._average = WeightAverage(network, recipe.ema_decay) if recipe.ema_decay else None
        learner = Learner(network, target, recipe).to(self._device)
        if target.partial:
            # Parameters that no process has a gradient for then keep none and stay as they are.
            accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
        self._learner = accelerator.prepare_model(learner)
        self._optimizer = make_optimizer(learner, recipe)

    @property
    def shipped(self) -> nn.Module:
        """The network that is validated and exported: the average, where there is one."""
        return self._plain if self._average is None else self._average.network

    @property
    def taught_in_loop(self) -> bool:
        """Whether ``State.teacher_s`` counts anything."""
        return self._teacher_s is not None

    def fit(self) -> State:
        """
        Train to the end, from the last checkpoint where there is one.

        On return ``shipped`` has the best weights.

        :raises TrainingError: when a loss term or the gradient is not finite.
        """
        self._accelerator.wait_for_everyone()
        if self._run.resuming:
            self._resume()
        state = self._state
        begun = time.monotonic() - state.elapsed_s
        saved = time.monotonic()
        batches = self._batches.prefetch(state.step, self._recipe.loader_threads)
        self._learner.train()
        with _stop_request() as stop:
            try:
                while True:
                    state.elapsed_s = time.monotonic() - begun
                    at, leave = self._agreed(self._fraction(), stop)
                    if leave:
                        stop.set()
                        raise KeyboardInterrupt
                    if self._due(at):
                        self._validate_now(at, stop)
                        saved = time.monotonic()
                    if at >= 1.0:
                        break
                    asked = time.monotonic()
                    with memory_advice(self._device, 'while preparing a batch',
                                       'lower data.memory_gb or optimization.batch_size'):
                        batch = next(batches).to(self._device)
                    self._step(batch, at, time.monotonic() - asked)
                    if time.monotonic() - saved > 60 * self._recipe.checkpoint_minutes:
                        self._save()
                        saved = time.monotonic()
            except KeyboardInterrupt:
                # Between two steps everything is consistent; a second Ctrl-C inside of one is not.
                if stop.is_set():
                    state.elapsed_s = time.monotonic() - begun
                    self._save()
                raise
            finally:
                batches.close()  # type: ignore[attr-defined]
        self._accelerator.wait_for_everyone()
        if self._run.best.is_file():
            load_checkpoint(self._run.best, self.shipped)
        return state

    def _step(self, batch: Batch, at: float, wait_s: float) -> None:
        started = time.monotonic()
        taught = 0.0 if self._teacher_s is None else self._teacher_s()
        recipe, state = self._recipe, self._state
        rate = recipe.learning_rate * rate_factor(recipe.schedule, at, recipe.warmup,
                                                  recipe.poly_power)
        for group in self._optimizer.param_groups:
            group['lr'] = rate
        # What is dropped out depends on the step alone, so that a resumed run drops the same, and
        # every process something else; on any device.
        torch.manual_seed(self._batches.seed_at(state.step))
        with self._memory(batch), autocast(self.precision, self._device):
            terms = self._learner(batch, at)
            loss = torch.stack([t.float() for t in terms.values()]).sum()
        values = {name: float(term.detach()) for name, term in terms.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f'loss term {name!r} is {value} at step {state.step} (learning rate '
                    f'{rate:.3g}); frames of the batch: '
                    f'{", ".join((batch.names or batch.keys)[:3])}…; '
                    f'{self._keep(batch, values)}; lower optimization.learning_rate or look at '
                    'these frames')
        self._optimizer.zero_grad(set_to_none=True)
        with self._memory(batch):
            self._accelerator.backward(self._scaler.scale(loss))
        self._scaler.unscale_(self._optimizer)
        limit = recipe.gradient_clip or math.inf
        norm = float(nn.utils.clip_grad_norm_(self._learner.parameters(), limit))
        state.skipped = 0 if math.isfinite(norm) else state.skipped + 1
        # With fp16 an overflow is expected: the scaler skips the step and lowers its scale.
        if state.skipped > (_MOST_SKIPPED if self._scaler.is_enabled() else 0):
            raise TrainingError(f'the gradient is {norm} at step {state.step}; '
                                f'{self._keep(batch, {**values, "gradient": norm})}; lower '
                                'optimization.learning_rate')
        with self._memory(batch):  # an optimiser takes its own memory in the first step
            self._scaler.step(self._optimizer)
        self._scaler.update()
        state.step += 1
        # Without this each process would have an average, and a score, of its own.
        self._processes.take_statistics(self._plain)
        if self._average is not None:
            self._average.update(self._plain, state.step)
        took: dict[str, float] = {}
        if self._teacher_s is not None:
            took['teacher_s'] = self._teacher_s() - taught
            state.teacher_s += took['teacher_s']
        if state.step % recipe.log_every == 0 or state.step == 1:
            self._run.event('train', state.step, {
                'loss': sum(values.values()), **values, 'learning_rate': rate, 'gradient': norm,
                'step_s': time.monotonic() - started, 'wait_s': wait_s, **took,
                'elapsed_s': state.elapsed_s})
        self._report(at, f'loss {sum(values.values()):.3f}')

    def _validate_now(self, at: float, stop: threading.Event) -> None:
        state = self._state
        if self._validate is not None:
            try:
                with memory_advice(self._device, f'in validation ({self.precision}, whole frames)',
                                   'lower input.height and input.width of the recipe'), \
                        autocast(self.precision, self._device):
                    result = self._validate(self.shipped, stop.is_set)
            except Stopped:
                stop.set()  # where it was another process that was asked
                raise
            score = result.mean_iou()
            scalars = {'mean_iou': score, 'pixel_accuracy': result.pixel_accuracy()}
            self._run.event('validation', state.step, scalars, elapsed_s=round(state.elapsed_s))
            log.info('step %d: %s %.4f', state.step, self._score, score)
            if score > state.best_score:
                state.best_score, state.best_step = score, state.step
                if self._run.main:
                    save_checkpoint(self._run.best, self.shipped,
                                    state={'step': state.step, 'mean_iou': score})
        state.validations += 1
        self._save()
        self._report(at, 'validated')

    def _keep(self, batch: Batch, values: Mapping[str, float]) -> str:
        """Save a batch on which training failed and say where."""
        return save_failed_batch(self._run.failed_batch(self._accelerator.process_index), batch,
                                 {'step': self._state.step, **values})

    def _memory(self, batch: Batch) -> AbstractContextManager[None]:
        """Return the context that says what to lower when memory runs out on a batch."""
        count, height, width = batch.images.shape[:3]
        lower = 'lower optimization.batch_size or augment.crop'
        if self.precision == 'fp32':
            lower += ', or set optimization.precision to bf16'
        return memory_advice(
            self._device, f'at step {self._state.step} with batch_size {count}, crop '
            f'{height}×{width}, precision {self.precision}', lower)

    def _due(self, at: float) -> bool:
        """Return whether to validate now: every so many steps or at each tenth, and at the end."""
        every = self._recipe.validate_every
        if at >= 1.0:
            return True
        if every:
            return self._state.step >= (self._state.validations + 1) * every
        return at * 10 >= self._state.validations + 1

    def _fraction(self) -> float:
        return progress_fraction(self._state.step, self._total_steps, self._state.elapsed_s,
                                 60 * self._recipe.budget_minutes)

    def _agreed(self, fraction: float, stop: threading.Event) -> tuple[float, bool]:
        """
        Return the fraction that rank 0 says, and whether any rank was asked to stop.

        Clocks differ and signals come one after the other, but all ranks must leave the loop
        before the same step, or the others wait for ever. So a signal that comes while ranks
        agree counts before the next step: the others have not heard of it.
        """
        if self._accelerator.num_processes == 1:
            return fraction, stop.is_set()
        own = fraction if self._run.main else 0.0
        said = torch.tensor([own, float(stop.is_set())], dtype=torch.float64,
                            device=self._device)
        try:
            torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX)
        except RuntimeError:
            if not stop.is_set():
                raise
            return fraction, True  # another process was asked, too, and has ended already
        return float(said[0]), bool(said[1])

    def _report(self, at: float, note: str) -> None:
        if self._progress is None or not self._run.main:
            return
        state = self._state
        if state.best_score >= 0:
            note += f', best {self._score} {100 * state.best_score:.1f}'
        if self._recipe.budget_minutes:
            # Steps to come are unknown under a time budget, the share of the run is not.
            self._progress(round(1000 * self._fraction()), 1000, f'step {state.step}, {note}')
        else:
            self._progress(state.step, self._total_steps, note)

    def _save(self) -> None:
        if not self._run.main:
            return
        self._state.scaler = self._scaler.state_dict() if self._scaler.is_enabled() else {}
        save_checkpoint(self._run.last, self._plain, optimizer=self._optimizer,
                        average=None if self._average is None else self._average.network,
                        adapters=self._target.adapters, state=vars(self._state))

    def _resume(self) -> None:
        state = load_checkpoint(self._run.last, self._plain, optimizer=self._optimizer,
                                average=None if self._average is None else self._average.network,
                                adapters=self._target.adapters)
        self._state = State(**state)
        if self._state.scaler:
            self._scaler.load_state_dict(self._state.scaler)
        log.info('resuming at step %d', self._state.step)
        self._run.event('resumed', self._state.step)


@contextmanager
def _stop_request() -> Iterator[threading.Event]:
    """
    Turn the first Ctrl-C or SIGTERM into a request that the loop sees between two steps.

    A second one interrupts at once. Outside of the main thread signals stay as they are.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(signum: int, frame: object) -> None:
        if stop.is_set():
            stop.clear()
            raise KeyboardInterrupt
        stop.set()

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    if stop.is_set():
        raise KeyboardInterrupt  # asked for behind the last step, when nobody looked any more
