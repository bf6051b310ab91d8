"""
What the benchmarks of the A/B comparison share: a student against itself, run for real.

The student is a light one, so that what the comparison adds is not lost in what a network varies.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
import sys
import tempfile
from typing import Any

import delayed_perception
from node_bench import make_student

from kd_perception.bundle import NetworkSpec
from kd_perception.cli.comparison import ComparisonRequest, LOGS, plan
from kd_perception.errors import ConfigError
from kd_perception.evaluation.comparison import ArmSpec, ComparisonRun
from kd_perception.evaluation.comparison_files import load_run, RECORDING
from kd_perception.nodes.bringup.graph import NodeSpec
from kd_perception.nodes.bringup.runner import run_graph

MODELS, STUDENT = 'models', 'light'
NETWORK, SIZE = NetworkSpec('compact', {'width': 8}), (96, 160)


@dataclass(frozen=True)
class DelayedNode(NodeSpec):
    """A perception node whose engine answers ``delayed_perception.VARIABLE`` ms later."""

    @property
    def module(self) -> str:
        """Return the module that wraps the node; it lies beside this one."""
        return delayed_perception.__name__


def add_arguments(parser: argparse.ArgumentParser, frames: int) -> None:
    """Declare what all of them take."""
    parser.add_argument('--runs', type=Path, metavar='DIR',
                        help='keep recorded runs here, and use those that are there')
    parser.add_argument('--frames', type=int, default=frames, help='of a run (%(default)s)')
    parser.add_argument('--width', type=int, default=640, help='(%(default)s)')
    parser.add_argument('--height', type=int, default=360, help='(%(default)s)')
    parser.add_argument('--engine', default='onnxruntime', choices=('onnxruntime', 'openvino'))


@contextmanager
def runs_folder(args: argparse.Namespace) -> Iterator[Path]:
    """Yield the folder of the runs, with a student in it."""
    with tempfile.TemporaryDirectory() if args.runs is None else nullcontext(args.runs) as name:
        folder = Path(name)
        if not (folder / MODELS / STUDENT).is_dir():
            make_student(folder / MODELS, NETWORK, name=STUDENT, size=SIZE)
        yield folder


def live_run(folder: Path, name: str, args: argparse.Namespace, *, seed: int = 0,
             delay_ms: float = 0.0) -> ComparisonRun:
    """
    Return the run ``name`` of the folder: as it was recorded, else recorded now.

    :param seed: of the street and of the serving order.
    :param delay_ms: by which the engine of arm b answers later.
    """
    out = folder / name
    found = recorded_run(out)
    if found is not None:
        return found
    a = ArmSpec('a', str(folder / MODELS / STUDENT), args.engine, precision='fp32', threads=1)
    graph = plan(ComparisonRequest(arms=(a, replace(a, name='b')), frames=args.frames,
                                   width=args.width, height=args.height, seed=seed), out)
    if delay_ms:
        graph = replace(graph, nodes=tuple(_delayed(node, delay_ms) if node.namespace == 'b'
                                           else node for node in graph.nodes))
    print(f'recording {args.frames} frames into {out} …', file=sys.stderr, flush=True)
    out.mkdir(parents=True, exist_ok=True)
    run_graph(graph, out / LOGS)
    return load_run(out / RECORDING)


def recorded_run(out: Path) -> ComparisonRun | None:
    """Return the whole run of a student against itself that lies in ``out``, or None."""
    if not (out / RECORDING).is_dir():
        return None
    try:
        run = load_run(out / RECORDING)
    except ConfigError as error:
        print(f'left out: {error}', file=sys.stderr)
        return None
    twins = len(run.arms) == 2 and len({arm.bundle_hash for arm in run.arms}) == 1
    return run if twins and not run.interrupted else None


def workload(run: ComparisonRun) -> dict[str, Any]:
    """Return what ran, for the figure."""
    arm = run.arms[0]
    return {'bundle': arm.bundle_hash[:12], 'engine': arm.engine, 'precision': arm.precision,
            'threads': arm.threads,
            'network': f'{arm.network}, {arm.input_width}x{arm.input_height}',
            'image': f'{run.spec.width}x{run.spec.height}',
            'placement': run.spec.placement, 'pacing': run.spec.pacing}


def _delayed(node: NodeSpec, delay_ms: float) -> DelayedNode:
    here = str(Path(__file__).resolve().parent)
    root = str(Path(here).parent)
    return DelayedNode(node.executable, node.name, node.namespace, node.parameters,
                       node.remappings, {**node.environment, 'PYTHONPATH': f'{root}:{here}',
                                         delayed_perception.VARIABLE: str(delay_ms)})
