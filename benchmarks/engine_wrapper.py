"""
Time of ``Engine.infer`` over the bare runtime on the same file; the worst engine counts.

The bare side keeps its tensors between calls and returns nothing; ours checks the picture, and
hands out arrays that stay valid. Calls alternate, so that both sides see the same machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
import statistics
import tempfile
import time

import numpy as np
import onnxruntime
import openvino
import result
import torch

from kd_perception.bundle import BundleSpec, DEPLOY, InputSpec, ModelBundle, NetworkSpec
from kd_perception.classes import load_class_set
from kd_perception.engines.loader import load_engine
from kd_perception.networks.deploy import DeployGraph, IMAGES, load_module, save_bundle
from kd_perception.networks.registry import build

HEIGHT, WIDTH = 360, 640
WARMUP, REPEATS = 6, 9
BUDGET_S = 15.0                 # per engine; on a busy machine there are fewer calls
MIN_CALLS, MAX_CALLS = 4, 40
ENGINES = (('onnxruntime', 'fp32'), ('openvino', 'fp32'), ('openvino', 'bf16'), ('torch', 'fp32'))

Call = Callable[[], object]


def main() -> None:
    args = result.parser(__doc__ or '').parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder))
        picture = np.random.default_rng(0).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)
        ratios, times, calls = {}, {}, {}
        for engine, precision in ENGINES:
            try:
                run = load_engine(bundle, engine, precision=precision)
            except Exception as error:  # no bf16 on this processor: say so, measure the others
                print(f'{engine} {precision}: left out: {error}')
                continue
            bare = BARE[engine](bundle, picture, precision)
            name = f'{engine}_{run.precision}'
            ratios[name], times[name], calls[name] = compare(
                bare, partial(run.infer, picture))
            run.close()
        worst = max(ratios, key=lambda n: statistics.median(ratios[n]))
        result.state(
            name='engine_wrapper', value=statistics.median(ratios[worst]),
            unit='times the bare runtime',
            workload={'engine': worst, 'network': 'compact, 12 classes', 'width': WIDTH,
                      'height': HEIGHT, 'bundle': bundle.hash[:12], 'n': calls[worst],
                      'repeats': REPEATS,
                      'all_engines': {n: round(statistics.median(r), 4)
                                      for n, r in ratios.items()},
                      'bare_ms': {n: round(t[0], 2) for n, t in times.items()},
                      'wrapped_ms': {n: round(t[1], 2) for n, t in times.items()}},
            spread={'min': round(min(ratios[worst]), 4), 'max': round(max(ratios[worst]), 4)},
            details={'ratios': ratios}, json_file=args.json)


def compare(bare: Call, wrapped: Call) -> tuple[list[float], tuple[float, float], int]:
    """Return each repeat's ratio of medians, the medians over all in ms, calls per repeat."""
    start = time.perf_counter()
    for _ in range(WARMUP):
        bare()
        wrapped()
    once = (time.perf_counter() - start) / WARMUP
    calls = int(min(max(BUDGET_S / once / REPEATS, MIN_CALLS), MAX_CALLS))
    ratios: list[float] = []
    all_times: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        times: tuple[list[float], list[float]] = ([], [])
        for call in range(calls):
            # Whoever comes second finds warmer caches: take turns in that, too.
            order = (0, 1) if call % 2 else (1, 0)
            for side in order:
                start = time.perf_counter()
                (bare, wrapped)[side]()
                times[side].append(time.perf_counter() - start)
        ratios.append(statistics.median(times[1]) / statistics.median(times[0]))
        for side in (0, 1):
            all_times[side].extend(times[side])
    medians = (statistics.median(all_times[0]) * 1e3, statistics.median(all_times[1]) * 1e3)
    return ratios, medians, calls


def bare_onnxruntime(bundle: ModelBundle, picture: np.ndarray, precision: str) -> Call:
    options = onnxruntime.SessionOptions()
    # As in our engine: threads that spin on after a run would slow down whoever is timed next.
    options.add_session_config_entry('session.force_spinning_stop', '1')
    session = onnxruntime.InferenceSession(str(bundle.file(DEPLOY)), options,
                                           providers=['CPUExecutionProvider'])
    binding = session.io_binding()
    binding.bind_ortvalue_input(IMAGES, onnxruntime.OrtValue.ortvalue_from_numpy(picture))
    for name in ('mask', 'confidence'):
        value = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((1, HEIGHT, WIDTH), np.uint8))
        binding.bind_ortvalue_output(name, value)
    return lambda: session.run_with_iobinding(binding)


def bare_openvino(bundle: ModelBundle, picture: np.ndarray, precision: str) -> Call:
    core = openvino.Core()
    model = core.read_model(bundle.file(DEPLOY))
    model.reshape([1, HEIGHT, WIDTH, 3])
    request = core.compile_model(model, 'CPU', {
        'PERFORMANCE_HINT': 'LATENCY', 'NUM_STREAMS': '1',
        'INFERENCE_PRECISION_HINT': {'fp32': 'f32', 'bf16': 'bf16'}[precision],
    }).create_infer_request()
    request.set_input_tensor(0, openvino.Tensor(picture, shared_memory=True))

    def call() -> None:
        request.start_async()
        request.wait()

    return call


def bare_torch(bundle: ModelBundle, picture: np.ndarray, precision: str) -> Call:
    graph = DeployGraph(load_module(bundle), bundle.spec.input).eval()
    tensor = torch.from_numpy(picture)

    def call() -> None:
        with torch.inference_mode():
            graph(tensor)

    return call


def make_bundle(folder: Path) -> ModelBundle:
    """Return a bundle of the compact student with random weights; they cost the same time."""
    torch.manual_seed(0)
    spec = BundleSpec(name='compact', task='segmentation', role='student',
                      classes=load_class_set('driving'), input=InputSpec(HEIGHT, WIDTH),
                      network=NetworkSpec('compact', {}))
    return save_bundle(folder / 'compact', build(spec.network, len(spec.classes)), spec)


BARE = {'onnxruntime': bare_onnxruntime, 'openvino': bare_openvino, 'torch': bare_torch}

if __name__ == '__main__':
    main()
