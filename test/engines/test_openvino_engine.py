"""What OpenVINO does to the process that it is loaded into."""

from __future__ import annotations

from collections.abc import Callable
import ctypes

import numpy as np
import pytest

from kd_perception.bundle import ModelBundle
from kd_perception.engines.loader import load_engine


class Stack(ctypes.Structure):
    """``stack_t``."""

    _fields_ = (('memory', ctypes.c_void_p), ('flags', ctypes.c_int), ('size', ctypes.c_size_t))


def signal_stack() -> int | None:
    """Return where the alternate signal stack of this thread is."""
    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.memory


def test_engines_come_and_go_in_any_order_on_one_signal_stack(small: ModelBundle) -> None:
    pytest.importorskip('openvino')
    first = load_engine(small, 'openvino', precision='fp32')
    held = signal_stack()
    second = load_engine(small, 'openvino', precision='fp32')
    assert signal_stack() == held, 'a second plugin has moved it, and will free it'
    first.close()
    del first
    assert signal_stack() == held
    second.close()
    assert signal_stack() == held


def test_an_interrupted_call_waits_before_its_arrays_are_gone(
        small: ModelBundle, images: Callable[[int], np.ndarray]) -> None:
    pytest.importorskip('openvino')
    engine = load_engine(small, 'openvino', precision='fp32')
    expected = engine.infer(images(1))
    request, outputs = engine._requests[1]
    calls = []

    class Interrupted:
        """Ctrl-C between the start of a request and the wait for it."""

        def __getattr__(self, name: str) -> object:
            return getattr(request, name)

        def start_async(self) -> None:
            request.start_async()
            raise KeyboardInterrupt

        def wait(self) -> None:
            request.wait()
            calls.append('waited')

    engine._requests[1] = (Interrupted(), outputs)
    with pytest.raises(KeyboardInterrupt):
        engine.infer(images(1))
    assert calls == ['waited']
    engine._requests[1] = (request, outputs)
    assert (engine.infer(images(1))['mask'] == expected['mask']).all()
    engine.close()
