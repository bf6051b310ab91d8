"""From a bundle and a wish to an engine."""

from __future__ import annotations

import importlib
from importlib import metadata
import importlib.util
import logging

from kd_perception.bundle import DEPLOY, DEPLOY_INT8, LOGITS, ModelBundle, WEIGHTS
from kd_perception.engines.artefacts import ArtefactCache, is_whole
from kd_perception.engines.engine import check_device, DEVICES, Engine, PRECISIONS
from kd_perception.errors import BundleError, EngineError

log = logging.getLogger(__name__)

# In the order in which ``auto`` tries them: the fastest on CPUs first; TensorRT last, because it
# builds for minutes before it serves.
ENGINES = ('openvino', 'onnxruntime', 'torch', 'tensorrt')
GRAPHS = {'deploy': DEPLOY, 'logits': LOGITS}

_DISTRIBUTIONS = {'onnxruntime': ('onnxruntime', 'onnxruntime-gpu'), 'openvino': ('openvino',),
                  'torch': ('torch',),
                  'tensorrt': ('tensorrt', 'tensorrt-cu13', 'tensorrt-cu12')}
_INSTALL = {'onnxruntime': "pip install 'kd_perception[runtime]'",
            'openvino': "pip install 'kd_perception[runtime]'",
            'torch': "pip install 'kd_perception[train]'",
            'tensorrt': "pip install 'kd_perception[tensorrt]'"}


def available_engines() -> dict[str, str]:
    """Return, per engine, its version, or ``missing: <how to install it>``; imports none."""
    found = {}
    for name in ENGINES:
        found[name] = f'missing: {_INSTALL[name]}'
        if importlib.util.find_spec(name) is not None:
            found[name] = _version(name)
    return found


def load_engine(bundle: ModelBundle, engine: str = 'auto', *, device: str = 'cpu',
                precision: str = 'auto', threads: int = 0, graph: str = 'deploy',
                compiled: bool = False, hashed: set[str] | None = None) -> Engine:
    """
    Load one graph of a bundle; the file that the engine reads is checked against its hash first.

    :param engine: ``auto`` (the first of ``ENGINES`` that is installed and has such a device),
        or a name. Which one is fastest here: :mod:`kd_perception.engines.choice`.
    :param device: ``cpu``, or ``cuda`` where the runtime can.
    :param precision: ``auto`` is the runtime's own default on this machine; what it was is read
        back into the engine's ``precision``. ``int8`` needs the quantized graph.
    :param threads: threads of the runtime; 0 is its own choice.
    :param graph: ``deploy`` (mask and confidence) or ``logits``.
    :param compiled: let ``torch.compile`` fuse the graph; of torch alone.
    :param hashed: names of files that were checked for this request, which are not read again;
        what is checked here is added. None: nothing was.
    :raises EngineError: when the runtime is missing or cannot do what was asked.
    :raises BundleError: when the graph is missing or damaged.
    """
    hashed = set() if hashed is None else hashed
    file_name = _graph_file(bundle, precision, graph, threads)
    quantized = precision == 'int8'
    chosen = _choose(engine, device)
    check_device(chosen, device)
    if compiled and chosen != 'torch':
        raise EngineError(f'{chosen} compiles by itself; compiled is for torch')
    if chosen == 'torch':
        if quantized:
            raise EngineError('torch does not run the int8 graph; choose onnxruntime or openvino')
        from kd_perception.engines.torch_engine import TorchEngine
        if bundle.has(WEIGHTS):
            _verify(bundle, WEIGHTS, hashed)
        return TorchEngine(bundle, graph, device=device, precision=precision, threads=threads,
                           compiled=compiled, verified=True)
    check_exported(bundle, file_name)
    _verify(bundle, file_name, hashed)
    if chosen == 'tensorrt':
        from kd_perception.engines.tensorrt_engine import TensorRtEngine
        return TensorRtEngine(bundle, file_name, device=device, precision=precision,
                              threads=threads, quantized=quantized)
    if chosen == 'openvino':
        from kd_perception.engines.openvino_engine import OpenVinoEngine
        return OpenVinoEngine(bundle, file_name, device=device, precision=precision,
                              threads=threads, quantized=quantized)
    from kd_perception.engines.onnxruntime_engine import OnnxRuntimeEngine
    return OnnxRuntimeEngine(bundle, file_name, device=device, precision=precision,
                             threads=threads, quantized=quantized)


def check_exported(bundle: ModelBundle, file_name: str = DEPLOY) -> None:
    """
    Refuse a bundle whose graph was not exported yet; reads nothing.

    :raises BundleError: when there are weights but not that graph.
    """
    if not bundle.has(file_name) and bundle.has(WEIGHTS):
        raise BundleError(f'{bundle.path}: has weights but no {file_name} yet; make it with: '
                          f'kd_perception export {bundle.path} --overwrite')


def check_possible(engine: str = 'auto', device: str = '') -> None:
    """
    Refuse what can be on no account, whatever else is asked for; imports and reads nothing.

    :param device: must be known to some runtime; empty for no wish.
    :raises EngineError: when the engine is not installed, or the device has no such name.
    """
    if engine != 'auto':
        _choose(engine, device)
    if device and all(device.partition(':')[0] not in known for known in DEVICES.values()):
        every = sorted({kind for known in DEVICES.values() for kind in known})
        raise EngineError(f'no engine has a device {device!r}; there are {", ".join(every)}')


def is_built(bundle: ModelBundle, engine: str, *, device: str = 'cpu', precision: str = 'auto',
             graph: str = 'deploy', batch: int = 1, cache: ArtefactCache | None = None) -> bool:
    """
    Return whether ``load_engine`` would find what it needs in the artefact cache.

    True also where nothing is built that takes long, or loading is going to fail.

    :param batch: pictures that one call may have, where each number is built by itself.
    """
    cache = cache or ArtefactCache()
    try:
        file_name = _graph_file(bundle, precision, graph, 0)
        check_device(_choose(engine, device), device)
        if not bundle.has(file_name):
            return True
        if engine == 'tensorrt':
            from kd_perception.engines import tensorrt_engine
            return tensorrt_engine.artefact_path(
                bundle, file_name, device=device, precision=precision, cache=cache).is_file()
        if engine == 'openvino':
            from kd_perception.engines import openvino_engine
            return all(openvino_engine.artefact_path(
                bundle, file_name, device=device, precision=precision, batch=number,
                cache=cache).is_file() for number in range(1, batch + 1))
        if device.startswith('tensorrt'):
            from kd_perception.engines import onnxruntime_engine
            return is_whole(onnxruntime_engine.artefact_folder(
                bundle, file_name, device=device, precision=precision, cache=cache))
    except (EngineError, ImportError, RuntimeError):
        return True  # loading will say what is missing
    return True


def _verify(bundle: ModelBundle, file_name: str, hashed: set[str]) -> None:
    if file_name not in hashed:
        bundle.verify(file_name)
        hashed.add(file_name)


def _graph_file(bundle: ModelBundle, precision: str, graph: str, threads: int) -> str:
    """Return the file of a graph, or raise an ``EngineError`` for a wish that nobody has."""
    if precision not in PRECISIONS:
        raise EngineError(f'precision {precision!r}: one of {", ".join(PRECISIONS)}')
    if graph not in GRAPHS:
        raise EngineError(f'graph {graph!r}: one of {", ".join(GRAPHS)}')
    if threads < 0:
        raise EngineError(f'threads {threads}: 0 (the runtime chooses) or more')
    quantized = precision == 'int8'
    if quantized and (graph != 'deploy' or not bundle.has(DEPLOY_INT8)):
        raise EngineError(f'{bundle.path}: has no int8 {graph} graph, and this release cannot '
                          'make one; choose another precision')
    return DEPLOY_INT8 if quantized else GRAPHS[graph]


def _choose(engine: str, device: str) -> str:
    available = available_engines()
    if engine != 'auto':
        if engine not in available:
            raise EngineError(f'no engine named {engine!r}; choose auto, {", ".join(ENGINES)}')
        if available[engine].startswith('missing'):
            raise EngineError(f'engine {engine} is {available[engine]}')
        return engine
    kind = device.partition(':')[0]
    present = [name for name in ENGINES if not available[name].startswith('missing')]
    for name in present:
        if kind in DEVICES[name]:
            return name
    if present:
        raise EngineError(f'no device {device!r} for any engine that is installed: '
                          f'{", ".join(present)}')
    raise EngineError("no runtime is installed; pip install 'kd_perception[runtime]'")


def _version(name: str) -> str:
    for distribution in _DISTRIBUTIONS[name]:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return 'unknown version'
