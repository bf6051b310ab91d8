"""The fastest engine: measured by a clock of the test's own, remembered, explained."""

from __future__ import annotations

from dataclasses import dataclass, field
import json
from pathlib import Path
import types
from typing import Any

import numpy as np
import pytest

from kd_perception.bundle import ModelBundle
from kd_perception.engines import choice, loader
from kd_perception.engines.artefacts import ArtefactCache
from kd_perception.engines.choice import load_fastest, remembered_choices
from kd_perception.errors import EngineError


@dataclass
class Machine:
    """Engines with a price per call, and what was done to them."""

    costs: dict[tuple[str, str], float]
    wrong: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    now: float = 0.0
    loads: list[tuple[str, str]] = field(default_factory=list)
    open: int = 0
    calls: int = 0

    def load(self, bundle: ModelBundle, name: str, *, device: str, precision: str,
             threads: int, hashed: set[str]) -> Any:
        self.loads.append((name, precision))
        executes = {'openvino': 'bf16'}.get(name, 'fp32') if precision == 'auto' else precision
        if name in self.broken or (name, executes) not in self.costs:
            raise EngineError(f'{name} has no {executes} here')
        machine = self
        machine.open += 1

        class Engine:
            def __init__(self) -> None:
                self.name, self.device, self.precision = name, device, executes

            def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
                if name in machine.failing:
                    raise EngineError(f'{name} has no memory')
                machine.now += machine.costs[name, executes] / 1e3
                machine.calls += 1
                mask = np.arange(images.size // 3, dtype=np.uint8).reshape(images.shape[:3])
                return {'mask': mask + (name in machine.wrong),
                        'confidence': np.full_like(mask, 200)}

            def close(self) -> None:
                machine.open -= 1

        return Engine()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine({('openvino', 'bf16'): 5.1, ('openvino', 'fp32'): 13.0,
                    ('onnxruntime', 'fp32'): 14.2})
    monkeypatch.setattr(choice, 'load_engine', made.load)
    monkeypatch.setattr(choice, 'available_engines', lambda: {
        'openvino': '1', 'onnxruntime': '2', 'torch': '3', 'tensorrt': 'missing: no'})
    monkeypatch.setattr(choice, 'time', types.SimpleNamespace(
        perf_counter=lambda: made.now, monotonic=lambda: made.now))
    return made


@pytest.fixture
def cache(tmp_path: Path) -> ArtefactCache:
    return ArtefactCache(tmp_path / 'engines')


def test_measured_once_and_remembered(machine: Machine, cache: ArtefactCache,
                                      small: ModelBundle) -> None:
    engine, why = load_fastest(small, cache=cache)
    assert (engine.name, engine.precision) == ('openvino', 'bf16')
    assert why.reason.startswith(
        'openvino bf16 5.1 ms, openvino fp32 13.0 ms, onnxruntime fp32 14.2 ms; measured 20')
    assert ('torch', 'fp32') not in machine.loads
    assert machine.open == 1, 'those that lost stay open'
    machine.loads.clear()
    again, same = load_fastest(small, cache=cache)
    assert same == why
    assert machine.loads == [('openvino', 'auto')]
    told, = remembered_choices(cache)
    assert told == {'model': 'small', 'engine': 'openvino', 'reason': why.reason}


def test_a_wrong_mask_loses(machine: Machine, cache: ArtefactCache, small: ModelBundle) -> None:
    machine.costs['onnxruntime', 'fp32'] = 1.0
    machine.wrong.add('onnxruntime')
    engine, why = load_fastest(small, cache=cache)
    assert engine.name == 'openvino'
    assert 'onnxruntime fp32 left out: agrees on 0.0% of clear pixels only' in why.reason


def test_engines_that_all_fail_are_closed(machine: Machine, cache: ArtefactCache,
                                          small: ModelBundle) -> None:
    machine.failing |= {'openvino', 'onnxruntime'}
    with pytest.raises(EngineError, match='has no memory'):
        load_fastest(small, cache=cache)
    assert machine.open == 0


def test_engines_before_one_that_breaks_down_are_closed(
        machine: Machine, cache: ArtefactCache, small: ModelBundle,
        monkeypatch: pytest.MonkeyPatch) -> None:
    def load(bundle: ModelBundle, name: str, **more: Any) -> Any:
        if name == 'onnxruntime':
            raise ZeroDivisionError('a defect')
        return machine.load(bundle, name, **more)

    monkeypatch.setattr(choice, 'load_engine', load)
    with pytest.raises(ZeroDivisionError):
        load_fastest(small, cache=cache)
    assert len(machine.loads) == 2
    assert machine.open == 0


def test_a_lower_precision_must_be_worth_it(machine: Machine, cache: ArtefactCache,
                                            small: ModelBundle) -> None:
    machine.costs['openvino', 'bf16'] = 12.5
    assert load_fastest(small, cache=cache)[0].precision == 'fp32'


def test_a_named_precision_is_kept(machine: Machine, cache: ArtefactCache,
                                   small: ModelBundle) -> None:
    engine, _ = load_fastest(small, precision='fp32', cache=cache)
    assert (engine.name, engine.precision) == ('openvino', 'fp32')
    assert set(machine.loads) == {('openvino', 'fp32'), ('onnxruntime', 'fp32')}


def test_slow_networks_are_not_measured_for_long(machine: Machine, cache: ArtefactCache,
                                                 small: ModelBundle) -> None:
    for key in machine.costs:
        machine.costs[key] = 4_000.0
    load_fastest(small, cache=cache)
    assert machine.calls == 3  # the one that compares masks is timed


@pytest.mark.parametrize('content', ['', '{', '[]', '{"engine": 3}', '\x00', json.dumps(
    {'engine': 'warp', 'precision': 'fp32', 'reason': 'x'}), json.dumps(
    {'engine': 'openvino', 'precision': 'auto', 'reason': {}})])
def test_a_broken_memory_is_measured_again(machine: Machine, cache: ArtefactCache,
                                           small: ModelBundle, content: str) -> None:
    load_fastest(small, cache=cache)
    path, = (cache.directory / 'choices').iterdir()
    path.write_text(content)
    machine.loads.clear()
    assert load_fastest(small, cache=cache)[0].precision == 'bf16'
    assert len(machine.loads) == 3
    assert json.loads(path.read_text())['engine'] == 'openvino'


def test_what_cannot_be_kept_is_no_error(machine: Machine, tmp_path: Path, small: ModelBundle,
                                         caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / 'file').write_text('in the way')
    cache = ArtefactCache(tmp_path / 'file' / 'engines')
    assert load_fastest(small, cache=cache)[0].name == 'openvino'
    assert 'cannot remember' in caplog.text
    assert remembered_choices(cache) == []


def test_a_remembered_engine_that_fails_now(machine: Machine, cache: ArtefactCache,
                                            small: ModelBundle) -> None:
    load_fastest(small, cache=cache)
    machine.broken.add('openvino')
    engine, why = load_fastest(small, cache=cache)
    assert engine.name == 'onnxruntime'
    assert 'openvino auto left out: openvino has no bf16 here' in why.reason
    machine.broken.add('onnxruntime')
    with pytest.raises(EngineError, match='has no'):
        load_fastest(small, cache=cache)


@pytest.mark.parametrize('change', ['threads', 'precision', 'processor', 'versions', 'cores'])
def test_other_circumstances_are_measured_anew(
        machine: Machine, cache: ArtefactCache, small: ModelBundle, change: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    load_fastest(small, cache=cache)
    wish: dict[str, Any] = {}
    if change == 'threads':
        wish = {'threads': 1}
    elif change == 'precision':
        wish = {'precision': 'fp32'}
    elif change == 'processor':
        monkeypatch.setattr(choice, 'cpu_model', lambda: 'another')
    elif change == 'cores':
        monkeypatch.setattr(choice, 'cores', lambda: 99)
    else:
        monkeypatch.setattr(choice, 'available_engines', lambda: {
            'openvino': '1.1', 'onnxruntime': '2'})
    load_fastest(small, cache=cache, **wish)
    assert len(list((cache.directory / 'choices').iterdir())) == 2


def test_one_candidate_is_not_measured(machine: Machine, cache: ArtefactCache,
                                       small: ModelBundle,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, 'available_engines', lambda: {'onnxruntime': '2'})
    engine, why = load_fastest(small, cache=cache)
    assert (engine.name, why.reason) == ('onnxruntime', 'the only engine installed for cpu')
    assert machine.calls == 0
    assert not cache.directory.exists()


def test_tensorrt_takes_part_once_it_is_built(machine: Machine, cache: ArtefactCache,
                                              small: ModelBundle,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    machine.costs |= {('tensorrt', 'fp16'): 0.5, ('onnxruntime', 'fp16'): 1.0}
    monkeypatch.setattr(choice, 'available_engines', lambda: {
        'onnxruntime': '2', 'tensorrt': '11'})
    built: set[str] = set()
    monkeypatch.setattr(choice, 'is_built', lambda bundle, name, device, precision:
                        precision in built)
    assert load_fastest(small, device='cuda', cache=cache)[0].name == 'onnxruntime'
    built.add('fp16')
    assert load_fastest(small, device='cuda', cache=cache)[0].name == 'tensorrt'


def test_real_engines(small: ModelBundle, cache: ArtefactCache) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 45, 80, 3), np.uint8)
    engine, why = load_fastest(small, cache=cache, threads=1)
    assert engine.name in why.reason
    assert engine.name in ('openvino', 'onnxruntime')
    again, same = load_fastest(small, cache=cache, threads=1)
    assert same == why
    assert (again.infer(images)['mask'] == engine.infer(images)['mask']).all()
    assert loader.is_built(small, again.name, precision=why.precision)
    engine.close()
    again.close()


def test_impossible_wishes_are_one_line(small: ModelBundle, cache: ArtefactCache) -> None:
    # Not fp16: newer processors have it.
    for wish in ({'device': 'banana'}, {'precision': 'fp4'}, {'precision': 'int8'}):
        with pytest.raises(EngineError) as caught:
            load_fastest(small, cache=cache, **wish)
        assert '\n' not in str(caught.value)
