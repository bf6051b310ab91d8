"""Calls of torch with fixed memory and recordings, on the CPU with a stand-in for recordings."""

from __future__ import annotations

from collections.abc import Callable
import logging
import threading
import time
from typing import Any
import weakref

import numpy as np
import pytest
import torch

from kd_perception.bundle import ModelBundle
from kd_perception.engines import torch_runner
from kd_perception.engines.torch_engine import TorchEngine
from kd_perception.engines.torch_runner import TorchRunner
from kd_perception.networks.deploy import deployed, load_module

PATIENCE_S = 60
Images = Callable[[int], np.ndarray]


def graph_of(bundle: ModelBundle) -> torch.nn.Module:
    return deployed(load_module(bundle), bundle.spec).eval()


class Remembering(torch.nn.Module):
    """Knows its last call, which a recording of it would hold."""

    def __init__(self, graph: torch.nn.Module) -> None:
        super().__init__()
        self.graph = graph
        self.calls = 0
        self.last: Any = None

    def forward(self, images: torch.Tensor) -> Any:
        self.calls += 1
        self.last = images, self.graph(images)
        return self.last[1]


class Recordings:
    """
    The stand-in for what ``torch.cuda`` records, on the CPU.

    :param kind: ``faithful``, ``frozen`` (nothing is computed again) or ``first`` (the result is
        always that of the first picture).
    """

    def __init__(self, module: Remembering, kind: str = 'faithful') -> None:
        self.options: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = self.replays = 0
        outer = self

        class CUDAGraph:
            def replay(self) -> None:
                outer.replays += 1
                source, outputs = self.captured
                if kind == 'frozen':
                    return
                fresh = module.graph(source) if kind == 'faithful' else self.first
                for output, value in zip(outputs, fresh, strict=True):
                    output.copy_(value)

        class graph:  # noqa: N801
            def __init__(self, recording: CUDAGraph, **options: Any) -> None:
                outer.options.append(options)
                self.recording: Any = recording

            def __enter__(self) -> None:
                outer.at_once += 1
                outer.most_at_once = max(outer.most_at_once, outer.at_once)
                time.sleep(0.02)

            def __exit__(self, *_: object) -> None:
                outer.at_once -= 1
                self.recording.captured = module.last
                self.recording.first = tuple(o.clone() for o in module.last[1])

        self.names = {'CUDAGraph': CUDAGraph, 'graph': graph}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in self.names.items():
            monkeypatch.setattr(torch.cuda, name, value)


def recording_runner(module: torch.nn.Module) -> TorchRunner:
    runner = TorchRunner(module, torch.device('cpu'))
    runner._record = True
    return runner


def check(runner: TorchRunner, graph: torch.nn.Module, images: np.ndarray) -> None:
    """Compare a call with the module itself."""
    with torch.inference_mode():
        expected = [value.numpy() for value in graph(torch.from_numpy(images))]
    for result, value in zip(runner(images), expected, strict=True):
        assert (result == value).all()


def test_every_batch_size_is_made_once(small: ModelBundle, images: Images) -> None:
    """Cameras come in any number: what warming has made must be there for every call."""
    graph = graph_of(small)
    runner = TorchRunner(graph, torch.device('cpu'))
    made: list[int] = []
    make = runner._made
    runner._made = lambda shape: made.append(shape[0]) or make(shape)  # type: ignore
    for number in (1, 1, *range(2, 8), *range(1, 8), 1):
        check(runner, graph, images(7)[:number])
    assert made == list(range(1, 8))


def test_what_is_recorded_and_how(small: ModelBundle, images: Images,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(small)
    module = Remembering(graph)
    recordings = Recordings(module)
    recordings.install(monkeypatch)
    runner = recording_runner(module)
    for number in (1, 2, 1, 2):
        check(runner, graph, images(number))
    # Other threads serve meanwhile, and torch's own stream is that of the first GPU.
    assert recordings.options == [
        {'stream': runner._stream, 'capture_error_mode': 'thread_local'}] * 2
    assert recordings.replays == 2 * 2 + 4
    calls = module.calls
    check(runner, graph, images(2))
    assert module.calls == calls, 'a replay calls no Python'


@pytest.mark.parametrize('kind', ['frozen', 'first'])
def test_a_recording_that_does_not_follow_is_not_used(
        small: ModelBundle, images: Images, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture, kind: str) -> None:
    graph = graph_of(small)
    module = Remembering(graph)
    Recordings(module, kind).install(monkeypatch)
    runner = recording_runner(module)
    with caplog.at_level(logging.WARNING):
        check(runner, graph, images(1))
        check(runner, graph, images(3))
    assert len(caplog.records) == 1
    assert 'without a CUDA graph' in caplog.text


def test_a_network_that_cannot_be_recorded(small: ModelBundle, images: Images,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(small)
    module = Remembering(graph)
    recordings = Recordings(module)
    recordings.install(monkeypatch)

    def refuse(*_: object) -> None:
        raise RuntimeError('operation not permitted when stream is capturing')

    monkeypatch.setattr(recordings.names['graph'], '__enter__', refuse)
    runner = recording_runner(module)
    check(runner, graph, images(1))
    check(runner, graph, images(2))
    assert len(recordings.options) == 1


@pytest.mark.parametrize('words', ['CUDA out of memory. Tried to allocate 20.00 MiB',
                                   'CUDA error: an illegal memory access was encountered'])
def test_a_gpu_that_fails_while_recording_is_no_fault_of_the_network(
        small: ModelBundle, images: Images, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    graph = graph_of(small)
    module = Remembering(graph)
    recordings = Recordings(module)
    recordings.install(monkeypatch)
    runner = recording_runner(module)

    def refuse(*_: object) -> None:
        raise RuntimeError(words)

    with monkeypatch.context() as patch:
        patch.setattr(recordings.names['graph'], '__enter__', refuse)
        with pytest.raises(RuntimeError, match=words):
            runner(images(1))
    check(runner, graph, images(1))
    assert recordings.replays, 'it is recorded when that is over'


def test_one_recording_at_a_time(small: ModelBundle, images: Images,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    module = Remembering(graph_of(small))
    recordings = Recordings(module)
    recordings.install(monkeypatch)
    runners = [recording_runner(module) for _ in range(4)]
    threads = [threading.Thread(target=runner, args=(images(1),)) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(recordings.options) == 4
    assert recordings.most_at_once == 1


class Held(torch.nn.Module):
    """Stays in its call until it may go, and notes whether cuDNN may use TF32."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()
        self.seen: list[bool] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.entered.set()
        assert self.go.wait(PATIENCE_S)
        self.seen.append(torch.backends.cudnn.allow_tf32)
        return images


def test_no_thread_takes_tf32_from_another() -> None:
    before = torch.backends.cudnn.allow_tf32
    assert before, 'this test needs the default of torch'
    modules = [Held(), Held()]
    picture = np.zeros((1, 4, 4, 3), np.uint8)
    threads = [threading.Thread(target=TorchRunner(module, torch.device('cpu')), args=(picture,))
               for module in modules]
    for module, thread in zip(modules, threads, strict=True):
        thread.start()
        assert module.entered.wait(PATIENCE_S)
    for module, thread in zip(modules, threads, strict=True):
        module.go.set()  # in the order of their coming, which is not that of nested blocks
        thread.join(PATIENCE_S)
    assert [any(module.seen) for module in modules] == [False, False]
    assert torch.backends.cudnn.allow_tf32 == before


def test_closing_gives_the_memory_back(small: ModelBundle, images: Images,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    run = TorchEngine(small)
    runner = run._runner = TorchRunner(run._graph, torch.device('cpu'))
    run.infer(images(1))
    runner._cuda, runner._device = True, torch.device('cuda:1')
    kept = weakref.ref(run._graph)
    places: list[object] = []
    asked: list[tuple[object, bool, bool]] = []

    class Device:
        def __init__(self, device: object) -> None:
            self.device = device

        def __enter__(self) -> None:
            places.append(self.device)

        def __exit__(self, *_: object) -> None:
            places.pop()

    def empty_cache() -> None:
        asked.append((places[-1], kept() is None, torch_runner._RECORDING.locked()))
        raise RuntimeError('CUDA error: an illegal memory access was encountered')

    monkeypatch.setattr(torch.cuda, 'device', Device)
    monkeypatch.setattr(torch.cuda, 'empty_cache', empty_cache)
    run.close()
    run.close()
    assert asked == [(torch.device('cuda:1'), True, True)]


def test_weights_are_converted_once(decisive: tuple[ModelBundle, np.ndarray]) -> None:
    bundle, frames = decisive
    run = TorchEngine(bundle, precision='bf16')
    assert run._graph is not None
    assert {m.weight.dtype for m in run._graph.modules()
            if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)} == {torch.bfloat16}
    result = run.infer(frames)
    module = load_module(bundle)

    class Plain(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast('cpu', dtype=torch.bfloat16):
                return module(x).float()

    with torch.inference_mode():
        expected = deployed(Plain(), bundle.spec)(torch.from_numpy(frames))
    assert (result['mask'] == expected[0].numpy()).all()
    assert (result['confidence'] == expected[1].numpy()).all()
