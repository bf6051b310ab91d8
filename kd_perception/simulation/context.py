"""An OpenGL context without a window; or one line that says what is missing."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
from pathlib import Path
from typing import Any

import moderngl

from kd_perception.errors import SimulationError


def _load_triton_first() -> None:
    """
    Load the compiler that torch brings, where there is one, before OpenGL's.

    Mesa's software rasteriser puts its LLVM's symbols in the global scope. Triton's library has
    another LLVM inside; loaded later, it binds to Mesa's and crashes the process when torch is
    imported. Loaded first, it keeps to its own (80 ms, and no module is imported).
    """
    spec = importlib.util.find_spec('triton')
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        library = Path(folder) / '_C' / 'libtriton.so'
        if library.is_file():
            # A library that does not load is none that could crash.
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(library), mode=os.RTLD_NOW | os.RTLD_LOCAL)


def create_context() -> moderngl.Context:
    """
    Return an OpenGL 3.3 context.

    :raises SimulationError: when none can be had.
    """
    _load_triton_first()
    # The stubs of moderngl know no backend's own arguments.
    settings: dict[str, Any] = {'libgl': 'libGL.so.1', 'libegl': 'libEGL.so.1', 'backend': 'egl'}
    try:
        return moderngl.create_context(standalone=True, require=330, **settings)
    except Exception as error:
        # The backend raises bare exceptions of many kinds; all mean the same to the user.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SimulationError(
            f'no OpenGL 3.3 context without a window ({reason}); install the Debian packages '
            'libegl1 libgl1 libgl1-mesa-dri') from None
