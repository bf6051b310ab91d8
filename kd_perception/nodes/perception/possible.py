"""Which engine can have which device here, as far as that is known without loading anything."""

from __future__ import annotations

from importlib import util
from pathlib import Path
import sys

from kd_perception.bundle import ModelBundle
from kd_perception.engines.choice import engines_for
from kd_perception.engines.engine import check_device
from kd_perception.engines.machine import nvidia
from kd_perception.errors import EngineError
from kd_perception.nodes.perception.serving import ServingSettings

_PROVIDERS = {'cuda': 'CUDAExecutionProvider', 'tensorrt': 'TensorrtExecutionProvider'}
_TOGETHER = 'engine and device in one call of set_parameters_atomically'
_WAY = f'set {_TOGETHER}, or engine to auto first'


def check_together(wanted: ServingSettings, bundle: ModelBundle) -> None:
    """
    Refuse an engine and a device that cannot go together on this machine.

    What only a driver can tell (whether there is a GPU) is left to loading.

    :raises EngineError: which says how to come to the pair that is meant.
    """
    engine, device = wanted.engine, wanted.device
    kind = device.partition(':')[0]
    if engine == 'auto':
        names = engines_for(bundle, device)
        if not names:
            raise EngineError(f'no engine that is installed has a device {device!r}')
        if names == ['onnxruntime'] and not _in_onnxruntime(kind):
            raise EngineError(f'{_built_without(kind)}, and auto finds nothing else for '
                              f'{device}; to name another engine set {_TOGETHER}')
        return
    try:
        check_device(engine, device)
    except EngineError as error:
        raise EngineError(f'{error}; {_WAY}') from None
    if engine == 'onnxruntime' and not _in_onnxruntime(kind):
        raise EngineError(f'{_built_without(kind)}; {_WAY}')


def idle_gpu(settings: ServingSettings) -> str:
    """Return what could be used but is not, in a line; empty where there is no such thing."""
    if (settings.engine, settings.device) != ('auto', 'cpu') or not (gpu := nvidia()):
        return ''
    # Where it is not known whether ONNX Runtime has a provider, nothing is promised.
    runtimes = ['TensorRT'] * (util.find_spec('tensorrt') is not None)
    runtimes += ['ONNX Runtime'] * any(_in_onnxruntime(k, unknown=False) for k in _PROVIDERS)
    if not runtimes:
        return ''
    return (f'{" and ".join(runtimes)} could use {gpu}; engine auto looks for engines of device '
            'cpu alone: set device to cuda')


def _in_onnxruntime(kind: str, *, unknown: bool = True) -> bool:
    """
    Return whether ONNX Runtime is built with what a kind of device needs.

    To import it here would hold the ROS thread for a tenth of a second: where it is not imported
    yet, its files tell.

    :param unknown: what to return where they do not.
    """
    if kind not in _PROVIDERS:
        return True
    loaded = sys.modules.get('onnxruntime')
    if loaded is not None:
        try:
            return _PROVIDERS[kind] in loaded.get_available_providers()
        except AttributeError:  # another thread imports it just now
            return unknown
    spec = util.find_spec('onnxruntime')
    if spec is None or spec.origin is None:
        return False
    libraries = Path(spec.origin).parent / 'capi'
    if not any(libraries.glob('libonnxruntime_providers_*.so')):
        return unknown
    return (libraries / f'libonnxruntime_providers_{kind}.so').is_file()


def _built_without(kind: str) -> str:
    return (f'onnxruntime is built without {_PROVIDERS[kind]} (pip install onnxruntime-gpu in its '
            'place)')
