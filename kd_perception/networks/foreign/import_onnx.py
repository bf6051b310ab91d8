"""
``bundle import-onnx``: a foreign ONNX graph and a few facts in, a model bundle out.

The foreign graph and ours run on one frame before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import importlib.util
from pathlib import Path
import tempfile

import cv2
import numpy as np

from kd_perception import __version__
from kd_perception.bundle import (
    BundleSpec,
    InputSpec,
    Lineage,
    MODEL_CARD,
    ModelBundle,
    NetworkSpec,
    write_bundle,
)
from kd_perception.classes import UNLABELLED
from kd_perception.errors import BundleError, ImageError
from kd_perception.imaging import decode_compressed
from kd_perception.networks.foreign import probe
from kd_perception.networks.foreign.agreement import Agreement, compared
from kd_perception.networks.foreign.compose import graphs, normalised
from kd_perception.networks.foreign.facts import Fact, input_facts, InputFacts
from kd_perception.networks.foreign.facts_output import output_facts, OutputFacts
from kd_perception.networks.foreign.graph_file import GraphFile, read_graph
from kd_perception.networks.foreign.wishes import Wishes


@dataclass(frozen=True)
class Imported:
    """
    What an import found and made.

    :param facts: for the table that the user sees.
    :param agreements: one per runtime that ran our graphs.
    :param cautions: what the user should know, a sentence each.
    :param bundle: None after a dry run.
    """

    facts: tuple[Fact, ...]
    agreements: tuple[Agreement, ...]
    cautions: tuple[str, ...]
    bundle: ModelBundle | None


def import_onnx(path: Path | str, out: Path | str | None, asked: Wishes | None = None, *,
                image: Path | None = None, overwrite: bool = False,
                show: Callable[[Sequence[Fact]], None] = lambda facts: None) -> Imported:
    """
    Make a bundle of an ONNX graph.

    :param out: the bundle's directory; None tries everything and writes nothing.
    :param asked: what the user says of the network.
    :param image: a picture to run; default a made-up one.
    :param show: called with all facts before anything is made of them.
    :raises BundleError: one line, where the graph cannot be used as it is said to be.
    """
    path, asked = Path(path), asked or Wishes()
    if importlib.util.find_spec('onnxruntime') is None:
        raise BundleError("an import is checked with ONNX Runtime; pip install "
                          "'kd_perception[runtime]'")
    if out is not None and Path(out).exists() and not overwrite:
        raise BundleError(f'{out}: exists; choose another name or pass --overwrite')
    graph = read_graph(path)
    view, facts = input_facts(graph, asked)
    frame = sample_frame(view.spec, image)[np.newaxis]
    seen = _run_foreign(graph, view, frame)
    result, more = output_facts(graph, seen, view, asked)
    facts = [Fact('graph', f'{path.name}, opset {graph.opset}, '
                           f'{graph.model.ByteSize() / 1e6:.1f} MB', 'graph'), *facts, *more]
    show(facts)
    made = graphs(graph, view, result)
    agreements, cautions = _checked(path, made, frame, seen[result.name], view, result)
    if graph.needs:
        cautions.append(f'needs operators of {", ".join(graph.needs)}: runtimes other than ONNX '
                        'Runtime may not have them')
    if result.values == 'ids':
        cautions += _strays(path, seen[result.name], result)
        cautions.append('gives ids alone: confidence is 255 everywhere, and it cannot write soft '
                        'labels (hard ones can be imported: kd_perception label --import)')
    if result.task == 'classification':
        cautions.append('is a classification: it can be shown, verified and evaluated; the '
                        'perception node does not serve it yet')
    if view.port.shape[0] == 1:
        cautions.append('takes one picture at a time')
    bundle = None
    if out is not None:
        spec = bundle_spec(graph, view, result, asked)
        bundle = write_bundle(Path(out), spec, {**made, MODEL_CARD: _card(spec, facts).encode()},
                              overwrite=overwrite)
    return Imported(tuple(facts), tuple(agreements), tuple(cautions), bundle)


def _strays(path: Path, value: np.ndarray, out: OutputFacts) -> list[str]:
    """Return what to say of ids on the frame that are of no class; all of them are refused."""
    ids, counts = np.unique(value.astype(np.int64), return_counts=True)
    known = [*range(len(out.classes)), *out.classes.void_ids, UNLABELLED]
    strange = ~np.isin(ids, known)
    if not strange.any():
        return []
    first = ', '.join(map(str, ids[strange][:4])) + (', …' if strange.sum() > 4 else '')
    told = f'gives ids without a class ({first})'
    if strange.all():
        raise BundleError(f'{path}: {told} on the whole frame; {out.classes.name!r} names '
                          f'{len(out.classes)}: are they ids, and are these its classes?')
    return [f'{told} on {counts[strange].sum() / counts.sum():.2g} of the frame, which become '
            f'void; {out.classes.name!r} names {len(out.classes)}']


def bundle_spec(graph: GraphFile, view: InputFacts, out: OutputFacts,
                asked: Wishes) -> BundleSpec:
    """Return what the bundle says of a foreign graph."""
    read = {'file': graph.path.name, 'sha256': graph.sha256, 'opset': graph.opset,
            'input': graph.input.name, 'layout': view.layout, 'output': out.name,
            'values': out.values}
    return BundleSpec(
        name=asked.name or graph.path.stem, task=out.task, role=asked.role or 'teacher',
        classes=out.classes, input=view.spec, network=NetworkSpec('', read),
        lineage=Lineage(code_version=__version__))


def sample_frame(spec: InputSpec, image: Path | None = None) -> np.ndarray:
    """
    Return a picture in a bundle's size and channel order, uint8 ``[H, W, 3]``.

    :param image: a JPEG or PNG; None: coloured blots on a gradient, the same at every call.
    :raises ImageError: when it is no picture.
    """
    size = (spec.width, spec.height)
    if image is not None:
        try:
            picture = decode_compressed(image.read_bytes())
        except OSError as error:
            raise ImageError(f'{image}: not readable: {error.strerror}') from None
        except ImageError as error:
            raise ImageError(f'{image}: {error}') from None
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(picture[..., ::-1 if spec.channel_order == 'bgr' else 1])
    coarse = np.random.default_rng(0).uniform(0, 255, (9, 16, 3)).astype(np.float32)
    blots = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    ramp = np.linspace(0, 80, spec.height, dtype=np.float32)[:, None, None]
    return np.clip(blots * 0.8 + ramp, 0, 255).astype(np.uint8)


def _run_foreign(graph: GraphFile, view: InputFacts,
                 frame: np.ndarray) -> dict[str, np.ndarray]:
    fed = normalised(frame, view)
    job = probe.Job(str(graph.path.resolve()), 'onnxruntime', 'frame', fed.shape)
    seen = probe.run([job], {'frame': fed}, str(graph.path))[0]
    if isinstance(seen, str):
        raise BundleError(f'{graph.path}: does not run on a picture of {view.spec.width}x'
                          f'{view.spec.height}: {seen}')
    return seen


def _checked(path: Path, made: dict[str, bytes], frame: np.ndarray, value: np.ndarray,
             view: InputFacts, out: OutputFacts) -> tuple[list[Agreement], list[str]]:
    """Run our graphs in every runtime that is here and compare."""
    runtimes = ['onnxruntime'] + (
        ['openvino'] if importlib.util.find_spec('openvino') is not None else [])
    agreements, cautions = [], []
    with tempfile.TemporaryDirectory(prefix='kd_perception_import_') as name:
        for file, content in made.items():
            (Path(name) / file).write_bytes(content)
        jobs = [probe.Job(str(Path(name) / file), runtime, 'frame', frame.shape)
                for runtime in runtimes for file in made]
        results = probe.run(jobs, {'frame': frame}, str(path))
    for index, runtime in enumerate(runtimes):
        own = dict(zip(made, results[index * len(made):], strict=False))
        failed = [r for r in own.values() if isinstance(r, str)]
        if failed and runtime == 'onnxruntime':
            raise BundleError(f'{path}: our graph around it does not run: {failed[0]}')
        if failed:
            cautions.append(f'does not run on {runtime}: choose --engine onnxruntime '
                            f'({failed[0][:120]})')
            continue
        agreements.append(compared(runtime, value, own, out,  # type: ignore[arg-type]
                                   (view.spec.height, view.spec.width), f'{path} on {runtime}'))
    return agreements, cautions


def _card(spec: BundleSpec, facts: Sequence[Fact]) -> str:
    """Return a Markdown card of what was read, asked and guessed."""
    lines = [f'# {spec.name}', '', f'Imported {spec.task} of {len(spec.classes)} classes.', '',
             '| | | |', '|---|---|---|']
    lines += [f'| {f.key} | {f.value} | {f.how}{": " + f.why if f.why else ""} |' for f in facts]
    lines += ['', "Read from a foreign graph; licence and training data are its maker's.", '']
    return '\n'.join(lines)

