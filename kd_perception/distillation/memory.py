"""Memory of a training: kept between steps, and what to lower where it runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import ctypes
import re

import torch

from kd_perception.errors import EngineError, TrainingError

# Numbers of mallopt(3); of the second, versions before 2.35 take at most 32 MB.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST, _MOST_ONCE = 2 ** 31 - 1, 2 ** 25


def keep_freed_memory() -> bool:
    """
    Let the C library keep memory that was freed, for the next tensor; return whether it does.

    By default glibc maps each large tensor anew and gives it back when it is freed, so that every
    step of a training on CPUs touches all of its activations for the first time: 25,000 page
    faults a step of the compact student. Kept, the process stays as large as it was at its peak.
    Elsewhere than with glibc nothing is done.
    """
    with suppress(OSError, AttributeError, ValueError):
        mallopt = ctypes.CDLL('libc.so.6').mallopt
        kept = mallopt(_MMAP_THRESHOLD, _MOST) or mallopt(_MMAP_THRESHOLD, _MOST_ONCE)
        return bool(kept and mallopt(_TRIM_THRESHOLD, _MOST))
    return False


@contextmanager
def memory_advice(device: torch.device | str, doing: str, advice: str) -> Iterator[None]:
    """
    Turn an allocation that failed into one line; other errors pass.

    :param device: of torch, or as an engine names it.
    :param doing: what needs the memory, with its numbers.
    :param advice: what to lower.
    :raises TrainingError: when there was not enough memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError, EngineError) as error:
        if not is_out_of_memory(error):
            raise
        asked = asked_for(str(error))
        raise TrainingError(f'out of memory on {device}{_size(device)} {doing}{asked}; {advice}') \
            from None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of torch, CUDA, numpy or a runtime is about memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # Of CPU allocations torch knows no class of errors; neither do CUDA's libraries and runtimes.
    return bool(re.search(r"can't allocate memory|(not enough|out of|too little) memory|"
                          r'ALLOC_FAILED|(Failed|[Uu]nable) to allocate|bad_alloc|bad allocation',
                          str(error)))


def asked_for(message: str) -> str:
    """Return ``: 2.0 GiB more were asked for``, or nothing where the error does not say."""
    told = re.search(r'[Tt]ried to allocate ([\d.]+) ([KMG]i?B|bytes)'
                     r'|Unable to allocate ([\d.]+) ([KMGTP]i?B)', message)
    if told is None:
        return ''
    number, unit = (told[1], told[2]) if told[1] else (told[3], told[4])
    if unit == 'bytes':
        number, unit = f'{int(float(number)) / 2 ** 30:.3g}', 'GiB'
    return f': {number} {unit} more were asked for'


def _size(device: torch.device | str) -> str:
    if not str(device).startswith('cuda') or not torch.cuda.is_available():
        return ''
    return f' ({torch.cuda.get_device_properties(device).total_memory / 2 ** 30:.0f} GiB)'
